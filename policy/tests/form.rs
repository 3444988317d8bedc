//! Files that two readers understand differently: `verify` refuses each. Xen's rules
//! (`common::xen`) show what some of them would run. The seal of each is made again.
#![forbid(unsafe_code)]

mod common;

use cloister_policy::Extras;
use cloister_policy::verify::{Against, verify};
use common::image::{image, kernel, pack_all, pack_extras, program};
use common::{Part, fill_up, headers, headers_end, offset_of, replace, xen};
use sha2::{Digest, Sha256};

fn word(file: &[u8], at: usize) -> usize {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
}

/// Returns the offset of an image's seal, its second section.
fn seal_of(file: &[u8]) -> usize {
    word(file, word(file, 40) + 64 + 24)
}

/// Recomputes the seal of a file at a known offset, whatever its headers say.
fn sealed(mut file: Vec<u8>, seal: usize) -> Vec<u8> {
    if file.len() >= seal + 32 {
        file[seal..seal + 32].fill(0);
        let hash = Sha256::digest(&file);
        file[seal..seal + 32].copy_from_slice(&hash);
    }
    file
}

/// Returns why a file is refused: its errors, or why it is not an image.
fn refused(file: &[u8]) -> Vec<String> {
    match verify(file, &Against::default()) {
        Ok(verdict) => verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect(),
        Err(unusable) => vec![unusable.to_string()],
    }
}

/// Returns the image after a change of its bytes, sealed again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = image();
    let seal = seal_of(&file);
    change(&mut file);
    sealed(file, seal)
}

