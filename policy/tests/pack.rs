//! Tests packing with small ELF files that are made here: what a loader and the kernel find in the
//! image, and each reason for a refusal.

mod common;

use cloister_caps::tables::{RegionKind, Tables};
use cloister_policy::{PackError, Program, pack};
use common::image::{NAMES, kernel, policy};
use common::{Elf, Header, Part, headers, physical};
use proptest::prelude::*;

const PAGE: u64 = 4096;
fn program(index: usize) -> Elf {
    let base = 0x0100_0000 * (index as u64 + 1);
    let fill = index as u8 + 1;
    let mut data = Part::new(6, base + 0x3000, base + 0x3000, &[fill + 0x20; 0x24]);
    data.memory_size = 0x1058;
    Elf {
        entry: base + 0x1004,
        parts: vec![
            Part::new(4, base, base, &[fill; 0x123]),
            Part::new(5, base + 0x1000, base + 0x1000, &[fill + 0x10; 0x1001]),
            data,
        ],
        ..Elf::default()
    }
}

fn programs() -> Vec<Vec<u8>> {
    (0..NAMES.len()).map(|index| program(index).build()).collect()
}

fn pack_all(kernel: &[u8], files: &[Vec<u8>]) -> Result<Vec<u8>, PackError> {
    let given: Vec<Program<'_>> = NAMES.iter().zip(files).map(|(service, elf)| Program { service, elf }).collect();
    pack(&policy(), kernel, &given)
}

fn packed() -> Vec<u8> {
    pack_all(&kernel().build(), &programs()).unwrap()
}

/// Returns the tables as the kernel finds them: by the sixteen bytes at the symbol.
fn tables_of(image: &[u8]) -> Vec<u8> {
    let place = physical(image, 0x10_2000, 16);
    let word = |at: usize| u64::from_le_bytes(place[at..at + 8].try_into().unwrap());
    physical(image, word(0), word(8) as usize)
}

#[test]
fn a_loader_finds_segments_in_order_and_without_gaps() {
    let image = packed();
    let (entry, all) = headers(&image);
    assert_eq!(entry, 0x10_0020);
    let loads: Vec<&Header> = all.iter().filter(|header| header.kind == 1).collect();
    assert!(loads.len() > 4 + 9);
    for load in &loads {
        assert!(load.file_size <= load.memory_size && load.flags & 3 != 3);
        assert!(load.offset + load.file_size <= image.len() as u64);
        assert_eq!(load.physical_address % PAGE, 0);
    }
    for pair in loads.windows(2) {
        assert!(pair[0].physical_address + pair[0].memory_size <= pair[1].physical_address);
        assert_eq!(pair[0].offset + pair[0].file_size, pair[1].offset);
    }
    let note = all.iter().find(|header| header.kind == 4).unwrap();
    assert_ne!(note.offset, 0);
    let bytes = &image[note.offset as usize..(note.offset + note.file_size) as usize];
    assert_eq!(bytes, common::pvh_note(0x10_0020));
}

#[test]
fn the_kernel_is_unchanged_except_for_the_address_of_the_tables() {
    let image = packed();
    let (_, all) = headers(&image);
    for (part, header) in kernel().parts.iter().zip(all.iter().filter(|header| header.kind == 1)) {
        assert_eq!((header.flags, header.virtual_address), (part.flags, part.virtual_address));
        let whole = part.memory_size.next_multiple_of(PAGE);
        assert_eq!((header.physical_address, header.memory_size), (part.physical_address, whole));
        let found = physical(&image, part.physical_address, part.bytes.len());
        let changed = if part.physical_address == 0x10_2000 { 16 } else { 0 };
        assert_eq!(found[changed..], part.bytes[changed..]);
    }
}

