//! The prober: a service that tries everything that it must not be able to do.
//!
//! It is built for several places of an image: for an application's under policies of its own (`tests/guests/prober.toml`,
//! `tests/guests/selftest.toml`), and, as [`tcpip`], [`netfront`] and [`http`], for theirs under the policy that ships: what
//! somebody can do who has taken one of them over. Each attempt is numbered and named on the console before it is made, and its outcome after
//! it. One that faults ends the service; the kernel says so and starts it again, and it goes on with the next, whose number it keeps
//! where restarts leave it. One that succeeds is a `BREACH`. The last attempt is to spin for ever.
//!
//! [`storm`] and [`witness`] are two services of `tests/guests/storm.toml`: the one does all it can to keep the processor from the other.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod attempt;
pub mod http;
mod line;
pub mod netfront;
mod siege;
pub mod storm;
pub mod tcpip;
pub mod witness;

use arrayvec::ArrayVec;
use cloister_caps::Operation;
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::{Client, Memory, Service, System, socket};

use crate::line::Line;
use crate::siege::{Place, Siege};

/// The prober's capabilities.
pub struct Caps<S, M> {
    /// Says what is tried.
    pub console: Console<S>,
    /// Paces the attempts.
    pub clock: Clock<S>,
    /// Facts about the image.
    pub info: Info<S>,
    /// An application's queue.
    pub socket: Client<socket::Socket, S, M>,
    /// The stream region of an application, unused.
    pub stream_in: M,
    /// The stream region of an application, unused.
    pub stream_out: M,
    /// What survives restarts.
    pub prober_progress: M,
}

/// The prober over these capabilities.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    Siege::new(caps)
}

impl<S: System + 'static, M: Memory + 'static> Place for Caps<S, M> {
    type System = S;
    type Memory = M;
    const RIGHTS: &'static [Operation] = &[
        Operation::ConsoleWrite,
        Operation::ClockNow,
        Operation::InfoRead,
        Operation::QueueNotify,
        Operation::RegionFind,
    ];

    fn console(&self) -> &Console<S> {
        &self.console
    }

    fn clock(&self) -> &Clock<S> {
        &self.clock
    }

    fn progress(&self) -> (&M, usize) {
        (&self.prober_progress, 0)
    }

    fn lines(&self) -> ArrayVec<Line<'_, M>, 4> {
        ArrayVec::from_iter([Line::client(&self.socket)])
    }
}
