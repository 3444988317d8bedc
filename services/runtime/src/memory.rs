//! Mapped memory. All rules for it are here:
//!
//! - There is no reference into a region that others may write, except to atomics. All other data
//!   is copied, exactly once per call, by instructions that the compiler cannot see into.
//! - A region that the kernel calls [`region::EXCLUSIVE`], because only this service can write it
//!   and no other maps it, is an [`OwnedRegion`], never a [`SharedRegion`], and there is only one
//!   value for it. Of memory that
//!   can change, only an [`OwnedRegion`] lends references.
//! - The address and the length of a region come only from the kernel, and every access is checked
//!   against them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cloister_caps::abi::region;
use cloister_caps::tables::MAX_SLOTS;
use cloister_caps::{Operation, Slot};
use cloister_interfaces::message::Words;
use cloister_interfaces::{ExclusiveMemory, Memory, System};

use crate::bytes::{assume_written, copy};
use crate::call::Kernel;

/// The address of the heap, or zero if there is none. Zero as the initial value spares the program
/// a page of initialised data.
static HEAP: AtomicUsize = AtomicUsize::new(0);

/// A mapped region that others may read or write at any moment.
///
/// # Holding one proves
/// The kernel maps `length` bytes at `base` for as long as the service runs, and no Rust object
/// lives in them.
#[derive(Clone, Copy)]
pub struct SharedRegion {
    /// A multiple of 8.
    base: usize,
    length: usize,
}

/// A region as the kernel describes it.
///
/// # Holding one proves
/// The kernel maps `length` bytes at `base` for as long as the service runs, with what `flags` say
/// of them. They are neither the stack nor the heap. The length may be 0.
#[derive(Clone, Copy)]
pub(crate) struct FoundRegion {
    base: usize,
    length: usize,
    /// Bits of [`region`] above the size.
    flags: u64,
}

impl FoundRegion {
    /// Asks the kernel for the region in `slot`. The length is 0 if the kernel refuses, and for the
    /// two regions that Rust objects live in: heap and stack.
    pub(crate) fn ask(kernel: Kernel, slot: Slot) -> FoundRegion {
        let answer = kernel.invoke(slot, Operation::RegionFind, [0; 4]).unwrap_or_default();
        // SAFETY: it is the kernel's answer.
        unsafe { FoundRegion::from_answer(answer) }
    }

    /// Reads the answer to [`Operation::RegionFind`].
    ///
    /// # Safety
    /// The answer is true of this program's memory.
    pub(crate) unsafe fn from_answer([base, size]: [u64; 2]) -> FoundRegion {
        let (base, length) = (base as usize, (size & region::SIZE) as usize);
        let stack = (&raw const base).addr().wrapping_sub(base) < length;
        let heap = base == HEAP.load(Ordering::Relaxed);
        let length = if stack || heap { 0 } else { length };
        FoundRegion { base, length, flags: size & !region::SIZE }
    }

    /// Returns the region's memory for the heap, or `None` if anyone else may access it or there is
    /// a heap already. No later `FoundRegion` has bytes of it.
    pub(crate) fn claim_for_heap(self) -> Option<(*mut u8, usize)> {
        let fits = self.length > 0 && self.flags & region::PRIVATE != 0;
        (fits && HEAP.load(Ordering::Relaxed) == 0).then(|| {
            HEAP.store(self.base, Ordering::Relaxed);
            (self.base as *mut u8, self.length)
        })
    }
}

impl SharedRegion {
    /// Returns the region that the capability in `slot` names. It is empty if there is no such
    /// region, or if the region is the heap, the stack, or for an [`OwnedRegion`].
    #[must_use]
    pub fn new(kernel: Kernel, slot: Slot) -> SharedRegion {
        SharedRegion::of(FoundRegion::ask(kernel, slot))
    }

    /// Returns the region unless it is for an [`OwnedRegion`].
    pub(crate) fn of(FoundRegion { base, length, flags }: FoundRegion) -> SharedRegion {
        SharedRegion { base, length: if flags & region::EXCLUSIVE == 0 && base.is_multiple_of(8) { length } else { 0 } }
    }

    /// Returns the address of `count` bytes from `offset` on, if the region contains them.
    fn address(&self, offset: usize, count: usize) -> Option<usize> {
        let end = offset.checked_add(count)?;
        (end <= self.length).then(|| self.base + offset)
    }

    /// Passes the word at `offset` to `access` and returns its result, if the region contains the
    /// word.
    fn word<R>(&self, offset: usize, access: impl FnOnce(&AtomicU32) -> R) -> Option<R> {
        let address = self.address(offset, 4).filter(|_| offset.is_multiple_of(4))?;
        // SAFETY: the kernel maps `length` bytes at `base` as long as the service runs. The word
        // lies within them, and is aligned because the base is. Others may write an atomic at any
        // time. If the region is read-only, a store is a fault of this service.
        Some(access(unsafe { AtomicU32::from_ptr(address as *mut u32) }))
    }

