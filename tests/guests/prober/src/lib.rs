//! The prober: a service that attempts everything that it must not be able to do.
//!
//! It plays several roles in an image. Under policies of its own (`tests/guests/prober.toml`,
//! `tests/guests/selftest.toml`) it has the role of an application. Under the policy that ships, it
//! is what an attacker can do who controls [`tcpip`], [`netfront`] or [`http`].
//!
//! It logs each attempt with its number before it makes it, and its outcome afterwards. An attempt
//! that faults ends the service. The kernel logs the fault and restarts the service, which goes on
//! with the next attempt: it keeps the number in memory that survives restarts. An attempt that
//! succeeds is a `BREACH`. The last attempt is to spin forever.
//!
//! [`storm`] and [`witness`] are two services of `tests/guests/storm.toml`: the first tries to keep
//! the processor from the second.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod attempt;
pub mod bindings;
mod campaign;
pub mod http;
pub mod netfront;
mod outcome;
mod raw_queue;
pub mod storm;
pub mod tcpip;
pub mod witness;

use arrayvec::ArrayVec;
use cloister_caps::Operation;
use cloister_interfaces::capability::{Clock, Console, Info};
use cloister_interfaces::{Memory, Service, System, socket};

use crate::bindings::Client;
use crate::campaign::{Campaign, Role, console_and_clock};
use crate::raw_queue::RawQueue;

/// The prober's capabilities.
pub struct Caps<S, M> {
    /// Logs the attempts.
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
    /// Memory that survives restarts.
    pub prober_progress: M,
}

/// Makes the prober in the role of an application.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    // Once: it survives restarts that it was logged.
    if caps.prober_progress.load(0) == 0
        && let Some(exposures) = caps.info.exposures()
    {
        caps.console.line(format_args!("speculation {exposures}"));
    }
    Campaign::new(caps)
}

impl<S: System + 'static, M: Memory + 'static> Role for Caps<S, M> {
    console_and_clock!();

    const RIGHTS: &'static [Operation] = &[
        Operation::ConsoleWrite,
        Operation::ClockNow,
        Operation::InfoRead,
        Operation::QueueNotify,
        Operation::RegionFind,
    ];

    fn saved_words(&self) -> (&M, usize) {
        (&self.prober_progress, 0)
    }

    fn queues(&self) -> ArrayVec<RawQueue<'_, M>, 4> {
        ArrayVec::from_iter([RawQueue::client(&self.socket)])
    }
}
