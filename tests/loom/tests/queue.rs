//! The queue of `cloister_interfaces::queue` in every ordering: no message is lost, repeated or
//! reordered, and no side sleeps forever.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::message::{Reader, Writer};
use cloister_interfaces::queue::QueueEnd;
use cloister_interfaces::{Defect, Message, Receiver, Sender};
use cloister_loom::{Notification, Region, Weakness, every_ordering};

/// The number of a message, from 1. An empty slot holds 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Number(u8);

impl Message for Number {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.0);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        reader.u8().map(Number)
    }
}

/// The messages, and the queue that they are sent over.
#[derive(Clone, Copy)]
struct Case {
    depth: u32,
    /// The first value of both indices.
    start: u32,
    /// The number of messages that are published together.
    batches: &'static [u8],
    weakness: Weakness,
    /// `true` if the receiver's notifications reach the sender.
    heard: bool,
    /// The number of times that the receiver finds nothing before it sleeps.
    looks: u8,
    preemptions: Option<usize>,
}

const CASE: Case =
    Case { depth: 2, start: 0, batches: &[], weakness: Weakness::None, heard: true, looks: 1, preemptions: Some(4) };

/// The offset of either index.
const INDEX: usize = 0;

impl Case {
    fn run(self) -> u64 {
        let total: u8 = self.batches.iter().sum();
        every_ordering(self.preemptions, move || {
            let header = [self.start, self.start, 0, 0];
            let producer = Region::new(header, self.depth as usize * Number::SIZE, self.weakness);
            let consumer = Region::new(header, 0, self.weakness);
            let end = || {
                let producer = producer.clone();
                QueueEnd { slot: Slot(0), bit: 0, depth: self.depth, consumer: consumer.beside(&producer), producer }
            };
            let (message, space) = (Notification::new(), Notification::new());
            let sender = Sender::new(message.clone(), end());
            let rung = if self.heard { space.clone() } else { space.broken() };
            let receiver = Receiver::new(rung, end());
            let thread = loom::thread::spawn(move || send(sender, &space, self.batches));
            receive(receiver, &message, total, self.looks);
            thread.join().expect("the sender's thread ends");
        })
    }
}

fn send(mut sender: Sender<Number, Notification, Region>, space: &Notification, batches: &[u8]) {
    let mut next = 0;
    for batch in batches {
        for _ in 0..*batch {
            next += 1;
            while sender.push(&Number(next)).is_err() {
                sender.flush();
                space.wait();
            }
        }
        sender.flush();
    }
}

fn receive(mut receiver: Receiver<Number, Notification, Region>, message: &Notification, total: u8, looks: u8) {
    for expected in 1..=total {
        let got = loop {
            match (0..looks).find_map(|_| receiver.pop()) {
                Some(got) => break got,
                None => message.wait(),
            }
        };
        assert_eq!(got, Ok(Number(expected)), "lost, repeated or out of order");
    }
    receiver.release();
    assert_eq!(receiver.pop(), None, "one more than was sent");
}

#[test]
fn one_message_without_bound() {
    let orderings = Case { batches: &[1], preemptions: None, ..CASE }.run();
    assert!(orderings > 100, "{orderings}");
}

#[test]
fn one_slot() {
    let orderings = Case { depth: 1, start: u32::MAX, batches: &[1, 1], ..CASE }.run();
    assert!(orderings > 10_000, "{orderings}");
}

#[test]
fn one_at_a_time_across_the_wrap() {
    let orderings = Case { start: u32::MAX, batches: &[1, 1, 1], preemptions: Some(3), ..CASE }.run();
    assert!(orderings > 20_000, "{orderings}");
}

#[test]
fn batches() {
    let orderings = Case { batches: &[2, 1], ..CASE }.run();
    assert!(orderings > 30_000, "{orderings}");
}

#[test]
fn a_receiver_that_checks_again_before_it_sleeps_is_woken() {
    let orderings = Case { batches: &[1, 1], looks: 2, preemptions: Some(3), ..CASE }.run();
    assert!(orderings > 1_000, "{orderings}");
}

#[test]
fn a_batch_longer_than_the_queue() {
    let orderings = Case { batches: &[3], ..CASE }.run();
    assert!(orderings > 20_000, "{orderings}");
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_barrier_a_side_sleeps_forever() {
    Case { batches: &[1, 1], weakness: Weakness::Barrier, ..CASE }.run();
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_second_check_a_side_sleeps_forever() {
    Case { batches: &[1, 1], weakness: Weakness::SecondLoad(INDEX), ..CASE }.run();
}

#[test]
#[should_panic(expected = "lost, repeated or out of order")]
fn without_acquire_and_release_a_slot_is_read_before_it_is_written() {
    Case { batches: &[1], weakness: Weakness::Ordering, ..CASE }.run();
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_wake_up_for_room_the_sender_sleeps_forever() {
    Case { depth: 1, batches: &[1, 1], heard: false, ..CASE }.run();
}
