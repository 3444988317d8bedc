//! Tests the placement of the shipped policy's regions.

use cloister_caps::tables::{Region, RegionKind};
use cloister_caps::{PAGE_SIZE, RegionId};
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{
    BootRegions, MIN_ALIGNED_FIXED, PAGES_PER_LARGE, PlacementError, Placements, place_regions,
};

use crate::machine::{shipped, tables};

/// Returns the free frames of a guest with `mib` MiB of memory.
fn ram(mib: u64) -> FrameRange {
    FrameRange { start: 0x400, end: (mib << 20) / PAGE_SIZE as u64 }
}

/// Places the regions in `ram`. Returns each region with all placements, and its id.
fn placed(ram: FrameRange) -> Result<Vec<(Region, Placements, RegionId)>, PlacementError> {
    let tables = tables(&shipped());
    let mut free = FreeMemory::new();
    free.add(FrameRange { start: 7, end: 8 });
    let command_line = free.take(1).map(|page| (page, 40));
    free.add(ram);
    let mut claims = Claims::default();
    let mut claim = |owner, start, end| claims.claim(owner, FrameRange { start, end }).unwrap();
    let module = Some((claim(Owner::Module, 0x200, 0x202), 5_000));
    let xenstore = Some(claim(Owner::XenStorePage, 0xF_EFFC, 0xF_EFFD));
    let boot_regions = BootRegions { module, command_line, xenstore };
    let placements = place_regions(&tables, &mut free, &boot_regions, 100)?;
    Ok(tables.regions().with_ids().map(|(id, region)| (region, placements, id)).collect())
}

#[test]
fn each_region_has_the_placement_and_length_of_its_kind() {
    // Enough that a large region fits at a multiple of its size.
    let (ram, mut taken, mut large, mut pools) = (ram(1024), 0, 0, 0);
    for (region, placements, index) in placed(ram).unwrap() {
        let placement = placements[index];
        let is = (placement.frames().start, placement.pages(), placement.length());
        match region.kind {
            RegionKind::Fixed | RegionKind::Share => {
                let amount =
                    if region.kind == RegionKind::Fixed { u64::from(region.amount) } else { placement.pages() };
                assert_eq!((placement.pages(), placement.length()), (amount, amount * PAGE_SIZE as u64));
                assert!(
                    placement.frames().start >= ram.start && placement.frames().start + placement.pages() <= ram.end
                );
                let aligned = placement.frames().start.is_multiple_of(PAGES_PER_LARGE);
                let least = if region.kind == RegionKind::Fixed { MIN_ALIGNED_FIXED } else { PAGES_PER_LARGE };
                assert!(aligned || placement.pages() < least, "{is:?}");
                pools += usize::from(region.kind == RegionKind::Fixed && placement.pages() == MIN_ALIGNED_FIXED);
                large += usize::from(placement.pages() >= PAGES_PER_LARGE);
                taken += placement.pages();
            }
            RegionKind::Module => assert_eq!(is, (0x200, 2, 5_000)),
            RegionKind::CommandLine => assert_eq!(is, (7, 1, 40)),
            RegionKind::XenStoreRing => assert_eq!(is, (0xF_EFFC, 1, PAGE_SIZE as u64)),
            RegionKind::ImageData => assert_eq!(is.2, region.image_length),
        }
    }
    assert!(large > 0 && pools == 2 && taken <= ram.count() - 100, "{large} {pools} {taken}");
}

#[test]
fn a_region_has_its_pages_and_no_others() {
    for (_, placements, index) in placed(ram(64)).unwrap() {
        let (placement, frames) = (placements[index], placements[index].frames());
        for page in 0..placement.pages() {
            assert_eq!(placement.page(page).map(|frame| frame.gfn().0), Some(frames.start + page));
        }
        assert!(
            [placement.pages(), placement.pages() + 1, u64::MAX].iter().all(|page| placement.page(*page).is_none())
        );
    }
}

#[test]
fn a_shortened_region_ends_with_its_last_page_or_its_content() {
    let module = placed(ram(64)).unwrap().into_iter().find(|(region, ..)| region.kind == RegionKind::Module);
    let (_, placements, index) = module.unwrap();
    let short = |count| {
        let short = placements[index].shortened(count);
        (short.frames().start, short.pages(), short.length())
    };
    let page = PAGE_SIZE as u64;
    assert_eq!([0, 1, 2, 3].map(short), [(0x200, 0, 0), (0x200, 1, page), (0x200, 2, 5_000), (0x200, 2, 5_000)]);
}

#[test]
fn shares_are_by_weight_and_within_their_limits() {
    let ram = ram(64);
    let all = placed(ram).unwrap();
    let shares: Vec<_> = all.iter().filter(|(region, ..)| region.kind == RegionKind::Share).collect();
    let fixed = all.iter().filter(|(region, ..)| region.kind == RegionKind::Fixed);
    let used: u64 = fixed.map(|(region, ..)| u64::from(region.amount)).sum();
    let minima: u64 = shares.iter().map(|(region, ..)| u64::from(region.minimum)).sum();
    let weights: u64 = shares.iter().map(|(region, ..)| u64::from(region.amount)).sum();
    let spare = ram.count() - used - 100 - minima;
    let mut largest = (0, 0);
    for (region, placements, index) in shares {
        let (least, most) = (u64::from(region.minimum), u64::from(region.maximum));
        let wants = least + spare * u64::from(region.amount) / weights;
        let (wants, got) = (wants.clamp(least, most), placements[*index].pages());
        // A share that is placed late gets what is left between the others.
        assert!((least..=wants).contains(&got), "{got} of {wants}");
        largest = largest.max((wants, got));
    }
    assert!(largest.0 > 0 && largest.0 == largest.1, "the largest share has all that it wants: {largest:?}");
}

/// The message is the last line on the console of an image that cannot start.
#[test]
fn an_error_says_what_is_missing_and_how_much() {
    let error = placed(ram(5)).unwrap_err();
    let PlacementError::TooLittleMemory { region, needs, largest } = error else { panic!("{error:?}") };
    let text = error.to_string();
    let parts = [format!("{region} needs {needs} adjacent"), format!("largest free range has {largest};")];
    assert!(parts.iter().all(|part| text.contains(part)) && needs > largest, "{text}");
    assert!(PlacementError::NoXenStore.to_string().contains("XenStore"));
}
