//! The sink: takes requests and does nothing with them. It replaces the network in an image without
//! one, so that the kernel can run alone (`tests/guests/selftest.toml`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use cloister_interfaces::capability::Console;
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System, socket};

/// The sink's capabilities.
pub struct Caps<S, M> {
    /// Says that it started.
    pub console: Console<S>,
    /// The queues whose requests it ignores.
    pub socket_clients: ArrayVec<Server<socket::Socket, S, M>, 4>,
}

/// Creates the sink over these capabilities.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    caps.console.line(format_args!("started"));
    Sink { caps }
}

struct Sink<S, M> {
    caps: Caps<S, M>,
}

impl<S: System, M: Memory> Service for Sink<S, M> {
    fn notified(&mut self, _: Notifications) {
        for client in &mut self.caps.socket_clients {
            // A queue holds at most as many messages as its depth, so this loop ends.
            while client.requests.pop().is_some() {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
