//! The instructions that access bytes which the compiler must know nothing of.

use core::arch::asm;

/// Copies `count` bytes. Each is read once and written once, by instructions that the compiler
/// cannot see into.
///
/// # Safety
/// Both ranges are mapped and do not overlap. If the destination is read-only, the copy faults.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller guarantees the ranges. The direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) count % 8,
            inout("rcx") count / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Makes the compiler assume that `_count` bytes from `base` on were written, so that they are not
/// undefined for it. Writes nothing.
///
/// # Safety
/// The bytes are mapped and writable.
pub(crate) unsafe fn assume_written(base: *mut u8, _count: usize) {
    // SAFETY: the assembly is a comment.
    unsafe { asm!("/* {} */", in(reg) base, options(nostack, preserves_flags)) }
}
