//! The heap of a program.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use linked_list_allocator::Heap;

/// The program's allocator, in the one region that is its heap.
pub(crate) struct Allocator(UnsafeCell<Heap>);

// SAFETY: a service is one thread, which nothing interrupts to run other code of the service.
unsafe impl Sync for Allocator {}

impl Allocator {
    /// Without a region: every allocation fails.
    pub(crate) const fn empty() -> Self {
        Allocator(UnsafeCell::new(Heap::empty()))
    }

    /// Gives it its region.
    ///
    /// # Safety
    /// The bytes are mapped and writable for ever, and nothing else uses them. Called once.
    pub(crate) unsafe fn init(&self, base: *mut u8, size: usize) {
        // SAFETY: by the caller's promise; and one thread, which is not in another method.
        unsafe { (*self.0.get()).init(base, size) }
    }
}

// SAFETY: `Heap` hands out disjoint blocks of the region given to `init`; no block is used before `init`, for the heap is
// empty then and every allocation fails.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and `Heap` calls nothing of ours: this is the only reference.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: as above; the block and its layout are those of an earlier `alloc`, by the caller's promise.
            unsafe { (*self.0.get()).deallocate(block, layout) }
        }
    }
}
