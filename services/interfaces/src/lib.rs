//! What services say to each other, and the world that a service sees.
//!
//! [`system`] is that world: capabilities to invoke and memory to reach. The image's runtime and the
//! host's simulator both provide it, so a service's logic runs unchanged in either. [`capability`] and
//! [`queue`] are typed capabilities over it; [`lists`] and [`timers`] are what services keep many connections in. Each other
//! module is one message interface.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod capability;
pub mod control;
pub mod grants;
pub mod lists;
pub mod message;
pub mod net;
pub mod queue;
pub mod rules;
pub mod service;
pub mod socket;
pub mod store;
pub mod system;
pub mod timers;

pub use message::{Malformed, Message};
pub use queue::{Client, Interface, Receiver, Sender, Server};
pub use service::{Notifications, Service};
pub use system::{ExclusiveMemory, Instant, Memory, System};

/// What the policy compiler must know of an interface: its name, the bytes of a request and of a reply.
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
