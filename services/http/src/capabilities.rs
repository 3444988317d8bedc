//! The capabilities of the service, as the policy grants them.

use cloister_interfaces::Client;
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::socket::Socket;

/// The capabilities of the service.
pub struct Caps<S, M> {
    /// The console, for the log.
    pub console: Console<S>,
    /// The clock, with the date if the policy allows it.
    pub clock: Clock<S>,
    /// The policy's hash and the time of boot, for the built-in page.
    pub info: Info<S>,
    /// The queue to tcpip.
    pub socket: Client<Socket, S, M>,
    /// The memory of the in rings: bytes from peers.
    pub stream_in: M,
    /// The memory of the out rings: bytes to peers.
    pub stream_out: M,
    /// The archive. Empty if the guest has none.
    pub site: &'static [u8],
}
