//! The XenStore service: the one place of the image that speaks to the XenStore daemon.
//!
//! Its clients' requests go over the ring page one at a time, in turn, each only if the policy gives its client
//! the path. Watch events come in between and are handed out as flags, so they can neither be lost nor pile up.
//! The daemon is trusted for what it says, not for how: a wrong index or length ends the connection, a
//! wrong number or type is dropped, and nothing it sends can stop the service.
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

/// The most clients that the service has.
pub const MAX_CLIENTS: usize = 4;

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// For refusals and the state of the connection.
    pub console: Console<S>,
    /// For time-outs.
    pub clock: Clock<S>,
    /// The page shared with the XenStore daemon.
    pub xenstore_ring: M,
    /// The event channel to the XenStore daemon.
    pub xenstore_events: Port<S>,
    /// The clients, in the order that the path rules number them.
    pub store_clients: ArrayVec<Server<Store, S, M>, MAX_CLIENTS>,
    /// The path rules: a blob of [`cloister_interfaces::rules::PathRule`].
    pub rules: &'static [u8],
}

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::XenStore::new(caps)
}

#[cfg(test)]
mod tests;
