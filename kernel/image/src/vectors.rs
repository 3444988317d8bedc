//! Lists the interrupt vectors with a stack of their own.
//!
//! For them, the processor pushes the interrupted state on that stack and not into the service's
//! trap frame. So their code must not reach `save` of `entry.s`: the kernel would take the frame of
//! the service's last entry for that of this one. `tests/entry.rs` follows each of them through the
//! code.

/// The non-maskable interrupt.
pub const NMI: usize = 2;
/// The double fault.
pub const DOUBLE_FAULT: usize = 8;
/// The machine check.
pub const MACHINE_CHECK: usize = 18;

/// Index of a double fault's stack in the TSS's interrupt stack table.
pub const IST_DOUBLE_FAULT: u16 = 0;
/// Index of a machine check's stack.
pub const IST_MACHINE_CHECK: u16 = 1;
/// Index of an NMI's stack.
pub const IST_NMI: u16 = 2;

/// Returns the index of a vector's own stack, or `None` if it has none.
pub const fn ist(vector: usize) -> Option<u16> {
    match vector {
        NMI => Some(IST_NMI),
        DOUBLE_FAULT => Some(IST_DOUBLE_FAULT),
        MACHINE_CHECK => Some(IST_MACHINE_CHECK),
        _ => None,
    }
}
