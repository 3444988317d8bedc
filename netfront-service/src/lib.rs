//! The network front end: Xen's netif protocol (`io/netif.h`), without the payload.
//!
//! The service holds the two ring pages, grant references and lengths. The pages with the frames
//! are mapped by tcpip, and by the back end while they are granted to it. The service trusts
//! neither: a back end that breaks the protocol loses the connection, and tcpip can only hand over
//! pages that it has.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capabilities;
pub mod handshake;
pub mod keys;
mod pace;
pub mod pages;
pub mod request;
pub mod ring;
pub mod rx;
mod service;
mod traffic;
pub mod tx;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::Netfront::new(caps)
}

// `tests/scenarios` also compiles `service/tests/world.rs`. There the crate has this name.
#[cfg(test)]
extern crate self as cloister_netfront;
