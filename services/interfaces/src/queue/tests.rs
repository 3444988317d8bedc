//! Tests the queue on one thread: order, batches, notifications, and hostile peers. `tests/loom`
//! tests every ordering of two threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cloister_caps::InvokeError;

use super::*;
use crate::control::Reply;
use crate::message::Defect;
use crate::net::{Net, Offload, Request, TxPage};
use crate::system::ExclusiveMemory;

/// Pages of memory that both ends and the test share.
#[derive(Clone)]
struct Page(Rc<RefCell<Vec<u8>>>);

impl Page {
    fn new(pages: usize) -> Self {
        Page(Rc::new(RefCell::new(vec![0; pages * PAGE_SIZE])))
    }
}

impl ExclusiveMemory for Page {
    fn size(&self) -> usize {
        self.0.borrow().len()
    }
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.0.borrow_mut().get_mut(offset..offset.checked_add(length)?).map(edit)
    }
}

impl Memory for Page {
    type Exclusive = Page;
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

/// Counts the notifications of the other end.
#[derive(Clone, Default)]
struct WakeCounter(Rc<Cell<u32>>);

impl System for WakeCounter {
    fn invoke(&self, _: Slot, operation: Operation, _: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        assert_eq!(operation, Operation::QueueNotify);
        self.0.set(self.0.get() + 1);
        Ok([0; 2])
    }
}

struct Pair {
    sender: Sender<Request, WakeCounter, Page>,
    receiver: Receiver<Request, WakeCounter, Page>,
    producer: Page,
    consumer: Page,
    receiver_notified: WakeCounter,
    sender_notified: WakeCounter,
}

/// Returns a queue of `depth` whose indices start at `start`.
fn pair(depth: u32, start: u32) -> Pair {
    let producer = Page::new(producer_pages(Request::SIZE, depth as usize));
    let consumer = Page::new(1);
    for (page, index, event) in [(&producer, HEAD, SPACE_EVENT), (&consumer, TAIL, MESSAGE_EVENT)] {
        page.store(index, start);
        page.store(event, start);
    }
    let end = |bit| QueueEnd { slot: Slot(0), bit, depth, producer: producer.clone(), consumer: consumer.clone() };
    let (receiver_notified, sender_notified) = (WakeCounter::default(), WakeCounter::default());
    let sender = Sender::new(receiver_notified.clone(), end(5));
    let receiver = Receiver::new(sender_notified.clone(), end(6));
    Pair { sender, receiver, producer, consumer, receiver_notified, sender_notified }
}

fn message(number: u32) -> Request {
    Request::Transmit { page: TxPage(number as u16), length: (number >> 16) as u16, offload: Offload::None }
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
                    Some(popped) => {
                        assert_eq!(popped, Ok(message(received)));
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
fn a_batch_arrives_in_order() {
    for start in [0, u32::MAX - 5, 7] {
        let mut pair = pair(8, start);
        let batch: Vec<_> = (0..20).map(message).collect();
        let (mut sent, mut received) = (0, Vec::new());
        for round in 0..40 {
            let count = pair.sender.push_all(&batch[sent..(sent + round % 10).min(20)]);
            assert!(count <= 8);
            sent += count;
            pair.sender.flush();
            let most = round as u32 % 4;
            let (before, there) = (received.len(), 20.min(sent) - received.len());
            let taken = pair.receiver.pop_each(most, |message| received.push(message.unwrap()));
            assert_eq!((taken as usize, received.len() - before), (there.min(most as usize), taken as usize));
        }
        assert_eq!((sent, received), (20, batch));
    }
    // A sender that could not push all is notified of room. A receiver that popped fewer than it
    // wanted is notified of more.
    let mut pair = pair(4, 0);
    assert_eq!(pair.receiver.pop_each(1, |_| ()), 0);
    assert_eq!(pair.sender.push_all(&[message(1); 5]), 4);
    pair.sender.flush();
    assert_eq!((pair.receiver_notified.0.get(), pair.sender_notified.0.get()), (1, 0));
    assert_eq!(pair.receiver.pop_each(5, |_| ()), 4);
    assert_eq!((pair.receiver_notified.0.get(), pair.sender_notified.0.get()), (1, 1));
    pair.sender.send(&message(2)).unwrap();
    assert_eq!(pair.receiver_notified.0.get(), 2);
}

#[test]
fn half_of_a_queue_is_returned_before_all_is_popped() {
    for at_once in [true, false] {
        let mut pair = pair(8, 0);
        assert_eq!(pair.sender.push_all(&[message(1); 8]), 8);
        pair.sender.flush();
        if at_once {
            assert_eq!(pair.receiver.pop_each(5, |_| ()), 5);
        } else {
            (0..5).for_each(|_| assert!(pair.receiver.pop().is_some()));
        }
        assert_eq!(pair.sender.room(), 4);
    }
}

#[test]
fn unflushed_messages_are_invisible_and_a_full_queue_refuses() {
    let mut pair = pair(4, u32::MAX - 1);
    for number in 0..4 {
        assert_eq!(pair.sender.push(&message(number)), Ok(()));
    }
    assert_eq!(pair.sender.push(&message(4)), Err(QueueFull));
    assert_eq!(pair.receiver.pop(), None);
    pair.sender.flush();
    assert_eq!(pair.receiver.pop(), Some(Ok(message(0))));
    assert_eq!(pair.sender.room(), 0, "slots are returned in batches");
    pair.receiver.release();
    assert_eq!(pair.sender.room(), 1);
    assert_eq!(pair.sender.send(&message(4)), Ok(()));
    for number in 1..5 {
        assert_eq!(pair.receiver.pop(), Some(Ok(message(number))));
    }
}

#[test]
fn only_a_waiting_end_is_notified_and_only_once() {
    let mut pair = pair(4, u32::MAX - 2);
    assert_eq!(pair.receiver.pop(), None);
    pair.sender.send(&message(0)).unwrap();
    pair.sender.send(&message(1)).unwrap();
    assert_eq!(pair.receiver_notified.0.get(), 1, "the receiver has not waited again");
    for _ in 0..2 {
        assert!(pair.receiver.pop().is_some());
    }
    assert_eq!(pair.receiver.pop(), None);
    pair.sender.send(&message(2)).unwrap();
    assert_eq!(pair.receiver_notified.0.get(), 2);
    for number in 3..6 {
        pair.sender.push(&message(number)).unwrap();
    }
    assert_eq!(pair.sender_notified.0.get(), 0, "the sender is not waiting for room");
    assert_eq!(pair.sender.push(&message(6)), Err(QueueFull));
    pair.sender.flush();
    assert!(pair.receiver.pop().is_some());
    pair.receiver.release();
    assert_eq!(pair.sender_notified.0.get(), 1);
    assert!(pair.receiver.pop().is_some());
    pair.receiver.release();
    assert_eq!(pair.sender_notified.0.get(), 1);
}

#[test]
fn a_repeated_empty_pop_writes_nothing() {
    let mut pair = pair(4, 0);
    assert!(pair.receiver.pop().is_none());
    assert_eq!(pair.consumer.load(MESSAGE_EVENT), 1);
    // A marker that shows whether the word is written again.
    pair.consumer.store(MESSAGE_EVENT, 77);
    assert!(pair.receiver.pop().is_none());
    assert_eq!(pair.consumer.load(MESSAGE_EVENT), 77);
    pair.sender.send(&message(1)).unwrap();
    assert!(pair.receiver.pop().is_some());
    assert!(pair.receiver.pop().is_none());
    assert_eq!((pair.consumer.load(MESSAGE_EVENT), pair.consumer.load(TAIL)), (2, 1));
    // The producer's head jumps away and back, so that the receiver is at the same index again. The
    // slots popped in between are returned all the same.
    pair.producer.store(HEAD, u32::MAX);
    assert_eq!(pair.receiver.pop(), Some(Err(Malformed::QueueIndex)));
    assert_eq!(pair.consumer.load(TAIL), u32::MAX, "returned at once");
    pair.producer.store(HEAD, 1);
    assert_eq!(pair.receiver.pop_each(2, |_| ()), 2);
    assert_eq!((pair.receiver.tail, pair.consumer.load(TAIL)), (1, u32::MAX));
    assert!(pair.receiver.pop().is_none());
    assert_eq!((pair.consumer.load(TAIL), pair.consumer.load(MESSAGE_EVENT)), (1, 2));
}

/// The value that `requested` begins with is no request: no lie may make it look like one.
#[test]
fn a_notification_is_requested_after_any_lie() {
    for start in [0, 1, 77, u32::MAX] {
        for lie in [start.wrapping_sub(1), start.wrapping_sub(2), start.wrapping_add(5), start ^ 1 << 31] {
            let mut pair = pair(4, start);
            pair.producer.store(HEAD, lie);
            assert_eq!(pair.receiver.pop(), Some(Err(Malformed::QueueIndex)));
            assert_eq!(pair.receiver.pop(), None);
            assert_eq!(pair.consumer.load(MESSAGE_EVENT), lie.wrapping_add(1), "{start} {lie}");
        }
    }
}

#[test]
fn publish_notifies_nobody_until_the_next_flush() {
    let mut pair = pair(4, 0);
    assert!(pair.receiver.pop().is_none());
    pair.sender.push(&message(1)).unwrap();
    pair.sender.publish();
    assert_eq!(pair.receiver_notified.0.get(), 0);
    pair.sender.push(&message(2)).unwrap();
    pair.sender.flush();
    assert_eq!(pair.receiver_notified.0.get(), 1);
    assert_eq!([(); 3].map(|()| pair.receiver.pop()), [Some(Ok(message(1))), Some(Ok(message(2))), None]);
    // The receiver has popped everything by itself: there is nothing to notify it of.
    pair.sender.push(&message(3)).unwrap();
    pair.sender.publish();
    assert_eq!([pair.receiver.pop(), pair.receiver.pop()], [Some(Ok(message(3))), None]);
    pair.sender.flush();
    assert_eq!(pair.receiver_notified.0.get(), 1);
    // A sender that finds the queue full can rely on the receiver to drain it.
    for number in 0..4 {
        pair.sender.push(&message(number)).unwrap();
    }
    pair.sender.publish();
    assert_eq!(pair.receiver_notified.0.get(), 2);
}

#[test]
fn a_lying_peer_causes_at_most_a_full_queue_or_bounded_work() {
    for lie in [1, 4, 5, 1000, 0x8000_0000, 0xffff_fff0] {
        let mut pair = pair(4, 0);
        pair.consumer.store(TAIL, lie);
        // A tail that is outside the messages sent makes the queue full.
        assert_eq!(pair.sender.room(), 0, "{lie}");
        assert_eq!(pair.sender.push(&message(0)), Err(QueueFull), "{lie}");
        // A head up to the depth is believed. Beyond that, the receiver skips to it.
        pair.producer.store(HEAD, lie);
        pair.consumer.store(TAIL, 0);
        let popped = (0..100).take_while(|_| pair.receiver.pop().is_some()).count();
        assert_eq!(popped, if lie <= 4 { lie as usize } else { 1 });
        let mut pair = self::pair(4, 0);
        pair.producer.store(HEAD, lie);
        assert_eq!(pair.receiver.pop_each(100, |_| ()), if lie <= 4 { lie } else { 1 });
        // A new, honest sender continues from there.
        let end = QueueEnd {
            slot: Slot(0),
            bit: 5,
            depth: 4,
            producer: pair.producer.clone(),
            consumer: pair.consumer.clone(),
        };
        let mut sender = Sender::<Request, _, _>::new(WakeCounter::default(), end);
        assert_eq!(sender.send(&message(7)), Ok(()));
        assert_eq!(pair.receiver.pop(), Some(Ok(message(7))));
        assert_eq!(pair.receiver.pop(), None);
    }
    // A head up to the depth is believed, even if the sender has not got the slots back for it.
    let mut full = pair(4, 0);
    assert_eq!(full.sender.push_all(&[message(1); 4]), 4);
    full.producer.store(HEAD, 2);
    (0..2).for_each(|_| assert_eq!(full.receiver.pop(), Some(Ok(message(1)))));
    full.producer.store(HEAD, 6);
    (0..4).for_each(|_| assert_eq!(full.receiver.pop(), Some(Ok(message(1)))));
    let mut pair = pair(4, 0);
    pair.sender.send(&message(1)).unwrap();
    pair.producer.write(SLOTS, &[0xee; 8]);
    assert_eq!(pair.receiver.pop(), Some(Err(Malformed::at(0, Defect::Tag))));
    assert_eq!(pair.receiver.pop(), None);
}

#[test]
fn a_restarted_end_continues_where_the_queue_was() {
    let mut pair = pair(4, 0);
    for number in 0..3 {
        pair.sender.send(&message(number)).unwrap();
    }
    assert!(pair.receiver.pop().is_some());
    pair.receiver.release();
    let end = || QueueEnd {
        slot: Slot(0),
        bit: 0,
        depth: 4,
        producer: pair.producer.clone(),
        consumer: pair.consumer.clone(),
    };
    let mut sender = Sender::<Request, _, _>::new(WakeCounter::default(), end());
    let mut receiver = Receiver::<Request, _, _>::new(WakeCounter::default(), end());
    assert_eq!(sender.room(), 2);
    sender.send(&message(3)).unwrap();
    for number in 1..4 {
        assert_eq!(receiver.pop(), Some(Ok(message(number))));
    }
    assert_eq!(receiver.pop(), None);
}

#[test]
fn an_interface_is_notified_through_either_of_its_queues() {
    let end = |bit| QueueEnd { slot: Slot(0), bit, depth: 4, producer: Page::new(1), consumer: Page::new(1) };
    let client = Client::<Net, _, _>::new(WakeCounter::default(), end(5), end(6));
    let server = Server::<Net, _, _>::new(WakeCounter::default(), end(5), end(6));
    for bit in 0..64 {
        let (bits, about) = (Notifications(1 << bit), bit == 5 || bit == 6);
        assert_eq!((client.is_notified(bits), server.is_notified(bits)), (about, about), "{bit}");
    }
    assert!(!client.is_notified(Notifications::default()) && server.is_notified(Notifications::ALL));
}

#[test]
fn a_queue_takes_whole_pages() {
    assert_eq!(producer_pages(Reply::SIZE, 4), 1);
    assert_eq!(producer_pages(256, 16), 2);
}