#[test]
fn the_kernel_finds_tables_programs_and_data() {
    let (image, policy) = (packed(), policy());
    let blob = tables_of(&image);
    let tables = Tables::parse(&blob).unwrap();
    assert_eq!(tables.policy_hash(), policy.hash());
    let entries: Vec<u64> = tables.services().iter().map(|service| service.entry).collect();
    assert_eq!(entries, [0x0100_1004, 0x0200_1004, 0x0300_1004]);
    assert_eq!(tables.segments().len(), 9);
    for segment in tables.segments().iter() {
        let elf = program(segment.service.index());
        let part = elf.parts.iter().find(|part| part.virtual_address == segment.address).unwrap();
        assert_eq!(segment.memory_size, part.memory_size);
        assert_eq!(segment.flags, ((part.flags & 4) >> 2 | part.flags & 2 | (part.flags & 1) << 2) as u8);
        let mut expected = part.bytes.clone();
        expected.resize((segment.file_size as usize).next_multiple_of(4096), 0);
        assert_eq!(physical(&image, segment.image_address, expected.len()), expected);
    }
    let data: Vec<_> = tables.regions().iter().filter(|region| region.kind == RegionKind::ImageData).collect();
    assert_eq!(data.len(), 2);
    for (region, rules) in data.into_iter().zip([1, 2]) {
        let bytes = physical(&image, region.image_address, region.image_length as usize);
        assert_eq!(bytes[..2], [rules, 0], "the grant manager's, and two paths");
    }
}

#[test]
fn a_read_only_segment_that_is_longer_in_memory_is_in_the_image_as_a_whole() {
    let mut files = programs();
    let mut elf = program(1);
    elf.parts[0].memory_size = 0xF00;
    files[1] = elf.build();
    let image = pack_all(&kernel().build(), &files).unwrap();
    let blob = tables_of(&image);
    let found = Tables::parse(&blob).unwrap().segments().iter().find(|segment| segment.address == 0x0200_0000);
    assert_eq!(found.map(|segment| (segment.file_size, segment.memory_size)), Some((0xF00, 0xF00)));
}

#[test]
fn a_segment_without_bytes_takes_no_space_in_the_image() {
    let mut files = programs();
    let mut elf = program(1);
    elf.parts[2].bytes.clear();
    files[1] = elf.build();
    let image = pack_all(&kernel().build(), &files).unwrap();
    let blob = tables_of(&image);
    let found = Tables::parse(&blob).unwrap().segments().iter().find(|segment| segment.address == 0x0200_3000);
    assert_eq!(
        found.map(|segment| (segment.image_address, segment.file_size, segment.memory_size)),
        Some((0, 0, 0x1058))
    );
    assert_eq!(headers(&image).1.len(), headers(&packed()).1.len() - 1);
}

#[test]
fn the_same_parts_give_the_same_image_in_whatever_order_they_are_given() {
    let (policy, kernel, files) = (policy(), kernel().build(), programs());
    let mut given: Vec<Program<'_>> = NAMES.iter().zip(&files).map(|(service, elf)| Program { service, elf }).collect();
    given.reverse();
    assert_eq!(pack(&policy, &kernel, &given).unwrap(), packed());
}

/// A change that makes a file wrong.
type Change = fn(&mut Elf);

/// Returns the error for the image with a changed program for `manager`.
fn program_error(change: impl FnOnce(&mut Elf)) -> String {
    let mut files = programs();
    let mut elf = program(1);
    change(&mut elf);
    files[1] = elf.build();
    pack_all(&kernel().build(), &files).unwrap_err().to_string()
}

/// Returns the error for the image with a changed kernel.
fn kernel_error(change: impl FnOnce(&mut Elf)) -> String {
    let mut elf = kernel();
    change(&mut elf);
    pack_all(&elf.build(), &programs()).unwrap_err().to_string()
}

