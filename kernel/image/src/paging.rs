//! Builds the page tables, once, at boot, through the boot code's identity map.
//!
//! Then that map is dropped. After that no page table is mapped except the one for [`SPECIAL`].

use core::fmt;

pub use cloister_caps::abi::KERNEL_OFFSET as OFFSET;
// Between any two of the uses below lies a page that is never mapped.
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use cloister_caps::abi::KERNEL_SPECIAL as SPECIAL;
use cloister_caps::{Gfn, PAGE_SIZE};
use cloister_kernel_core::memory::FreeMemory;
use cloister_kernel_core::placement::PAGES_PER_LARGE;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::{MapToError, MappedPageTable, PageTableFrameMapping};
use x86_64::structures::paging::page_table::{PageTable, PageTableEntry};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTableFlags as Flags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

/// The shared-info page.
pub const SHARED_INFO: u64 = SPECIAL + 0x1000;
/// The console ring.
pub const CONSOLE: u64 = SPECIAL + 0x3000;
/// The grant table, up to eight frames.
pub const GRANT_TABLE: u64 = SPECIAL + 0x5000;
/// Where the frame to copy from is mapped during a copy.
const COPY_SOURCE: u64 = SPECIAL + 0xF000;
/// Where the frame to copy to is mapped during a copy.
const COPY_DESTINATION: u64 = SPECIAL + 0x11000;

/// Entries of a page table.
const ENTRIES: usize = PAGE_SIZE / size_of::<PageTableEntry>();

const KERNEL_FLAGS: Flags = Flags::PRESENT.union(Flags::GLOBAL);
/// Writable pages are never executable.
const WRITABLE: Flags = Flags::PRESENT.union(Flags::WRITABLE).union(Flags::NO_EXECUTE);

unsafe extern "C" {
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static data_start: u8;
    static data_end: u8;
    static stack_bottom: u8;
    static stack_top: u8;
    static double_fault_stack_bottom: u8;
    static double_fault_stack_top: u8;
    static machine_check_stack_bottom: u8;
    static machine_check_stack_top: u8;
    static nmi_stack_bottom: u8;
    static nmi_stack_top: u8;
    static boot_tables: u8;
    static kernel_end: u8;
}

static mut SPECIAL_TABLE: PageTable = PageTable::new();

/// Says why page tables could not be built.
#[derive(Clone, Copy, Debug)]
pub enum PagingError {
    /// No free frame is left for a page table.
    NoMemory,
    /// The address is mapped already.
    Overlap(u64),
}

impl fmt::Display for PagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PagingError::NoMemory => write!(f, "too little memory for page tables; give the guest more memory"),
            PagingError::Overlap(address) => write!(f, "the capability tables map {address:#x} twice"),
        }
    }
}

/// Allocates page tables from free memory.
struct TableAllocator<'a>(&'a mut FreeMemory);

// SAFETY: `FreeMemory` gives each frame once, and only frames of RAM that nothing else uses.
unsafe impl FrameAllocator<Size4KiB> for TableAllocator<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let Gfn(frame) = self.0.take(1)?;
        Some(PhysFrame::containing_address(PhysAddr::new(frame * PAGE_SIZE as u64)))
    }
}

/// Returns the physical address of a symbol of the kernel.
fn physical<T>(symbol: *const T) -> u64 {
    symbol as u64 - OFFSET
}

/// Returns the physical address at which the kernel ends, its stacks and boot tables included.
pub fn kernel_end_address() -> u64 {
    physical(&raw const kernel_end)
}

/// Names the root table of an address space under construction. It may be used only while the
/// identity map exists.
#[derive(Clone, Copy)]
pub struct Root(PhysFrame);

impl Root {
    /// Creates an empty address space.
    ///
    /// # Errors
    /// There is no free frame.
    fn empty(free: &mut FreeMemory) -> Result<Root, PagingError> {
        let frame = TableAllocator(free).allocate_frame().ok_or(PagingError::NoMemory)?;
        let mut root = Root(frame);
        root.table().zero();
        Ok(root)
    }

    /// Returns the root table.
    fn table(&mut self) -> &mut PageTable {
        // SAFETY: the frame holds this root table and nothing else, is identity-mapped as long as a
        // `Root` is used, and the exclusive reference lasts no longer than that to `self`.
        unsafe { &mut *(self.0.start_address().as_u64() as *mut PageTable) }
    }

