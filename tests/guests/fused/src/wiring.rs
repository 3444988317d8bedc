//! The queues between the services.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::queue::{QueueEnd, producer_pages};
use cloister_interfaces::{Client, Interface, Memory, Message, Server, System};

use crate::{SERVICES, notify_slot};

/// The first bit of a bell. The bits below are those of the program's own ports.
const FIRST: u8 = 8;

/// Hands out the memory of queues, and the bells of services.
pub(crate) struct Wiring<S, M> {
    system: S,
    memory: M,
    part: fn(&M, usize, usize) -> M,
    used: usize,
    bits: [u8; SERVICES],
}

impl<S: System, M: Memory> Wiring<S, M> {
    pub(crate) fn new(system: S, memory: M, part: fn(&M, usize, usize) -> M) -> Self {
        Wiring { system, memory, part, used: 0, bits: [FIRST; SERVICES] }
    }

    /// A queue of `depth` messages each way.
    pub(crate) fn queue<I: Interface>(
        &mut self,
        client: usize,
        server: usize,
        depth: u32,
    ) -> (Client<I, S, M>, Server<I, S, M>) {
        let (asks, asked) = self.one_way::<I::Request>(client, server, depth);
        let (answers, answered) = self.one_way::<I::Reply>(server, client, depth);
        (Client::new(self.system.clone(), asks, answered), Server::new(self.system.clone(), asked, answers))
    }

    /// The ends of a one-way queue: the sender's and the receiver's.
    fn one_way<T: Message>(&mut self, sender: usize, receiver: usize, depth: u32) -> (QueueEnd<M>, QueueEnd<M>) {
        let producer = self.pages(producer_pages(T::SIZE, depth as usize));
        let consumer = self.pages(1);
        let (to_sender, to_receiver) = (self.bit(sender), self.bit(receiver));
        let (own, other) = (producer.clone(), consumer.clone());
        let sends = QueueEnd {
            slot: notify_slot(receiver, to_receiver),
            bit: to_sender,
            depth,
            producer: own,
            consumer: other,
        };
        (sends, QueueEnd { slot: notify_slot(sender, to_sender), bit: to_receiver, depth, producer, consumer })
    }

    fn pages(&mut self, pages: usize) -> M {
        let (start, length) = (self.used, pages * PAGE_SIZE);
        self.used += length;
        assert!(self.used <= self.memory.len(), "the region of the queues is too small");
        (self.part)(&self.memory, start, length)
    }

    fn bit(&mut self, service: usize) -> u8 {
        let Some(next) = self.bits.get_mut(service) else { return 63 };
        *next += 1;
        *next - 1
    }
}