    /// Returns `count` words from `offset` on, a multiple of 8, or none if the region does not
    /// contain all of them.
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let bytes = count.checked_mul(8).filter(|_| offset.is_multiple_of(8));
        match bytes.and_then(|bytes| self.address(offset, bytes)) {
            // SAFETY: as in `word`: all `count` words lie within the region.
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
        for from in self.words(offset, size.saturating_mul(count)).chunks_exact(size) {
            let mut words = Words::default();
            for (word, from) in words.iter_mut().zip(from) {
                *word = from.load(Ordering::Acquire);
            }
            take(words);
        }
    }

    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> Words) {
        for (target, item) in self.words(offset, size.saturating_mul(items.len())).chunks_exact(size).zip(items) {
            for (word, value) in target.iter().zip(words(item)) {
                word.store(value, Ordering::Release);
            }
        }
    }

    fn buffer(length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::<u8>::new();
        bytes.try_reserve_exact(length).ok()?;
        // SAFETY: the vector has the capacity, in mapped memory of the heap, which holds some
        // bytes. `assume_written` makes them defined for the compiler.
        unsafe {
            assume_written(bytes.as_mut_ptr(), length);
            bytes.set_len(length);
        }
        Some(bytes)
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        match self.address(offset, into.len()) {
            // SAFETY: the source is mapped (see `word`). The destination is an exclusive slice of
            // the same length, and cannot overlap the source, since no Rust object lives in a
            // region.
            Some(address) => unsafe { copy(address as *const u8, into.as_mut_ptr(), into.len()) },
            None => into.fill(0),
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        if let Some(address) = self.address(offset, from.len()) {
            // SAFETY: as in `read`, with source and destination exchanged.
            unsafe { copy(from.as_ptr(), address as *mut u8, from.len()) }
        }
    }

    fn copy(&self, offset: usize, count: usize, to: &SharedRegion, at: usize) {
        if let (Some(from), Some(to)) = (self.address(offset, count), to.address(at, count))
            && from.abs_diff(to) >= count
        {
            // SAFETY: both are mapped (see `word`) and do not overlap. If the destination is
            // read-only, the store faults.
            unsafe { copy(from as *const u8, to as *mut u8, count) }
        }
    }
}

/// A mapped region that only this service can write.
///
/// # Holding one proves
/// The kernel maps `length` bytes at `base`, writable, for as long as the service runs. No other
/// service maps them, no other domain can write them, no Rust object lives in them, and no other
/// value refers to them.
pub struct OwnedRegion {
    base: usize,
    length: usize,
    fresh: bool,
}

impl OwnedRegion {
    /// Returns the region that the capability in `slot` names. It is empty if there is no such
    /// region, if it is the heap or the stack, if others can write it or other services map it, or
    /// if this function was called for it before.
    #[must_use]
    pub fn new(kernel: Kernel, slot: Slot) -> OwnedRegion {
        OwnedRegion::of(FoundRegion::ask(kernel, slot), slot)
    }

    /// Returns the region in `slot` if it is exclusive, the first time.
    pub(crate) fn of(FoundRegion { base, length, flags }: FoundRegion, slot: Slot) -> OwnedRegion {
        static CLAIMED: AtomicU64 = AtomicU64::new(0);
        const _: () = assert!(MAX_SLOTS <= 64, "a bit for every slot");
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
        // SAFETY: by what an `OwnedRegion` proves, the bytes are mapped and writable, and nothing
        // else refers to them while they are lent: `SharedRegion::new` refuses such a region, and
        // `OwnedRegion::new` returns it once.
        Some(edit(unsafe { core::slice::from_raw_parts_mut((self.base + offset) as *mut u8, length) }))
    }
}

/// Returns the bytes of the constant region in `slot`: one that nothing can write while the image
/// runs. Returns no bytes if there is no such region, or if it is not constant.
#[must_use]
pub fn constant_bytes(kernel: Kernel, slot: Slot) -> &'static [u8] {
    FoundRegion::ask(kernel, slot).constant_bytes()
}

impl FoundRegion {
    /// Returns the region's bytes, or none if it is not constant.
    pub(crate) fn constant_bytes(self) -> &'static [u8] {
        if self.length == 0 || self.flags & region::CONSTANT == 0 {
            return &[];
        }
        // SAFETY: the kernel maps the region as long as the service runs. Every service maps it
        // read-only, and no other domain has a grant of it, so the bytes are constant.
        unsafe { core::slice::from_raw_parts(self.base as *const u8, self.length) }
    }
}
