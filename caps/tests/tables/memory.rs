//! Checks the records of services and of their memory: segments, regions and mappings.

use cloister_caps::Kind;
use cloister_caps::tables::raw::{Region, Segment};
use cloister_caps::tables::{Access, RegionKind, TableError, Tables};

use crate::{Draft, END, IMAGE, check_changes};

#[test]
fn services() {
    check_changes(
        "service",
        1,
        &[
            (false, |draft| draft.services[1].name.length = 5),
            (false, |draft| draft.services[1].name.offset = u32::MAX),
            (true, |draft| draft.services[1].entry = END - 1),
            (false, |draft| draft.services[1].entry = END),
            (true, |draft| draft.services[1].stack_top = END - 16),
            (false, |draft| draft.services[1].stack_top = END),
            (false, |draft| draft.services[1].stack_top = 0x9008),
            (false, |draft| draft.services[1].period_us = 0),
            (false, |draft| draft.services[1].budget_us = 0),
            (false, |draft| (draft.services[1].budget_us, draft.services[1].period_us) = (0, 0)),
            (true, |draft| draft.services[1].budget_us = 1),
            (false, |draft| draft.services[1].budget_us = 11),
        ],
    );
}

#[test]
fn segments() {
    check_changes(
        "segment",
        0,
        &[
            (false, |draft| draft.segments[0].service = 2),
            (false, |draft| draft.segments[0].flags = 8),
            (false, |draft| draft.segments[0].flags = 6),
            (false, |draft| draft.segments[0].flags = 7),
            (true, |draft| draft.segments[0].flags = 3),
            (true, |draft| draft.segments[0].flags = 4),
            (true, |draft| draft.segments[0].flags = 0),
            (false, |draft| draft.segments[0].address = 0x1800),
            (false, |draft| draft.segments[0].address = 0),
            // Its bytes are pages of the image.
            (true, |draft| draft.segments[0].image_address += 0x1000),
            (false, |draft| draft.segments[0].image_address += 0x800),
            (false, |draft| draft.segments[0].image_address = IMAGE.start - 0x1000),
            (true, |draft| draft.segments[0].image_address = IMAGE.end - 0x1000),
            (false, |draft| draft.segments[0].image_address = IMAGE.end),
            (false, |draft| draft.segments[0].image_address = 0xFFFF_FFFF_FFFF_F000),
            // Only a writable one may be longer in memory.
            (false, |draft| draft.segments[0].memory_size = 0x801),
            (false, |draft| draft.segments[0].memory_size = 0x7FF),
            (false, |draft| draft.segments[0].memory_size = u64::MAX),
        ],
    );
    let writable = |file_size, memory_size, image_address| {
        let mut draft = Draft::good();
        draft.segments[0] = Segment { flags: 3, file_size, memory_size, image_address, ..draft.segments[0] };
        draft.refusal()
    };
    let refused = Some(TableError::Record("segment", 0));
    assert_eq!(writable(0x800, 0x801, IMAGE.start), None);
    assert_eq!(writable(0x800, 0x7FF, IMAGE.start), refused);
    assert_eq!(writable(0x800, END - 0x1001, IMAGE.start), None);
    assert_eq!(writable(0x800, END - 0x1000, IMAGE.start), refused);
    assert_eq!(writable(0x800, u64::MAX, IMAGE.start), refused);
    // One without bytes in the image has no address there, and touches no page.
    assert_eq!((writable(0, 0x800, 0), writable(1, 0x800, 0)), (None, refused));
    assert_eq!((writable(0, 0x800, 0x1000), writable(0, 0x800, 0x1001)), (None, refused));
}

#[test]
fn programs_and_data_lie_in_the_range_that_the_tables_are_checked_for() {
    let mut draft = Draft::good();
    draft.segments[0].image_address = 0x20_3000;
    let region =
        Region { kind: RegionKind::ImageData, image_address: 0x20_5000, image_length: 0x1001, ..draft.regions[1] };
    draft.regions[1] = region;
    let bytes = draft.bytes();
    let within = |start, end| Tables::parse_within(&bytes, &(start..end)).err();
    assert_eq!(within(0x20_3000, 0x20_6001), None);
    assert_eq!(within(0x20_3001, 0x20_6001), Some(TableError::Record("segment", 0)));
    assert_eq!(within(0x20_3000, 0x20_6000), Some(TableError::Record("region", 1)));
}

