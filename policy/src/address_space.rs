//! The addresses of a service: its program, its stack and its regions.

use cloister_caps::PAGE_SIZE;

/// Bytes of a page.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
/// Where a service's stack and its regions of known size start. The programs end far below.
pub(crate) const FIXED_AREA: u64 = 0x8000_0000;
/// Where its regions whose size only the boot decides start.
pub(crate) const LARGE_AREA: u64 = 0x1_0000_0000;
/// Addresses between the large regions are multiples of this.
pub(crate) const LARGE_STEP: u64 = 1 << 30;
/// Addresses kept for the boot module.
pub(crate) const MODULE_ROOM: u64 = 4 << 30;
/// Pages of addresses for regions of known size.
pub(crate) const FIXED_AREA_PAGES: u64 = (LARGE_AREA - FIXED_AREA) / PAGE;
/// Addresses between the programs of two services.
pub(crate) const PROGRAM_ROOM: u64 = 0x0100_0000;

/// Where service `index`, in the order of the names, is linked.
pub(crate) fn image_base(index: usize) -> u64 {
    PROGRAM_ROOM * (index as u64 + 1)
}