#[track_caller]
fn is_refused(file: &[u8], expected: &str) {
    let reasons = refused(file);
    assert!(reasons.iter().any(|reason| reason.contains(expected)), "{expected}: {reasons:#?}");
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

const FORM: &str = "the file is not in the form that the packer writes";

/// A field of the ELF header.
macro_rules! wrong_fields {
    ($($name:ident: $at:expr, $bytes:expr => $expected:expr;)*) => {$(
        #[test]
        fn $name() {
            is_refused(&changed(|file| { let at = $at(&*file); put(file, at, &$bytes); }), $expected);
        }
    )*};
}

fn fixed(at: usize) -> impl Fn(&[u8]) -> usize {
    move |_| at
}

/// A field of program header `index`.
fn of_segment(index: usize, field: usize) -> impl Fn(&[u8]) -> usize {
    move |_| 64 + index * 56 + field
}

/// A field of section header `index`.
fn of_section(index: usize, field: usize) -> impl Fn(&[u8]) -> usize {
    move |file| word(file, 40) + index * 64 + field
}

mod of_the_header {
    use super::*;

    wrong_fields! {
        class: fixed(4), [1] => "not an ELF file that can be read";
        byte_order: fixed(5), [2] => "";
        version_of_the_identification: fixed(6), [2] => "";
        system: fixed(7), [3] => FORM;
        version_of_the_system: fixed(8), [1] => FORM;
        padding: fixed(12), [1] => FORM;
        kind: fixed(16), [3] => "not linked at fixed addresses";
        machine: fixed(18), [3] => "not for x86-64";
        version: fixed(20), [2] => FORM;
        upper_half_of_the_entry: fixed(28), [1] => "the PVH entry point is 0x100020, that of the ELF header 0x100100020";
        program_headers_elsewhere: fixed(32), [8] => "";
        flags: fixed(48), [1] => FORM;
        size_of_the_header: fixed(52), [56] => FORM;
        size_of_a_program_header: fixed(54), [55] => "not an ELF file that can be read";
        fewer_program_headers: fixed(56), [10] => "";
        more_program_headers: fixed(56), [18] => "";
        very_many_program_headers: fixed(56), [0xFE, 0xFF] => "has 65534 program headers";
        size_of_a_section_header: fixed(58), [40] => "";
        fewer_sections: fixed(60), [2] => "";
        names_in_another_section: fixed(62), [1] => "";
        sections_elsewhere: fixed(40), [0] => "";
    }
}

mod of_segments {
    use super::*;

    wrong_fields! {
        kind_with_upper_bits: of_segment(3, 3), [0x80] => "a program header of type 0x80000001";
        a_note_more: of_segment(3, 0), [4] => "more than one note segment";
        flags_that_mean_nothing: of_segment(3, 5), [1] => FORM;
        flags_of_a_system: of_segment(3, 7), [0x80] => FORM;
        offset: of_segment(2, 9), [0x30] => "";
        virtual_address_of_the_tables: of_segment(5, 17), [0x90] => "the tables are linked at";
        virtual_address_of_data: of_segment(15, 18), [0x50] => "linked elsewhere";
        data_that_is_executable: of_segment(15, 4), [5] => "its segment is too large, executable, or linked elsewhere";
        virtual_address_of_the_kernel: of_segment(2, 18), [0x20] => "is not loaded where it is linked";
        physical_address: of_segment(2, 25), [0x40] => "overlap, or are not in order";
        physical_address_in_a_gap: of_segment(15, 26), [0x20] => "there are pages between";
        bytes_in_the_file: of_segment(2, 33), [0x08] => FORM;
        more_bytes_than_memory: of_segment(2, 34), [0x01] => "does not fit the file";
        no_memory: of_segment(2, 33), [0, 0, 0, 0, 0, 0, 0, 0] => "is not whole pages of the file";
        more_memory_of_text: of_segment(2, 41), [0x20] => "has memory without bytes";
        more_memory_of_data: of_segment(4, 41), [0x60] => "overlap";
        less_memory_of_data: of_segment(4, 41), [0x40] => "there are pages between";
        alignment: of_segment(2, 48), [8] => FORM;
        no_alignment: of_segment(2, 48), [0, 0] => FORM;
        text_that_is_not_executable: of_segment(2, 4), [4] => "the kernel's segments are RX, R, R, RW";
        a_segment_that_xen_does_not_load: of_segment(2, 4), [0] => "is not readable";
        note_offset: of_segment(0, 8), [4] => "there is no PVH entry note";
        note_without_an_offset: of_segment(0, 9), [0] => "there is no PVH entry note";
        note_flags: of_segment(0, 4), [6] => FORM;
        note_address: of_segment(0, 17), [0x10] => FORM;
        note_physical_address: of_segment(0, 25), [0x10] => FORM;
        note_size: of_segment(0, 32), [24] => FORM;
        note_memory: of_segment(0, 40), [0] => FORM;
        note_alignment: of_segment(0, 48), [8] => FORM;
    }
}

mod of_sections {
    use super::*;

    wrong_fields! {
        null_section: of_section(0, 8), [1] => FORM;
        // Where the true number of program headers is, if `e_phnum` says 0xffff.
        information_of_the_null_section: of_section(0, 44), [20] => FORM;
        name: of_section(1, 0), [2] => "the file has no seal";
        kind: of_section(1, 4), [7] => FORM;
        flags: of_section(1, 8), [2] => FORM;
        address: of_section(1, 16), [1] => FORM;
        link: of_section(1, 40), [1] => FORM;
        information: of_section(1, 44), [1] => FORM;
        alignment: of_section(1, 48), [4] => FORM;
        size_of_an_entry: of_section(1, 56), [1] => FORM;
        names_kind: of_section(2, 4), [2] => "";
        names_size: of_section(2, 32), [1] => "";
    }
}

/// `e_phnum` 0xffff: by the ELF specification the number is in the null section; Xen takes 0xffff
/// as the number.
#[test]
fn a_number_of_program_headers_in_another_field_is_refused() {
    let mut file = image();
    let seal = seal_of(&file);
    let end = 64 + usize::from(u16::from_le_bytes([file[56], file[57]])) * 56;
    // Two more after the honest ones, over the kernel's text, in the bytes before the first page.
    let (text, bytes) = (headers(&file).1[2].physical_address, [0xEB, 0xFE]);
    put(&mut file, 0xF80, &bytes);
    for index in 0..2 {
        let mut header = Vec::new();
        header.extend(1u32.to_le_bytes());
        header.extend(5u32.to_le_bytes());
        for field in [0xF80, 0xFFFF_FFFF_8010_1000, text, 2, 2, 1] {
            header.extend(u64::to_le_bytes(field));
        }
        put(&mut file, end + index * 56, &header);
    }
    let honest = xen::load(&image()).unwrap();
    for count in [u16::from_le_bytes([file[56], file[57]]) + 2, 0xFFFF] {
        put(&mut file, 56, &count.to_le_bytes());
        let sections = word(&file, 40);
        put(&mut file, sections + 44, &(u32::try_from((end - 64) / 56).unwrap()).to_le_bytes());
        file = sealed(file, seal);
        let loaded = xen::load(&file);
        assert!(loaded.is_none_or(|loaded| loaded.memory != honest.memory), "the case is none");
        assert!(!refused(&file).is_empty());
    }
    is_refused(&file, "has 65535 program headers");
}

/// A note segment in which a reader that walks by eight bytes sees one note; Xen, which walks by
/// four, sees two.
#[test]
fn a_second_note_that_only_xen_sees_is_refused() {
    let entry = 0x10_0100_u32;
    let mut elf = kernel();
    // What follows the first note is boot code to another reader.
    elf.parts[0].bytes[20..40].copy_from_slice(&common::pvh_note(entry));
    let mut file = pack_all(&elf, &[program(0), program(1), program(2)]);
    let seal = seal_of(&file);
    put(&mut file, 64 + 32, &40u64.to_le_bytes());
    put(&mut file, 64 + 40, &40u64.to_le_bytes());
    put(&mut file, 64 + 48, &8u64.to_le_bytes());
    let file = sealed(file, seal);
    assert_eq!(xen::load(&file).unwrap().entry, Some(entry.into()), "the case is none");
    is_refused(&file, FORM);
}

#[test]
fn a_note_in_a_section_where_the_segment_has_none_is_refused() {
    let file = changed(|file| {
        // The note segment has no offset: Xen then looks for a section with notes, and takes the
        // seal's for one.
        put(file, 64 + 8, &[0; 8]);
        let sections = word(file, 40);
        put(file, sections + 64 + 4, &7u32.to_le_bytes());
    });
    is_refused(&file, "there is no PVH entry note");
}

#[test]
fn bytes_between_headers_and_segments_are_refused() {
    let original = image();
    let seal = seal_of(&original);
    for bytes in [&[0; 8][..], &[0x90; 8], &[0; 4096]] {
        let mut file = original.clone();
        replace(&mut file, headers_end(&original), 0, bytes);
        is_refused(&sealed(file, seal + bytes.len()), FORM);
    }
}

#[test]
fn zeros_at_the_end_of_a_segment_are_not_in_the_file() {
    let (_, all) = headers(&image());
    let partial: Vec<_> = all.iter().skip(1).filter(|header| header.file_size % 4096 > 0).collect();
    assert!(partial.len() > 5);
    for header in partial {
        let mut file = image();
        fill_up(&mut file, header.physical_address);
        let seal = seal_of(&file);
        is_refused(&sealed(file, seal), FORM);
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    for tail in [&[0][..], b"more", &[0; 4096]] {
        is_refused(&changed(|file| file.extend(tail)), "bytes after the end of the image");
    }
    let short = changed(|file| file.truncate(file.len() - 1));
    assert!(!refused(&short).is_empty());
}

#[test]
fn segments_over_the_same_bytes_are_refused() {
    let mut file = image();
    let seal = seal_of(&file);
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let last = file[64 + (count - 1) * 56..64 + count * 56].to_vec();
    for index in count..72 {
        put(&mut file, 64 + index * 56, &last);
    }
    file[56] = 72;
    is_refused(&sealed(file, seal), "has segments that share bytes of the file");
}

/// Sums of header fields that overflow.
#[test]
fn segments_beyond_1_gib_are_refused() {
    let file = changed(|file| {
        for index in [6, 7, 8] {
            put(file, 64 + index * 56 + 40, &(1u64 << 63).to_le_bytes());
        }
    });
    is_refused(&file, "reaches beyond 1 GiB");
    let file = changed(|file| put(file, 64 + 6 * 56 + 24, &(u64::MAX - 0xFFF).to_le_bytes()));
    assert!(!refused(&file).is_empty());
}

#[test]
fn segments_in_another_order_are_refused() {
    let file = changed(|file| {
        let (one, two) = (64 + 6 * 56, 64 + 7 * 56);
        let first = file[one..one + 56].to_vec();
        file.copy_within(two..two + 56, one);
        put(file, two, &first);
    });
    is_refused(&file, "overlap, or are not in order");
}

#[test]
fn two_sections_of_one_name_are_refused() {
    let uses = br#"{"format":"cloister-unsafe","version":1,"crates":[]}"#;
    let extras = Extras { sbom: Some(b"{}"), unsafe_uses: Some(uses) };
    let mut file = pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras);
    let (seal, sections) = (seal_of(&file), word(&file, 40));
    let name = file[sections + 2 * 64..sections + 2 * 64 + 4].to_vec();
    put(&mut file, sections + 3 * 64, &name);
    is_refused(&sealed(file, seal), FORM);
}

/// Every byte outside segments, sections and the seal, in a file that is sealed again: headers,
/// names of sections, gaps.
#[test]
fn no_byte_of_the_structure_can_be_changed() {
    let original = image();
    let (seal, sections) = (seal_of(&original), word(&original, 40));
    // The note comes first of what is loaded.
    let structure = (0..word(&original, 64 + 8) + 20).chain(seal + 32..original.len());
    assert!(sections > seal && sections < original.len());
    for at in structure {
        for flip in [1, 0x10, 0x80, 0xFF] {
            let mut file = original.clone();
            file[at] ^= flip;
            let reasons = refused(&sealed(file, seal));
            assert!(!reasons.is_empty(), "{flip:#x} at {at:#x}");
            assert!(reasons.iter().all(|reason| !reason.starts_with("error: seal: the file is not as")), "{at:#x}");
        }
    }
}

/// The sections of an image.
mod of_inventories {
    use super::*;

    const CRATES: [&str; 3] = ["cloister-driver", "cloister-manager", "cloister-store"];

    fn listed(name: &str) -> String {
        format!(r#"{{"name":"{name}","version":"1"}}"#)
    }

    fn counted(name: &str, version: &str) -> String {
        format!(
            r#"{{"name":"{name}","crate-version":"{version}","forbids":false,"blocks":0,"functions":0,"traits":0,
            "implementations":0}}"#
        )
    }

    fn bill(rest: &str) -> String {
        let list = CRATES.map(listed).join(",");
        format!(r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{list}{rest}]}}"#)
    }

    fn uses(rest: &str) -> String {
        let list = CRATES.map(|name| counted(name, "1")).join(",");
        format!(r#"{{"format":"cloister-unsafe","version":1,"crates":[{list}{rest}]}}"#)
    }

    fn with(sbom: &str, uses: &str) -> Vec<u8> {
        let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: Some(uses.as_bytes()) };
        pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras)
    }

    /// Nothing that is printed has a character that controls a terminal or reverses text.
    fn printed(file: &[u8]) -> String {
        let verdict = verify(file, &Against::default()).unwrap();
        let text = verdict.text();
        assert!(text.chars().all(|c| cloister_policy::is_plain(c) || c == '\n'), "{text:?}");
        text
    }

    #[test]
    fn invisible_characters_are_refused() {
        assert!(refused(&with(&bill(""), &uses(""))).is_empty());
        for odd in [
            r"\u001b]0;owned\u0007",
            r"\u001b[2J",
            r"1.0\nverified: all of it",
            r"\u202eevil",
            "\u{2066}x",
            r"\u009b1m",
        ] {
            let file = with(&bill(""), &uses(&format!(",{}", counted("other", odd))));
            is_refused(&file, "the inventory of `unsafe` cannot be read");
            assert!(!printed(&file).contains("evil"));
            let file = with(&bill(&format!(",{}", listed(odd))), &uses(""));
            is_refused(&file, "the SBOM is not CycloneDX in JSON");
            printed(&file);
        }
        let elsewhere = bill("").replace("\"bomFormat\"", "\"note\":\"\\u001b[2J\",\"bomFormat\"");
        is_refused(&with(&elsewhere, &uses("")), "the SBOM is not CycloneDX in JSON");
    }

    #[test]
    fn bytes_after_a_stream_are_refused() {
        let file = with(&bill(""), &uses(""));
        let (seal, sections) = (seal_of(&file), word(&file, 40));
        // The stream of the last inventory ends sooner than its section.
        let (at, size) = (word(&file, sections + 3 * 64 + 24), word(&file, sections + 3 * 64 + 32));
        let mut shorter = file.clone();
        let stream = with(&bill(""), &uses(""));
        assert_eq!(stream[at..at + size], file[at..at + size]);
        let small = {
            let other = with(&bill(""), "{}");
            let sections = word(&other, 40);
            let (at, size) = (word(&other, sections + 3 * 64 + 24), word(&other, sections + 3 * 64 + 32));
            other[at..at + size].to_vec()
        };
        assert!(small.len() < size);
        put(&mut shorter, at, &small);
        is_refused(&sealed(shorter, seal), "there is something after its end");
    }

    #[test]
    fn very_many_findings_are_bounded() {
        let many: String = (0..60_000).map(|index| format!(",{}", listed(&format!("crate-{index}")))).collect();
        let one = |index| {
            format!(
                r#",{{"name":"other-{index}","crate-version":"1","forbids":true,"blocks":18446744073709551615,
                "functions":18446744073709551615,"traits":1,"implementations":1}}"#
            )
        };
        let others: String = (0..20_000).map(one).collect();
        let file = with(&bill(&many), &uses(&others));
        let verdict = verify(&file, &Against::default()).unwrap();
        assert!(!verdict.holds() && verdict.findings.len() < 1000, "{}", verdict.findings.len());
        assert!(verdict.text().contains("does not count crate-0"));
    }

    #[test]
    fn very_many_entries_are_refused() {
        let many: String = (0..70_000).map(|index| format!(",{}", listed(&format!("crate-{index}")))).collect();
        is_refused(&with(&bill(&many), &uses("")), "has more than 65536 entries");
    }
}