    /// Maps `pages` pages from `address` to frames from `frame`.
    ///
    /// # Errors
    /// No frame is free for a table, or a page is mapped already.
    fn map(
        &mut self,
        free: &mut FreeMemory,
        address: u64,
        frame: Gfn,
        pages: u64,
        flags: Flags,
    ) -> Result<(), PagingError> {
        let parents = Flags::PRESENT | Flags::WRITABLE | (flags & Flags::USER_ACCESSIBLE);
        let mut done = 0;
        while done < pages {
            let (to, from) = (address + done * PAGE_SIZE as u64, (frame.0 + done) * PAGE_SIZE as u64);
            let large = (to | from).is_multiple_of(Size2MiB::SIZE) && pages - done >= PAGES_PER_LARGE;
            // SAFETY: the tables of a `Root` are whole, and identity-mapped as long as it is used.
            let mut mapper = unsafe { MappedPageTable::new(self.table(), Identity) };
            done += if large {
                map_page::<Size2MiB>(&mut mapper, free, (to, from), flags, parents)?;
                PAGES_PER_LARGE
            } else {
                // Mapping the first page has made the page table. The others are written straight
                // into it, without a walk through the tables above.
                map_page::<Size4KiB>(&mut mapper, free, (to, from), flags, parents)?;
                1 + self.map_following((to, from), pages - done - 1, flags)?
            };
        }
        Ok(())
    }

    /// Maps the pages after `to`, which is mapped to `from`, to the frames after `from`: at most
    /// `pages`, up to the end of the page table. Returns their number.
    ///
    /// # Errors
    /// A page is mapped already.
    fn map_following(&mut self, (to, from): (u64, u64), pages: u64, flags: Flags) -> Result<u64, PagingError> {
        let first = VirtAddr::new_truncate(to);
        let table = self.directory_entry(first).addr().as_u64() as *mut [PageTableEntry; ENTRIES];
        // SAFETY: it is the page table of a mapped page, is identity-mapped itself, and nothing
        // else refers to it. A page table consists of its entries only.
        let behind = unsafe { &mut (&mut *table)[usize::from(first.p1_index()) + 1..] };
        let mut done = 0;
        for entry in behind.iter_mut().take(usize::try_from(pages).unwrap_or(usize::MAX)) {
            done += 1;
            if !entry.is_unused() {
                return Err(PagingError::Overlap(to + done * PAGE_SIZE as u64));
            }
            entry.set_addr(PhysAddr::new_truncate(from + done * PAGE_SIZE as u64), flags);
        }
        Ok(done)
    }

    /// Returns the entry for the page table of an address at which a page of 4 KiB is mapped.
    fn directory_entry(&mut self, address: VirtAddr) -> &mut PageTableEntry {
        let mut entry = &mut self.table()[address.p4_index()];
        for index in [address.p3_index(), address.p2_index()] {
            let table = entry.addr().as_u64() as *mut PageTable;
            // SAFETY: mapping the page has made this table. It is identity-mapped, and nothing else
            // refers to it.
            entry = unsafe { &mut (&mut *table)[index] };
        }
        entry
    }

    /// Maps pages for ring 3.
    ///
    /// # Errors
    /// No frame is free for a table, or a page is mapped already.
    pub fn map_user(
        &mut self,
        free: &mut FreeMemory,
        address: u64,
        frame: Gfn,
        pages: u64,
        kind: UserPages,
    ) -> Result<(), PagingError> {
        let flags = Flags::PRESENT
            | Flags::USER_ACCESSIBLE
            | match kind {
                UserPages::Constant => Flags::NO_EXECUTE,
                UserPages::Text => Flags::empty(),
                UserPages::Writable => Flags::NO_EXECUTE | Flags::WRITABLE,
            };
        self.map(free, address, frame, pages, flags)
    }

    /// Creates an address space for a service: with the kernel's half of `self`, and an empty lower
    /// half.
    ///
    /// # Errors
    /// There is no free frame.
    pub fn for_service(&mut self, free: &mut FreeMemory) -> Result<Root, PagingError> {
        let mut root = Root::empty(free)?;
        root.table()[511] = self.table()[511].clone();
        Ok(root)
    }

