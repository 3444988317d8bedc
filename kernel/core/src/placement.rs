//! Places regions in guest-physical memory: first those of fixed size, then shares of the rest.

use arrayvec::ArrayVec;
use cloister_caps::tables::{MAX_REGIONS, PerRegion, Region, RegionKind, Tables};
use cloister_caps::{Gfn, PAGE_SIZE, RegionId};
use core::fmt;

use crate::claims::ClaimedFrames;
use crate::memory::{FrameRange, FreeMemory, OwnedFrames};

/// Locates a region in guest-physical memory.
///
/// # Holding one proves
/// [`place_regions`] has put a region of the policy there, or there is none and it has no pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    frame: Gfn,
    pages: u64,
    length: u64,
}

impl Placement {
    /// Returns the region's frames, which are adjacent.
    #[must_use]
    pub fn frames(&self) -> FrameRange {
        FrameRange { start: self.frame.0, end: self.frame.0 + self.pages }
    }

    /// Returns the number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Returns the length of the region's content in bytes. What follows in the last page is not
    /// part of it.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Returns the frame of a page, if the region has it.
    #[must_use]
    #[inline]
    pub fn page(&self, index: u64) -> Option<RegionFrame> {
        (index < self.pages).then(|| RegionFrame(Gfn(self.frame.0 + index)))
    }

    /// Returns the placement of the region's first pages, at most `count`.
    #[must_use]
    pub fn shortened(self, count: u64) -> Placement {
        let pages = self.pages.min(count);
        Placement { pages, length: self.length.min(pages * PAGE_SIZE as u64), ..self }
    }
}

/// Names the frame of a page of a region.
///
/// # Holding one proves
/// A region of the policy has the page, so the kernel keeps nothing of its own in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionFrame(Gfn);

impl RegionFrame {
    /// Returns the number of the frame.
    #[must_use]
    #[inline]
    pub fn gfn(self) -> Gfn {
        self.0
    }
}

/// Locates all regions.
pub type Placements = PerRegion<Placement>;

/// Holds the provided regions: those whose placement Xen or the toolstack chose, and the kernel's
/// copy of the command line.
#[derive(Debug, Default)]
pub struct BootRegions {
    /// The boot module, and its length in bytes.
    pub module: Option<(ClaimedFrames, u64)>,
    /// The page with the kernel's copy of the command line, and the line's length in bytes.
    pub command_line: Option<(OwnedFrames, u64)>,
    /// The page of the XenStore ring.
    pub xenstore: Option<ClaimedFrames>,
}

