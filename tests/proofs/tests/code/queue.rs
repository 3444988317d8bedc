//! The queue's two ends at chosen indices.

use cloister_caps::GrantRef;
use cloister_interfaces::grants::{Reply, Request};
use cloister_interfaces::queue::{HEAD, MESSAGE_EVENT, Receiver, SLOTS, SPACE_EVENT, Sender, TAIL, producer_pages};
use cloister_interfaces::{Malformed, Memory, Message};
use cloister_proofs::bits;
use cloister_sim::seed::{Random, seed};
use cloister_sim::{QueueMemory, Recorder, SharedMemory};

const THEORY: &str = include_str!("../../theorems/queue.smt2");
const SIZE: usize = <Reply as Message>::SIZE;
const DEPTHS: [u32; 5] = [2, 4, 8, 64, 1 << 15];

type ReplySender = Sender<Reply, Recorder, SharedMemory>;
type ReplyReceiver = Receiver<Reply, Recorder, SharedMemory>;

/// A queue whose indices are as if there had been many messages.
struct Queue {
    memory: QueueMemory,
    system: Recorder,
}

impl Queue {
    fn new(depth: u32, head: u32, tail: u32) -> Queue {
        let memory = QueueMemory::new(SIZE, depth);
        memory.producer.store(HEAD, head);
        memory.consumer.store(TAIL, tail);
        Queue { memory, system: Recorder::new() }
    }

    fn sender(&self) -> ReplySender {
        Sender::new(self.system.clone(), self.memory.end(0, |memory| memory, |memory| memory))
    }

    fn receiver(&self) -> ReplyReceiver {
        Receiver::new(self.system.clone(), self.memory.end(0, |memory| memory, |memory| memory))
    }

    /// Returns `true` if the other end was notified since the last call.
    fn notified(&self) -> bool {
        !self.system.take_calls().is_empty()
    }

    /// Returns the references of the messages in the slots, 0 in those never written.
    fn references(&self) -> Vec<u32> {
        let word = |slot: u32| self.memory.producer.load(SLOTS + slot as usize * SIZE + 4);
        (0..self.memory.depth).map(word).collect()
    }
}

fn message(number: u32) -> Reply {
    Reply::Issued { rule: 0, reference: GrantRef(number), count: 1 }
}

/// Returns indices: some near where they wrap, and some distance from another.
fn index(random: &mut Random, near: u32, depth: u32) -> u32 {
    let distance = [0, 1, 2, depth / 2, depth - 1, depth, depth + 1, 2 * depth, 1 << 31, u32::MAX];
    match random.below(4) {
        0 => random.word() as u32,
        1 => near.wrapping_add(*random.pick(&distance)),
        _ => near.wrapping_add(random.below(depth as usize + 3) as u32),
    }
}

fn start(random: &mut Random) -> u32 {
    let word = random.word() as u32;
    *random.pick(&[0, 1, u32::MAX, u32::MAX - 5, u32::MAX - 40_000, 1 << 31, 77, word])
}

fn word(value: u32) -> String {
    bits(value.into(), 32)
}

#[test]
fn room_and_slots_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x10), Vec::new());
    for _ in 0..1_000 {
        let depth = *random.pick(&DEPTHS);
        let tail = start(&mut random);
        let head = index(&mut random, tail, depth);
        let queue = Queue::new(depth, head, tail);
        let mut sender = queue.sender();
        let room = sender.room();
        terms.push(format!("(= (room {} {} {}) {})", word(head), word(tail), word(depth), word(room)));
        let most = random.below(40) as u32;
        let messages: Vec<Reply> = (1..=most).map(message).collect();
        let pushed = if random.below(2) == 0 {
            sender.push_all(&messages)
        } else {
            messages.iter().take_while(|message| sender.push(message).is_ok()).count()
        };
        assert_eq!(pushed as u32, most.min(room));
        for (slot, number) in queue.references().into_iter().enumerate().filter(|(_, number)| *number != 0) {
            // A later message may have overwritten an earlier one only if the room was a lie's.
            let index = head.wrapping_add(number - 1);
            terms.push(format!("(= (slot {} {}) {})", word(index), word(depth), word(slot as u32)));
        }
    }
    crate::check(THEORY, terms);
}

#[test]
fn notifications_are_those_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x11), Vec::new());
    for _ in 0..1_500 {
        let depth = *random.pick(&DEPTHS[..4]);
        let old = start(&mut random);
        let event = index(&mut random, old, depth);
        let count = 1 + random.below(depth as usize) as u32;
        let new = old.wrapping_add(count);
        let term = |crossed| {
            let crosses = format!("(has-crossed {} {} {})", word(old), word(new), word(event));
            if crossed { crosses } else { format!("(not {crosses})") }
        };
        // The sender's side: it flushes `count` messages.
        let queue = Queue::new(depth, old, old);
        queue.memory.consumer.store(MESSAGE_EVENT, event);
        let mut sender = queue.sender();
        assert_eq!(sender.push_all(&vec![message(1); count as usize]), count as usize);
        sender.flush();
        terms.push(term(queue.notified()));
        // The receiver's: it pops as many, and returns their slots. It does so at each half, too.
        if count <= (depth / 2).max(1) {
            let queue = Queue::new(depth, new, old);
            queue.memory.producer.store(SPACE_EVENT, event);
            let mut receiver = queue.receiver();
            (0..count).for_each(|_| assert!(receiver.pop().is_some()));
            assert!(!queue.notified());
            receiver.release();
            terms.push(term(queue.notified()));
        }
    }
    crate::check(THEORY, terms);
}

