//! A part of a received frame.

use core::num::NonZeroU16;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::PageOffset;
use cloister_interfaces::net::RxPage;

/// A part of a received frame, as netfront describes it.
///
/// # Holding one proves
/// It has bytes, and they start in its first page. In [`super::device::LinkDevice`]'s list of
/// received parts: all its pages are in the rx-pool and ours.
#[derive(Clone, Copy)]
pub(super) struct RxPart {
    pub(super) page: RxPage,
    pub(super) offset: PageOffset,
    pub(super) length: NonZeroU16,
    pub(super) more: bool,
    pub(super) checked: bool,
}

impl RxPart {
    /// Returns the offset of the part in the pool.
    pub(super) fn start(&self) -> usize {
        usize::from(self.page.0) * PAGE_SIZE + usize::from(self.offset.get())
    }

    pub(super) fn pages(&self) -> u16 {
        (usize::from(self.offset.get()) + usize::from(self.length.get())).div_ceil(PAGE_SIZE) as u16
    }
}
