//! tcpip: ARP, IPv4, ICMP, TCP, UDP and DHCP, built on smoltcp, between the link and the
//! applications.
//!
//! Received frames are in pages that another domain can write (`link::device`). Byte streams go
//! to the applications through rings in two shared regions (`tcp::app_stream`). Neither side is
//! trusted: an impossible page or length is a violation, and the first of each kind is logged.
//!
//! Connections are shared out by the peers' addresses: the one that holds the most gives way to one
//! that holds less (`tcp::connections::admission`).
//!
//! All memory is bounded. Tables are allocated at start. Sockets get a budget that follows from the
//! size of the stream-out region (`tcp::buffers`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod capabilities;
mod clients;
pub mod config;
mod echo;
pub mod link;
mod log;
mod quiesce;
pub mod segment;
mod stack;
pub mod table;
pub mod tcp;
mod time;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    stack::Stack::new(caps)
}
