//! Tests the placement of the shipped policy's regions.

use cloister_caps::tables::{Region, RegionKind};
use cloister_caps::{Gfn, PAGE_SIZE, RegionId};
use cloister_kernel_core::boot::{MapEntry, Module, StartInfo};
use cloister_kernel_core::memory::{FrameRange, FreeMemory, KernelLocation, free_memory};
use cloister_kernel_core::placement::{
    BootRegions, MIN_ALIGNED_FIXED, PAGES_PER_LARGE, PlacementError, Placements, place_regions,
};

use crate::machine::{shipped, tables};

/// Returns the free frames of a guest with `mib` MiB of memory.
fn ram(mib: u64) -> FrameRange {
    FrameRange { start: 0x400, end: (mib << 20) / PAGE_SIZE as u64 }
}

/// Places the regions in `ram`, with the boot module at address `module`. Returns each region with
/// all placements, and its id.
fn placed(ram: FrameRange, module: u64) -> Result<Vec<(Region, Placements, RegionId)>, PlacementError> {
    let tables = tables(&shipped());
    let mut free = FreeMemory::new();
    free.add(ram);
    let boot_regions =
        BootRegions { module: Some((module, 5_000)), command_line: Some((Gfn(7), 40)), xenstore: Some(Gfn(0xF_EFFC)) };
    let placements = place_regions(&tables, &mut free, &boot_regions, 100)?;
    Ok(tables.regions().with_ids().map(|(id, region)| (region, placements, id)).collect())
}

#[test]
fn each_region_has_the_placement_and_length_of_its_kind() {
    // Enough that a large region fits at a multiple of its size.
    let (ram, mut taken, mut large, mut pools) = (ram(1024), 0, 0, 0);
    for (region, placements, index) in placed(ram, 0x20_0000).unwrap() {
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
fn shares_are_by_weight_and_within_their_limits() {
    let ram = ram(64);
    let all = placed(ram, 0x20_0000).unwrap();
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

#[test]
fn a_module_that_begins_within_a_page_is_refused() {
    assert_eq!(placed(ram(64), 0x20_0010).unwrap_err(), PlacementError::ModuleUnaligned);
}

#[test]
fn no_region_is_where_the_kernel_is() {
    let tables = tables(&shipped());
    let placed = |module, xenstore| {
        let mib = 1 << 20;
        let info = StartInfo { module: Some(Module { address: module, length: 0x1001 }), ..StartInfo::default() };
        let map = [MapEntry { address: 0, length: 64 * mib, ram: true }];
        let location = KernelLocation { kernel: (2 * mib, mib), tables: (3 * mib, 0x1000) };
        let mut free = free_memory(&info, &map, &tables, &location).unwrap();
        let boot_regions = BootRegions { module: Some((module, 0x1001)), command_line: None, xenstore: Some(xenstore) };
        place_regions(&tables, &mut free, &boot_regions, 100).err()
    };
    let refused = |error| matches!(error, Some(PlacementError::InKernel(_)));
    let beyond_ram = Gfn(0x4000);
    assert_eq!(placed(0x1F_E000, beyond_ram), None, "just before the kernel");
    assert_eq!(placed(0x30_1000, beyond_ram), None, "just after the tables");
    assert!(refused(placed(0x1F_F000, beyond_ram)), "the module ends in the kernel");
    assert!(refused(placed(0x30_0000, beyond_ram)), "the module begins in the tables");
    // The XenStore page, in the kernel and in RAM that is free or a page table's.
    assert!(refused(placed(0x40_0000, Gfn(0x2FF))));
    assert!(refused(placed(0x40_0000, Gfn(0x3FFF))));
    assert_eq!(placed(0x40_0000, Gfn(0x401)), None, "in the module: a known weakness (SECURITY.md)");
}

/// The message is the last line on the console of an image that cannot start.
#[test]
fn an_error_says_what_is_missing_and_how_much() {
    let error = placed(ram(5), 0x20_0000).unwrap_err();
    let PlacementError::TooLittleMemory { region, needs, largest } = error else { panic!("{error:?}") };
    let text = error.to_string();
    let parts = [format!("{region} needs {needs} adjacent"), format!("largest free range has {largest};")];
    assert!(parts.iter().all(|part| text.contains(part)) && needs > largest, "{text}");
    assert!(PlacementError::ModuleUnaligned.to_string().contains("page boundary"));
    assert!(PlacementError::NoXenStore.to_string().contains("XenStore"));
    assert!(PlacementError::InKernel(region).to_string().contains("in the kernel or in memory"));
}
