//! How often the kernel did what costs something: for the report.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{processor, shared_info};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy)]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        const NAMES: [&str; [$($text),*].len()] = [$($text),*];
    };
}

counts! {
    /// Every call of Xen.
    Hypercall: "hypercalls",
    /// `EVTCHNOP_send`, one of them.
    Send: "events-sent",
    /// `EVTCHNOP_unmask`, one of them.
    Unmask: "unmasks",
    /// `VCPUOP_set_singleshot_timer`, one of them.
    Timer: "timers-set",
    /// Grant entries made or ended: no hypercall, but the work of a connection and not of a packet.
    Grant: "grants",
    /// Events taken.
    Event: "events",
    /// Entries from ring 3 by an interrupt.
    Interrupt: "interrupts",
    /// System calls: waits and invocations.
    SystemCall: "system-calls",
    /// Waits, some of them.
    Wait: "waits",
    /// Changes from one service to another.
    Switch: "switches",
    /// Times that nothing was to be done.
    Sleep: "sleeps",
}

static COUNTS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// Counts one.
pub fn count(what: Count) {
    // One processor, and an interrupt counts nothing: no need of an atomic addition.
    let counter = &COUNTS[what as usize];
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Ticks of the processor's counter that hypercalls took.
static HYPERCALL_TICKS: AtomicU64 = AtomicU64::new(0);

/// Where the processor's counter was when the kernel began.
static START_COUNTER: AtomicU64 = AtomicU64::new(0);

/// The kernel begins.
pub fn start_counting() {
    START_COUNTER.store(processor::counter(), Ordering::Relaxed);
}

/// Adds the ticks that a hypercall took.
pub fn add_hypercall_ticks(ticks: u64) {
    HYPERCALL_TICKS.store(HYPERCALL_TICKS.load(Ordering::Relaxed).wrapping_add(ticks), Ordering::Relaxed);
}

/// Every name and how often; then the nanoseconds in which the image neither slept, `idle` in all,
/// nor was in a hypercall. Other domains that ran instead of it are among them.
pub fn counts(idle: u64) -> impl Iterator<Item = (&'static str, u64)> {
    let since = processor::counter().wrapping_sub(START_COUNTER.load(Ordering::Relaxed));
    let own =
        shared_info::nanoseconds(since.wrapping_sub(HYPERCALL_TICKS.load(Ordering::Relaxed))).saturating_sub(idle);
    let counts = NAMES.into_iter().zip(&COUNTS).map(|(name, count)| (name, count.load(Ordering::Relaxed)));
    counts.chain([("own-ns", own)])
}
