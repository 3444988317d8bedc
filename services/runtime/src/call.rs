//! The two system calls.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::abi::{NO_DEADLINE, SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::{InvokeError, Operation, Slot, Status};
use cloister_interfaces::{Instant, Notifications, System};

use crate::syscall::call;

/// Access to the kernel's `invoke`.
///
/// Only the runtime creates one, and passes it only to the bindings. The logic of a service has
/// typed capabilities instead, and cannot invoke a slot by its number.
#[derive(Clone, Copy)]
pub struct Kernel(pub(crate) ());

/// The time at which the last `wait` ended, in ns. 0 if the kernel did not return it, or if
/// [`Operation::ClockNow`] has consumed it.
///
/// Most services ask for the time first after a `wait`. This answers them without a system call.
static WAKE_TIME: AtomicU64 = AtomicU64::new(0);

/// Waits until a notification is pending or the clock reaches `deadline`. Delivered event channels
/// whose bits are in `hold` stay masked. Returns the pending notifications.
#[must_use]
pub fn wait(deadline: Option<Instant>, hold: Notifications) -> Notifications {
    let deadline = deadline.map_or(NO_DEADLINE, |deadline| deadline.0);
    let (_, answer) = call(SYSTEM_CALL_WAIT, [deadline, hold.0, 0, 0, 0, 0]);
    WAKE_TIME.store(answer[1], Ordering::Relaxed);
    Notifications(answer[0])
}

impl System for Kernel {
    fn invoke(&self, slot: Slot, operation: Operation, [a0, a1, a2, a3]: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        if operation == Operation::ClockNow
            && let time @ 1.. = WAKE_TIME.swap(0, Ordering::Relaxed)
        {
            return Ok([time, 0]);
        }
        let (status, words) =
            call(SYSTEM_CALL_INVOKE, [u64::from(slot.0), u64::from(operation as u32), a0, a1, a2, a3]);
        Status::from_number(status).into_result().map(|()| words)
    }
}
