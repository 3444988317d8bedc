//! One-way queues in shared pages, each page with one writer, and request/reply pairs made of two
//! queues.
//!
//! The producer's pages hold its index and the slots. The consumer's page holds its index. Neither
//! end can write the other's pages. Indices count freely and wrap; the slot of a message is its
//! index modulo the depth.
//!
//! | page | offset | field | written by |
//! |---|---|---|---|
//! | producer | 0 | `head`: number of messages ever pushed | producer |
//! | producer | 4 | `space_event`: notify the producer when `tail` reaches this | producer |
//! | producer | 64 | slots | producer |
//! | consumer | 0 | `tail`: number of messages ever popped | consumer |
//! | consumer | 4 | `message_event`: notify the consumer when `head` reaches this | consumer |
//!
//! An end that finds the queue empty (or full) publishes the index that it waits for and then
//! checks once more, as Xen's rings do (`RING_FINAL_CHECK_FOR_RESPONSES`, `io/ring.h`). So no
//! notification is lost, and none is sent to an end that is not waiting.
//!
//! ```
//! use cloister_caps::{Operation, Slot};
//! use cloister_interfaces::control::{Control, Reply, Request};
//! use cloister_sim::{Recorder, channel};
//!
//! // On the host the system is one that records what is invoked; in the image it is the kernel.
//! // The client is notified by bit 0, the server by bit 1; the queues hold four messages.
//! let (system, depth) = (Recorder::new(), 4);
//! let (mut client, mut server) = channel::<Control, _>(&system, 0, &system, 1, depth);
//!
//! // The server finds its queue empty, so it is notified of the next message.
//! assert_eq!(server.requests.pop(), None);
//! client.requests.send(&Request::Quiesce).unwrap();
//! assert_eq!(system.take_calls(), [(Slot(0), Operation::QueueNotify, [0; 4])]);
//!
//! // It did not look again before more came: one notification is enough.
//! client.requests.send(&Request::Quiesce).unwrap();
//! assert!(system.take_calls().is_empty());
//!
//! while let Some(request) = server.requests.pop() {
//!     // What the client says is checked when it is decoded, and copied first.
//!     assert_eq!(request, Ok(Request::Quiesce));
//!     server.replies.push(&Reply::Quiet).unwrap();
//! }
//! server.replies.flush();
//! assert_eq!(client.replies.pop(), Some(Ok(Reply::Quiet)));
//! ```

use core::marker::PhantomData;

use cloister_caps::{Operation, PAGE_SIZE, Slot};

use crate::message::{Malformed, Message, Words};
use crate::service::Notifications;
use crate::system::{Memory, System};

/// The offset of `head` in the producer's pages.
pub const HEAD: usize = 0;
/// The offset of `space_event` in the producer's pages.
pub const SPACE_EVENT: usize = 4;
/// The offset of the slots in the producer's pages.
pub const SLOTS: usize = 64;
/// The offset of `tail` in the consumer's page.
pub const TAIL: usize = 0;
/// The offset of `message_event` in the consumer's page.
pub const MESSAGE_EVENT: usize = 4;

/// Returns the number of pages of the producer's side of a queue.
#[must_use]
pub const fn producer_pages(message_size: usize, depth: usize) -> usize {
    (SLOTS + message_size * depth).div_ceil(PAGE_SIZE)
}

/// A message interface between a client and a server.
pub trait Interface {
    /// The name of the interface in the policy.
    const NAME: &'static str;
    /// The messages from client to server.
    type Request: Message;
    /// The messages from server to client: replies and events.
    type Reply: Message;
}

/// The error of a push to a full queue. The message was not pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueFull;

/// One end of a queue, as the policy compiler emits it.
///
/// It is plain data, so holding one proves nothing. The bindings make one for each end that the
/// policy gives the service, with the regions and the slot that the policy says. It is moved into
/// the one [`Sender`] or [`Receiver`] that is made of it.
#[derive(Debug)]
pub struct QueueEnd<M> {
    /// The slot of the capability to notify the other end.
    pub slot: Slot,
    /// The notification bit of this end.
    pub bit: u8,
    /// The number of messages that the queue holds: a power of two.
    pub depth: u32,
    /// The producer's pages.
    pub producer: M,
    /// The consumer's page.
    pub consumer: M,
}

