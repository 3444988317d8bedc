//! The network front end: Xen's netif protocol (`io/netif.h`), without the payload.
//!
//! The service holds the two ring pages, grant references and lengths; the pages that frames are in are mapped by
//! tcpip and, as far as they are granted, by the back end. Neither of those two is trusted: a back end that breaks
//! the protocol loses the connection, and tcpip can give only what it has.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod handshake;
pub mod keys;
mod pace;
pub mod pages;
pub mod ring;
pub mod rx;
mod service;
pub mod tx;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::Net;
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Server, Service, System};

/// Whether the back end may leave frames for us uncut, and their checksums out.
const RECEIVE_OFFLOADS: bool = true;

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// For the state of the connection and for violations.
    pub console: Console<S>,
    /// For time-outs and pauses.
    pub clock: Clock<S>,
    /// tcpip; only the first is served.
    pub net_clients: ArrayVec<Server<Net, S, M>, 4>,
    /// The XenStore service.
    pub store: Client<Store, S, M>,
    /// The grant manager.
    pub grants: Client<Grants, S, M>,
    /// The ring pages: 0 to send, 1 to receive.
    pub rings: M,
    /// The event channel for frames to send, or for both ways.
    pub tx_events: Port<S>,
    /// The event channel for received frames.
    pub rx_events: Port<S>,
    /// The grant of the ring pages.
    pub ring_pages: GrantAllowance,
    /// The grant of the pages that frames are received into.
    pub rx_pages: GrantAllowance,
    /// The grant of the pages that frames are sent from, for reading only.
    pub tx_pages: GrantAllowance,
}

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::Netfront::new(caps)
}

// The tests' world is also that of `tests/scenarios`, where the crate has this name.
#[cfg(test)]
extern crate self as cloister_netfront;
#[cfg(test)]
mod tests;
