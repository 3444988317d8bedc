//! A network back end for another guest (Xen `io/netif.h`), first honest and then hostile, as in a
//! compromised driver domain. netfront must survive it. No image that ships contains it.
//!
//! The test writes the name of a script to `data/script` in this domain's directory and attaches a
//! device to it. The back end connects, exchanges pings with the front end, runs the script, and logs
//! the outcome. Its kernel can map the pages that other domains grant
//! (docs/decisions/0006-separate-kernel-for-back-ends.md).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod attack;
mod leak;
mod link;
mod pages;
mod ring;
pub mod script;
mod service;
mod wire;

#[cfg(test)]
mod tests;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Grant, Port};
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Service, System};

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// Logs the outcome of a script.
    pub console: Console<S>,
    /// Times the steps.
    pub clock: Clock<S>,
    /// The XenStore service.
    pub store: Client<Store, S, M>,
    /// The region for pages of the front end that may be written.
    pub peer_written: M,
    /// The region for pages of the front end that may be read.
    pub peer_read: M,
    /// The rules of the two regions, in the order of their names: `read` before `written`.
    pub grant_rules: ArrayVec<Grant<S>, 2>,
    /// The size of the rule for reading.
    pub peer_read_pages: GrantAllowance,
    /// The size of the rule for writing.
    pub peer_written_pages: GrantAllowance,
    /// The channel for frames from the front end, or for both directions.
    pub tx_events: Port<S>,
    /// The channel for frames to the front end.
    pub rx_events: Port<S>,
    /// A channel that no other domain binds.
    pub spare_events: Port<S>,
}

/// Makes the back end.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::BackEnd::new(caps)
}
