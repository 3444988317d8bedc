//! The capabilities of the back end.

use arrayvec::ArrayVec;
use cloister_interfaces::Client;
use cloister_interfaces::capability::{Clock, Console, Grant, Port};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::Store;

/// The capabilities that the policy gives the service.
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
    pub peer_read_pages: GrantPermission,
    /// The size of the rule for writing.
    pub peer_written_pages: GrantPermission,
    /// The channel for frames from the front end, or for both directions.
    pub tx_events: Port<S>,
    /// The channel for frames to the front end.
    pub rx_events: Port<S>,
    /// A channel that no other domain binds.
    pub spare_events: Port<S>,
}
