//! Builds the address spaces of services from the capability tables, and loads their programs at
//! boot and at each restart.

use cloister_caps::ServiceId;
use cloister_caps::tables::{PerService, Tables};
use cloister_kernel_core::address_space::{SegmentCopies, SegmentCopy, image_pages, region_pages};
use cloister_kernel_core::clearing::{RestartStep, cleared_at_boot, for_each_restart_step};
use cloister_kernel_core::memory::FreeMemory;
use cloister_kernel_core::placement::Placements;

use crate::paging::{self, AddressSpace, IdentityMap, KernelRoot, PagingError, ServiceRoots};
use crate::trap_frame::TrapFrame;

/// Holds what the machine needs to run and restart services.
pub struct Services {
    tables: Tables<'static>,
    /// The address space of each service.
    address_spaces: PerService<AddressSpace>,
    /// The writable segments of all programs.
    copies: SegmentCopies,
}

/// Builds every service's address space, and removes the identity map.
///
/// # Errors
/// There are too few free frames, or the tables map an address twice.
pub fn build(
    tables: Tables<'static>,
    mut kernel: KernelRoot,
    mut identity: IdentityMap,
    free: &mut FreeMemory,
    placements: &Placements,
    copies: SegmentCopies,
) -> Result<Services, PagingError> {
    let mut roots = ServiceRoots::new(&tables, &mut kernel, &mut identity, free)?;
    let copied = copies.iter().map(SegmentCopy::pages);
    for pages in image_pages(&tables).chain(copied).chain(region_pages(&tables, placements)) {
        roots.map(&mut identity, free, &pages)?;
    }
    let address_spaces = roots.address_spaces(&tables, identity.remove(kernel));
    Ok(Services { tables, address_spaces, copies })
}

impl Services {
    /// Returns the address space of a service.
    pub fn address_space(&self, service: ServiceId) -> AddressSpace {
        self.address_spaces[service]
    }

    /// Clears the regions that [`cleared_at_boot`] names.
    pub fn clear_at_boot(&self, placements: &Placements) {
        cleared_at_boot(&self.tables).for_each(|region| paging::clear_region(&placements[region]));
    }

    /// Restarts a service: clears the memory that only it maps, and loads its program.
    pub fn restart(&mut self, service: ServiceId, placements: &Placements, frame: &mut TrapFrame) {
        let tables = self.tables;
        for_each_restart_step(&tables, service, |step| match step {
            RestartStep::Clear(region) => paging::clear_region(&placements[region]),
            RestartStep::Load => self.load(service, frame),
        });
    }

    /// Loads a service's program: its writable segments from the image, and its registers for a
    /// start at its entry.
    pub fn load(&mut self, service: ServiceId, frame: &mut TrapFrame) {
        let own = self.copies.iter_mut().filter(|copy| copy.pages().service() == service);
        own.for_each(paging::load_segment);
        *frame = TrapFrame::start(&self.tables, service);
    }
}
