//! The capabilities of the service, as the policy grants them.

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, Entropy};
use cloister_interfaces::control::Control;
use cloister_interfaces::net::Net;
use cloister_interfaces::socket::Socket;
use cloister_interfaces::{Client, Memory, Server};

/// The capabilities of the service.
pub struct Caps<S, M: Memory> {
    /// The console, for the log.
    pub console: Console<S>,
    /// The clock.
    pub clock: Clock<S>,
    /// The entropy that seeds sequence numbers and ports.
    pub entropy: Entropy<S>,
    /// The queue to netfront.
    pub net: Client<Net, S, M>,
    /// The queues from the applications.
    pub socket_clients: ArrayVec<Server<Socket, S, M>, 4>,
    /// The queues from the services that may end the image.
    pub control_clients: ArrayVec<Server<Control, S, M>, 4>,
    /// The pages into which the back end writes received frames.
    pub rx_pool: M,
    /// The pages from which the back end reads frames to send.
    pub tx_pool: M::Exclusive,
    /// The memory of the rings to the applications.
    pub stream_in: M,
    /// The memory of the rings from the applications.
    pub stream_out: M,
    /// Constant bytes that an application can have sent without copying them.
    pub site: &'static [u8],
    /// The command line of the guest.
    pub command_line: &'static [u8],
}