/// Says why regions cannot be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// A region needs more pages than the largest free range has.
    TooLittleMemory {
        /// The region.
        region: RegionId,
        /// Adjacent pages that it needs.
        needs: u64,
        /// Pages in the largest free range.
        largest: u64,
    },
    /// The machine provides no XenStore page.
    NoXenStore,
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlacementError::TooLittleMemory { region, needs, largest } => write!(
                f,
                "too little memory: {region} needs {needs} adjacent pages; the largest free range has {largest}; give the guest more memory"
            ),
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
    let mut placements = Placements::default();
    for (id, region) in tables.regions().with_ids() {
        if region.kind == RegionKind::Fixed {
            placements[id] = take(id, u64::from(region.amount), MIN_ALIGNED_FIXED, free)?;
        } else if region.kind != RegionKind::Share {
            placements[id] = provided(&region, boot_regions)?;
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
fn take(region: RegionId, pages: u64, min_aligned: u64, free: &mut FreeMemory) -> Result<Placement, PlacementError> {
    let largest = free.largest();
    let aligned = if pages >= min_aligned { free.take_aligned(pages, PAGES_PER_LARGE) } else { None };
    let frames = aligned.or_else(|| free.take(pages)).ok_or(PlacementError::TooLittleMemory {
        region,
        needs: pages,
        largest,
    })?;
    Ok(Placement { frame: frames.first(), pages, length: pages * PAGE_SIZE as u64 })
}

/// Returns the placement of a region that is not taken from free memory.
fn provided(region: &Region, boot_regions: &BootRegions) -> Result<Placement, PlacementError> {
    let placed = match region.kind {
        RegionKind::Module => boot_regions.module.as_ref().map(|(frames, length)| (frames.range(), *length)),
        RegionKind::CommandLine => boot_regions.command_line.as_ref().map(|(frames, length)| (frames.range(), *length)),
        RegionKind::XenStoreRing => {
            let page = boot_regions.xenstore.as_ref().ok_or(PlacementError::NoXenStore)?;
            Some((page.range(), PAGE_SIZE as u64))
        }
        RegionKind::ImageData | RegionKind::Fixed | RegionKind::Share => {
            Some((FrameRange::touching(region.image_address, region.image_length), region.image_length))
        }
    };
    Ok(placed.map_or_else(Placement::default, |(frames, length)| Placement {
        frame: Gfn(frames.start),
        pages: frames.count(),
        length,
    }))
}

/// Returns the number of frames to keep free for page tables, of `free` frames.
///
/// For each service that is a table of every level, and some for its program, stack and queues.
/// Shares and the boot module need one more for each 512 pages.
#[must_use]
pub fn page_table_reserve(tables: &Tables<'_>, free: u64) -> u64 {
    let large: u64 = tables
        .mappings()
        .iter()
        .map(|mapping| tables.region(mapping.region))
        .map(|region| match region.kind {
            RegionKind::Share => 3 + free.min(u64::from(region.maximum)) / PAGES_PER_LARGE,
            RegionKind::Module => 3,
            _ => 0,
        })
        .sum();
    16 + 8 * tables.services().len() as u64 + large
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
    let spare = free.free_frames().saturating_sub(reserve).saturating_sub(minima);
    let mut order: ArrayVec<(u64, RegionId), MAX_REGIONS> = ArrayVec::new();
    for (id, region) in tables.regions().with_ids().filter(|(_, region)| is_share(region)) {
        let wants = u64::from(region.minimum) + spare * u64::from(region.amount) / weights.max(1);
        let share = (wants.clamp(u64::from(region.minimum), u64::from(region.maximum)).max(1), id);
        // The largest first: small ones fit into the gaps that are left.
        order.insert(order.partition_point(|other| *other > share), share);
    }
    for (wants, id) in order {
        let minimum = u64::from(tables.region(id).minimum).max(1);
        placements[id] = take(id, wants.min(free.largest()).max(minimum), PAGES_PER_LARGE, free)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::{MAPPING, REGION, SERVICE, tables};
    use cloister_caps::tables::raw;

    #[test]
    fn the_reserve_grows_with_services_and_with_what_each_maps_of_large_regions() {
        let reserve = |services: usize, regions: &[raw::Region], free| {
            let mappings: Vec<_> = (0..).zip(regions).map(|(region, _)| raw::Mapping { region, ..MAPPING }).collect();
            page_table_reserve(&tables(&vec![SERVICE; services], &[], regions, &mappings), free)
        };
        let share = raw::Region { kind: RegionKind::Share, maximum: 1024, ..REGION };
        let module = raw::Region { kind: RegionKind::Module, ..REGION };
        assert_eq!((reserve(1, &[], 9), reserve(6, &[], 9)), (24, 64));
        assert_eq!(reserve(1, &[REGION], 1 << 20), 24, "a small region needs no more");
        assert_eq!(reserve(1, &[module], 1 << 20), 27);
        // It cannot grow past its maximum, nor past what is free.
        assert_eq!((reserve(1, &[share], 1 << 20), reserve(1, &[share], 1023)), (24 + 3 + 2, 24 + 3 + 1));
        assert_eq!(reserve(1, &[share, module, share], 1 << 20), 24 + 5 + 3 + 5);
    }
}
