//! What `bytes.rs` does, under Miri, which cannot interpret assembly.

/// Copies `count` bytes. Miri checks the ranges.
///
/// # Safety
/// As for the other version.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    for index in 0..count {
        // SAFETY: the caller guarantees the ranges.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) }
    }
}

/// Writes zeros: Miri must see that the bytes were written.
///
/// # Safety
/// The bytes are mapped and writable.
pub(crate) unsafe fn assume_written(base: *mut u8, count: usize) {
    // SAFETY: the caller guarantees the bytes.
    unsafe { base.write_bytes(0, count) }
}
