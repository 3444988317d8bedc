//! The capabilities that the policy gives the service, and how many of each there can be.

use arrayvec::ArrayVec;
use cloister_interfaces::Server;
use cloister_interfaces::capability::{Clock, Console, Grant};
use cloister_interfaces::grants::Grants;

/// The largest number of grant rules.
pub const MAX_RULES: usize = 8;
/// The largest number of clients.
pub const MAX_CLIENTS: usize = 4;

/// The capabilities that the policy gives the service.
pub struct Caps<S, M> {
    /// Logs refusals, and pages that a peer still maps.
    pub console: Console<S>,
    /// Measures the intervals between attempts to end grants.
    pub clock: Clock<S>,
    /// The rules under which the service may grant pages, in the order in which `rules` numbers
    /// them.
    pub grant_rules: ArrayVec<Grant<S>, MAX_RULES>,
    /// The queues to the clients, in the order in which `rules` numbers them.
    pub grants_clients: ArrayVec<Server<Grants, S, M>, MAX_CLIENTS>,
    /// The rules that each client may use: a blob of
    /// [`cloister_interfaces::rules::ClientGrantRule`].
    pub rules: &'static [u8],
}
