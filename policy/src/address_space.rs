//! The address space of a service: where its program, its stack and its regions are.

use cloister_caps::PAGE_SIZE;

/// Bytes of a page.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
/// The start of a service's stack and its regions of known size. The programs end far below.
pub(crate) const FIXED_AREA: u64 = 0x8000_0000;
/// The start of its regions whose size is decided at boot.
pub(crate) const LARGE_AREA: u64 = 0x1_0000_0000;
/// Each large region starts at a multiple of this, in bytes.
pub(crate) const LARGE_STEP: u64 = 1 << 30;
/// The size of the address range for the boot module, in bytes.
pub(crate) const MODULE_ROOM: u64 = 4 << 30;
/// The size of the address range for regions of known size, in pages.
pub(crate) const FIXED_AREA_PAGES: u64 = (LARGE_AREA - FIXED_AREA) / PAGE;
/// The size of the address range for the program of one service, in bytes.
pub(crate) const PROGRAM_ROOM: u64 = 0x0100_0000;

/// Returns the address at which the program of service `index` is linked. Services are numbered in
/// the order of their names.
pub(crate) fn image_base(index: usize) -> u64 {
    PROGRAM_ROOM * (index as u64 + 1)
}
