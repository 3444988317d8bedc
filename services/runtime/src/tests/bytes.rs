//! Stands in for `bytes.rs` under Miri, which cannot interpret assembly.

/// Copies `count` bytes by volatile accesses.
///
/// # Safety
/// Both ranges are mapped and do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    for index in 0..count {
        // SAFETY: the caller guarantees the ranges.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) }
    }
}

/// Fills `count` bytes from `base` on with zeros.
///
/// # Safety
/// The bytes are mapped and writable.
pub(crate) unsafe fn assume_written(base: *mut u8, count: usize) {
    // SAFETY: the caller guarantees the bytes.
    unsafe { base.write_bytes(0, count) }
}
