//! The interrupt vectors with a stack of their own.
//!
//! The processor pushes what it interrupted on such a stack and not into the frame of the service,
//! so that nothing of theirs may lead to `save` of `entry.s`: the kernel would take the frame of
//! the service's last entry for that of this one. `tests/entry.rs` follows every one of them
//! through the code.

/// The non-maskable interrupt.
pub const NMI: usize = 2;
/// The double fault.
pub const DOUBLE_FAULT: usize = 8;
/// The machine check.
pub const MACHINE_CHECK: usize = 18;

/// Stack of a double fault: an index of the TSS's interrupt stack table.
pub const IST_DOUBLE_FAULT: u16 = 0;
/// Stack of a machine check.
pub const IST_MACHINE_CHECK: u16 = 1;
/// Stack of an NMI.
pub const IST_NMI: u16 = 2;

/// Returns the stack of a vector that has one.
pub const fn ist(vector: usize) -> Option<u16> {
    match vector {
        NMI => Some(IST_NMI),
        DOUBLE_FAULT => Some(IST_DOUBLE_FAULT),
        MACHINE_CHECK => Some(IST_MACHINE_CHECK),
        _ => None,
    }
}
