//! A service of high priority that does all it can to keep the processor from the one below it, within its budget. What is left to
//! that one is compared with what is left beside a plain spin.

use core::time::Duration;

use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::{Instant, Memory, Notifications, Service, System};

use crate::attempt::STORMS;
use crate::siege::{spin, storm};
use crate::witness::{ROUNDS, SELECTORS};

/// The least part of the work beside a spin that must be done beside a storm, in percent. It was 0 before the accounting was
/// what it is; where everything is emulated on a machine that is busy, two equal measurements differ by a third.
const LEAST: u64 = 60;
/// How often a storm is repeated that seems to leave too little.
const TRIES: u32 = 4;
/// How often each is measured for one result.
const TURNS: u32 = 5;

/// The storm's capabilities.
pub struct Caps<S, M> {
    /// Says what came of it.
    pub console: Console<S>,
    /// What the storms are made with.
    pub clock: Clock<S>,
    /// What the witness did.
    pub witness_work: M,
}

/// The storm over these capabilities.
pub fn service<S: System, M: Memory>(caps: Caps<S, M>) -> impl Service {
    Storm { caps }
}

struct Storm<S, M> {
    caps: Caps<S, M>,
}

impl<S: System, M: Memory> Storm<S, M> {
    /// The rounds that the witness makes in a second, meanwhile.
    fn rate(&self, mut disturb: impl FnMut(Instant)) -> u64 {
        let Caps { clock, witness_work, .. } = &self.caps;
        let (rounds, begun) = (witness_work.load(ROUNDS), clock.now());
        (0..TURNS).for_each(|_| disturb(clock.now()));
        let (rounds, passed) = (witness_work.load(ROUNDS).wrapping_sub(rounds), clock.now().since(begun));
        u64::from(rounds) * 1_000_000 / u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Whether a storm of waits for `ahead` µs leaves enough.
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
