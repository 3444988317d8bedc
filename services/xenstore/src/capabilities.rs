//! The capabilities that the policy gives the service, and how many of each there can be.

use arrayvec::ArrayVec;
use cloister_interfaces::Server;
use cloister_interfaces::capability::{Clock, Console, DomainPin, Port};
use cloister_interfaces::store::Store;

/// The largest number of clients.
pub const MAX_CLIENTS: usize = 4;
/// The largest number of domain sets whose peer the service says.
pub const MAX_PINS: usize = 4;

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
    /// The domain sets whose peer a node says, in the order in which the pin rules number them.
    pub pins: ArrayVec<DomainPin<S>, MAX_PINS>,
    /// The path rules, and after them the pin rules: a blob of
    /// [`cloister_interfaces::rules::PathRule`] and one of [`cloister_interfaces::rules::PinRule`].
    pub rules: &'static [u8],
}