    /// Maps the GiB from [`KERNEL_HYPERCALL_PAGE`] for the kernel to execute, by one entry. The
    /// frame `frame` must be the hypercall page, and those after it must not exist.
    ///
    /// # Errors
    /// No frame is free for a table, or the GiB is mapped already.
    pub fn map_hypercall_page(&mut self, free: &mut FreeMemory, frame: Gfn) -> Result<(), PagingError> {
        // SAFETY: the tables of a `Root` are whole, and identity-mapped as long as it is used.
        let mut mapper = unsafe { MappedPageTable::new(self.table(), Identity) };
        let addresses = (KERNEL_HYPERCALL_PAGE, frame.0 * PAGE_SIZE as u64);
        map_page::<Size1GiB>(&mut mapper, free, addresses, KERNEL_FLAGS, Flags::PRESENT | Flags::WRITABLE)
    }

    /// Returns the value for CR3.
    pub fn address(&self) -> u64 {
        self.0.start_address().as_u64()
    }
}

/// Finds a page table at its physical address, as the boot code maps it.
struct Identity;

// SAFETY: a `MappedPageTable` with it is made only while the identity map is in force.
unsafe impl PageTableFrameMapping for Identity {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        frame.start_address().as_u64() as *mut PageTable
    }
}

/// Maps one page, large or small, to the frame at a physical address.
fn map_page<'m, S: PageSize>(
    mapper: &mut MappedPageTable<'m, Identity>,
    free: &mut FreeMemory,
    (to, from): (u64, u64),
    flags: Flags,
    parents: Flags,
) -> Result<(), PagingError>
where
    MappedPageTable<'m, Identity>: Mapper<S>,
{
    let page = Page::<S>::containing_address(VirtAddr::new_truncate(to));
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(from));
    // SAFETY: no address mapped here is in use, so no live reference is affected. Which frames an
    // address space maps is what the capability tables say.
    match unsafe { mapper.map_to_with_table_flags(page, frame, flags, parents, &mut TableAllocator(free)) } {
        Ok(flush) => flush.ignore(),
        Err(MapToError::FrameAllocationFailed) => return Err(PagingError::NoMemory),
        Err(_) => return Err(PagingError::Overlap(to)),
    }
    Ok(())
}

/// Says how ring 3 may use pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum UserPages {
    /// Read.
    Constant,
    /// Read and execute.
    Text,
    /// Read and write.
    Writable,
}

/// Builds the kernel's half and puts it in force. The identity map stays until
/// [`drop_identity_map`].
///
/// `tables` is the physical address of the capability tables, and their length in bytes.
///
/// # Errors
/// There is no free frame.
pub fn build_kernel(free: &mut FreeMemory, tables: (u64, u64)) -> Result<Root, PagingError> {
    let mut root = Root::empty(free)?;
    let read_only = KERNEL_FLAGS | Flags::NO_EXECUTE;
    let ranges = [
        (&raw const text_start, &raw const text_end, KERNEL_FLAGS),
        (&raw const rodata_start, &raw const rodata_end, read_only),
        (&raw const data_start, &raw const data_end, KERNEL_FLAGS | WRITABLE),
        (&raw const stack_bottom, &raw const stack_top, KERNEL_FLAGS | WRITABLE),
        (&raw const double_fault_stack_bottom, &raw const double_fault_stack_top, KERNEL_FLAGS | WRITABLE),
        (&raw const machine_check_stack_bottom, &raw const machine_check_stack_top, KERNEL_FLAGS | WRITABLE),
        (&raw const nmi_stack_bottom, &raw const nmi_stack_top, KERNEL_FLAGS | WRITABLE),
    ];
    for (start, end, flags) in ranges {
        let (start, end) = (start as u64, end as u64);
        root.map(free, start, Gfn((start - OFFSET) / PAGE_SIZE as u64), (end - start) / PAGE_SIZE as u64, flags)?;
    }
    let (address, length) = tables;
    let pages = length.div_ceil(PAGE_SIZE as u64);
    root.map(free, address + OFFSET, Gfn(address / PAGE_SIZE as u64), pages, read_only)?;
    // The page table of the special pages is a static of ours. Mapping a page makes the tables
    // above it.
    root.map(free, SPECIAL, Gfn(0), 1, WRITABLE)?;
    let special = PhysAddr::new(physical(&raw const SPECIAL_TABLE));
    root.directory_entry(VirtAddr::new_truncate(SPECIAL)).set_addr(special, Flags::PRESENT | Flags::WRITABLE);
    // The boot code's PDPT maps the first 4 GiB in its first four entries.
    let identity = physical(&raw const boot_tables) + PAGE_SIZE as u64;
    root.table()[0].set_addr(PhysAddr::new(identity), Flags::PRESENT | Flags::WRITABLE);
    switch(root.address());
    Ok(root)
}

