//! Both ends of a message interface, over shared memory.

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_interfaces::queue::{HEAD, QueueEnd, SLOTS, producer_pages};
use cloister_interfaces::{Client, Interface, Memory, Message, Server, System};

use crate::memory::SharedMemory;

/// The memory of a one-way queue.
#[derive(Clone)]
pub struct QueueMemory {
    /// The number of bytes of a message.
    pub size: usize,
    /// The number of messages that it holds.
    pub depth: u32,
    /// The pages that the producer writes.
    pub producer: SharedMemory,
    /// The page that the consumer writes.
    pub consumer: SharedMemory,
}

impl QueueMemory {
    /// Creates an empty queue for messages of `size` bytes.
    #[must_use]
    pub fn new(size: usize, depth: u32) -> Self {
        let producer = SharedMemory::new(producer_pages(size, depth as usize) * PAGE_SIZE);
        QueueMemory { size, depth, producer, consumer: SharedMemory::new(PAGE_SIZE) }
    }

    /// Replaces the message that was sent last by these bytes and zeros, as a hostile service can:
    /// the fields can have values that the message's type excludes.
    pub fn rewrite_last(&self, bytes: &[u8]) {
        let slot = self.producer.load(HEAD).wrapping_sub(1) & (self.depth - 1);
        let mut message = bytes.to_vec();
        message.resize(self.size, 0);
        self.producer.write(SLOTS + slot as usize * self.size, &message);
    }

    /// Returns an end of the queue that notification `bit` is for; its slot has the same number.
    /// The two functions make its views of the producer's pages and of the consumer's page.
    pub fn end<M>(
        &self,
        bit: u8,
        producer: impl Fn(SharedMemory) -> M,
        consumer: impl Fn(SharedMemory) -> M,
    ) -> QueueEnd<M> {
        QueueEnd {
            slot: Slot(u16::from(bit)),
            bit,
            depth: self.depth,
            producer: producer(self.producer.clone()),
            consumer: consumer(self.consumer.clone()),
        }
    }
}

/// The memory of a message interface.
#[derive(Clone)]
pub struct ChannelMemory {
    /// The requests.
    pub requests: QueueMemory,
    /// The replies.
    pub replies: QueueMemory,
}

impl ChannelMemory {
    /// Creates the memory of a channel of `I`.
    #[must_use]
    pub fn new<I: Interface>(depth: u32) -> Self {
        let queue = |size| QueueMemory::new(size, depth);
        ChannelMemory { requests: queue(<I::Request as Message>::SIZE), replies: queue(<I::Reply as Message>::SIZE) }
    }

    /// Returns the client's end. `own` makes its view of the pages that only it writes, `theirs`
    /// that of the pages that the server writes.
    pub fn client<I: Interface, S: System, M: Memory>(
        &self,
        system: &S,
        bit: u8,
        own: impl Fn(SharedMemory) -> M,
        theirs: impl Fn(SharedMemory) -> M,
    ) -> Client<I, S, M> {
        Client::new(system.clone(), self.requests.end(bit, &own, &theirs), self.replies.end(bit, &theirs, &own))
    }

    /// Returns the server's end, in the same way.
    pub fn server<I: Interface, S: System, M: Memory>(
        &self,
        system: &S,
        bit: u8,
        own: impl Fn(SharedMemory) -> M,
        theirs: impl Fn(SharedMemory) -> M,
    ) -> Server<I, S, M> {
        Server::new(system.clone(), self.requests.end(bit, &theirs, &own), self.replies.end(bit, &own, &theirs))
    }

    /// Returns both ends. Each has a system, and the notification bit that is for it.
    pub fn ends<I: Interface, S: System>(
        &self,
        (client, client_bit): (&S, u8),
        (server, server_bit): (&S, u8),
    ) -> (Client<I, S, SharedMemory>, Server<I, S, SharedMemory>) {
        let same = |memory| memory;
        (self.client(client, client_bit, same, same), self.server(server, server_bit, same, same))
    }
}

/// Returns both ends of a new channel of `I`. Notification `client_bit` is for the client,
/// `server_bit` for the server. The slot of each end has the number of its bit.
pub fn channel<I: Interface, S: System>(
    client: &S,
    client_bit: u8,
    server: &S,
    server_bit: u8,
    depth: u32,
) -> (Client<I, S, SharedMemory>, Server<I, S, SharedMemory>) {
    ChannelMemory::new::<I>(depth).ends((client, client_bit), (server, server_bit))
}
