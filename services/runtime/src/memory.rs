//! Shared memory. The rules stand here and nowhere else:
//!
//! - No reference into a region that somebody else may write. Everything is copied, by volatile accesses or by
//!   instructions that the compiler cannot see into, exactly once per call.
//! - The kernel says where a region is and how long; a [`Window`] is made from its answer alone, and checks every access.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use cloister_caps::{Operation, Slot};
use cloister_interfaces::{Memory, System};

use crate::call::Kernel;

/// Bit 63 of the size that the kernel answers: nobody can write the region while the image runs.
const CONSTANT: u64 = 1 << 63;

/// A mapped region.
#[derive(Clone, Copy)]
pub struct Window {
    base: usize,
    length: usize,
}

/// Where the kernel says the region in `slot` is: base, length, whether it is constant.
fn find(slot: Slot) -> (usize, usize, bool) {
    #[cfg(feature = "image")]
    if crate::program::is_heap(slot) {
        return (0, 0, false);
    }
    match Kernel.invoke(slot, Operation::RegionFind, [0; 4]) {
        Ok([base, size]) => (base as usize, (size & !CONSTANT) as usize, size & CONSTANT != 0),
        Err(_) => (0, 0, false),
    }
}

impl Window {
    /// The region that the capability in `slot` names; without bytes if there is none, or if it is the heap.
    #[must_use]
    pub fn new(slot: Slot) -> Window {
        let (base, length, _) = find(slot);
        Window { base, length }
    }

    fn address(&self, offset: usize, count: usize) -> Option<usize> {
        let end = offset.checked_add(count)?;
        (end <= self.length).then(|| self.base + offset)
    }

    fn word(&self, offset: usize) -> Option<&AtomicU32> {
        let address = self.address(offset, 4).filter(|address| address.is_multiple_of(4))?;
        // SAFETY: the kernel maps `length` bytes at `base` for the life of the service, the word lies within them and is
        // aligned. An atomic may be written by others at any time. If the region is read-only a store faults, which
        // the kernel charges to this service.
        Some(unsafe { AtomicU32::from_ptr(address as *mut u32) })
    }
}

impl Memory for Window {
    fn len(&self) -> usize {
        self.length
    }

    fn load(&self, offset: usize) -> u32 {
        self.word(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        match self.address(offset, into.len()) {
            // SAFETY: the source is mapped (see `word`), the destination is a live exclusive slice of the same length and
            // cannot overlap it, since no Rust object lives in a region.
            Some(address) => unsafe { copy(address as *const u8, into.as_mut_ptr(), into.len()) },
            None => into.fill(0),
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        if let Some(address) = self.address(offset, from.len()) {
            // SAFETY: as for `read`, the other way round.
            unsafe { copy(from.as_ptr(), address as *mut u8, from.len()) }
        }
    }
}

/// Copies `count` bytes, each read once and written once, invisibly to the compiler.
///
/// # Safety
/// Both ranges are mapped, the destination is writable, and they do not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: by the caller's promise. The direction flag is clear by the ABI.
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

/// The bytes of a region that nobody can write while the image runs; none if the region in `slot` is not such a one.
#[must_use]
pub fn bytes(slot: Slot) -> &'static [u8] {
    match find(slot) {
        // SAFETY: the kernel maps the region for the life of the service, read-only in every service, and nothing outside
        // the image has a grant of it: the bytes are constant.
        (base, length, true) if length > 0 => unsafe { core::slice::from_raw_parts(base as *const u8, length) },
        _ => &[],
    }
}
