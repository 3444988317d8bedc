//! The two system calls.

#[cfg(not(test))]
use core::arch::asm;

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_caps::abi::{NO_DEADLINE, SYSTEM_CALL_INVOKE, SYSTEM_CALL_WAIT};
use cloister_caps::{InvokeError, Operation, Slot, Status};
use cloister_interfaces::{Instant, Notifications, System};

/// The kernel under this service. Only the runtime makes one, and hands it to the bindings alone: the logic of a service
/// has its typed capabilities, and cannot invoke a slot by its number.
#[derive(Clone, Copy)]
pub struct Kernel(pub(crate) ());

/// The one `syscall` instruction of a program. `cloister-policy verify` knows it by its bytes, and refuses an image with
/// another in its code.
#[cfg(not(test))]
#[unsafe(naked)]
extern "C" fn stub() {
    core::arch::naked_asm!("syscall", "ret")
}

/// A system call of any number and with any arguments: what the kernel answers is a status and two words.
#[cfg(not(test))]
fn call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 2]) {
    let (status, first, second);
    // SAFETY: the kernel changes no memory of ours but through regions that only `SharedRegion` touches, and no registers but
    // those named here: it restores the callee-saved ones and clears the rest.
    unsafe {
        asm!(
            "call {stub}",
            stub = sym stub,
            inlateout("rax") number => status,
            inlateout("rdi") arguments[0] => first,
            inlateout("rsi") arguments[1] => second,
            inlateout("rdx") arguments[2] => _,
            inlateout("r10") arguments[3] => _,
            inlateout("r8") arguments[4] => _,
            inlateout("r9") arguments[5] => _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    (status, [first, second])
}

#[cfg(test)]
use crate::tests::call;

/// A system call as it is, for the prober.
#[cfg(feature = "probe")]
pub(crate) fn raw(number: u64, arguments: [u64; 6]) -> (u64, [u64; 2]) {
    call(number, arguments)
}

/// When the last `wait` ended, if that was told and not asked for yet: a service that asks first thing what time it is need
/// not ask the kernel.
static WAKE_TIME: AtomicU64 = AtomicU64::new(0);

/// Sleeps until a notification comes or the clock reaches `deadline`; events of `hold` do not come.
#[must_use]
pub fn wait(deadline: Option<Instant>, hold: Notifications) -> Notifications {
    let deadline = deadline.map_or(NO_DEADLINE, |deadline| deadline.0);
    let (_, answer) = call(SYSTEM_CALL_WAIT, [deadline, hold.0, 0, 0, 0, 0]);
    #[cfg(feature = "fused")]
    crate::fused::record_time(answer[1]);
    WAKE_TIME.store(answer[1], Ordering::Relaxed);
    Notifications(answer[0])
}

impl System for Kernel {
    fn invoke(&self, slot: Slot, operation: Operation, [a0, a1, a2, a3]: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        if operation == Operation::ConsoleWrite {
            #[cfg(feature = "image")]
            crate::program::remember_console(slot);
        }
        #[cfg(feature = "fused")]
        if let Some(words) = crate::fused::answer(slot, operation) {
            return Ok(words);
        }
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
