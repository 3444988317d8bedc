//! Ending in good order: connections first, then the link, then the answer.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::control::{Control, Reply, Request};
use cloister_interfaces::{Instant, Memory, Server, System};

use crate::link::device::Wire;
use crate::tcp::connections::Flows;

/// How long connections have to end by themselves.
const CONNECTIONS: Duration = Duration::from_secs(2);
/// How long resets and the last frames have to leave.
const FRAMES: Duration = Duration::from_millis(100);
/// How long the link has to come down.
const LINK: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nobody has asked.
    Running,
    /// It was asked.
    Asked,
    /// Connections end by themselves, until then.
    Closing(Instant),
    /// The rest was reset; the last frames leave, until then.
    Leaving(Instant),
    /// The link was told to close; it does, until then.
    Disconnecting(Instant),
    /// It is over.
    Quiet,
}

/// The end of the image's network.
pub struct Quiesce<S, M> {
    clients: ArrayVec<Server<Control, S, M>, 4>,
    owed: [u32; 4],
    phase: Phase,
}

impl<S: System, M: Memory> Quiesce<S, M> {
    /// Nobody has asked.
    pub fn new(clients: ArrayVec<Server<Control, S, M>, 4>) -> Self {
        Quiesce { clients, owed: [0; 4], phase: Phase::Running }
    }

    /// Whether the end was asked for.
    pub fn is_asked(&self) -> bool {
        self.phase != Phase::Running
    }

    /// Takes what is asked. Answers whether all of it decoded.
    pub fn drain(&mut self) -> bool {
        let mut good = true;
        for (server, owed) in self.clients.iter_mut().zip(&mut self.owed) {
            for _ in 0..16 {
                match server.requests.pop() {
                    Some(Ok(Request::Quiesce)) => {
                        *owed = owed.saturating_add(1);
                        if self.phase == Phase::Running {
                            self.phase = Phase::Asked;
                        }
                    }
                    Some(Err(_)) => good = false,
                    None => break,
                }
            }
        }
        good
    }

    /// Goes on as far as time and events allow.
    pub fn advance(&mut self, now: Instant, flows: &mut Flows, wire: &mut Wire<S, M>) {
        let before = self.phase;
        self.phase = match self.phase {
            Phase::Running => Phase::Running,
            Phase::Asked => {
                flows.close_ports(now);
                Phase::Closing(now + CONNECTIONS)
            }
            Phase::Closing(until) if flows.is_silent() || now >= until || !wire.is_up() => {
                flows.abort_all(now);
                Phase::Leaving(now + FRAMES)
            }
            Phase::Leaving(until) if now >= until || !wire.is_up() => {
                if wire.is_up() && wire.close() {
                    Phase::Disconnecting(now + LINK)
                } else {
                    Phase::Quiet
                }
            }
            Phase::Disconnecting(until) if now >= until || !wire.is_up() => Phase::Quiet,
            Phase::Quiet => {
                self.answer();
                Phase::Quiet
            }
            waiting => waiting,
        };
        if self.phase != before {
            self.advance(now, flows, wire);
        }
    }

    fn answer(&mut self) {
        for (server, owed) in self.clients.iter_mut().zip(&mut self.owed) {
            while *owed > 0 && server.replies.push(&Reply::Quiet).is_ok() {
                *owed -= 1;
            }
        }
    }

    /// Publishes what was answered.
    pub fn flush(&mut self) {
        for server in &mut self.clients {
            server.requests.release();
            server.replies.flush();
        }
    }

    /// When the present phase ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing(until) | Phase::Leaving(until) | Phase::Disconnecting(until) => Some(until),
            Phase::Running | Phase::Asked | Phase::Quiet => None,
        }
    }
}
