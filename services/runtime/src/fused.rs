//! Answers system calls within the fused build: the program that contains all services, and exists
//! only to measure what isolation costs.
//!
//! Notifications between services of the program and the time need no system call there. No program
//! that ships is built with this feature.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::{Operation, Slot};
use cloister_interfaces::Notifications;

/// The largest number of services in the program.
const SERVICES: usize = 8;

/// The pending notifications of each service.
static PENDING: [AtomicU64; SERVICES] = [const { AtomicU64::new(0) }; SERVICES];
/// The time that the last `wait` returned, in ns.
static TIME: AtomicU64 = AtomicU64::new(0);

/// Answers an invocation in place of the kernel, or returns `None` if it has to go to the kernel.
///
/// The slot of a notification is the number of a service and, in its lower six bits, that of a
/// notification bit. The time is that of the last `wait`.
pub(crate) fn answer(slot: Slot, operation: Operation) -> Option<[u64; 2]> {
    match operation {
        Operation::QueueNotify => {
            let pending = PENDING.get(usize::from(slot.0 >> 6))?;
            // The program has one thread, so the update need not be atomic.
            pending.store(pending.load(Ordering::Relaxed) | 1 << (slot.0 & 63), Ordering::Relaxed);
            Some([0; 2])
        }
        Operation::ClockNow => Some(TIME.load(Ordering::Relaxed)).filter(|now| *now != 0).map(|now| [now, 0]),
        _ => None,
    }
}

/// Records the time that a `wait` returned.
pub(crate) fn record_time(now: u64) {
    TIME.store(now, Ordering::Relaxed);
}

/// Returns the pending notifications of a service, and clears them.
#[must_use]
pub fn take_notifications(service: usize) -> Notifications {
    let Some(pending) = PENDING.get(service) else { return Notifications::default() };
    let bits = pending.load(Ordering::Relaxed);
    pending.store(0, Ordering::Relaxed);
    Notifications(bits)
}
