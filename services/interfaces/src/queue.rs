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
pub struct QueueEnd<M> {
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
    end: QueueEnd<M>,
    head: u32,
    flushed: u32,
    /// Up to here slots are known to be free: there may be more.
    limit: u32,
    message: PhantomData<fn(T)>,
}

impl<T: Message, S: System, M: Memory> Sender<T, S, M> {
    /// The producing end at `end`.
    pub fn new(system: S, end: QueueEnd<M>) -> Self {
        let head = end.producer.load(HEAD);
        Sender { system, end, head, flushed: head, limit: head, message: PhantomData }
    }

    /// The notification bit by which this end learns of space.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    /// Where this end is, for what attacks it.
    #[cfg(feature = "probe")]
    pub fn end(&self) -> &QueueEnd<M> {
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
            self.find_room()?;
        }
        let slot = (self.head & (self.end.depth - 1)) as usize;
        self.end.producer.store_words(SLOTS + slot * T::SIZE, &message.to_words()[..T::WORDS]);
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// [`Self::push`] of each, as far as there is room; answers how many that were.
    pub fn push_all(&mut self, messages: &[T]) -> usize {
        let mut unsent = messages;
        while !unsent.is_empty() && (self.head != self.limit || self.find_room().is_ok()) {
            let slot = self.head & (self.end.depth - 1);
            let free = self.limit.wrapping_sub(self.head).min(self.end.depth - slot);
            let (run, remaining) = unsent.split_at(unsent.len().min(free as usize));
            self.end.producer.store_each(SLOTS + slot as usize * T::SIZE, T::WORDS, run, T::to_words);
            self.head = self.head.wrapping_add(run.len() as u32);
            unsent = remaining;
        }
        messages.len() - unsent.len()
    }

