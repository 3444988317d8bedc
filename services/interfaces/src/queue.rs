//! One-way queues over shared pages, one writer a page, and the request/reply pairs made of two.
//!
//! The producer's pages hold its index and the slots; the consumer's page holds the consumer's index.
//! Neither can write the other's. Indices run freely and wrap; the slot is the index modulo the depth.
//!
//! | page | offset | field | written by |
//! |---|---|---|---|
//! | producer | 0 | `head`: messages ever pushed | producer |
//! | producer | 4 | `space_event`: wake me when `tail` passes this | producer |
//! | producer | 64 | slots | producer |
//! | consumer | 0 | `tail`: messages ever popped | consumer |
//! | consumer | 4 | `message_event`: wake me when `head` passes this | consumer |
//!
//! Whoever finds a queue empty (or full) publishes the index it waits for and looks once more, as Xen's
//! rings do (`RING_FINAL_CHECK_FOR_RESPONSES`, `io/ring.h`); so a wake-up is never lost, and none is sent
//! to someone who is awake.

use core::marker::PhantomData;

use cloister_caps::{Operation, PAGE_SIZE, Slot};

use crate::message::{Malformed, Message, Words};
use crate::service::Notifications;
use crate::system::{Memory, System};

/// Where `head` is.
pub const HEAD: usize = 0;
/// Where `space_event` is.
pub const SPACE_EVENT: usize = 4;
/// Where the slots start.
pub const SLOTS: usize = 64;
/// Where `tail` is.
pub const TAIL: usize = 0;
/// Where `message_event` is.
pub const MESSAGE_EVENT: usize = 4;

/// Pages that the producer's side of a queue takes.
#[must_use]
pub const fn producer_pages(message_size: usize, depth: usize) -> usize {
    (SLOTS + message_size * depth).div_ceil(PAGE_SIZE)
}

/// A message interface: what its client asks and what its server answers.
pub trait Interface {
    /// The name by which the policy calls it.
    const NAME: &'static str;
    /// From client to server.
    type Request: Message;
    /// From server to client: answers and events.
    type Reply: Message;
}

/// A queue has no room. The message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Where a queue end is: what the policy compiler emits for it.
#[derive(Clone, Copy, Debug)]
pub struct End<M> {
    /// The capability to wake the other end.
    pub slot: Slot,
    /// The notification bit by which this end is woken.
    pub bit: u8,
    /// Messages that the queue holds; a power of two.
    pub depth: u32,
    /// The producer's pages.
    pub producer: M,
    /// The consumer's page.
    pub consumer: M,
}

/// The producing end of a queue.
pub struct Sender<T, S, M> {
    system: S,
    end: End<M>,
    head: u32,
    announced: u32,
    /// Up to here slots are known to be free: there may be more.
    limit: u32,
    message: PhantomData<fn(T)>,
}

impl<T: Message, S: System, M: Memory> Sender<T, S, M> {
    /// The producing end at `end`.
    pub fn new(system: S, end: End<M>) -> Self {
        let head = end.producer.load(HEAD);
        Sender { system, end, head, announced: head, limit: head, message: PhantomData }
    }

    /// The notification bit by which this end learns of space.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    /// Where this end is, for what attacks it.
    #[cfg(feature = "probe")]
    pub fn end(&self) -> &End<M> {
        &self.end
    }

    fn used(&self) -> u32 {
        // A consumer that claims more than was sent, or to be further behind than the queue is deep, gains
        // nothing: the queue is full for it.
        self.head.wrapping_sub(self.end.consumer.load(TAIL)).min(self.end.depth)
    }

    /// How many messages can be pushed now.
    pub fn room(&self) -> u32 {
        self.end.depth - self.used()
    }

