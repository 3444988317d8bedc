//! The capabilities that the policy gives the service.

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::Net;
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::Store;
use cloister_interfaces::{Client, Server};

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
    /// The permission to grant the ring pages.
    pub ring_pages: GrantPermission,
    /// The permission to grant the rx-pool, into which frames are received.
    pub rx_pages: GrantPermission,
    /// The permission to grant the tx-pool, from which frames are sent, for reading only.
    pub tx_pages: GrantPermission,
}
