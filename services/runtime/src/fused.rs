//! For the one program that has all services in it, and is for measurements: what they would call the kernel for and need
//! not, there.
//!
//! It is a feature of its own, which no program that ships is built with.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::{Operation, Slot};
use cloister_interfaces::Notifications;

/// Services of the program at most.
const SERVICES: usize = 8;

static PENDING: [AtomicU64; SERVICES] = [const { AtomicU64::new(0) }; SERVICES];
static TIME: AtomicU64 = AtomicU64::new(0);

/// Answers an invocation in the kernel's place, if it is one that stays in the program. A bell's slot is a service and, in its
/// lower six bits, a notification. The time is that of the last `wait`.
pub(crate) fn answer(slot: Slot, operation: Operation) -> Option<[u64; 2]> {
    match operation {
        Operation::QueueNotify => {
            let pending = PENDING.get(usize::from(slot.0 >> 6))?;
            // One thread: no need of an atomic addition.
            pending.store(pending.load(Ordering::Relaxed) | 1 << (slot.0 & 63), Ordering::Relaxed);
            Some([0; 2])
        }
        Operation::ClockNow => Some(TIME.load(Ordering::Relaxed)).filter(|now| *now != 0).map(|now| [now, 0]),
        _ => None,
    }
}

/// Remembers the time that a `wait` answered.
pub(crate) fn record_time(now: u64) {
    TIME.store(now, Ordering::Relaxed);
}

/// The bells that rang for a service; they are silent then.
#[must_use]
pub fn take_notifications(service: usize) -> Notifications {
    let Some(pending) = PENDING.get(service) else { return Notifications::default() };
    let bits = pending.load(Ordering::Relaxed);
    pending.store(0, Ordering::Relaxed);
    Notifications(bits)
}