/// Removes the identity map from the kernel's own address space, the only one that has it.
pub fn drop_identity_map(mut root: Root) {
    root.table()[0].set_unused();
    switch(root.address());
}

/// Puts the address space with this value of CR3 in force.
pub fn switch(address: u64) {
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(address));
    // SAFETY: every root that the kernel built has the kernel's half, where all of the kernel's
    // code and data lie.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) }
}

/// Maps `entry` at a special address, or unmaps what is there.
fn set_special(address: u64, entry: Option<Gfn>) {
    let index = (address - SPECIAL) as usize / PAGE_SIZE;
    // SAFETY: there is one processor, and only this function makes references to the table.
    let table = unsafe { &mut *(&raw mut SPECIAL_TABLE) };
    match entry {
        Some(frame) => table[index].set_addr(PhysAddr::new_truncate(frame.0 * PAGE_SIZE as u64), WRITABLE),
        None => table[index].set_unused(),
    }
    x86_64::instructions::tlb::flush(VirtAddr::new_truncate(address));
}

/// Maps a page that Xen shares at one of the addresses above. It is never unmapped.
pub fn map_special(address: u64, frame: Gfn) {
    set_special(address, Some(frame));
}

/// Fills a frame: with `length` bytes from the page-aligned physical address `from`, then with
/// zeros.
///
/// The frame and the source are mapped only during the copy.
pub fn fill(frame: Gfn, from: u64, length: usize) {
    let length = length.min(PAGE_SIZE);
    set_special(COPY_DESTINATION, Some(frame));
    if length > 0 {
        set_special(COPY_SOURCE, Some(Gfn(from / PAGE_SIZE as u64)));
    }
    // SAFETY: both addresses are mapped to whole frames, which are different, and nothing else
    // refers to them: the destination is a service's own, and no service runs.
    unsafe {
        core::ptr::copy_nonoverlapping(COPY_SOURCE as *const u8, COPY_DESTINATION as *mut u8, length);
        core::ptr::write_bytes((COPY_DESTINATION as *mut u8).add(length), 0, PAGE_SIZE - length);
    }
    set_special(COPY_DESTINATION, None);
    set_special(COPY_SOURCE, None);
}

/// Writes bytes to the start of a frame and zeros to the rest.
pub fn write(frame: Gfn, bytes: &[u8]) {
    let length = bytes.len().min(PAGE_SIZE);
    set_special(COPY_DESTINATION, Some(frame));
    // SAFETY: as for `fill`; the source is an ordinary slice.
    unsafe {
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), COPY_DESTINATION as *mut u8, length);
        core::ptr::write_bytes((COPY_DESTINATION as *mut u8).add(length), 0, PAGE_SIZE - length);
    }
    set_special(COPY_DESTINATION, None);
}

/// Returns the words of the kernel's stack from `stack` up that are addresses in its text: return
/// addresses of active functions, and perhaps stale ones.
pub fn callers(stack: u64) -> impl Iterator<Item = u64> {
    let (bottom, top) = (&raw const stack_bottom as u64, &raw const stack_top as u64);
    let text = &raw const text_start as u64..&raw const text_end as u64;
    let start = if (bottom..top).contains(&stack) { stack & !7 } else { top };
    (start..top)
        .step_by(8)
        // SAFETY: aligned words of the kernel's own stack, which is mapped from bottom to top.
        .map(|address| unsafe { (address as *const u64).read_volatile() })
        .filter(move |word| text.contains(word))
        .take(32)
}