/// The producing end of a queue.
///
/// # Holding one proves
/// Its indices are its own: what the consumer writes cannot move them. A push that succeeds writes
/// a slot that the consumer has returned, and a lying consumer harms only itself.
pub struct Sender<T, S, M> {
    system: S,
    end: QueueEnd<M>,
    /// The index of the next message.
    head: u32,
    /// `head` at the last flush.
    flushed: u32,
    /// The slots before this index are known to be free. More may be.
    limit: u32,
    message: PhantomData<fn(T)>,
}

impl<T: Message, S: System, M: Memory> Sender<T, S, M> {
    /// Creates the producing end of the queue at `end`.
    pub fn new(system: S, end: QueueEnd<M>) -> Self {
        let head = end.producer.load(HEAD);
        Sender { system, end, head, flushed: head, limit: head, message: PhantomData }
    }

    /// Returns the notification bit that tells this end of free slots.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    fn used(&self) -> u32 {
        // A tail that no honest consumer can have (ahead of the head, or more than the depth behind
        // it) makes the queue full, which harms only that consumer.
        self.head.wrapping_sub(self.end.consumer.load(TAIL)).min(self.end.depth)
    }

    /// Returns the number of messages that can be pushed now.
    pub fn room(&self) -> u32 {
        self.end.depth - self.used()
    }

    /// Puts a message in the queue. The receiver sees it after [`Self::flush`] or
    /// [`Self::publish`].
    ///
    /// # Errors
    /// The queue is full. This end will be notified when a slot is free.
    pub fn push(&mut self, message: &T) -> Result<(), QueueFull> {
        if self.head == self.limit {
            self.find_room()?;
        }
        let slot = (self.head & (self.end.depth - 1)) as usize;
        self.end.producer.store_words(SLOTS + slot * T::SIZE, &message.to_words()[..T::WORDS]);
        self.head = self.head.wrapping_add(1);
        Ok(())
    }

    /// Pushes as many of the messages as there is room for, and returns their number.
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
    fn find_room(&mut self) -> Result<(), QueueFull> {
        let mut room = self.room();
        if room == 0 {
            self.end.producer.store(SPACE_EVENT, self.head.wrapping_sub(self.end.depth).wrapping_add(1));
            self.end.producer.barrier();
            room = self.room();
        }
        self.limit = self.head.wrapping_add(room);
        if room == 0 { Err(QueueFull) } else { Ok(()) }
    }

    /// Publishes what was pushed, and notifies the receiver if it is waiting. Call it once for a
    /// batch.
    #[inline(never)] // Called often in the source but rarely at run time: inlining only adds size.
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

    /// Publishes what was pushed without notifying the receiver, unless the queue is full. The
    /// receiver sees the messages when it next checks the queue. The next [`Self::flush`] notifies
    /// it if it is still waiting.
    pub fn publish(&mut self) {
        if self.room() == 0 {
            self.flush();
        } else {
            self.end.producer.store(HEAD, self.head);
        }
    }

    /// Pushes one message and flushes.
    ///
    /// # Errors
    /// The queue is full.
    pub fn send(&mut self, message: &T) -> Result<(), QueueFull> {
        self.push(message)?;
        self.flush();
        Ok(())
    }
}

/// The consuming end of a queue.
///
/// # Holding one proves
/// Its indices are its own. Each slot is copied once before it is decoded, and no more messages are
/// popped for one claim of the producer than the queue holds.
pub struct Receiver<T, S, M> {
    system: S,
    end: QueueEnd<M>,
    /// The index of the next message.
    tail: u32,
    /// The last published `tail`: the slots before it are the sender's again.
    released: u32,
    /// The messages before this index are known to have been pushed. More may have been. It is at
    /// most `half` ahead of where `tail` was when it was set.
    limit: u32,
    /// Half of the depth, but at least one.
    half: u32,
    /// The `message_event` that this end last wrote; before that, a value that requests nothing.
    requested: u32,
    message: PhantomData<fn() -> T>,
}

impl<T: Message, S: System, M: Memory> Receiver<T, S, M> {
    /// Creates the consuming end of the queue at `end`.
    pub fn new(system: S, end: QueueEnd<M>) -> Self {
        let tail = end.consumer.load(TAIL);
        let half = (end.depth / 2).max(1);
        Receiver { system, end, tail, released: tail, limit: tail, half, requested: tail, message: PhantomData }
    }

    /// Returns the notification bit that tells this end of messages.
    pub fn bit(&self) -> u8 {
        self.end.bit
    }

    fn waiting(&self) -> u32 {
        self.end.producer.load(HEAD).wrapping_sub(self.tail)
    }