#[test]
fn what_is_popped_is_that_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x12), Vec::new());
    for _ in 0..1_500 {
        let depth = *random.pick(&DEPTHS[..4]);
        let tail = start(&mut random);
        let head = index(&mut random, tail, depth);
        let (claim, two) = (format!("{} {} {}", word(head), word(tail), word(depth)), [word(head), word(tail)]);
        let queue = Queue::new(depth, head, tail);
        let mut receiver = queue.receiver();
        // As one claim of the producer allows: it makes no other while these are popped.
        let mut is_lie = false;
        let popped = receiver.pop_each(u32::MAX, |result| is_lie |= result == Err(Malformed::QueueIndex));
        assert!(popped <= depth, "{popped} messages for one claim");
        match (popped, is_lie) {
            (_, true) => terms.push(format!("(is-lie {claim})")),
            (0, _) => terms.push(format!("(= {} {})", two[0], two[1])),
            _ => {
                terms.push(format!("(and (not (is-lie {claim})) (= (waiting {} {}) {}))", two[0], two[1], word(popped)))
            }
        }
        // It is empty now: it asks for the next message by the event of the theorems.
        assert!(receiver.pop().is_none());
        let (tail, event) = (queue.memory.consumer.load(TAIL), queue.memory.consumer.load(MESSAGE_EVENT));
        terms.push(format!("(= (message-event {}) {})", word(tail), word(event)));
    }
    crate::check(THEORY, terms);
}

/// The limit shows when the producer takes its claim back, as only a lying one does: what was found
/// is popped, and then no more.
#[test]
fn a_receiver_stops_at_the_limit_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x13), Vec::new());
    for _ in 0..600 {
        let depth = *random.pick(&DEPTHS[..4]);
        let tail = start(&mut random);
        let head = tail.wrapping_add(1 + random.below(depth as usize) as u32);
        let queue = Queue::new(depth, head, tail);
        let mut receiver = queue.receiver();
        let found =
            |popped: &Option<Result<Reply, Malformed>>| !matches!(popped, None | Some(Err(Malformed::QueueIndex)));
        assert!(found(&receiver.pop()));
        queue.memory.producer.store(HEAD, tail.wrapping_add(1));
        let popped = 1 + (0..=depth).take_while(|_| found(&receiver.pop())).count() as u32;
        let [limit, head, tail, depth] = [tail.wrapping_add(popped), head, tail, depth].map(word);
        terms.push(format!("(= (limit {head} {tail} {depth}) {limit})"));
    }
    crate::check(THEORY, terms);
}

#[test]
fn a_full_sender_asks_for_the_event_of_the_theorems() {
    let (mut random, mut terms) = (Random(seed() ^ 0x14), Vec::new());
    for _ in 0..600 {
        let depth = *random.pick(&DEPTHS);
        let head = start(&mut random);
        let queue = Queue::new(depth, head, head.wrapping_sub(depth));
        assert!(queue.sender().push(&message(1)).is_err());
        let event = queue.memory.producer.load(SPACE_EVENT);
        terms.push(format!("(= (space-event {} {}) {})", word(head), word(depth), word(event)));
    }
    crate::check(THEORY, terms);
}

#[test]
fn the_sizes_are_those_of_the_messages() {
    use cloister_interfaces::{control, net, socket, store};
    let mut sizes = vec![<Request as Message>::SIZE, <Reply as Message>::SIZE];
    sizes.extend([<control::Request as Message>::SIZE, <control::Reply as Message>::SIZE]);
    sizes.extend([<net::Request as Message>::SIZE, <net::Reply as Message>::SIZE]);
    sizes.extend([<socket::Request as Message>::SIZE, <socket::Reply as Message>::SIZE]);
    sizes.extend([<store::Request as Message>::SIZE, <store::Reply as Message>::SIZE]);
    let mut terms = Vec::new();
    for size in sizes {
        assert!(
            THEORY.contains(&format!("(= size #x{size:016x})")),
            "the theorem is not about messages of {size} bytes"
        );
        for depth in DEPTHS {
            let bytes = (producer_pages(size, depth as usize) * cloister_caps::PAGE_SIZE) as u64;
            let [size, depth, bytes] = [size as u64, depth.into(), bytes].map(|value| bits(value, 64));
            terms.push(format!("(= (producer-bytes {size} {depth}) {bytes})"));
        }
    }
    crate::check(THEORY, terms);
}
