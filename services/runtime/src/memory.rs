//! Shared memory. The rules stand here and nowhere else:
//!
//! - No reference into a region that somebody else may write. Everything is copied, by volatile accesses or by
//!   instructions that the compiler cannot see into, exactly once per call.
//! - A region that nobody else can write or map ([`region::EXCLUSIVE`]) is not a [`SharedRegion`] but [`OwnedRegion`], once: there, and there
//!   only, references are lent.
//! - The kernel says where a region is and how long; both are made from its answer alone, and check every access.

#[cfg(not(miri))]
use alloc::vec::Vec;
#[cfg(not(miri))]
use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cloister_caps::abi::region;
use cloister_caps::tables::MAX_SLOTS;
use cloister_caps::{Operation, Slot};
use cloister_interfaces::message::Words;
use cloister_interfaces::{ExclusiveMemory, Memory, System};

use crate::call::Kernel;

/// A mapped region.
#[derive(Clone, Copy)]
pub struct SharedRegion {
    /// A multiple of 8.
    base: usize,
    length: usize,
}

/// Where the kernel says the region in `slot` is: base, length, flags. The two that Rust objects live in, heap and stack,
/// are nowhere.
fn find_region(kernel: Kernel, slot: Slot) -> (usize, usize, u64) {
    #[cfg(feature = "image")]
    if crate::program::is_heap(slot) {
        return (0, 0, 0);
    }
    match kernel.invoke(slot, Operation::RegionFind, [0; 4]) {
        Ok([base, size]) => {
            let (base, length) = (base as usize, (size & region::SIZE) as usize);
            let stack = (&raw const base).addr().wrapping_sub(base) < length;
            if stack { (0, 0, 0) } else { (base, length, size & !region::SIZE) }
        }
        Err(_) => (0, 0, 0),
    }
}

impl SharedRegion {
    /// The region that the capability in `slot` names; without bytes if there is none, or if it is the heap, the stack,
    /// or such a one as [`OwnedRegion`] are.
    #[must_use]
    pub fn new(kernel: Kernel, slot: Slot) -> SharedRegion {
        let (base, length, flags) = find_region(kernel, slot);
        SharedRegion { base, length: if flags & region::EXCLUSIVE == 0 && base.is_multiple_of(8) { length } else { 0 } }
    }

    /// The part of the region that starts at `offset`, a multiple of 8, and has `length` bytes; without bytes if it has none
    /// such.
    #[cfg(feature = "fused")]
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> SharedRegion {
        let base = self.address(offset, length).filter(|base| base.is_multiple_of(8));
        SharedRegion { base: base.unwrap_or_default(), length: base.map_or(0, |_| length) }
    }

    fn address(&self, offset: usize, count: usize) -> Option<usize> {
        let end = offset.checked_add(count)?;
        (end <= self.length).then(|| self.base + offset)
    }

    /// What `access` makes of the word at `offset`; nothing if there is none.
    fn word<R>(&self, offset: usize, access: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        let address = self.address(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: the kernel maps `length` bytes at `base` for the life of the service, the word lies within them and is
        // aligned, as the base is. An atomic may be written by others at any time. If the region is read-only a store faults,
        // which the kernel charges to this service.
        Some(access(unsafe { AtomicU32::from_ptr(address as *mut u32) }))
    }

    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        match self.address(offset, count * 8).filter(|_| offset.is_multiple_of(8)) {
            // SAFETY: as for `word`: all `count` of them lie within the region.
            Some(address) => unsafe { core::slice::from_raw_parts(address as *const AtomicU64, count) },
            None => &[],
        }
    }
}

impl Memory for SharedRegion {
    type Exclusive = OwnedRegion;

    fn len(&self) -> usize {
        self.length
    }

    fn load(&self, offset: usize) -> u32 {
        self.word(offset, |word| word.load(Ordering::Acquire)).unwrap_or(0)
    }

    fn store(&self, offset: usize, value: u32) {
        self.word(offset, |word| word.store(value, Ordering::Release));
    }

    fn load_words(&self, offset: usize, into: &mut [u64]) {
        let words = self.words(offset, into.len());
        for (index, word) in into.iter_mut().enumerate() {
            *word = words.get(index).map_or(0, |word| word.load(Ordering::Acquire));
        }
    }

    fn store_words(&self, offset: usize, from: &[u64]) {
        for (word, value) in self.words(offset, from.len()).iter().zip(from) {
            word.store(*value, Ordering::Release);
        }
    }

