//! How often the kernel did what costs something: for the report.

use core::sync::atomic::{AtomicU64, Ordering};

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
    let place = &COUNTS[what as usize];
    place.store(place.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Every name and how often.
pub fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    NAMES.into_iter().zip(&COUNTS).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
}
