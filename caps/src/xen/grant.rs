//! The grant table, version 1 (`grant_table.h`).

use static_assertions::const_assert_eq;

use crate::PAGE_SIZE;

/// An entry (`grant_entry_v1`).
#[repr(C)]
pub struct Entry {
    /// `GTF_*`.
    pub flags: u16,
    /// The domain that may use the page.
    pub domid: u16,
    /// The page's frame.
    pub frame: u32,
}
const_assert_eq!(size_of::<Entry>(), 8);

/// The number of entries in a frame of the table.
pub const ENTRIES_PER_FRAME: u32 = (PAGE_SIZE / size_of::<Entry>()) as u32;

/// `GTF_permit_access`: the domain may map and copy the page.
pub const PERMIT_ACCESS: u16 = 1;
/// `GTF_readonly`: for reading only.
pub const READONLY: u16 = 1 << 2;
/// `GTF_reading`: Xen sets it while the page is in use.
pub const READING: u16 = 1 << 3;
/// `GTF_writing`: Xen sets it while the page is in use and can be written.
pub const WRITING: u16 = 1 << 4;

/// Flags of a request to map a page (`GNTMAP_*`).
pub mod map_flag {
    /// Into the guest's memory (`GNTMAP_host_map`).
    pub const HOST_MAP: u32 = 1 << 1;
    /// For reading only (`GNTMAP_readonly`).
    pub const READONLY: u32 = 1 << 2;
}
