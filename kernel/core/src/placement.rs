//! Where every region goes: fixed ones first, then the shares of what is left.

use arrayvec::ArrayVec;
use cloister_caps::tables::{MAX_REGIONS, Region, RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE};
use core::fmt;

use crate::memory::{FrameRange, FreeMemory};

/// Where a region is in guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// Its first frame.
    pub frame: Gfn,
    /// Frames, all adjacent.
    pub pages: u64,
    /// Bytes that mean something; the rest of the last page is not the region's content.
    pub length: u64,
}

/// The places of all regions, by index.
pub type Placements = ArrayVec<Placement, MAX_REGIONS>;

/// What the machine gave: regions whose place is not ours to choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootRegions {
    /// The boot module's address and length.
    pub module: Option<(u64, u64)>,
    /// The page that holds the copied command line, and the line's length.
    pub command_line: Option<(Gfn, u64)>,
    /// The XenStore ring.
    pub xenstore: Option<Gfn>,
}

/// Why the regions cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// There is too little memory. The region by index, the pages it needs, and the pages there are.
    TooLittleMemory {
        /// Index of the region.
        region: usize,
        /// Pages it needs.
        needs: u64,
        /// The most adjacent pages that are free.
        free: u64,
    },
    /// The boot module does not start at a page boundary.
    ModuleUnaligned,
    /// The machine has no XenStore page.
    NoXenStore,
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlacementError::TooLittleMemory { region, needs, free } => write!(
                f,
                "too little memory: region {region} needs {needs} adjacent pages, {free} are free; give the guest more memory"
            ),
            PlacementError::ModuleUnaligned => write!(f, "the boot module does not start at a page boundary"),
            PlacementError::NoXenStore => write!(f, "the machine gives no XenStore page, and the policy needs one"),
        }
    }
}

/// Places every region.
///
/// `reserve` pages are kept free of shares, for page tables and what else the kernel builds.
///
/// # Errors
/// A fixed region or a share's minimum does not fit, or the machine does not give what a region needs.
pub fn place_regions(
    tables: &Tables<'_>,
    free: &mut FreeMemory,
    boot_regions: &BootRegions,
    reserve: u64,
) -> Result<Placements, PlacementError> {
    let mut placements: Placements = tables.regions().iter().map(|_| Placement::default()).collect();
    for (index, region) in tables.regions().iter().enumerate() {
        if region.kind == RegionKind::Fixed {
            placements[index] = take(index, u64::from(region.amount), POOL, free)?;
        } else if region.kind != RegionKind::Share {
            placements[index] = provided(&region, boot_regions)?;
        }
    }
    shares(tables, free, reserve, &mut placements)?;
    Ok(placements)
}

/// Pages that one entry of a page directory maps, if they are aligned to as many.
pub const LARGE: u64 = 512;
/// A fixed region of so many pages, as a pool has, begins where an entry of Xen's own directory does, of which nothing was taken:
/// Xen looks a page up at each use that a back end makes of it, and finds it a table sooner.
pub const POOL: u64 = LARGE / 4;

/// Takes adjacent pages; so many as `aligned` or more at a multiple of [`LARGE`], if that is to be had: what is large is best mapped
/// by few entries, and otherwise by many.
fn take(region: usize, pages: u64, aligned: u64, free: &mut FreeMemory) -> Result<Placement, PlacementError> {
    let largest = free.largest();
    let aligned = if pages >= aligned { free.take_aligned(pages, LARGE) } else { None };
    let frame = aligned.or_else(|| free.take(pages)).ok_or(PlacementError::TooLittleMemory {
        region,
        needs: pages,
        free: largest,
    })?;
    Ok(Placement { frame, pages, length: pages * PAGE_SIZE as u64 })
}

fn provided(region: &Region, boot_regions: &BootRegions) -> Result<Placement, PlacementError> {
    match region.kind {
        RegionKind::Module => match boot_regions.module {
            Some((address, _)) if !address.is_multiple_of(PAGE_SIZE as u64) => Err(PlacementError::ModuleUnaligned),
            Some((address, length)) => Ok(bytes_at(address, length)),
            None => Ok(Placement::default()),
        },
        RegionKind::CommandLine => Ok(boot_regions
            .command_line
            .map_or_else(Placement::default, |(frame, length)| Placement { frame, pages: 1, length })),
        RegionKind::XenStoreRing => {
            let frame = boot_regions.xenstore.ok_or(PlacementError::NoXenStore)?;
            Ok(Placement { frame, pages: 1, length: PAGE_SIZE as u64 })
        }
        RegionKind::ImageData | RegionKind::Fixed | RegionKind::Share => {
            Ok(bytes_at(region.image_address, region.image_length))
        }
    }
}

fn bytes_at(address: u64, length: u64) -> Placement {
    let frames = FrameRange::touching(address, length);
    Placement { frame: Gfn(frames.start), pages: frames.count(), length }
}

fn shares(
    tables: &Tables<'_>,
    free: &mut FreeMemory,
    reserve: u64,
    placements: &mut Placements,
) -> Result<(), PlacementError> {
    let is_share = |region: &Region| region.kind == RegionKind::Share;
    let weights: u64 = tables.regions().iter().filter(is_share).map(|region| u64::from(region.amount)).sum();
    let minima: u64 = tables.regions().iter().filter(is_share).map(|region| u64::from(region.minimum)).sum();
    let spare = free.total().saturating_sub(reserve).saturating_sub(minima);
    let mut order: ArrayVec<(u64, usize), MAX_REGIONS> = ArrayVec::new();
    for (index, region) in tables.regions().iter().enumerate().filter(|(_, region)| is_share(region)) {
        let wants = u64::from(region.minimum) + spare * u64::from(region.amount) / weights.max(1);
        let share = (wants.clamp(u64::from(region.minimum), u64::from(region.maximum)).max(1), index);
        // The largest first: the small fit in what is left between.
        order.insert(order.partition_point(|other| *other > share), share);
    }
    for (wants, index) in order {
        let minimum = tables.regions().get(index).map_or(1, |region| u64::from(region.minimum)).max(1);
        placements[index] = take(index, wants.min(free.largest()).max(minimum), LARGE, free)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is the last line of a machine that cannot start.
    #[test]
    fn an_error_says_what_is_missing_and_how_much() {
        let memory = PlacementError::TooLittleMemory { region: 7, needs: 300, free: 20 }.to_string();
        assert!(["region 7 ", "300 adjacent", "20 are free"].iter().all(|part| memory.contains(part)), "{memory}");
        assert!(PlacementError::ModuleUnaligned.to_string().contains("page boundary"));
        assert!(PlacementError::NoXenStore.to_string().contains("XenStore"));
    }
}
