//! A network back end for another guest (Xen `io/netif.h`), first honest and then hostile, as in a
//! compromised driver domain. netfront must survive it. No image that ships contains it.
//!
//! The test writes the name of a script to `data/script` in this domain's directory and attaches a
//! device to it. The back end connects, exchanges pings with the front end, runs the script, and
//! logs the outcome. Its kernel can map the pages that other domains grant
//! (docs/decisions/0006-separate-kernel-for-back-ends.md).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod attack;
mod capabilities;
mod leak;
mod link;
mod pages;
mod ring;
pub mod script;
mod service;
mod wire;

#[cfg(test)]
mod tests;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::Caps;

/// Makes the back end.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::BackEnd::new(caps)
}
