//! Builds the page tables, once, at boot, through the boot code's [`IdentityMap`].
//!
//! Then that map is dropped. After that no page table is mapped except the one for [`FIXMAP`].

use core::fmt;

use arrayvec::ArrayVec;
pub use cloister_caps::abi::KERNEL_OFFSET as OFFSET;
// Between any two of the uses below lies a page that is never mapped.
use cloister_caps::abi::KERNEL_FIXMAP as FIXMAP;
use cloister_caps::abi::KERNEL_HYPERCALL_PAGE;
use cloister_caps::tables::{MAX_SERVICES, PerService, Tables};
use cloister_caps::{Gfn, PAGE_SIZE};
use cloister_kernel_core::address_space::{PageAccess, SegmentCopy, ServicePages};
use cloister_kernel_core::boot::PhysicalMemory;
use cloister_kernel_core::memory::{FrameRange, FreeMemory, OwnedFrames};
use cloister_kernel_core::page_entries;
use cloister_kernel_core::placement::{PAGES_PER_LARGE, Placement, RegionFrame};
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::{MapToError, MappedPageTable, PageTableFrameMapping};
use x86_64::structures::paging::page_table::{PageTable, PageTableEntry};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, Page, PageSize, PageTableFlags as Flags, PhysFrame, Size1GiB, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::processor::NoExecute;

/// The shared-info page.
pub const SHARED_INFO: u64 = FIXMAP + 0x1000;
/// The console ring.
pub const CONSOLE: u64 = FIXMAP + 0x3000;
/// The grant table, up to eight frames.
pub const GRANT_TABLE: u64 = FIXMAP + 0x5000;
/// The address at which the frame to copy from is mapped during a copy.
const COPY_SOURCE: u64 = FIXMAP + 0xF000;
/// The address at which the frame to copy to is mapped during a copy.
const COPY_DESTINATION: u64 = FIXMAP + 0x11000;

/// The frame of the hypercall page: the first of the last GiB of the 64 that every 64-bit processor
/// can address.
///
/// Memory above 4 GiB is never used, so nothing else is here even in a guest of that size.
pub const HYPERCALL_FRAME: Gfn = Gfn(63 << 18);

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

static mut FIXMAP_TABLE: PageTable = PageTable::new();

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

// SAFETY: `FreeMemory` gives each frame once. The boot makes the only one of the image by
// `GuestMemory::divide`, of RAM that nothing else uses.
unsafe impl FrameAllocator<Size4KiB> for TableAllocator<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        Some(PhysFrame::containing_address(PhysAddr::new(self.0.take(1)?.first().0 * PAGE_SIZE as u64)))
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

/// Gives access to the boot code's identity map: the first 4 GiB of physical memory at their own
/// addresses.
///
/// # Holding one proves
/// The map is in force, and whoever borrows it exclusively is alone in using it. All page tables
/// are reached through it.
pub struct IdentityMap(());

impl IdentityMap {
    /// Creates the token.
    ///
    /// # Safety
    /// The boot code's page tables are in force, and this is called once.
    pub unsafe fn assume_active() -> IdentityMap {
        IdentityMap(())
    }

    /// Removes the map from the kernel's own address space, the only one that has it, and returns
    /// that. No page table can be changed afterwards.
    pub fn remove(mut self, KernelRoot(mut kernel): KernelRoot) -> AddressSpace {
        kernel.table(&mut self)[0].set_unused();
        let kernel = AddressSpace(kernel.0);
        switch(kernel);
        kernel
    }
}

impl PhysicalMemory for IdentityMap {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let end = address.checked_add(into.len() as u64);
        if address == 0 || end.is_none_or(|end| end > 1 << 32) {
            return false;
        }
        for (index, byte) in into.iter_mut().enumerate() {
            // SAFETY: the first 4 GiB are identity-mapped. Addresses without RAM read as ones.
            *byte = unsafe { (address as *const u8).wrapping_add(index).read_volatile() };
        }
        true
    }
}

/// Names an address space that the processor can use, as CR3 does.
///
/// # Holding one proves
/// It has the kernel's half, where all of the kernel's code and data are. The identity map is
/// removed: the first address space is made by [`IdentityMap::remove`], all others from that.
#[derive(Clone, Copy)]
pub struct AddressSpace(PhysFrame);