    /// Removes and returns the next message. A message that does not decode is `Some(Err)` and is
    /// removed as well. Returns `None` if the queue is empty; this end is notified of the next
    /// message.
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

    /// Pops up to `most` messages, passes each to `take`, and returns their number. If there were
    /// fewer than `most`, this end is notified of the next message.
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

    /// Handles the cases that are not on the fast path: no message is waiting, more are claimed
    /// than the queue holds, or half of the queue was popped.
    #[inline(never)] // See `flush`.
    fn find_messages_slow(&mut self, waiting: u32) -> Option<Result<(), Malformed>> {
        if waiting == 0 {
            return self.request_wake();
        }
        if waiting > self.end.depth {
            // The producer claims more messages than the queue holds, so none of them is valid. To
            // follow the claim would be up to 2^32 messages of work: skip to the claimed head.
            self.tail = self.tail.wrapping_add(waiting);
            self.limit = self.tail;
            // No claim may lead to an index for which a notification seems requested already.
            self.requested = self.tail;
            self.return_slots();
            return Some(Err(Malformed::QueueIndex));
        }
        self.limit = self.tail.wrapping_add(waiting.min(self.half));
        if self.tail.wrapping_sub(self.released) >= self.half {
            self.return_slots();
        }
        Some(Ok(()))
    }

    /// Requests a notification for the next message, and checks once more for messages.
    #[inline(never)] // Inline, it costs the calls that find messages, too.
    fn request_wake(&mut self) -> Option<Result<(), Malformed>> {
        let (tail, next) = (self.tail, self.tail.wrapping_add(1));
        if self.requested == next && self.released == tail {
            // The notification was requested before, and the queue was found empty after that.
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

    /// Returns the slots of the messages popped so far to the sender, and notifies it if it is
    /// waiting for room. [`Self::pop`] does so by itself when the queue is empty, or when half of
    /// it was popped.
    pub fn release(&mut self) {
        if self.tail != self.released {
            self.return_slots();
        }
    }

    #[inline(never)] // See `flush`.
    fn return_slots(&mut self) {
        self.publish_tail();
    }

    /// Publishes `tail`, and notifies the sender if it is waiting for that. What is loaded
    /// afterwards is no older than the store.
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

/// Notifies the other end. If the kernel refuses, it logs that, and the other end sees the change
/// when it next checks the queue.
#[inline(never)] // Keeps the common path, on which nobody is notified, free of a stack frame.
fn notify_peer(system: &impl System, slot: Slot) {
    let _ = system.invoke(slot, Operation::QueueNotify, [0; 4]);
}

/// Returns `true` if an index that moved from `old` to `new` has reached `event`
/// (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`, `io/ring.h`).
fn has_crossed(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// The client's ends of an interface.
///
/// # Holding one proves
/// In the image: the policy has a queue of this interface from this service to that server.
pub struct Client<I: Interface, S, M> {
    /// Sends the requests.
    pub requests: Sender<I::Request, S, M>,
    /// Receives the replies.
    pub replies: Receiver<I::Reply, S, M>,
}

/// The server's ends of an interface.
///
/// # Holding one proves
/// In the image: the policy has a queue of this interface from one client to this service. Whatever
/// comes out of it was sent by that client, for no other service can write its pages.
pub struct Server<I: Interface, S, M> {
    /// Receives the requests.
    pub requests: Receiver<I::Request, S, M>,
    /// Sends the replies.
    pub replies: Sender<I::Reply, S, M>,
}

impl<I: Interface, S: System, M: Memory> Client<I, S, M> {
    /// Creates the client's ends of the two queues.
    pub fn new(system: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Client { requests: Sender::new(system.clone(), requests), replies: Receiver::new(system, replies) }
    }

    /// Returns `true` if one of the notifications is for one of the two queues.
    pub fn is_notified(&self, notifications: Notifications) -> bool {
        notifications.contains(self.requests.bit()) || notifications.contains(self.replies.bit())
    }
}

impl<I: Interface, S: System, M: Memory> Server<I, S, M> {
    /// Creates the server's ends of the two queues.
    pub fn new(system: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Server { requests: Receiver::new(system.clone(), requests), replies: Sender::new(system, replies) }
    }

    /// Returns `true` if one of the notifications is for one of the two queues.
    pub fn is_notified(&self, notifications: Notifications) -> bool {
        notifications.contains(self.requests.bit()) || notifications.contains(self.replies.bit())
    }
}

#[cfg(test)]
mod tests;
