//! The capabilities of the service, as the policy grants them.

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::Control;
use cloister_interfaces::net::Net;
use cloister_interfaces::socket::Socket;
use cloister_interfaces::{Client, Memory, Server};

/// The capabilities of the service.
pub struct Caps<S, M: Memory> {
    /// For the log.
    pub console: Console<S>,
    /// The time.
    pub clock: Clock<S>,
    /// Seeds sequence numbers and ports.
    pub entropy: Entropy<S>,
    /// The link.
    pub net: Client<Net, S, M>,
    /// The applications.
    pub socket_clients: ArrayVec<Server<Socket, S, M>, 4>,
    /// Who may end the image.
    pub control_clients: ArrayVec<Server<Control, S, M>, 4>,
    /// Pages into which the backend writes frames.
    pub rx_pool: M,
    /// Pages from which the backend reads frames.
    pub tx_pool: M::Exclusive,
    /// Streams to the applications.
    pub stream_in: M,
    /// Streams from the applications.
    pub stream_out: M,
    /// What applications may have sent without copying it: bytes that nobody can change.
    pub site: &'static [u8],
    /// The guest's command line.
    pub command_line: &'static [u8],
}
