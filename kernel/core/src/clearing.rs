//! Decides which regions are filled with zeros, at boot and at a restart, and in which order a
//! service is restarted.

use cloister_caps::tables::{Access, RegionKind, Tables};
use cloister_caps::{RegionId, ServiceId};

/// Returns the regions that are cleared at boot: those of fixed size. Queues must begin with zeros,
/// and a peer must read nothing that was in the memory before; all that grant rules name is of
/// fixed size (`Tables::parse`). The owner of such a region learns that it is clear
/// ([`region::FRESH`](cloister_caps::abi::region::FRESH)).
///
/// A share stays as Xen gave it, scrubbed of what other domains left. To clear hundreds of
/// megabytes would take most of the boot.
pub fn cleared_at_boot<'t>(tables: &Tables<'t>) -> impl Iterator<Item = RegionId> + use<'t> {
    let fixed = tables.regions().with_ids().filter(|(_, region)| region.kind == RegionKind::Fixed);
    fixed.map(|(id, _)| id)
}

/// Says what the machine does next to restart a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartStep {
    /// Fill the region with zeros.
    Clear(RegionId),
    /// Load the program: its writable segments from the image, and its registers.
    Load,
}

/// Passes the steps of a restart to `perform`, in order: clear the memory that only this service
/// maps, then load its program as the image holds it.
pub fn for_each_restart_step(tables: &Tables<'_>, service: ServiceId, mut perform: impl FnMut(RestartStep)) {
    cleared_at_restart(tables, service).for_each(|region| perform(RestartStep::Clear(region)));
    perform(RestartStep::Load);
}

/// Returns the regions that are cleared when a service restarts: those marked `clear_on_restart`
/// that it may write. The policy compiler marks what the service alone maps and no grant rule
/// names, except kept regions.
fn cleared_at_restart<'t>(tables: &Tables<'t>, service: ServiceId) -> impl Iterator<Item = RegionId> + use<'t> {
    let tables = *tables;
    let written = tables.mappings().iter().filter(move |mapping| {
        let writes = mapping.service == service && mapping.access == Access::ReadWrite;
        writes && tables.region(mapping.region).clear_on_restart
    });
    written.map(|mapping| mapping.region)
}
