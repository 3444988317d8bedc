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
use core::sync::atomic::{Ordering, fence};

use cloister_caps::{Operation, PAGE_SIZE, Slot};

use crate::message::{Malformed, Message};
use crate::service::Notifications;
use crate::system::{Memory, System};

const HEAD: usize = 0;
const SPACE_EVENT: usize = 4;
const SLOTS: usize = 64;
const TAIL: usize = 0;
const MESSAGE_EVENT: usize = 4;

/// The largest message of any interface, in bytes.
pub const MAX_MESSAGE: usize = 256;

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
    message: PhantomData<fn(T)>,
}

impl<T: Message, S: System, M: Memory> Sender<T, S, M> {
    /// The producing end at `end`.
    pub fn new(system: S, end: End<M>) -> Self {
        let head = end.producer.load(HEAD);
        Sender { system, end, head, announced: head, message: PhantomData }
    }

    /// The notification bit by which this end learns of space.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    /// The slot of the capability that wakes the receiver.
    pub fn slot(&self) -> Slot {
        self.end.slot
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
        if self.room() == 0 {
            self.end.producer.store(SPACE_EVENT, self.head.wrapping_sub(self.end.depth).wrapping_add(1));
            fence(Ordering::SeqCst);
            if self.room() == 0 {
                return Err(Full);
            }
        }
        let mut bytes = [0; MAX_MESSAGE];
        message.to_bytes(&mut bytes[..T::SIZE]);
        let slot = (self.head & (self.end.depth - 1)) as usize;
        self.end.producer.write(SLOTS + slot * T::SIZE, &bytes[..T::SIZE]);
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// Publishes what was pushed, and wakes the receiver if it waits for it. Call once for a batch.
    pub fn flush(&mut self) {
        if self.head == self.announced {
            return;
        }
        let old = core::mem::replace(&mut self.announced, self.head);
        self.end.producer.store(HEAD, self.head);
        fence(Ordering::SeqCst);
        if passed(old, self.head, self.end.consumer.load(MESSAGE_EVENT)) {
            // A refusal is logged by the kernel; the receiver then finds the message when it next looks.
            let _ = self.system.invoke(self.end.slot, Operation::QueueNotify, [0; 4]);
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
    message: PhantomData<fn() -> T>,
}

impl<T: Message, S: System, M: Memory> Receiver<T, S, M> {
    /// The consuming end at `end`.
    pub fn new(system: S, end: End<M>) -> Self {
        let tail = end.consumer.load(TAIL);
        Receiver { system, end, tail, released: tail, message: PhantomData }
    }

    /// The notification bit by which this end learns of messages.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    fn waiting(&self) -> u32 {
        // A producer that claims more than the queue holds is believed up to its depth.
        self.end.producer.load(HEAD).wrapping_sub(self.tail).min(self.end.depth)
    }

    /// Takes the next message, if there is one; `Some(Err)` is one that does not decode, and is gone.
    /// After `None` this end is notified of the next.
    pub fn pop(&mut self) -> Option<Result<T, Malformed>> {
        if self.waiting() == 0 {
            self.release();
            self.end.consumer.store(MESSAGE_EVENT, self.tail.wrapping_add(1));
            fence(Ordering::SeqCst);
            if self.waiting() == 0 {
                return None;
            }
        }
        let slot = (self.tail & (self.end.depth - 1)) as usize;
        let mut bytes = [0; MAX_MESSAGE];
        self.end.producer.read(SLOTS + slot * T::SIZE, &mut bytes[..T::SIZE]);
        self.tail = self.tail.wrapping_add(1);
        if self.tail.wrapping_sub(self.released) >= self.end.depth / 2 {
            self.release();
        }
        Some(T::from_bytes(&bytes[..T::SIZE]))
    }

    /// Gives the slots of the messages taken so far back to the sender, and wakes it if it waits for room.
    /// [`Self::pop`] does so by itself when the queue is empty or half of it was taken.
    pub fn release(&mut self) {
        if self.tail == self.released {
            return;
        }
        let old = core::mem::replace(&mut self.released, self.tail);
        self.end.consumer.store(TAIL, self.tail);
        fence(Ordering::SeqCst);
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