    /// Puts a message in the queue. The receiver learns of it at [`Self::flush`].
    ///
    /// # Errors
    /// The queue is full; this end will be notified when there is room.
    pub fn push(&mut self, message: &T) -> Result<(), Full> {
        if self.head == self.limit {
            self.look_for_room()?;
        }
        let slot = (self.head & (self.end.depth - 1)) as usize;
        self.end.producer.store_words(SLOTS + slot * T::SIZE, &message.to_words()[..T::WORDS]);
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    #[cold]
    fn look_for_room(&mut self) -> Result<(), Full> {
        let mut room = self.room();
        if room == 0 {
            self.end.producer.store(SPACE_EVENT, self.head.wrapping_sub(self.end.depth).wrapping_add(1));
            self.end.producer.barrier();
            room = self.room();
        }
        self.limit = self.head.wrapping_add(room);
        if room == 0 { Err(Full) } else { Ok(()) }
    }

    /// Publishes what was pushed, and wakes the receiver if it waits for it. Call once for a batch.
    #[inline(never)] // It is called in many places, and seldom: the image would be larger, and no faster.
    pub fn flush(&mut self) {
        if self.head == self.announced {
            return;
        }
        let old = core::mem::replace(&mut self.announced, self.head);
        self.end.producer.store(HEAD, self.head);
        self.end.producer.barrier();
        if passed(old, self.head, self.end.consumer.load(MESSAGE_EVENT)) {
            // A refusal is logged by the kernel; the receiver then finds the message when it next looks.
            let _ = self.system.invoke(self.end.slot, Operation::QueueNotify, [0; 4]);
        }
    }

    /// Publishes what was pushed, without waking the receiver: it finds it when it next looks, which the next
    /// [`Self::flush`] sees to, or a queue that is full.
    pub fn publish(&mut self) {
        if self.room() == 0 {
            self.flush();
        } else {
            self.end.producer.store(HEAD, self.head);
        }
    }

    /// [`Self::push`] and [`Self::flush`].
    ///
    /// # Errors
    /// The queue is full.
    pub fn send(&mut self, message: &T) -> Result<(), Full> {
        self.push(message)?;
        self.flush();
        Ok(())
    }
}

/// The consuming end of a queue.
pub struct Receiver<T, S, M> {
    system: S,
    end: End<M>,
    tail: u32,
    released: u32,
    /// Up to here messages are known to be there: there may be more. No further than where slots are to be given back.
    limit: u32,
    message: PhantomData<fn() -> T>,
}

impl<T: Message, S: System, M: Memory> Receiver<T, S, M> {
    /// The consuming end at `end`.
    pub fn new(system: S, end: End<M>) -> Self {
        let tail = end.consumer.load(TAIL);
        Receiver { system, end, tail, released: tail, limit: tail, message: PhantomData }
    }

    /// The notification bit by which this end learns of messages.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    /// Where this end is, for what attacks it.
    #[cfg(feature = "probe")]
    pub fn end(&self) -> &End<M> {
        &self.end
    }

    fn waiting(&self) -> u32 {
        self.end.producer.load(HEAD).wrapping_sub(self.tail)
    }

    /// Takes the next message, if there is one; `Some(Err)` is one that does not decode, and is gone.
    /// After `None` this end is notified of the next.
    pub fn pop(&mut self) -> Option<Result<T, Malformed>> {
        if self.tail == self.limit
            && let Err(malformed) = self.look_for_messages()?
        {
            return Some(Err(malformed));
        }
        let slot = (self.tail & (self.end.depth - 1)) as usize;
        let mut words = Words::default();
        self.end.producer.load_words(SLOTS + slot * T::SIZE, &mut words[..T::WORDS]);
        self.tail = self.tail.wrapping_add(1);
        if self.tail == self.limit {
            self.end_batch();
        }
        Some(T::from_words(words))
    }

    #[cold]
    fn look_for_messages(&mut self) -> Option<Result<(), Malformed>> {
        let mut waiting = self.waiting();
        if waiting == 0 {
            self.release();
            self.end.consumer.store(MESSAGE_EVENT, self.tail.wrapping_add(1));
            self.end.consumer.barrier();
            waiting = self.waiting();
        }
        if waiting > self.end.depth {
            // More than the queue holds. Nothing in it means anything, and to follow the claim would be up to 2^32
            // messages of work: go on where the producer says that it is.
            self.tail = self.tail.wrapping_add(waiting);
            self.limit = self.tail;
            self.release();
            return Some(Err(Malformed));
        }
        if waiting == 0 {
            return None;
        }
        let held = self.tail.wrapping_sub(self.released);
        self.limit = self.tail.wrapping_add(waiting.min((self.end.depth / 2).saturating_sub(held).max(1)));
        Some(Ok(()))
    }