/// Programs with very many mistakes: the number of findings has a limit.
mod of_programs {
    use super::*;

    fn with_text(byte: impl Fn(usize) -> u8, length: usize) -> Vec<u8> {
        let mut elf = program(1);
        let text = &mut elf.parts[1].bytes;
        text.extend((0..length).map(byte));
        elf.parts[1].memory_size = elf.parts[1].bytes.len() as u64;
        let mut data = Part::new(6, 0x02F0_0000, 0x02F0_0000, &[1; 8]);
        data.memory_size = 0x1000;
        elf.parts[2] = data;
        pack_all(&kernel(), &[program(0), elf, program(2)])
    }

    #[test]
    fn eight_mebibytes_of_an_instruction_that_faults() {
        let verdict = verify(&with_text(|_| 0xF4, 8 << 20), &Against::default()).unwrap();
        assert!(verdict.findings.len() < 300 && verdict.hits.len() < 300, "{}", verdict.hits.len());
        assert!(verdict.text().contains("the rest of it was not checked"));
    }

    #[test]
    fn very_many_jumps_out_of_the_program() {
        let jump = [0xE9, 0, 0, 0, 0x70];
        let verdict = verify(&with_text(|at| jump[at % 5], 1 << 20), &Against::default()).unwrap();
        assert!(!verdict.holds() && verdict.findings.len() < 300, "{}", verdict.findings.len());
    }

