//! Builds the address spaces of services from the capability tables, and loads their programs at
//! boot and at each restart.

use arrayvec::ArrayVec;
use cloister_caps::tables::{Access, MAX_SERVICES, PerService, Segment, Tables};
use cloister_caps::{PAGE_SIZE, ServiceId};
use cloister_kernel_core::clearing::{cleared_at_boot, cleared_at_restart};
use cloister_kernel_core::memory::{FrameRange, FreeMemory, OwnedFrames};
use cloister_kernel_core::placement::Placements;

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
    address_spaces: PerService<AddressSpace>,
    /// The writable segments, each with the copy that its service uses.
    writable: WritableSegments,
}

/// Holds writable segments, each with the frames of the copy that its service uses.
pub type WritableSegments = ArrayVec<(Segment, OwnedFrames), MAX_SEGMENTS>;

/// Returns the number of pages that `bytes` bytes take.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
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
    // In the order of the services.
    let mut roots: ArrayVec<Root, MAX_SERVICES> = ArrayVec::new();
    for _ in tables.services().iter() {
        roots.push(kernel.for_service(identity, free)?);
    }
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE == 0) {
        let kind = if segment.flags & EXECUTABLE != 0 { UserPages::Text } else { UserPages::Constant };
        let start = FrameRange::touching(segment.image_address, 1).start;
        let frames = FrameRange { start, end: start + pages(segment.memory_size) };
        roots[segment.service.index()].map_user(identity, free, segment.address, frames, kind)?;
    }
    for (segment, frames) in &writable {
        let root = &mut roots[segment.service.index()];
        root.map_user(identity, free, segment.address, frames.range(), UserPages::Writable)?;
    }
    for mapping in tables.mappings().iter() {
        let kind = if mapping.access == Access::ReadWrite { UserPages::Writable } else { UserPages::Constant };
        let frames = placements[mapping.region].frames();
        roots[mapping.service.index()].map_user(identity, free, mapping.address, frames, kind)?;
    }
    let mut address_spaces = PerService::new([kernel.address_space(); MAX_SERVICES]);
    tables.services().ids().zip(&roots).for_each(|(service, root)| address_spaces[service] = root.address_space());
    Ok(Services { tables, address_spaces, writable })
}

impl Services {
    /// Returns the address space of a service.
    pub fn address_space(&self, service: ServiceId) -> AddressSpace {
        self.address_spaces[service]
    }

    /// Clears the regions that [`cleared_at_boot`] names.
    pub fn clear_at_boot(&self, placements: &Placements) {
        cleared_at_boot(&self.tables).for_each(|region| paging::clear(&placements[region]));
    }

    /// Clears the regions of a service for its restart.
    pub fn clear_at_restart(&self, service: ServiceId, placements: &Placements) {
        cleared_at_restart(&self.tables, service).for_each(|region| paging::clear(&placements[region]));
    }

    /// Loads a service's program: its writable segments from the image, and its registers for a
    /// start at its entry.
    pub fn load(&mut self, service: ServiceId, frame: &mut TrapFrame) {
        for (segment, frames) in self.writable.iter_mut().filter(|(segment, _)| segment.service == service) {
            paging::fill(frames, segment.image_address, segment.file_size);
        }
        let record = self.tables.service(service);
        *frame = TrapFrame::start(record.entry, record.stack_top);
    }
}