    #[cold]
    fn end_batch(&mut self) {
        if self.tail.wrapping_sub(self.released) >= self.end.depth / 2 {
            self.release();
        }
    }

    /// Gives the slots of the messages taken so far back to the sender, and wakes it if it waits for room.
    /// [`Self::pop`] does so by itself when the queue is empty or half of it was taken.
    #[inline(never)] // As for `flush`.
    pub fn release(&mut self) {
        if self.tail == self.released {
            return;
        }
        let old = core::mem::replace(&mut self.released, self.tail);
        self.end.consumer.store(TAIL, self.tail);
        self.end.consumer.barrier();
        if passed(old, self.tail, self.end.producer.load(SPACE_EVENT)) {
            let _ = self.system.invoke(self.end.slot, Operation::QueueNotify, [0; 4]);
        }
    }
}

/// Whether an index that moved from `old` to `new` has reached `event`: `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`
/// of `io/ring.h`.
fn passed(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// The client's ends of an interface.
pub struct Client<I: Interface, S, M> {
    /// What it asks.
    pub requests: Sender<I::Request, S, M>,
    /// What it is answered.
    pub replies: Receiver<I::Reply, S, M>,
}

/// The server's ends of an interface.
pub struct Server<I: Interface, S, M> {
    /// What it is asked.
    pub requests: Receiver<I::Request, S, M>,
    /// What it answers.
    pub replies: Sender<I::Reply, S, M>,
}

impl<I: Interface, S: System, M: Memory> Client<I, S, M> {
    /// The client's ends at these places.
    pub fn new(system: S, requests: End<M>, replies: End<M>) -> Self {
        Client { requests: Sender::new(system.clone(), requests), replies: Receiver::new(system, replies) }
    }

    /// Whether a notification is about this interface.
    pub fn notified(&self, notifications: Notifications) -> bool {
        notifications.has(self.requests.bit()) || notifications.has(self.replies.bit())
    }
}

impl<I: Interface, S: System, M: Memory> Server<I, S, M> {
    /// The server's ends at these places.
    pub fn new(system: S, requests: End<M>, replies: End<M>) -> Self {
        Server { requests: Receiver::new(system.clone(), requests), replies: Sender::new(system, replies) }
    }

    /// Whether a notification is about this interface.
    pub fn notified(&self, notifications: Notifications) -> bool {
        notifications.has(self.requests.bit()) || notifications.has(self.replies.bit())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use cloister_caps::Fault;

    use super::*;
    use crate::control::Reply as Quiet;
    use crate::net::{Request, Work};
    use crate::system::Own;

    /// Memory with one word a test can watch.
    #[derive(Clone)]
    struct Page(Rc<RefCell<Vec<u8>>>);

    impl Page {
        fn new(pages: usize) -> Self {
            Page(Rc::new(RefCell::new(vec![0; pages * PAGE_SIZE])))
        }
    }

    impl Own for Page {
        fn size(&self) -> usize {
            self.0.borrow().len()
        }
        fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
            self.0.borrow_mut().get_mut(offset..offset.checked_add(length)?).map(edit)
        }
    }

    impl Memory for Page {
        type Own = Page;
        fn len(&self) -> usize {
            self.0.borrow().len()
        }
        fn load(&self, offset: usize) -> u32 {
            let mut word = [0; 4];
            self.read(offset, &mut word);
            u32::from_le_bytes(word)
        }
        fn store(&self, offset: usize, value: u32) {
            self.write(offset, &value.to_le_bytes());
        }
        fn read(&self, offset: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.0.borrow()[offset..offset + into.len()]);
        }
        fn write(&self, offset: usize, from: &[u8]) {
            self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
        }
    }

    /// Counts wake-ups.
    #[derive(Clone, Default)]
    struct Bell(Rc<Cell<u32>>);

    impl System for Bell {
        fn invoke(&self, _: Slot, operation: Operation, _: [u64; 4]) -> Result<[u64; 2], Fault> {
            assert_eq!(operation, Operation::QueueNotify);
            self.0.set(self.0.get() + 1);
            Ok([0; 2])
        }
    }

    struct Pair {
        sender: Sender<Request, Bell, Page>,
        receiver: Receiver<Request, Bell, Page>,
        producer: Page,
        consumer: Page,
        woken: Bell,
        freed: Bell,
    }

    /// A queue of `depth` whose indices start at `start`.
    fn pair(depth: u32, start: u32) -> Pair {
        let producer = Page::new(producer_pages(Request::SIZE, depth as usize));
        let consumer = Page::new(1);
        for (page, index, event) in [(&producer, HEAD, SPACE_EVENT), (&consumer, TAIL, MESSAGE_EVENT)] {
            page.store(index, start);
            page.store(event, start);
        }
        let end = || End { slot: Slot(0), bit: 0, depth, producer: producer.clone(), consumer: consumer.clone() };
        let (woken, freed) = (Bell::default(), Bell::default());
        let sender = Sender::new(woken.clone(), end());
        let receiver = Receiver::new(freed.clone(), end());
        Pair { sender, receiver, producer, consumer, woken, freed }
    }

    fn message(number: u32) -> Request {
        Request::Transmit { page: number as u16, length: (number >> 16) as u16, work: Work::Nothing }
    }

    #[test]
    fn messages_keep_their_order_across_the_wrap_of_the_index() {
        for start in [0, u32::MAX - 5, u32::MAX, 7] {
            let mut pair = pair(8, start);
            let (mut sent, mut received) = (0, 0);
            for round in 0..200 {
                for _ in 0..round % 9 {
                    if pair.sender.push(&message(sent)).is_ok() {
                        sent += 1;
                    }
                }
                pair.sender.flush();
                for _ in 0..round % 5 {
                    match pair.receiver.pop() {
                        Some(got) => {
                            assert_eq!(got, Ok(message(received)));
                            received += 1;
                        }
                        None => assert_eq!(sent, received),
                    }
                }
            }
            assert!(received > 100);
        }
    }

    #[test]
    fn what_was_not_flushed_is_not_seen_and_a_full_queue_says_so() {
        let mut pair = pair(4, u32::MAX - 1);
        for number in 0..4 {
            assert_eq!(pair.sender.push(&message(number)), Ok(()));
        }
        assert_eq!(pair.sender.push(&message(4)), Err(Full));
        assert_eq!(pair.receiver.pop(), None);
        pair.sender.flush();
        assert_eq!(pair.receiver.pop(), Some(Ok(message(0))));
        assert_eq!(pair.sender.room(), 0, "a slot is given back in batches");
        pair.receiver.release();
        assert_eq!(pair.sender.room(), 1);
        assert_eq!(pair.sender.send(&message(4)), Ok(()));
        for number in 1..5 {
            assert_eq!(pair.receiver.pop(), Some(Ok(message(number))));
        }
    }

    #[test]
    fn only_who_waits_is_woken_and_once() {
        let mut pair = pair(4, u32::MAX - 2);
        assert_eq!(pair.receiver.pop(), None);
        pair.sender.send(&message(0)).unwrap();
        pair.sender.send(&message(1)).unwrap();
        assert_eq!(pair.woken.0.get(), 1, "the receiver has not waited again");
        for _ in 0..2 {
            assert!(pair.receiver.pop().is_some());
        }
        assert_eq!(pair.receiver.pop(), None);
        pair.sender.send(&message(2)).unwrap();
        assert_eq!(pair.woken.0.get(), 2);
        for number in 3..6 {
            pair.sender.push(&message(number)).unwrap();
        }
        assert_eq!(pair.freed.0.get(), 0, "nobody waits for room");
        assert_eq!(pair.sender.push(&message(6)), Err(Full));
        pair.sender.flush();
        assert!(pair.receiver.pop().is_some());
        pair.receiver.release();
        assert_eq!(pair.freed.0.get(), 1);
        assert!(pair.receiver.pop().is_some());
        pair.receiver.release();
        assert_eq!(pair.freed.0.get(), 1);
    }

    #[test]
    fn what_is_published_quietly_wakes_nobody_until_something_else_does() {
        let mut pair = pair(4, 0);
        assert!(pair.receiver.pop().is_none());
        pair.sender.push(&message(1)).unwrap();
        pair.sender.publish();
        assert_eq!(pair.woken.0.get(), 0);
        pair.sender.push(&message(2)).unwrap();
        pair.sender.flush();
        assert_eq!(pair.woken.0.get(), 1);
        assert_eq!([(); 3].map(|()| pair.receiver.pop()), [Some(Ok(message(1))), Some(Ok(message(2))), None]);
        // The receiver looked by itself: there is nothing left to wake it for.
        pair.sender.push(&message(3)).unwrap();
        pair.sender.publish();
        assert_eq!([pair.receiver.pop(), pair.receiver.pop()], [Some(Ok(message(3))), None]);
        pair.sender.flush();
        assert_eq!(pair.woken.0.get(), 1);
        // Whoever finds the queue full may rely on its being drained.
        for number in 0..4 {
            pair.sender.push(&message(number)).unwrap();
        }
        pair.sender.publish();
        assert_eq!(pair.woken.0.get(), 2);
    }

    #[test]
    fn a_lying_peer_gains_no_more_than_a_full_or_a_busy_queue() {
        for lie in [1, 4, 5, 1000, 0x8000_0000, 0xffff_fff0] {
            let mut pair = pair(4, 0);
            pair.consumer.store(TAIL, lie);
            // A tail outside what was sent makes the queue full.
            assert_eq!(pair.sender.room(), 0, "{lie}");
            assert_eq!(pair.sender.push(&message(0)), Err(Full), "{lie}");
            // A head is followed over what the queue holds, or else at once.
            pair.producer.store(HEAD, lie);
            pair.consumer.store(TAIL, 0);
            let seen = (0..100).take_while(|_| pair.receiver.pop().is_some()).count();
            assert_eq!(seen, if lie <= 4 { lie as usize } else { 1 });
            // Whoever takes the liar's place goes on from there.
            let mut sender = Sender::<Request, _, _>::new(Bell::default(), pair.receiver.end.clone());
            assert_eq!(sender.send(&message(7)), Ok(()));
            assert_eq!(pair.receiver.pop(), Some(Ok(message(7))));
            assert_eq!(pair.receiver.pop(), None);
        }
        let mut pair = pair(4, 0);
        pair.sender.send(&message(1)).unwrap();
        pair.producer.write(SLOTS, &[0xee; 8]);
        assert_eq!(pair.receiver.pop(), Some(Err(Malformed)));
        assert_eq!(pair.receiver.pop(), None);
    }

    #[test]
    fn a_restarted_end_goes_on_where_the_queue_stands() {
        let mut pair = pair(4, 0);
        for number in 0..3 {
            pair.sender.send(&message(number)).unwrap();
        }
        assert!(pair.receiver.pop().is_some());
        pair.receiver.release();
        let end = || End {
            slot: Slot(0),
            bit: 0,
            depth: 4,
            producer: pair.producer.clone(),
            consumer: pair.consumer.clone(),
        };
        let mut sender = Sender::<Request, _, _>::new(Bell::default(), end());
        let mut receiver = Receiver::<Request, _, _>::new(Bell::default(), end());
        assert_eq!(sender.room(), 2);
        sender.send(&message(3)).unwrap();
        for number in 1..4 {
            assert_eq!(receiver.pop(), Some(Ok(message(number))));
        }
        assert_eq!(receiver.pop(), None);
    }

    #[test]
    fn a_queue_takes_whole_pages() {
        assert_eq!(producer_pages(Quiet::SIZE, 4), 1);
        assert_eq!(producer_pages(256, 16), 2);
    }
}