#[test]
fn an_invalid_program_is_refused() {
    let cases: [(&str, Change); 12] = [
        ("writable and executable", |elf| elf.parts[1].flags = 7),
        ("is in no executable segment", |elf| elf.entry = 0x0200_0004),
        ("is in no executable segment", |elf| elf.entry = 0x0200_2001),
        ("is outside 0x2000000 to 0x2ffffff", |elf| elf.parts[0].virtual_address = 0x01FF_F000),
        ("is outside 0x2000000 to 0x2ffffff", |elf| elf.parts[2].memory_size = 0x0100_0000),
        ("does not start at a page", |elf| elf.parts[0].virtual_address = 0x0200_0010),
        ("shares a page with another", |elf| elf.parts[2].virtual_address = 0x0200_2000),
        ("does not fit the file", |elf| elf.parts[0].memory_size = 0x100),
        ("not linked at a fixed address", |elf| elf.kind = 3),
        ("not for x86-64", |elf| elf.machine = 183),
        ("has thread-local data", |elf| elf.extra = Some(7)),
        ("not linked at a fixed address", |elf| elf.extra = Some(2)),
    ];
    for (reason, change) in cases {
        let error = program_error(change);
        assert!(error.starts_with("manager: ") && error.contains(reason), "{error}");
    }
    assert!(program_error(|elf| elf.parts.clear()).contains("is in no executable segment"));
}

#[test]
fn an_invalid_kernel_is_refused() {
    let cases: [(&str, Change); 14] = [
        ("does not begin with the page after", |elf| elf.parts[3].physical_address = 0x10_4000),
        ("is longer in memory", |elf| elf.parts[3].memory_size = 0x5001),
        ("has no PVH entry note", |elf| elf.note = None),
        ("must be the PVH entry note alone", |elf| {
            elf.note = None;
            elf.loose_note = Some(common::pvh_note(0x10_0020));
        }),
        ("must be the PVH entry note alone", |elf| elf.loose_note = Some(common::pvh_note(0x10_0020))),
        // A second one after it, in the same segment.
        ("must be the PVH entry note alone", |elf| {
            elf.parts[0].bytes[20..40].copy_from_slice(&common::pvh_note(0x10_0040));
            elf.note = Some((0, 40));
        }),
        ("has no PVH entry note", |elf| elf.parts[0].bytes[8] = 17),
        ("has no symbol CLOISTER_TABLES", |elf| elf.symbol = None),
        ("is not sixteen zero bytes", |elf| elf.parts[2].bytes[15] = 1),
        ("is not sixteen zero bytes", |elf| elf.symbol = Some(("CLOISTER_TABLES".into(), 0xFFFF_FFFF_8010_3000))),
        ("is not sixteen zero bytes", |elf| elf.symbol = Some(("CLOISTER_TABLES".into(), 0xFFFF_FFFF_8010_2FF1))),
        ("writable and executable", |elf| elf.parts[3].flags = 7),
        ("shares a page with another", |elf| elf.parts[3].physical_address = 0x10_2800),
        ("it must end below 1 GiB", |elf| elf.parts[3].physical_address = 0x4000_0000),
    ];
    for (reason, change) in cases {
        let error = kernel_error(change);
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn programs_and_services_must_match() {
    let (policy, kernel, files) = (policy(), kernel().build(), programs());
    let given = |names: &[&'static str]| {
        let list: Vec<_> = names.iter().zip(&files).map(|(service, elf)| Program { service, elf }).collect();
        pack(&policy, &kernel, &list).unwrap_err()
    };
    assert!(matches!(given(&["driver", "manager"]), PackError::MissingProgram(name) if name == "store"));
    assert!(matches!(given(&["driver", "manager", "shell"]), PackError::StrayProgram(name) if name == "shell"));
    assert!(matches!(given(&["driver", "manager", "driver"]), PackError::StrayProgram(name) if name == "driver"));
    assert!(matches!(pack_all(b"", &files), Err(PackError::NotElf { .. })));
    assert!(matches!(
        pack_all(b"#!/bin/sh\necho not a kernel, but long enough to hold a header....", &files),
        Err(PackError::NotElf { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A damaged file is packed or refused. A packed image has tables that the kernel accepts.
    #[test]
    fn damaged_files_are_answered(
        of_kernel in any::<bool>(),
        damage in prop::collection::vec((0usize..0x200, any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut kernel, mut files) = (kernel().build(), programs());
        let file = if of_kernel { &mut kernel } else { &mut files[1] };
        for (at, byte) in damage {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        if let Some(cut) = cut {
            let length = cut.index(file.len());
            file.truncate(length);
        }
        if let Ok(image) = pack_all(&kernel, &files) {
            prop_assert!(headers(&image).1.len() > 2);
        }
    }
}
