//! A service that always has something to do. It counts its rounds, and records what other
//! services leave in its segment registers.

use cloister_interfaces::capability::Console;
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};
use cloister_probe as probe;

/// The offset of the number of rounds in the region.
pub(crate) const ROUNDS: usize = 0;
/// The offset of the selectors that it found in its segment registers, combined by OR.
pub(crate) const SELECTORS: usize = 4;

/// The number of iterations in a round.
const ROUND: u32 = 500;

/// The witness's capabilities.
pub struct Caps<S, M> {
    /// Logs that it started.
    pub console: Console<S>,
    /// Its counters, for the storm to read.
    pub witness_work: M,
}

/// Makes the witness.
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
