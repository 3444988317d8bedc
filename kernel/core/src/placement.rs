//! Places regions in guest-physical memory: first those of fixed size, then shares of the rest.

use arrayvec::ArrayVec;
use cloister_caps::tables::{MAX_REGIONS, Region, RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE};
use core::fmt;

use crate::memory::{FrameRange, FreeMemory};

/// Locates a region in guest-physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The first frame of the region.
    pub frame: Gfn,
    /// Number of frames. All are adjacent.
    pub pages: u64,
    /// Length of the region's content in bytes. What follows in the last page is not part of it.
    pub length: u64,
}

/// Locates all regions, by index.
pub type Placements = ArrayVec<Placement, MAX_REGIONS>;

/// Locates the provided regions: those whose placement Xen or the toolstack chose.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootRegions {
    /// Physical address and length in bytes of the boot module.
    pub module: Option<(u64, u64)>,
    /// The page with the kernel's copy of the command line, and the line's length in bytes.
    pub command_line: Option<(Gfn, u64)>,
    /// The page of the XenStore ring.
    pub xenstore: Option<Gfn>,
}

/// Says why regions cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// A region needs more adjacent pages than are free.
    TooLittleMemory {
        /// Index of the region.
        region: usize,
        /// Adjacent pages that it needs.
        needs: u64,
        /// Pages in the largest free range.
        free: u64,
    },
    /// The boot module does not start at a page boundary.
    ModuleUnaligned,
    /// The machine provides no XenStore page.
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

/// Places every region of the tables.
///
/// Shares leave `reserve` pages free, for page tables and whatever else the kernel builds.
///
/// # Errors
/// A fixed region or the minimum of a share does not fit, or the machine does not provide what a
/// region needs.
pub fn place_regions(
    tables: &Tables<'_>,
    free: &mut FreeMemory,
    boot_regions: &BootRegions,
    reserve: u64,
) -> Result<Placements, PlacementError> {
    let mut placements: Placements = tables.regions().iter().map(|_| Placement::default()).collect();
    for (index, region) in tables.regions().iter().enumerate() {
        if region.kind == RegionKind::Fixed {
            placements[index] = take(index, u64::from(region.amount), MIN_ALIGNED_FIXED, free)?;
        } else if region.kind != RegionKind::Share {
            placements[index] = provided(&region, boot_regions)?;
        }
    }
    shares(tables, free, reserve, &mut placements)?;
    Ok(placements)
}

/// Pages of 4 KiB in a large page of 2 MiB, which one entry of a page directory maps.
pub const PAGES_PER_LARGE: u64 = 512;
/// Fixed regions of at least this many pages begin at a multiple of [`PAGES_PER_LARGE`]. Pools have
/// this size.
///
/// Xen looks a page up each time a back end uses it. If the pool begins with an entry of Xen's own
/// page directory from which no page was taken, Xen finds the page one table sooner.
pub const MIN_ALIGNED_FIXED: u64 = PAGES_PER_LARGE / 4;

/// Takes adjacent pages for a region.
///
/// From `min_aligned` pages on, they begin at a multiple of [`PAGES_PER_LARGE`] if such a range is
/// free, so that few entries map a large region.
fn take(region: usize, pages: u64, min_aligned: u64, free: &mut FreeMemory) -> Result<Placement, PlacementError> {
    let largest = free.largest();
    let aligned = if pages >= min_aligned { free.take_aligned(pages, PAGES_PER_LARGE) } else { None };
    let frames = aligned.or_else(|| free.take(pages)).ok_or(PlacementError::TooLittleMemory {
        region,
        needs: pages,
        free: largest,
    })?;
    Ok(Placement { frame: frames.first(), pages, length: pages * PAGE_SIZE as u64 })
}

/// Returns the placement of a region that is not taken from free memory.
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

/// Returns the placement of `length` bytes from `address`.
fn bytes_at(address: u64, length: u64) -> Placement {
    let frames = FrameRange::touching(address, length);
    Placement { frame: Gfn(frames.start), pages: frames.count(), length }
}

/// Places the shares: each has its minimum, and a part of the spare memory by its weight, up to its
/// maximum.
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
        // The largest first: small ones fit into the gaps that are left.
        order.insert(order.partition_point(|other| *other > share), share);
    }
    for (wants, index) in order {
        let minimum = tables.regions().get(index).map_or(1, |region| u64::from(region.minimum)).max(1);
        placements[index] = take(index, wants.min(free.largest()).max(minimum), PAGES_PER_LARGE, free)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message is the last line on the console of an image that cannot start.
    #[test]
    fn an_error_says_what_is_missing_and_how_much() {
        let memory = PlacementError::TooLittleMemory { region: 7, needs: 300, free: 20 }.to_string();
        assert!(["region 7 ", "300 adjacent", "20 are free"].iter().all(|part| memory.contains(part)), "{memory}");
        assert!(PlacementError::ModuleUnaligned.to_string().contains("page boundary"));
        assert!(PlacementError::NoXenStore.to_string().contains("XenStore"));
    }
}
