//! An orderly end of the network: connections first, then the link, then the reply.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::control::{Control, Reply, Request};
use cloister_interfaces::{Instant, Malformed, Memory, Server, System};

use crate::link::device::LinkDevice;
use crate::tcp::connections::Connections;

/// The time that connections have to end by themselves.
const CONNECTIONS_TIME: Duration = Duration::from_secs(2);
/// The time that resets and the last frames have to be sent.
const FRAMES_TIME: Duration = Duration::from_millis(100);
/// The time that the link has to come down.
const LINK_TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The end was not requested.
    Running,
    /// The end was requested.
    Requested,
    /// Until then, connections end by themselves.
    Closing(Instant),
    /// The other connections were reset. Until then, the last frames are sent.
    Draining(Instant),
    /// Until then, the link closes.
    Disconnecting(Instant),
    /// The network has ended.
    Done,
}

/// The end of the network, on request.
pub struct Quiesce<S, M> {
    clients: ArrayVec<Server<Control, S, M>, 4>,
    pending_replies: [u32; 4],
    phase: Phase,
}

impl<S: System, M: Memory> Quiesce<S, M> {
    /// Creates the state before any request.
    pub fn new(clients: ArrayVec<Server<Control, S, M>, 4>) -> Self {
        Quiesce { clients, pending_replies: [0; 4], phase: Phase::Running }
    }

    /// Returns `true` if the end was requested.
    pub fn is_requested(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Handles requests.
    ///
    /// # Errors
    /// A request did not decode. The others were handled.
    pub fn drain(&mut self) -> Result<(), Malformed> {
        let mut result = Ok(());
        for (server, pending_replies) in self.clients.iter_mut().zip(&mut self.pending_replies) {
            for _ in 0..16 {
                match server.requests.pop() {
                    Some(Ok(Request::Quiesce)) => {
                        *pending_replies = pending_replies.saturating_add(1);
                        if self.phase == Phase::Running {
                            self.phase = Phase::Requested;
                        }
                    }
                    Some(Err(malformed)) => result = Err(malformed),
                    None => break,
                }
            }
        }
        result
    }

    /// Goes from phase to phase, as far as time and events allow.
    #[inline]
    pub fn advance(&mut self, now: Instant, connections: &mut Connections, device: &mut LinkDevice<S, M>) {
        if self.is_requested() {
            self.advance_end(now, connections, device);
        }
    }

    #[inline(never)] // Called once in the life of the image.
    fn advance_end(&mut self, now: Instant, connections: &mut Connections, device: &mut LinkDevice<S, M>) {
        let before = self.phase;
        self.phase = match self.phase {
            Phase::Running => Phase::Running,
            Phase::Requested => {
                connections.close_ports(now);
                Phase::Closing(now + CONNECTIONS_TIME)
            }
            Phase::Closing(until) if connections.are_all_finished() || now >= until || !device.is_up() => {
                connections.abort_all(now);
                Phase::Draining(now + FRAMES_TIME)
            }
            Phase::Draining(until) if now >= until || !device.is_up() => {
                if device.is_up() && device.close() {
                    Phase::Disconnecting(now + LINK_TIME)
                } else {
                    Phase::Done
                }
            }
            Phase::Disconnecting(until) if now >= until || !device.is_up() => Phase::Done,
            Phase::Done => {
                self.answer();
                Phase::Done
            }
            waiting => waiting,
        };
        if self.phase != before {
            self.advance_end(now, connections, device);
        }
    }

    fn answer(&mut self) {
        for (server, pending_replies) in self.clients.iter_mut().zip(&mut self.pending_replies) {
            while *pending_replies > 0 && server.replies.push(&Reply::Quiet).is_ok() {
                *pending_replies -= 1;
            }
        }
    }

    /// Publishes the replies.
    pub fn flush(&mut self) {
        for server in &mut self.clients {
            server.requests.release();
            server.replies.flush();
        }
    }

    /// Returns when the present phase ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing(until) | Phase::Draining(until) | Phase::Disconnecting(until) => Some(until),
            Phase::Running | Phase::Requested | Phase::Done => None,
        }
    }
}
