//! The start info, which a PVH guest finds at its start (`arch-x86/hvm/start_info.h`).

use static_assertions::const_assert_eq;

/// The first four bytes of the start info (`XEN_HVM_START_MAGIC_VALUE`).
pub const MAGIC: u32 = 0x336E_C578;
/// The flag of the hardware domain (`SIF_INITDOMAIN` of `xen.h`).
pub const INIT_DOMAIN: u32 = 1 << 1;
/// The type of RAM in the memory map (`XEN_HVM_MEMMAP_TYPE_RAM`).
pub const MEMMAP_TYPE_RAM: u32 = 1;

/// The start info (`hvm_start_info`).
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// The version of the structure. Version 0 ends before [`Self::memmap_paddr`].
    pub version: u32,
    /// Flags (`SIF_*` of `xen.h`).
    pub flags: u32,
    /// The number of modules.
    pub nr_modules: u32,
    /// The physical address of an array of [`Module`].
    pub modlist_paddr: u64,
    /// The physical address of the command line, or 0.
    pub cmdline_paddr: u64,
    /// The physical address of ACPI's RSDP.
    pub rsdp_paddr: u64,
    /// The physical address of an array of [`MemmapEntry`], or 0.
    pub memmap_paddr: u64,
    /// The number of its entries.
    pub memmap_entries: u32,
    /// 0.
    pub reserved: u32,
}
const_assert_eq!(size_of::<StartInfo>(), 56);

/// A boot module (`hvm_modlist_entry`).
#[repr(C)]
pub struct Module {
    /// The physical address of its bytes.
    pub paddr: u64,
    /// The number of its bytes.
    pub size: u64,
    /// The physical address of its command line, or 0.
    pub cmdline_paddr: u64,
    /// 0.
    pub reserved: u64,
}
const_assert_eq!(size_of::<Module>(), 32);

/// A range of the memory map (`hvm_memmap_table_entry`).
#[repr(C)]
pub struct MemmapEntry {
    /// The physical address of its first byte.
    pub addr: u64,
    /// The number of its bytes.
    pub size: u64,
    /// The type: [`MEMMAP_TYPE_RAM`] or another.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}
const_assert_eq!(size_of::<MemmapEntry>(), 24);