    #[cold]
    fn find_room(&mut self) -> Result<(), Full> {
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
        if self.head == self.flushed {
            return;
        }
        let old = core::mem::replace(&mut self.flushed, self.head);
        self.end.producer.store(HEAD, self.head);
        self.end.producer.barrier();
        if has_crossed(old, self.head, self.end.consumer.load(MESSAGE_EVENT)) {
            notify_peer(&self.system, self.end.slot);
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
    end: QueueEnd<M>,
    tail: u32,
    released: u32,
    /// Up to here messages are known to be there, at most `half`: there may be more.
    limit: u32,
    /// Half of what the queue holds, but one at least.
    half: u32,
    /// What this end last wrote as `message_event`; at first what means nothing.
    requested: u32,
    message: PhantomData<fn() -> T>,
}

impl<T: Message, S: System, M: Memory> Receiver<T, S, M> {
    /// The consuming end at `end`.
    pub fn new(system: S, end: QueueEnd<M>) -> Self {
        let tail = end.consumer.load(TAIL);
        let half = (end.depth / 2).max(1);
        Receiver { system, end, tail, released: tail, limit: tail, half, requested: tail, message: PhantomData }
    }

    /// The notification bit by which this end learns of messages.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    /// Where this end is, for what attacks it.
    #[cfg(feature = "probe")]
    pub fn end(&self) -> &QueueEnd<M> {
        &self.end
    }

    fn waiting(&self) -> u32 {
        self.end.producer.load(HEAD).wrapping_sub(self.tail)
    }

    /// Takes the next message, if there is one; `Some(Err)` is one that does not decode, and is gone.
    /// After `None` this end is notified of the next.
    pub fn pop(&mut self) -> Option<Result<T, Malformed>> {
        if self.tail == self.limit
            && let Err(malformed) = self.find_messages()?
        {
            return Some(Err(malformed));
        }
        let slot = (self.tail & (self.end.depth - 1)) as usize;
        let mut words = Words::default();
        self.end.producer.load_words(SLOTS + slot * T::SIZE, &mut words[..T::WORDS]);
        self.tail = self.tail.wrapping_add(1);
        Some(T::from_words(words))
    }

    /// [`Self::pop`] of up to `most` messages, each handed to `take`; answers how many there were. After fewer than `most`
    /// this end is notified of the next.
    pub fn pop_each(&mut self, most: u32, mut take: impl FnMut(Result<T, Malformed>)) -> u32 {
        let mut left = most;
        while left > 0 {
            if self.tail == self.limit {
                match self.find_messages() {
                    Some(Ok(())) => {}
                    Some(Err(malformed)) => {
                        take(Err(malformed));
                        left -= 1;
                        continue;
                    }
                    None => break,
                }
            }
            let slot = self.tail & (self.end.depth - 1);
            let run = self.limit.wrapping_sub(self.tail).min(self.end.depth - slot).min(left);
            let offset = SLOTS + slot as usize * T::SIZE;
            self.end.producer.load_each(offset, T::WORDS, run as usize, |words| take(T::from_words(words)));
            self.tail = self.tail.wrapping_add(run);
            left -= run;
        }
        most - left
    }

    #[inline]
    fn find_messages(&mut self) -> Option<Result<(), Malformed>> {
        let waiting = self.waiting();
        if waiting.wrapping_sub(1) < self.end.depth && self.tail.wrapping_sub(self.released) < self.half {
            self.limit = self.tail.wrapping_add(waiting.min(self.half));
            return Some(Ok(()));
        }
        self.find_messages_slow(waiting)
    }

    /// What is left to do when none seem to wait, or more than there can be, or when half of the queue was taken.
    #[inline(never)] // As for `flush`.
    fn find_messages_slow(&mut self, waiting: u32) -> Option<Result<(), Malformed>> {
        if waiting == 0 {
            return self.request_wake();
        }
        if waiting > self.end.depth {
            // More than the queue holds. Nothing in it means anything, and to follow the claim would be up to 2^32
            // messages of work: go on where the producer says that it is.
            self.tail = self.tail.wrapping_add(waiting);
            self.limit = self.tail;
            self.return_slots();
            return Some(Err(Malformed));
        }
        self.limit = self.tail.wrapping_add(waiting.min(self.half));
        if self.tail.wrapping_sub(self.released) >= self.half {
            self.return_slots();
        }
        Some(Ok(()))
    }

    /// Says that the next message is to wake this end, and looks once more.
    #[inline(never)] // Else who finds messages pays for it, too.
    fn request_wake(&mut self) -> Option<Result<(), Malformed>> {
        let (tail, next) = (self.tail, self.tail.wrapping_add(1));
        if self.requested == next && self.released == tail {
            // The sender was told before, and the look that brought us here came after that.
            return None;
        }
        self.requested = next;
        self.end.consumer.store(MESSAGE_EVENT, next);
        self.publish_tail();
        match self.end.producer.load(HEAD).wrapping_sub(tail) {
            0 => None,
            waiting => self.find_messages_slow(waiting),
        }
    }

    /// Gives the slots of the messages taken so far back to the sender, and wakes it if it waits for room.
    /// [`Self::pop`] does so by itself when it finds the queue empty, or that half of it was taken.
    pub fn release(&mut self) {
        if self.tail != self.released {
            self.return_slots();
        }
    }

    #[inline(never)] // As for `flush`.
    fn return_slots(&mut self) {
        self.publish_tail();
    }

    /// Tells the sender how far this end is, and wakes it if it waits for that; what is looked at afterwards is no older.
    #[inline(always)]
    fn publish_tail(&mut self) {
        let (old, new) = (self.released, self.tail);
        self.released = new;
        self.end.consumer.store(TAIL, new);
        self.end.consumer.barrier();
        if has_crossed(old, new, self.end.producer.load(SPACE_EVENT)) {
            notify_peer(&self.system, self.end.slot);
        }
    }
}

/// Wakes the other end. A refusal is logged by the kernel; that end then finds what there is when it next looks.
#[inline(never)] // What decides that nobody is to be woken, which is often, needs no stack so.
fn notify_peer(system: &impl System, slot: Slot) {
    let _ = system.invoke(slot, Operation::QueueNotify, [0; 4]);
}

/// Whether an index that moved from `old` to `new` has reached `event`: `RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`
/// of `io/ring.h`.
fn has_crossed(old: u32, new: u32, event: u32) -> bool {
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
    pub fn new(system: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Client { requests: Sender::new(system.clone(), requests), replies: Receiver::new(system, replies) }
    }

    /// Whether a notification is about this interface.
    pub fn notified(&self, notifications: Notifications) -> bool {
        notifications.has(self.requests.bit()) || notifications.has(self.replies.bit())
    }
}

impl<I: Interface, S: System, M: Memory> Server<I, S, M> {
    /// The server's ends at these places.
    pub fn new(system: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Server { requests: Receiver::new(system.clone(), requests), replies: Sender::new(system, replies) }
    }

    /// Whether a notification is about this interface.
    pub fn notified(&self, notifications: Notifications) -> bool {
        notifications.has(self.requests.bit()) || notifications.has(self.replies.bit())
    }
}

#[cfg(test)]
mod tests;
