//! The queues between the services.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::queue::{QueueEnd, producer_pages};
use cloister_interfaces::{Client, Interface, Memory, Message, Server, System};

use crate::{Part, SERVICES, notify_slot};

/// The first notification bit of a queue. The bits below are those of the program's own ports.
const FIRST: u8 = 8;

/// Both sides of a queue.
type Ends<I, S, M> = (Client<I, S, Part<M>>, Server<I, S, Part<M>>);

/// Hands out the memory of queues, and the notification bits of services.
pub(crate) struct Wiring<S, M> {
    system: S,
    memory: Part<M>,
    used: usize,
    bits: [u8; SERVICES],
}

impl<S: System, M: Memory> Wiring<S, M> {
    pub(crate) fn new(system: S, memory: Part<M>) -> Self {
        Wiring { system, memory, used: 0, bits: [FIRST; SERVICES] }
    }

    /// Makes a queue of `depth` messages each way.
    pub(crate) fn queue<I: Interface>(&mut self, client: usize, server: usize, depth: u32) -> Ends<I, S, M> {
        let (client_requests, server_requests) = self.one_way::<I::Request>(client, server, depth);
        let (server_replies, client_replies) = self.one_way::<I::Reply>(server, client, depth);
        (
            Client::new(self.system.clone(), client_requests, client_replies),
            Server::new(self.system.clone(), server_requests, server_replies),
        )
    }

    /// Makes a one-way queue. Returns the ends of the sender and of the receiver.
    fn one_way<T: Message>(
        &mut self,
        sender: usize,
        receiver: usize,
        depth: u32,
    ) -> (QueueEnd<Part<M>>, QueueEnd<Part<M>>) {
        let producer = self.pages(producer_pages(T::SIZE, depth as usize));
        let consumer = self.pages(1);
        let (to_sender, to_receiver) = (self.bit(sender), self.bit(receiver));
        let (own, other) = (producer.clone(), consumer.clone());
        let sending = QueueEnd {
            slot: notify_slot(receiver, to_receiver),
            bit: to_sender,
            depth,
            producer: own,
            consumer: other,
        };
        (sending, QueueEnd { slot: notify_slot(sender, to_sender), bit: to_receiver, depth, producer, consumer })
    }

    fn pages(&mut self, pages: usize) -> Part<M> {
        let (start, length) = (self.used, pages * PAGE_SIZE);
        self.used += length;
        assert!(self.used <= self.memory.len(), "the region of the queues is too small");
        self.memory.part(start, length)
    }

    fn bit(&mut self, service: usize) -> u8 {
        let Some(next) = self.bits.get_mut(service) else { return 63 };
        *next += 1;
        *next - 1
    }
}
