//! Counts events that cost time, for the report.

use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// Names a counter.
        #[derive(Clone, Copy)]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        const NAMES: [&str; [$($text),*].len()] = [$($text),*];
    };
}

counts! {
    /// Hypercalls of all kinds.
    Hypercall: "hypercalls",
    /// Hypercalls `EVTCHNOP_send`.
    Send: "events-sent",
    /// Hypercalls `EVTCHNOP_unmask`.
    Unmask: "unmasks",
    /// Hypercalls `set_timer_op`.
    Timer: "timers-set",
    /// Grant entries made or ended. They take no hypercall, and come with a connection, not with a
    /// packet.
    Grant: "grants",
    /// Events taken.
    Event: "events",
    /// Entries from ring 3 that are no system calls.
    Interrupt: "interrupts",
    /// System calls: waits and invocations.
    SystemCall: "system-calls",
    /// System calls `wait`.
    Wait: "waits",
    /// Switches from one service to another.
    Switch: "switches",
    /// Sleeps of the processor.
    Sleep: "sleeps",
}

static COUNTS: [AtomicU64; NAMES.len()] = [const { AtomicU64::new(0) }; NAMES.len()];

/// Adds 1 to a counter.
pub fn count(what: Count) {
    // There is one processor, and an interrupt counts nothing, so the addition need not be atomic.
    let counter = &COUNTS[what as usize];
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Ticks of the time-stamp counter that hypercalls took.
static HYPERCALL_TICKS: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter when the kernel began.
static START_COUNTER: AtomicU64 = AtomicU64::new(0);

/// Notes the start of the kernel, at this value of the time-stamp counter.
pub fn start_counting(counter: u64) {
    START_COUNTER.store(counter, Ordering::Relaxed);
}

/// Adds the ticks that a hypercall took.
pub fn add_hypercall_ticks(ticks: u64) {
    HYPERCALL_TICKS.store(HYPERCALL_TICKS.load(Ordering::Relaxed).wrapping_add(ticks), Ordering::Relaxed);
}

/// Returns the ticks that did not go to hypercalls, from the start of the kernel until `counter`.
pub fn ticks_outside_hypercalls(counter: u64) -> u64 {
    let since = counter.wrapping_sub(START_COUNTER.load(Ordering::Relaxed));
    since.wrapping_sub(HYPERCALL_TICKS.load(Ordering::Relaxed))
}

/// Returns the name and value of each counter.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    NAMES.into_iter().zip(&COUNTS).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
}
