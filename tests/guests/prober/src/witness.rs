//! A service that always has something to do, and counts how much of it was done; and looks whether the services that run before
//! it leave something in its registers.

use cloister_interfaces::capability::Console;
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};
use cloister_probe as probe;

/// Where the number of rounds is in the region.
pub(crate) const ROUNDS: usize = 0;
/// Where the selectors are that it found in its segment registers, all of them together.
pub(crate) const SELECTORS: usize = 4;

/// What a round of its work is.
const ROUND: u32 = 500;

/// The witness's capabilities.
pub struct Caps<S, M> {
    /// Says that it started.
    pub console: Console<S>,
    /// What it did, for the one that it is the witness of.
    pub witness_work: M,
}

/// The witness over these capabilities.
pub fn service<S: System, M: Memory>(caps: Caps<S, M>) -> impl Service {
    caps.console.line(format_args!("started"));
    Witness { work: caps.witness_work }
}

struct Witness<M> {
    work: M,
}

impl<M: Memory> Service for Witness<M> {
    fn notified(&mut self, _: Notifications) {
        loop {
            (0..ROUND).for_each(|_| core::hint::spin_loop());
            let found = probe::segments().into_iter().fold(0, |all, selector| all | u32::from(selector));
            self.work.store(SELECTORS, self.work.load(SELECTORS) | found);
            self.work.store(ROUNDS, self.work.load(ROUNDS).wrapping_add(1));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