/// Owns the root table of an address space under construction.
///
/// Its tables are reached through the identity map, so every change needs that, too.
///
/// # Holding one proves
/// Its tables are whole, and nothing else changes them.
struct Root(PhysFrame);

impl Root {
    /// Creates an empty address space.
    ///
    /// # Errors
    /// There is no free frame.
    fn empty(identity: &mut IdentityMap, free: &mut FreeMemory) -> Result<Root, PagingError> {
        let frame = TableAllocator(free).allocate_frame().ok_or(PagingError::NoMemory)?;
        let mut root = Root(frame);
        root.table(identity).zero();
        Ok(root)
    }

    /// Returns the root table.
    fn table<'a>(&'a mut self, _: &'a mut IdentityMap) -> &'a mut PageTable {
        // SAFETY: the frame holds this root table and nothing else, and is identity-mapped. The
        // exclusive reference lasts no longer than those to `self` and the identity map.
        unsafe { &mut *(self.0.start_address().as_u64() as *mut PageTable) }
    }

    /// Maps pages from `address` on to `frames`.
    ///
    /// # Errors
    /// No frame is free for a table, or a page is mapped already.
    fn map(
        &mut self,
        identity: &mut IdentityMap,
        free: &mut FreeMemory,
        address: u64,
        frames: FrameRange,
        flags: Flags,
    ) -> Result<(), PagingError> {
        let parents = Flags::PRESENT | Flags::WRITABLE | (flags & Flags::USER_ACCESSIBLE);
        let pages = frames.count();
        let mut done = 0;
        while done < pages {
            let (to, from) = (address + done * PAGE_SIZE as u64, (frames.start + done) * PAGE_SIZE as u64);
            let large = (to | from).is_multiple_of(Size2MiB::SIZE) && pages - done >= PAGES_PER_LARGE;
            // SAFETY: the tables of a `Root` are whole, and the identity map is borrowed.
            let mut mapper = unsafe { MappedPageTable::new(self.table(identity), Identity) };
            done += if large {
                map_page::<Size2MiB>(&mut mapper, free, (to, from), flags, parents)?;
                PAGES_PER_LARGE
            } else {
                // Mapping the first page has made the page table. The others are written straight
                // into it, without a walk through the tables above.
                map_page::<Size4KiB>(&mut mapper, free, (to, from), flags, parents)?;
                1 + self.map_following(identity, (to, from), pages - done - 1, flags)?
            };
        }
        Ok(())
    }

    /// Maps the pages after `to`, which is mapped to `from`, to the frames after `from`: at most
    /// `pages`, up to the end of the page table. Returns their number.
    ///
    /// # Errors
    /// A page is mapped already.
    fn map_following(
        &mut self,
        identity: &mut IdentityMap,
        (to, from): (u64, u64),
        pages: u64,
        flags: Flags,
    ) -> Result<u64, PagingError> {
        let first = VirtAddr::new_truncate(to);
        let table = self.directory_entry(identity, first).addr().as_u64() as *mut [u64; ENTRIES];
        // SAFETY: it is the page table of a mapped page, is identity-mapped itself, and nothing
        // else refers to it. A page table consists of its entries only, each of which is a number
        // (`PageTableEntry` is transparent): the address of a page, and flags.
        let behind = unsafe { &mut (&mut *table)[usize::from(first.p1_index()) + 1..] };
        let count = behind.len().min(usize::try_from(pages).unwrap_or(usize::MAX));
        let first = from.wrapping_add(PAGE_SIZE as u64) | flags.bits();
        page_entries::write(behind.get_mut(..count).unwrap_or_default(), first, PAGE_SIZE as u64)
            .map_err(|used| PagingError::Overlap(to + (used as u64 + 1) * PAGE_SIZE as u64))?;
        Ok(count as u64)
    }

    /// Returns the entry for the page table of an address at which a page of 4 KiB is mapped.
    fn directory_entry<'a>(&'a mut self, identity: &'a mut IdentityMap, address: VirtAddr) -> &'a mut PageTableEntry {
        let mut entry = &mut self.table(identity)[address.p4_index()];
        for index in [address.p3_index(), address.p2_index()] {
            let table = entry.addr().as_u64() as *mut PageTable;
            // SAFETY: mapping the page has made this table. It is identity-mapped, and nothing else
            // refers to it.
            entry = unsafe { &mut (&mut *table)[index] };
        }
        entry
    }
}

