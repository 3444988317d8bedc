//! The one `syscall` instruction of a program.

use core::arch::asm;

/// The only `syscall` instruction of a program. `cloister-policy verify` recognises it by its
/// bytes, and rejects an image with another one in its code.
#[unsafe(naked)]
extern "C" fn stub() {
    core::arch::naked_asm!("syscall", "ret")
}

/// Makes a system call. Returns the status and the two words that the kernel returned.
pub(crate) fn call(number: u64, arguments: [u64; 6]) -> (u64, [u64; 2]) {
    let (status, first, second);
    // SAFETY: the only memory of the service that the kernel changes is in regions that only
    // `SharedRegion` accesses. The only registers that it changes are named here: it restores the
    // callee-saved ones and clears the others.
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
