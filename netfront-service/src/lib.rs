//! The network front end: Xen's netif protocol (`io/netif.h`), without the payload.
//!
//! The service holds the two ring pages, grant references and lengths. The pages with the frames
//! are mapped by tcpip, and by the back end while they are granted to it. The service trusts
//! neither: a back end that breaks the protocol loses the connection, and tcpip can only hand over
//! pages that it has.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod handshake;
pub mod keys;
mod pace;
pub mod pages;
pub mod ring;
pub mod rx;
mod service;
mod traffic;
pub mod tx;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::Net;
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Memory, Server, Service, System};

/// The back end may deliver long TCP segments unsplit, and frames without a checksum.
const RECEIVE_OFFLOADS: bool = true;

/// The capabilities that the policy gives the service.
pub struct Caps<S, M> {
    /// Logs the state of the connection, and violations.
    pub console: Console<S>,
    /// Measures timeouts and pauses.
    pub clock: Clock<S>,
    /// The queues to tcpip. Only the first is served.
    pub net_clients: ArrayVec<Server<Net, S, M>, 4>,
    /// The queue to the XenStore service.
    pub store: Client<Store, S, M>,
    /// The queue to the grant manager.
    pub grants: Client<Grants, S, M>,
    /// The ring pages: page 0 to send, page 1 to receive.
    pub rings: M,
    /// The event channel for frames to send, or for both directions.
    pub tx_events: Port<S>,
    /// The event channel for received frames.
    pub rx_events: Port<S>,
    /// The allowance to grant the ring pages.
    pub ring_pages: GrantAllowance,
    /// The allowance to grant the rx-pool, into which frames are received.
    pub rx_pages: GrantAllowance,
    /// The allowance to grant the tx-pool, from which frames are sent, for reading only.
    pub tx_pages: GrantAllowance,
}

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::Netfront::new(caps)
}

// `tests/scenarios` also compiles `service/tests/world.rs`. There the crate has this name.
#[cfg(test)]
extern crate self as cloister_netfront;