    fn load_each(&self, offset: usize, size: usize, count: usize, mut take: impl FnMut(Words)) {
        for from in self.words(offset, size * count).chunks_exact(size) {
            let mut words = Words::default();
            for (word, from) in words.iter_mut().zip(from) {
                *word = from.load(Ordering::Acquire);
            }
            take(words);
        }
    }

    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> Words) {
        for (target, item) in self.words(offset, size * items.len()).chunks_exact(size).zip(items) {
            for (word, value) in target.iter().zip(words(item)) {
                word.store(value, Ordering::Release);
            }
        }
    }

    #[cfg(not(miri))]
    fn buffer(length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::<u8>::new();
        bytes.try_reserve_exact(length).ok()?;
        // SAFETY: the capacity is there, and of the heap: memory that is mapped and holds some bytes. The compiler has to take them for
        // what the assembly left, so that they are not undefined to it.
        unsafe {
            asm!("/* {} */", in(reg) bytes.as_mut_ptr(), options(nostack, preserves_flags));
            bytes.set_len(length);
        }
        Some(bytes)
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

    fn copy(&self, offset: usize, count: usize, to: &SharedRegion, at: usize) {
        if let (Some(from), Some(to)) = (self.address(offset, count), to.address(at, count))
            && from.abs_diff(to) >= count
        {
            // SAFETY: both are mapped (see `word`), and apart; if the destination is read-only, the store faults.
            unsafe { copy(from as *const u8, to as *mut u8, count) }
        }
    }
}

/// A region that nobody but this service can write or map.
pub struct OwnedRegion {
    base: usize,
    length: usize,
    fresh: bool,
}

impl OwnedRegion {
    /// The region that the capability in `slot` names; without bytes if there is none, if it is the heap or the stack, if others can
    /// write or map it, or if this was called for it before.
    #[must_use]
    pub fn new(kernel: Kernel, slot: Slot) -> OwnedRegion {
        static CLAIMED: AtomicU64 = AtomicU64::new(0);
        const _: () = assert!(MAX_SLOTS <= 64, "a bit for every slot");
        let (base, length, flags) = find_region(kernel, slot);
        let bit = 1_u64.checked_shl(u32::from(slot.0)).unwrap_or(0);
        let unclaimed = CLAIMED.load(Ordering::Relaxed) & bit == 0;
        CLAIMED.store(CLAIMED.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
        let exclusive = bit != 0 && unclaimed && flags & region::EXCLUSIVE != 0;
        OwnedRegion { base, length: if exclusive { length } else { 0 }, fresh: flags & region::FRESH != 0 }
    }
}

impl ExclusiveMemory for OwnedRegion {
    fn size(&self) -> usize {
        self.length
    }

    fn is_fresh(&self) -> bool {
        self.fresh
    }

    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let end = offset.checked_add(length)?;
        if end > self.length {
            return None;
        }
        // SAFETY: the kernel maps `self.length` bytes at `base`, writable, for the life of the service, and vouches that no
        // other service maps them and no other domain can write them. No `SharedRegion` is made of such a region, no Rust object
        // lives there, and these `OwnedRegion` are the only ones of it: while they are lent, nothing else refers to the bytes.
        Some(edit(unsafe { core::slice::from_raw_parts_mut((self.base + offset) as *mut u8, length) }))
    }
}

/// Copies `count` bytes, each read once and written once, invisibly to the compiler.
///
/// # Safety
/// Both ranges are mapped, the destination is writable, and they do not overlap.
#[cfg(not(miri))]
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

/// The same for Miri, which interprets no assembly: what is left to check there is where the bytes come from and go to.
///
/// # Safety
/// As above.
#[cfg(miri)]
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    for index in 0..count {
        // SAFETY: by the caller's promise.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) }
    }
}

/// The bytes of a region that nobody can write while the image runs; none if the region in `slot` is not such a one.
#[must_use]
pub fn constant_bytes(kernel: Kernel, slot: Slot) -> &'static [u8] {
    match find_region(kernel, slot) {
        // SAFETY: the kernel maps the region for the life of the service, read-only in every service, and nothing outside
        // the image has a grant of it: the bytes are constant.
        (base, length, flags) if length > 0 && flags & region::CONSTANT != 0 => unsafe {
            core::slice::from_raw_parts(base as *const u8, length)
        },
        _ => &[],
    }
}
