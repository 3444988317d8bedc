//! A network back end for another guest (Xen `io/netif.h`), honest at first and then hostile: what a driver domain does
//! that was taken over. It stands for the peer that netfront must survive; it is no part of an image that ships.
//!
//! The test writes the name of a script to `data/script` in this domain's directory and attaches a device to it. The back
//! end connects, exchanges pings with the front end, does what the script says, and tells on the console what came of it.
//! Its kernel is one that maps what other domains grant (docs/decisions/0006-separate-kernel-for-back-ends.md).
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
use cloister_interfaces::capability::{Clock, Console, GrantRule, Port};
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Service, System};

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// Says what was done.
    pub console: Console<S>,
    /// For pauses.
    pub clock: Clock<S>,
    /// The XenStore service.
    pub store: Client<Store, S, M>,
    /// Where pages of the front end are mapped that may be written.
    pub peer_written: M,
    /// Where pages of the front end are mapped that may be read.
    pub peer_read: M,
    /// The rule of the one region and of the other, in the order of the rules' names: `read` before `written`.
    pub grant_rules: ArrayVec<GrantRule<S>, 2>,
    /// The size of the rule for reading.
    pub peer_read_pages: GrantAllowance,
    /// The size of the rule for writing.
    pub peer_written_pages: GrantAllowance,
    /// The channel for frames from the front end, or for both ways.
    pub tx_events: Port<S>,
    /// The channel for frames to the front end.
    pub rx_events: Port<S>,
    /// A channel that nobody binds.
    pub spare_events: Port<S>,
}

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::BackEnd::new(caps)
}
