//! A part of a received frame.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::RxPage;

/// A part of a received frame, as netfront describes it.
///
/// # Holding one proves
///
/// Nothing while it is a message. In [`super::device::LinkDevice`]'s list of received parts: it has
/// bytes, they start in its first page, and all its pages are in the rx-pool and ours.
#[derive(Clone, Copy)]
pub(super) struct RxPart {
    pub(super) page: RxPage,
    pub(super) offset: u16,
    pub(super) length: u16,
    pub(super) more: bool,
    pub(super) checked: bool,
}

impl RxPart {
    /// Returns its offset in the pool.
    pub(super) fn start(&self) -> usize {
        usize::from(self.page.0) * PAGE_SIZE + usize::from(self.offset)
    }

    pub(super) fn pages(&self) -> u16 {
        (usize::from(self.offset) + usize::from(self.length)).div_ceil(PAGE_SIZE) as u16
    }
}
