//! The capabilities of the service, as the policy grants them.

use cloister_interfaces::Client;
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::Socket;

/// The capabilities of the service.
pub struct Caps<S, M> {
    /// For the log.
    pub console: Console<S>,
    /// The time, and the date if it is allowed.
    pub clock: Clock<S>,
    /// The policy's hash and the time of boot, for the built-in page.
    pub info: Info<S>,
    /// Connections.
    pub socket: Client<Socket, S, M>,
    /// What peers send.
    pub stream_in: M,
    /// What is sent to them.
    pub stream_out: M,
    /// The archive; empty if the guest has none.
    pub site: &'static [u8],
}
