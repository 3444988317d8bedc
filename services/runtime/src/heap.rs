//! The heap of a service.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use cloister_caps::Slot;
use linked_list_allocator::Heap;

use crate::call::Kernel;
use crate::memory::FoundRegion;

/// The allocator of the program. It uses the region that the policy marks as the service's heap.
pub struct Allocator(UnsafeCell<Heap>);

// SAFETY: a service has one thread, and nothing interrupts it to run other code of the service.
unsafe impl Sync for Allocator {}

impl Allocator {
    /// Creates an allocator without memory: every allocation fails.
    #[must_use]
    pub const fn empty() -> Self {
        Allocator(UnsafeCell::new(Heap::empty()))
    }

    /// Uses the region in `slot`, if the policy gives it to this service alone. Only the first such
    /// region is used. The entry point calls it before any region is asked for.
    pub fn use_region(&self, kernel: Kernel, slot: Slot) {
        if let Some((base, size)) = FoundRegion::ask(kernel, slot).claim_for_heap() {
            // SAFETY: the kernel maps these bytes writable for this service only, no region is made
            // of them, and no second region is claimed.
            unsafe { self.init(base, size) }
        }
    }

    /// Sets the memory that the allocator uses.
    ///
    /// # Safety
    /// The bytes are mapped and writable as long as the program runs, and nothing else uses them.
    /// The method is called at most once.
    pub(crate) unsafe fn init(&self, base: *mut u8, size: usize) {
        // SAFETY: the caller guarantees the memory. There is one thread, and it is in no other
        // method.
        unsafe { (*self.0.get()).init(base, size) }
    }
}

// SAFETY: `Heap` returns disjoint blocks of the memory passed to `init`. Before `init` the heap is
// empty, so every allocation fails.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: there is one thread, and `Heap` does not call back: this is the only reference.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: as in `alloc`. The caller guarantees that the block and its layout are those
            // of an earlier `alloc`.
            unsafe { (*self.0.get()).deallocate(block, layout) }
        }
    }
}
