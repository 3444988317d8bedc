//! Decides which regions are filled with zeros, at boot and at a restart.

use cloister_caps::tables::{Access, RegionKind, Tables};
use cloister_caps::{RegionId, ServiceId};

/// Returns the regions that are cleared at boot: those of fixed size, because queues must begin
/// with zeros, and granted shares, so that a peer reads nothing that was in the memory before. The
/// owner of such a region learns that it is clear
/// ([`region::FRESH`](cloister_caps::abi::region::FRESH)).
///
/// A share that is not granted stays as Xen gave it, scrubbed of what other domains left. To clear
/// hundreds of megabytes would take most of the boot.
pub fn cleared_at_boot<'t>(tables: &Tables<'t>) -> impl Iterator<Item = RegionId> + use<'t> {
    let grants = tables.grants();
    let granted = move |id: RegionId| grants.iter().any(|rule| rule.region == id);
    let cleared = tables.regions().with_ids().filter(move |(id, region)| {
        region.kind == RegionKind::Fixed || region.kind == RegionKind::Share && granted(*id)
    });
    cleared.map(|(id, _)| id)
}

/// Returns the regions that are cleared when a service restarts: those that it alone writes, except
/// kept ones.
pub fn cleared_at_restart<'t>(tables: &Tables<'t>, service: ServiceId) -> impl Iterator<Item = RegionId> + use<'t> {
    let tables = *tables;
    let written = tables.mappings().iter().filter(move |mapping| {
        let writes = mapping.service == service && mapping.access == Access::ReadWrite;
        writes && tables.region(mapping.region).clear_on_restart
    });
    written.map(|mapping| mapping.region)
}
