//! Both ends of a message interface, over shared memory.

use cloister_caps::{PAGE_SIZE, Slot};
use cloister_interfaces::queue::{End, producer_pages};
use cloister_interfaces::{Client, Interface, Message, Server, System};

use crate::memory::SharedMemory;

/// The client's and the server's ends of a new channel of `I`. The client is woken by bit `client_bit`, the server
/// by `server_bit`; each end's slot number equals its bit.
pub fn channel<I: Interface, S: System>(
    client: &S,
    client_bit: u8,
    server: &S,
    server_bit: u8,
    depth: u32,
) -> (Client<I, S, SharedMemory>, Server<I, S, SharedMemory>) {
    let pages = |size| SharedMemory::new(producer_pages(size, depth as usize) * PAGE_SIZE);
    let ends = |size| {
        let (producer, consumer) = (pages(size), SharedMemory::new(PAGE_SIZE));
        move |bit: u8| End {
            slot: Slot(u16::from(bit)),
            bit,
            depth,
            producer: producer.clone(),
            consumer: consumer.clone(),
        }
    };
    let requests = ends(<I::Request as Message>::SIZE);
    let replies = ends(<I::Reply as Message>::SIZE);
    (
        Client::new(client.clone(), requests(client_bit), replies(client_bit)),
        Server::new(server.clone(), requests(server_bit), replies(server_bit)),
    )
}