/// Makes the second region one of image data.
fn set_image_data(draft: &mut Draft, address: u64, length: u64) {
    let region = &mut draft.regions[1];
    (region.kind, region.image_address, region.image_length) = (RegionKind::ImageData, address, length);
}

#[test]
fn regions() {
    check_changes(
        "region",
        1,
        &[
            (false, |draft| draft.regions[1].name.length = 5),
            (false, |draft| draft.regions[1].amount = 0),
            (true, |draft| draft.regions[1].amount = 1 << 20),
            (false, |draft| draft.regions[1].amount = (1 << 20) + 1),
            (true, |draft| draft.regions[1].clear_on_restart = 1),
            (false, |draft| draft.regions[1].clear_on_restart = 2),
            (false, |draft| (draft.regions[1].image_address, draft.regions[1].image_length) = (u64::MAX, 1)),
            (true, |draft| draft.regions[1].kind = RegionKind::Share),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::Share, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].maximum) = (RegionKind::Share, 1 << 20)),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].maximum) = (RegionKind::Share, (1 << 20) + 1)),
            (false, |draft| (draft.regions[1].kind, draft.regions[1].minimum) = (RegionKind::Share, 1)),
            (true, |draft| set_image_data(draft, IMAGE.start, 1)),
            (false, |draft| set_image_data(draft, IMAGE.start, 0)),
            (false, |draft| set_image_data(draft, IMAGE.start + 0x800, 1)),
            (false, |draft| set_image_data(draft, 0, 1)),
            (true, |draft| set_image_data(draft, IMAGE.end - 0x1000, 0x1000)),
            (false, |draft| set_image_data(draft, IMAGE.end - 0x1000, 0x1001)),
            (false, |draft| set_image_data(draft, IMAGE.start, u64::MAX)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::Module, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::CommandLine, 0)),
            (true, |draft| (draft.regions[1].kind, draft.regions[1].amount) = (RegionKind::XenStoreRing, 0)),
        ],
    );
}

#[test]
fn mappings() {
    check_changes(
        "mapping",
        1,
        &[
            (false, |draft| draft.mappings[1].region = 2),
            (false, |draft| draft.mappings[1].address = 0x4800),
            (false, |draft| draft.mappings[1].address = 0),
            (true, |draft| draft.mappings[1].address = END - 0x1000),
            (false, |draft| draft.mappings[1].address = END),
            (true, |draft| (draft.mappings[1].region, draft.mappings[1].access) = (1, Access::ReadWrite)),
            (true, |draft| draft.regions[1].kind = RegionKind::Module),
        ],
    );
    // The capability to the mapping has the same service, but capabilities are checked later.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].service = 2)]);
    // A service maps a region once; the error names the second mapping.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].service = 0)]);
    // If two mappings may write one region, the error names the second.
    check_changes("mapping", 1, &[(false, |draft| draft.mappings[1].access = Access::ReadWrite)]);
    for (kind, writable) in [
        (RegionKind::Fixed, true),
        (RegionKind::Share, true),
        (RegionKind::XenStoreRing, true),
        (RegionKind::Module, false),
        (RegionKind::CommandLine, false),
        (RegionKind::ImageData, false),
    ] {
        let mut draft = Draft::good();
        draft.grants.clear();
        draft.capabilities.retain(|capability| capability.kind != Kind::Grant);
        draft.regions[0] = Region { kind, image_address: IMAGE.start, image_length: 1, ..draft.regions[0] };
        let expected = (!writable).then_some(TableError::Record("mapping", 0));
        assert_eq!(draft.refusal(), expected, "{kind:?} written");
        draft.mappings[0].access = Access::Read;
        assert_eq!(draft.refusal(), None, "{kind:?} read");
    }
}