/// Owns the root table of the kernel's own address space, the only one with the identity map.
///
/// # Holding one proves
/// It has the kernel's half.
pub struct KernelRoot(Root);

impl KernelRoot {
    /// Creates an address space for a service: with the kernel's half, and an empty lower half.
    ///
    /// # Errors
    /// There is no free frame.
    fn for_service(&mut self, identity: &mut IdentityMap, free: &mut FreeMemory) -> Result<Root, PagingError> {
        let mut root = Root::empty(identity, free)?;
        let kernel_half = self.0.table(identity)[511].clone();
        root.table(identity)[511] = kernel_half;
        Ok(root)
    }

    /// Maps the GiB from [`KERNEL_HYPERCALL_PAGE`] to that from [`HYPERCALL_FRAME`], for the kernel
    /// to execute, by one entry.
    ///
    /// # Errors
    /// No frame is free for a table, or the GiB is mapped already.
    pub fn map_hypercall_page(&mut self, identity: &mut IdentityMap, free: &mut FreeMemory) -> Result<(), PagingError> {
        // SAFETY: the tables of a `Root` are whole, and the identity map is borrowed.
        let mut mapper = unsafe { MappedPageTable::new(self.0.table(identity), Identity) };
        let addresses = (KERNEL_HYPERCALL_PAGE, HYPERCALL_FRAME.0 * PAGE_SIZE as u64);
        map_page::<Size1GiB>(&mut mapper, free, addresses, KERNEL_FLAGS, Flags::PRESENT | Flags::WRITABLE)
    }
}

/// Owns the root tables of all services, in the order of the services.
///
/// # Holding one proves
/// Each has the kernel's half, and maps nothing else but pages that the capability tables give its
/// service.
pub struct ServiceRoots(ArrayVec<Root, MAX_SERVICES>);

impl ServiceRoots {
    /// Creates an address space for each service, which has no pages yet.
    ///
    /// # Errors
    /// There are too few free frames.
    pub fn new(
        tables: &Tables<'_>,
        kernel: &mut KernelRoot,
        identity: &mut IdentityMap,
        free: &mut FreeMemory,
    ) -> Result<ServiceRoots, PagingError> {
        let mut roots = ArrayVec::new();
        for _ in tables.services().iter() {
            roots.push(kernel.for_service(identity, free)?);
        }
        Ok(ServiceRoots(roots))
    }

    /// Maps pages in the address space of their service.
    ///
    /// # Errors
    /// No frame is free for a table, or a page is mapped already.
    pub fn map(
        &mut self,
        identity: &mut IdentityMap,
        free: &mut FreeMemory,
        pages: &ServicePages,
    ) -> Result<(), PagingError> {
        let flags = Flags::PRESENT
            | Flags::USER_ACCESSIBLE
            | match pages.access() {
                PageAccess::Read => Flags::NO_EXECUTE,
                PageAccess::Execute => Flags::empty(),
                PageAccess::Write => Flags::NO_EXECUTE | Flags::WRITABLE,
            };
        self.0[pages.service().index()].map(identity, free, pages.address(), pages.frames(), flags)
    }

