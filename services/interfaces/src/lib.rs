//! The message interfaces between services, and the system that a service runs on.
//!
//! - [`system`] is all that a service can reach: capabilities to invoke and memory to access. The
//!   image's runtime and the simulator on the host both implement it, so a service's logic runs
//!   unchanged on either.
//! - [`service`] is the trait that every service implements.
//! - [`capability`] and [`queue`] are typed capabilities on top of [`system`].
//! - [`message`] encodes and decodes messages, and [`protocol`] defines those of each interface.
//! - [`pages`] holds the numbers of pages, and offsets in them, that messages carry.
//! - [`log`] limits what a service says of each of its peers.
//! - [`rules`] is the format of the rules that a service enforces itself.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod capability;
pub mod log;
pub mod message;
pub mod pages;
pub mod protocol;
pub mod queue;
pub mod rules;
pub mod service;
pub mod system;

pub use message::{Defect, Malformed, Message};
pub use pages::{PageOffset, PageRun};
pub use protocol::{control, grants, net, socket, store};
pub use queue::{Client, Interface, Receiver, Sender, Server};
pub use service::{Notifications, Service};
pub use system::{ExclusiveMemory, Instant, Memory, System};

/// Every interface, for the policy compiler: its name, and the sizes in bytes of a request and of a
/// reply.
pub const CATALOG: &[(&str, usize, usize)] = &[
    entry::<control::Control>(),
    entry::<grants::Grants>(),
    entry::<net::Net>(),
    entry::<socket::Socket>(),
    entry::<store::Store>(),
];

const fn entry<I: Interface>() -> (&'static str, usize, usize) {
    (I::NAME, <I::Request as Message>::SIZE, <I::Reply as Message>::SIZE)
}
