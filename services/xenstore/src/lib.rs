//! The XenStore service: the only part of the image that talks to the XenStore daemon.
//!
//! The service sends its clients' requests over the ring page one at a time, in turn, each only if
//! the policy gives its client the path. Watch events come in between, and each watch keeps its
//! event as a flag: so events can neither be lost nor pile up. The daemon's values are trusted, its
//! messages are not: a wrong index or length ends the connection, an answer with a wrong number is
//! dropped, one of a wrong type fails its request, and nothing that the daemon sends can stop the
//! service.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod inbound;
pub mod policy;
pub mod ring;
mod service;
mod watches;
pub mod wire;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::store::Store;
use cloister_interfaces::{Memory, Server, Service, System};

/// The largest number of clients.
pub const MAX_CLIENTS: usize = 4;

/// The capabilities that the policy gives the service.
pub struct Caps<S, M> {
    /// Logs refusals and the state of the connection.
    pub console: Console<S>,
    /// Measures timeouts.
    pub clock: Clock<S>,
    /// The page shared with the XenStore daemon.
    pub xenstore_ring: M,
    /// The event channel to the XenStore daemon.
    pub xenstore_events: Port<S>,
    /// The queues to the clients, in the order in which the path rules number them.
    pub store_clients: ArrayVec<Server<Store, S, M>, MAX_CLIENTS>,
    /// The path rules: a blob of [`cloister_interfaces::rules::PathRule`].
    pub rules: &'static [u8],
}

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::XenStore::new(caps)
}

#[cfg(test)]
mod tests;