    #[test]
    fn very_many_instructions_within_others_are_counted() {
        let text = [0xB8, 0xFA, 0xFA, 0xFA, 0xFA];
        let verdict = verify(&with_text(|at| text[at % 5], 50_000 * 5), &Against::default()).unwrap();
        assert!(verdict.holds(), "{}", verdict.text());
        assert!(verdict.hits.len() < 20_000);
        assert!(verdict.text().contains("cli 200000"), "{}", verdict.text());
    }
}

/// The tables may use only names that a policy can have. Otherwise a printed name could look like
/// another one.
#[test]
fn names_in_the_tables_that_no_policy_makes() {
    for odd in [b"\x1b[2Jxx", b"dri\xE2\x80\xAE", b"dri\ner"] {
        let file = changed(|file| {
            let start = offset_of(file, b"CLOISTER");
            let names = start + u32::from_le_bytes(file[start + 112..start + 116].try_into().unwrap()) as usize;
            let at = names + file[names..].windows(6).position(|window| window == b"driver").unwrap();
            put(file, at, odd);
        });
        let verdict = verify(&file, &Against::default()).unwrap();
        assert!(!verdict.holds());
        assert!(verdict.text().chars().all(|c| cloister_policy::is_plain(c) || c == '\n'), "{:?}", verdict.text());
        is_refused(&file, "is not one that an entry of a policy makes");
    }
}

