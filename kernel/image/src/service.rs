//! Builds the address spaces of services from the capability tables, and loads their programs at
//! boot and at each restart.

use arrayvec::ArrayVec;
use cloister_caps::tables::{Access, MAX_SERVICES, PerService, Segment, Tables};
use cloister_caps::{Gfn, PAGE_SIZE, ServiceId};
use cloister_kernel_core::clearing::{cleared_at_boot, cleared_at_restart};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{Placement, Placements};

use crate::paging::{self, PagingError, Root, UserPages};
use crate::trap_frame::{self, TrapFrame};

/// The most loadable segments of all services together.
const MAX_SEGMENTS: usize = 4 * MAX_SERVICES;

/// Bit 1 of a segment's flags: writable.
const WRITABLE: u8 = 2;
/// Bit 2 of a segment's flags: executable.
const EXECUTABLE: u8 = 4;

/// Holds what the machine needs to run and restart services.
pub struct Services {
    tables: Tables<'static>,
    /// The value of CR3 for each service.
    roots: PerService<u64>,
    /// The writable segments, each with the first frame of the copy that its service uses.
    writable: ArrayVec<(Segment, Gfn), MAX_SEGMENTS>,
}

/// Returns the number of pages that `bytes` bytes take.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

/// Takes frames for the copies of writable segments.
///
/// # Errors
/// There are too few.
pub fn allocate_writable(
    tables: &Tables<'_>,
    free: &mut FreeMemory,
) -> Result<ArrayVec<(Segment, Gfn), MAX_SEGMENTS>, PagingError> {
    let mut writable = ArrayVec::new();
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE != 0) {
        let frame = free.take(pages(segment.memory_size).max(1)).ok_or(PagingError::NoMemory)?;
        writable.try_push((segment, frame)).map_err(|_| PagingError::NoMemory)?;
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
    free: &mut FreeMemory,
    placements: &Placements,
    writable: ArrayVec<(Segment, Gfn), MAX_SEGMENTS>,
) -> Result<Services, PagingError> {
    // In the order of the services.
    let mut roots: ArrayVec<Root, MAX_SERVICES> = ArrayVec::new();
    for _ in tables.services().iter() {
        roots.push(kernel.for_service(free)?);
    }
    for segment in tables.segments().iter().filter(|segment| segment.flags & WRITABLE == 0) {
        let kind = if segment.flags & EXECUTABLE != 0 { UserPages::Text } else { UserPages::Constant };
        let frame = Gfn(FrameRange::touching(segment.image_address, 1).start);
        let root = &mut roots[segment.service.index()];
        root.map_user(free, segment.address, frame, pages(segment.memory_size), kind)?;
    }
    for (segment, frame) in &writable {
        let root = &mut roots[segment.service.index()];
        root.map_user(free, segment.address, *frame, pages(segment.memory_size), UserPages::Writable)?;
    }
    for mapping in tables.mappings().iter() {
        let Placement { frame, pages, .. } = placements[mapping.region];
        let kind = if mapping.access == Access::ReadWrite { UserPages::Writable } else { UserPages::Constant };
        roots[mapping.service.index()].map_user(free, mapping.address, frame, pages, kind)?;
    }
    let mut addresses = PerService::default();
    tables.services().ids().zip(&roots).for_each(|(service, root)| addresses[service] = root.address());
    Ok(Services { tables, roots: addresses, writable })
}

impl Services {
    /// Returns the value of CR3 for a service.
    pub fn root(&self, service: ServiceId) -> u64 {
        self.roots[service]
    }

    /// Clears the regions that [`cleared_at_boot`] names.
    pub fn clear_at_boot(&self, placements: &Placements) {
        cleared_at_boot(&self.tables).for_each(|region| clear(&placements[region]));
    }

    /// Clears the regions of a service for its restart.
    pub fn clear_at_restart(&self, service: ServiceId, placements: &Placements) {
        cleared_at_restart(&self.tables, service).for_each(|region| clear(&placements[region]));
    }

    /// Loads a service's program: its writable segments from the image, and its registers for a
    /// start at its entry.
    pub fn load(&self, service: ServiceId) {
        for (segment, frame) in self.writable.iter().filter(|(segment, _)| segment.service == service) {
            for page in 0..pages(segment.memory_size) {
                let done = page * PAGE_SIZE as u64;
                let left = segment.file_size.saturating_sub(done) as usize;
                paging::fill(Gfn(frame.0 + page), segment.image_address + done, left);
            }
        }
        let record = self.tables.service(service);
        if let Some(frame) = trap_frame::of(service.index() as u8) {
            *frame = TrapFrame::start(record.entry, record.stack_top);
        }
    }
}

/// Fills a region with zeros.
fn clear(placement: &Placement) {
    for page in 0..placement.pages {
        paging::fill(Gfn(placement.frame.0 + page), 0, 0);
    }
}