    /// Returns the address space of each service. That of `kernel` proves that the identity map is
    /// removed.
    pub fn address_spaces(self, tables: &Tables<'_>, kernel: AddressSpace) -> PerService<AddressSpace> {
        let mut spaces = PerService::new([kernel; MAX_SERVICES]);
        tables.services().ids().zip(&self.0).for_each(|(service, root)| spaces[service] = AddressSpace(root.0));
        spaces
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

/// Builds the kernel's half and puts it in force. The identity map stays until
/// [`IdentityMap::remove`].
///
/// `tables` is the physical address of the capability tables, and their length in bytes.
///
/// # Errors
/// There is no free frame.
pub fn build_kernel(
    identity: &mut IdentityMap,
    free: &mut FreeMemory,
    tables: (u64, u64),
    _: NoExecute,
) -> Result<KernelRoot, PagingError> {
    let mut root = Root::empty(identity, free)?;
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
        root.map(identity, free, start, FrameRange::touching(start - OFFSET, end - start), flags)?;
    }
    let (address, length) = tables;
    root.map(identity, free, address + OFFSET, FrameRange::touching(address, length), read_only)?;
    // The page table of the fixmap is a static of ours. Mapping a page makes the tables
    // above it.
    root.map(identity, free, FIXMAP, FrameRange { start: 0, end: 1 }, WRITABLE)?;
    let table = PhysAddr::new(physical(&raw const FIXMAP_TABLE));
    let entry = root.directory_entry(identity, VirtAddr::new_truncate(FIXMAP));
    entry.set_addr(table, Flags::PRESENT | Flags::WRITABLE);
    // The boot code's PDPT maps the first 4 GiB in its first four entries.
    let boot_directory = physical(&raw const boot_tables) + PAGE_SIZE as u64;
    root.table(identity)[0].set_addr(PhysAddr::new(boot_directory), Flags::PRESENT | Flags::WRITABLE);
    // SAFETY: it has the kernel's half, so nothing that the kernel refers to moves, and it has the
    // identity map, which the boot code still uses. NX is on, as `NoExecute` proves.
    unsafe { Cr3::write(root.0, Cr3Flags::empty()) }
    Ok(KernelRoot(root))
}

/// Puts an address space in force.
pub fn switch(space: AddressSpace) {
    // SAFETY: it has the kernel's half, so nothing that the kernel refers to moves. Nothing refers
    // to the lower half: the identity map is removed.
    unsafe { Cr3::write(space.0, Cr3Flags::empty()) }
}

/// Maps `frame` at an address of the fixmap, or unmaps what is there.
fn set_fixed(address: u64, frame: Option<Gfn>) {
    let index = (address - FIXMAP) as usize / PAGE_SIZE;
    let table = &raw mut FIXMAP_TABLE;
    // SAFETY: there is one processor, and only this function makes references to the table.
    let table = unsafe { &mut *table };
    match frame {
        Some(frame) => table[index].set_addr(PhysAddr::new_truncate(frame.0 * PAGE_SIZE as u64), WRITABLE),
        None => table[index].set_unused(),
    }
    x86_64::instructions::tlb::flush(VirtAddr::new_truncate(address));
}

/// Maps a page that Xen shares. It is never unmapped.
///
/// # Safety
/// `address` is one of the addresses above that are for such pages, and nothing but Xen uses the
/// frame.
pub unsafe fn map_fixed(address: u64, frame: Gfn) {
    set_fixed(address, Some(frame));
}

/// Copies a writable segment from the image to the frames that its service uses.
pub fn load_segment(copy: &mut SegmentCopy) {
    for content in copy.content() {
        if content.length > 0 {
            set_fixed(COPY_SOURCE, Some(content.from));
        }
        // SAFETY: the frame is the holder's alone. The source is mapped if `length` is not 0, and
        // it is another frame: what lies in the image was never free.
        unsafe { fill_frame(content.to, COPY_SOURCE as *const u8, content.length) };
        set_fixed(COPY_SOURCE, None);
    }
}

/// Writes bytes to the start of the first of `frames`, and zeros to the rest of that frame.
pub fn write_frame(frames: &mut OwnedFrames, bytes: &[u8]) {
    // SAFETY: the frame is the holder's alone. The source is an ordinary slice.
    unsafe { fill_frame(frames.first(), bytes.as_ptr(), bytes.len().min(PAGE_SIZE)) };
}

/// Fills a region with zeros.
pub fn clear_region(region: &Placement) {
    (0..region.pages()).filter_map(|page| region.page(page)).for_each(clear_frame);
}

/// Fills a page of a region with zeros.
pub fn clear_frame(frame: RegionFrame) {
    // SAFETY: the kernel does not refer to memory of regions, and no byte is copied.
    unsafe { fill_frame(frame.gfn(), core::ptr::dangling(), 0) };
}

/// Copies `length` bytes, at most a page, to the start of a frame, and fills the rest with zeros.
///
/// The frame is mapped only meanwhile.
///
/// # Safety
/// `length` bytes can be read at `source`, which is not in the frame. The kernel does not refer to
/// memory in the frame.
unsafe fn fill_frame(frame: Gfn, source: *const u8, length: usize) {
    let destination = COPY_DESTINATION as *mut u8;
    set_fixed(COPY_DESTINATION, Some(frame));
    // SAFETY: the address is mapped to the whole frame, and nothing else uses it: services do not
    // run while the kernel does. The rest is the caller's promise.
    unsafe {
        core::ptr::copy_nonoverlapping(source, destination, length);
        core::ptr::write_bytes(destination.add(length), 0, PAGE_SIZE - length);
    }
    set_fixed(COPY_DESTINATION, None);
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
