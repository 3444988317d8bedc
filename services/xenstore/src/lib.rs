//! The XenStore service: the only part of the image that talks to the XenStore daemon.
//!
//! The service sends its clients' requests over the ring page one at a time, in turn, each only if
//! the policy gives its client the path. Watch events come in between, and each watch keeps its
//! event as a flag: so events can neither be lost nor pile up. When a client reads a node that says
//! which domain is a peer, the service pins that domain before it passes the value on. The daemon's values are trusted, its
//! messages are not: a wrong index or length ends the connection, an answer with a wrong number is
//! dropped, one of a wrong type fails its request, and nothing that the daemon sends can stop the
//! service.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capabilities;
mod inbound;
mod pins;
pub mod policy;
pub mod ring;
mod service;
mod watches;
pub mod wire;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::{Caps, MAX_CLIENTS, MAX_PINS};

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::XenStore::new(caps)
}

#[cfg(test)]
mod tests;
