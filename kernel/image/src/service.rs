//! Builds the address spaces of services from the capability tables, and loads their programs at
//! boot and at each restart.

use arrayvec::ArrayVec;
use cloister_caps::PAGE_SIZE;
use cloister_caps::tables::{Access, MAX_SERVICES, RegionKind, Segment, Tables};
use cloister_kernel_core::memory::{FrameRange, FreeMemory, OwnedFrames};
use cloister_kernel_core::placement::{Placement, Placements};

use crate::paging::{self, AddressSpace, IdentityMap, PagingError, Root, UserPages};
use crate::trap_frame::TrapFrame;

/// The most loadable segments of all services together.
const MAX_SEGMENTS: usize = 4 * MAX_SERVICES;

/// Bit 1 of a segment's flags: writable.
const WRITABLE: u8 = 2;
/// Bit 2 of a segment's flags: executable.
const EXECUTABLE: u8 = 4;

/// Holds what the machine needs to run and restart services.
pub struct Services {
    tables: Tables<'static>,
    /// The address space of each service.
    address_spaces: ArrayVec<AddressSpace, MAX_SERVICES>,
    /// The writable segments, each with the copy that its service uses.
    writable: WritableSegments,
}

/// Holds writable segments, each with the frames of the copy that its service uses.
pub type WritableSegments = ArrayVec<(Segment, OwnedFrames), MAX_SEGMENTS>;

/// Returns the number of pages that `bytes` bytes take.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

/// Returns the number of frames to keep free for page tables.
///
/// For each service that is a table of every level, and some for its program, stack and queues.
/// Shares and the boot module need one more for each 512 pages.
pub fn page_table_reserve(tables: &Tables<'_>, free: u64) -> u64 {
    let large: u64 = tables
        .mappings()
        .iter()
        .filter_map(|mapping| tables.regions().get(usize::from(mapping.region)))
        .map(|region| match region.kind {
            RegionKind::Share => 3 + free.min(u64::from(region.maximum)) / 512,
            RegionKind::Module => 3,
            _ => 0,
        })
        .sum();
    16 + 8 * tables.services().len() as u64 + large
}

/// Takes frames for the copies of writable segments.
///
/// # Errors
/// There are too few.
pub fn allocate_writable(tables: &Tables<'_>, free: &mut FreeMemory) -> Result<WritableSegments, PagingError> {
    let mut writable = ArrayVec::new();
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE != 0) {
        let frames = free.take(pages(segment.memory_size).max(1)).ok_or(PagingError::NoMemory)?;
        writable.try_push((segment, frames)).map_err(|_| PagingError::NoMemory)?;
    }
    Ok(writable)
}

/// Builds every service's address space.
///
/// # Errors
/// There are too few free frames, or the tables map an address twice.
pub fn build(
    tables: Tables<'static>,
    kernel: &mut Root,
    identity: &mut IdentityMap,
    free: &mut FreeMemory,
    placements: &Placements,
    writable: WritableSegments,
) -> Result<Services, PagingError> {
    let mut roots: ArrayVec<Root, MAX_SERVICES> = ArrayVec::new();
    for _ in tables.services().iter() {
        roots.push(kernel.for_service(identity, free)?);
    }
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE == 0) {
        let kind = if segment.flags & EXECUTABLE != 0 { UserPages::Text } else { UserPages::Constant };
        let start = FrameRange::touching(segment.image_address, 1).start;
        let frames = FrameRange { start, end: start + pages(segment.memory_size) };
        roots[usize::from(segment.service)].map_user(identity, free, segment.address, frames, kind)?;
    }
    for (segment, frames) in &writable {
        let root = &mut roots[usize::from(segment.service)];
        root.map_user(identity, free, segment.address, frames.range(), UserPages::Writable)?;
    }
    for mapping in tables.mappings().iter() {
        let Placement { frame, pages, .. } = placements.get(usize::from(mapping.region)).copied().unwrap_or_default();
        let kind = if mapping.access == Access::ReadWrite { UserPages::Writable } else { UserPages::Constant };
        let frames = FrameRange { start: frame.0, end: frame.0 + pages };
        roots[usize::from(mapping.service)].map_user(identity, free, mapping.address, frames, kind)?;
    }
    Ok(Services { tables, address_spaces: roots.iter().map(Root::address_space).collect(), writable })
}

impl Services {
    /// Returns the address space of a service.
    pub fn address_space(&self, service: u8) -> Option<AddressSpace> {
        self.address_spaces.get(usize::from(service)).copied()
    }

    /// Clears regions at boot: those of fixed size, because queues must begin with zeros, and
    /// granted shares, so that a peer reads nothing that was in the memory before. The owner of
    /// such a region learns that it is clear
    /// ([`region::FRESH`](cloister_caps::abi::region::FRESH)).
    ///
    /// A share that is not granted stays as Xen gave it, scrubbed of what other domains left. To
    /// clear hundreds of megabytes would take most of the boot.
    pub fn clear_at_boot(&self, placements: &Placements) {
        let grants = self.tables.grants();
        for (index, (region, placement)) in self.tables.regions().iter().zip(placements).enumerate() {
            let granted = || grants.iter().any(|rule| usize::from(rule.region) == index);
            if region.kind == RegionKind::Fixed || region.kind == RegionKind::Share && granted() {
                paging::clear(placement);
            }
        }
    }

    /// Clears the regions of a service for its restart: those that it alone writes, except kept
    /// ones.
    pub fn clear_at_restart(&self, service: u8, placements: &Placements) {
        for mapping in self.tables.mappings().iter() {
            let index = usize::from(mapping.region);
            let (Some(region), Some(placement)) = (self.tables.regions().get(index), placements.get(index)) else {
                continue;
            };
            if mapping.service == service && mapping.access == Access::ReadWrite && region.clear_on_restart == 1 {
                paging::clear(placement);
            }
        }
    }

    /// Loads a service's program: its writable segments from the image, and its registers for a
    /// start at its entry.
    pub fn load(&mut self, service: u8, frame: &mut TrapFrame) {
        for (segment, frames) in self.writable.iter_mut().filter(|(segment, _)| segment.service == service) {
            paging::fill(frames, segment.image_address, segment.file_size);
        }
        if let Some(record) = self.tables.services().get(usize::from(service)) {
            *frame = TrapFrame::start(record.entry, record.stack_top);
        }
    }
}