/// A verdict does not cover an image with other code than the reviewed code, and says so.
#[test]
fn other_code_within_its_bounds_is_named_as_not_shown() {
    // A bit of the kernel's text, and a program that does nothing but start.
    let kernel_bit = changed(|file| {
        let text = headers(file).1[2].offset as usize;
        file[text + 0x100] ^= 1;
    });
    let mut idle = program(1);
    let text = &mut idle.parts[1].bytes;
    text.fill(0xCC);
    text[..11].copy_from_slice(&[0x31, 0xED, 0xE8, 2, 0, 0, 0, 0x0F, 0x0B, 0xEB, 0xFE]);
    let honest = verify(&image(), &Against::default()).unwrap();
    for (file, part) in [(kernel_bit, 0), (pack_all(&kernel(), &[program(0), idle, program(2)]), 2)] {
        let verdict = verify(&file, &Against::default()).unwrap();
        assert!(verdict.holds(), "{}", verdict.text());
        let last = verdict.text().lines().last().unwrap().to_owned();
        assert!(
            last.starts_with(
                "not shown: that the code of the kernel and of the services is the code that was reviewed"
            )
        );
        assert_ne!(verdict.programs[part].hash, honest.programs[part].hash, "the hash to compare with");
    }
}

/// An image with `count` section headers, all of whose names are one text of `length` bytes
/// without an end, or with. The numbers of the sections and of the names' section are in the
/// header, or where ELF has them if they are large.
fn many_sections(count: u64, length: usize, end: bool, in_header: bool) -> Vec<u8> {
    let mut file = image();
    let names = file.len() as u64;
    file.resize(file.len() + length, b'A');
    if end && let Some(last) = file.last_mut() {
        *last = 0;
    }
    file.resize(file.len().next_multiple_of(64), 0);
    let start = file.len() as u64;
    let mut section = |kind: u32, link: u32, offset: u64, size: u64| {
        let mut bytes = vec![0; 64];
        put(&mut bytes, 4, &kind.to_le_bytes());
        put(&mut bytes, 24, &offset.to_le_bytes());
        put(&mut bytes, 32, &size.to_le_bytes());
        put(&mut bytes, 40, &link.to_le_bytes());
        file.extend(bytes);
    };
    section(0, 1, 0, if in_header { 0 } else { count });
    section(3, 0, names, length as u64);
    (2..count).for_each(|_| section(1, 0, 0, 0));
    let [number, index] = if in_header { [count as u16, 1] } else { [0, 0xFFFF] };
    put(&mut file, 40, &start.to_le_bytes());
    put(&mut file, 60, &number.to_le_bytes());
    put(&mut file, 62, &index.to_le_bytes());
    file
}

/// Without a limit the work would be their number times the length of the names: minutes, with
/// these numbers.
#[test]
fn sections_and_their_names_are_few_or_the_file_is_refused_before_they_are_read() {
    for end in [false, true] {
        is_refused(&many_sections(16_000, 8 << 20, end, false), "has 0 section headers");
        is_refused(&many_sections(16_000, 8 << 20, end, true), "has 16000 section headers");
        is_refused(&many_sections(6, 64, end, true), "has 6 section headers");
        is_refused(&many_sections(5, 32 << 20, end, true), "has 33554432 bytes of names of sections");
        is_refused(&many_sections(5, 65, end, true), "has 65 bytes of names of sections");
        is_refused(&many_sections(5, 64, end, true), "the file has no seal");
        is_refused(&many_sections(5, 64, end, false), "has 0 section headers");
    }
}
