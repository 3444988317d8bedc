//! tcpip: ARP, IPv4, ICMP, TCP, UDP and DHCP (smoltcp) between the link and the applications.
//!
//! Frames come from the link as pages of two pools that another domain shares ([`wire`]); streams go to the
//! applications through rings in two shared regions ([`slot`]). Neither side is trusted: a page or a length
//! that cannot be is refused and logged, once for each kind.
//!
//! All memory is bounded: tables are made at the start, sockets within a budget that follows from the size of
//! the stream-out region ([`buffers`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod capabilities;
pub mod config;
mod echo;
pub mod link;
mod quiesce;
mod refusals;
pub mod segment;
mod stack;
pub mod table;
pub mod tcp;
mod time;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    stack::Stack::new(caps)
}
