//! A service of high priority that tries to keep the processor from the service below it, within
//! its budget. The work that the other gets done is compared with that beside a plain spin.

use core::time::Duration;

use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};

use crate::attempt::STORMS;
use crate::campaign::{spin, storm};
use crate::witness::{ROUNDS, SELECTORS};

/// The least part of the work beside a spin that must be done beside a storm, in percent. It was 0
/// before kernel work was charged to the service that caused it. On a busy machine that emulates
/// everything, two equal measurements differ by a third.
const LEAST: u64 = 60;
/// The number of times that a storm is repeated that seems to leave too little.
const TRIES: u32 = 4;
/// The number of measurements for one result.
const TURNS: u32 = 5;

/// The storm's capabilities.
pub struct Caps<S, M> {
    /// Logs the results.
    pub console: Console<S>,
    /// Times the storms.
    pub clock: Clock<S>,
    /// The counters of the witness.
    pub witness_work: M,
}

/// Makes the storm.
pub fn service<S: System, M: Memory>(caps: Caps<S, M>) -> impl Service {
    Storm { caps }
}

struct Storm<S, M> {
    caps: Caps<S, M>,
}

impl<S: System, M: Memory> Storm<S, M> {
    /// Returns the rounds that the witness makes in a second while `disturb` runs.
    fn rate(&self, mut disturb: impl FnMut(Instant)) -> u64 {
        let Caps { clock, witness_work, .. } = &self.caps;
        let (rounds, begun) = (witness_work.load(ROUNDS), clock.now());
        (0..TURNS).for_each(|_| disturb(clock.now()));
        let (rounds, passed) = (witness_work.load(ROUNDS).wrapping_sub(rounds), clock.now().since(begun));
        u64::from(rounds) * 1_000_000 / u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Returns `true` if a storm of waits for `ahead` µs leaves enough.
    fn attempt(&self, ahead: u64) -> bool {
        let mut waits = 0;
        let beside_spin = self.rate(|_| spin(&self.caps.clock)).max(1);
        let rate = self.rate(|now| waits += storm(now, Duration::from_micros(ahead)));
        let share = rate * 100 / beside_spin;
        self.caps.console.line(format_args!(
            "waits for {ahead} us: {waits} waits, {rate} rounds a second, {share} % of those beside a spin"
        ));
        share >= LEAST
    }
}

impl<S: System, M: Memory> Service for Storm<S, M> {
    fn notified(&mut self, _: Notifications) {
        let mut breaches = 0;
        let console = &self.caps.console;
        for ahead in STORMS {
            if !(0..TRIES).any(|_| self.attempt(ahead)) {
                breaches += 1;
                console.line(format_args!("BREACH: waits for {ahead} us keep the processor from the witness"));
            }
        }
        let selectors = self.caps.witness_work.load(SELECTORS);
        if selectors != 0 {
            breaches += 1;
            console.line(format_args!("BREACH: the witness found selectors {selectors:#x}"));
        }
        console.line(format_args!("done: {} storms, {breaches} breaches", STORMS.len()));
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}
