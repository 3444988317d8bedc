//! The exhaustive test of the comparison alone: without the seal, which finds every changed bit
//! too, and without the scan of the code, which finds a moved entry point.

use cloister_caps::tables::raw::{Segment, Service};
use cloister_caps::tables::{HEADER_SIZE, Record, Section, Tables};
use sha2::{Digest, Sha256};

use super::common::image::image;
use super::derive::{Derived, derive};
use super::image::Image;
use super::{Verdict, facts, layout, text};

/// Returns `true` if the comparison finds that these are not the tables of the image.
fn found(bytes: &[u8], image: &Image<'_>, derived: &Derived) -> bool {
    let Ok(tables) = Tables::parse(bytes) else { return true };
    if tables.policy_hash()[..] != Sha256::digest(tables.policy_text())[..] {
        return true;
    }
    let mut verdict = Verdict::empty();
    let length = layout::blob(bytes, &tables, &mut verdict.findings);
    image.check_pointer(length, &mut verdict.findings);
    if !verdict.holds() {
        return true;
    }
    facts::of_tables(&tables, true).compare(&derived.facts, &mut verdict.findings);
    let _ = layout::programs(image, &tables, &mut verdict);
    layout::data(image, &tables, &derived.data, &mut verdict.findings);
    !verdict.holds()
}

/// Returns the bits of the tables that the comparison does not decide, by their positions.
fn undecided(file: &[u8]) -> Vec<usize> {
    let image = Image::read(file, &mut Vec::new()).unwrap();
    let bytes = &*image.tables().unwrap().bytes;
    let derived = derive(&text::read(include_str!("../../tests/good.toml")).unwrap(), true).unwrap();
    assert!(!found(bytes, &image, &derived));
    let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let look = |parity: usize| {
        let mut bytes = bytes.to_vec();
        let mut out = Vec::new();
        for bit in (0..length * 8).skip(parity).step_by(2) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if !found(&bytes, &image, &derived) {
                out.push(bit / 8);
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        out
    };
    let look = &look;
    let mut out = std::thread::scope(|scope| {
        let odd = scope.spawn(move || look(1));
        [look(0), odd.join().unwrap()].concat()
    });
    out.sort_unstable();
    out.dedup();
    out
}

/// The linker, not the policy, decides where a program starts, and the size of its
/// data.
#[test]
fn every_flipped_bit_of_the_tables_that_the_policy_decides_is_found_by_comparing() {
    let file = image();
    let first_service = HEADER_SIZE + 8;
    let mut allowed = Vec::new();
    for service in 0..3 {
        // Its entry point, which the scan of the code checks.
        allowed.extend((0..8).map(|byte| first_service + service * 36 + byte));
        // Of its third segment the lengths in the file and in memory, within the page and within
        // its 16 MiB.
        let segment = HEADER_SIZE + 3 * 36 + (service * 3 + 2) * 34;
        allowed.extend((0..2).map(|byte| segment + 18 + byte));
        allowed.extend((0..3).map(|byte| segment + 26 + byte));
    }
    let found = undecided(&file);
    assert!(!found.is_empty() && found.iter().all(|byte| allowed.contains(byte)), "{found:x?}");
}

/// Both paths from a policy to its facts agree, including the lines of the file.
#[test]
fn the_second_path_agrees_with_the_compiler_on_each_shipped_policy() {
    for name in [
        "default.toml",
        "../tests/guests/prober.toml",
        "../tests/guests/selftest.toml",
        "../tests/guests/strict.toml",
        "../tests/guests/refusing.toml",
        "tests/good.toml",
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let (policy, text) = (crate::load(&path).unwrap(), std::fs::read_to_string(&path).unwrap());
        let blob = policy.tables().unwrap();
        let tables = Tables::parse(&blob).unwrap();
        let mut findings = Vec::new();
        let derived = derive(&text::read(&text).unwrap(), true).unwrap();
        facts::of_tables(&tables, true).compare(&derived.facts, &mut findings);
        layout::blob(&blob, &tables, &mut findings);
        assert!(findings.is_empty(), "{name}: {findings:?}");
    }
}

#[test]
fn the_sections_are_those_of_the_tables() {
    assert_eq!(layout::SECTIONS, Section::ALL.map(|section| (section.name(), section.record_size())));
}

const GOOD: &str = include_str!("../../tests/good.toml");
/// The numbers of sections in the header of the tables.
const SEGMENTS: usize = 1;
const NAMES: usize = 9;

fn word(blob: &[u8], at: usize) -> usize {
    u32::from_le_bytes(blob[at..at + 4].try_into().unwrap()) as usize
}

/// Returns the tables with `more` at the end of a section, and a header that says so.
fn grown(blob: &[u8], section: usize, more: &[u8]) -> Vec<u8> {
    let size = Section::ALL[section].record_size();
    let end = word(blob, 48 + section * 8) + word(blob, 52 + section * 8) * size;
    let mut out = blob.to_vec();
    out.splice(end..end, more.iter().copied());
    let mut add = |at: usize, more: usize| {
        let sum = (word(&out, at) + more) as u32;
        out[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    };
    add(12, more.len());
    add(52 + section * 8, more.len() / size);
    (section + 1..Section::ALL.len()).for_each(|later| add(48 + later * 8, more.len()));
    out
}

/// Returns what the check of the form says about tables that the kernel would take.
fn form(blob: &[u8]) -> Vec<String> {
    let (tables, mut findings) = (Tables::parse(blob).unwrap(), Vec::new());
    layout::blob(blob, &tables, &mut findings);
    findings.iter().map(ToString::to_string).collect()
}

/// The kernel reads each name by itself. Bytes that no name has could carry anything.
#[test]
fn names_fill_their_section_and_are_words() {
    let blob = crate::parse("good.toml", GOOD).unwrap().tables().unwrap();
    assert_eq!(form(&blob), [""; 0]);
    let (names, length) = (word(&blob, 48 + NAMES * 8), word(&blob, 52 + NAMES * 8));
    let longer = length + 1;
    let said = form(&grown(&blob, NAMES, b"x"));
    assert_eq!(said, [format!("error: tables: the names end at {length}, their section at {longer}")]);
    for byte in [b' ', b'\n', 0x1B, 0x7F] {
        let mut other = blob.clone();
        other[names] = byte;
        let said = form(&other);
        assert!(said[0].contains("the name at byte 0 of its section is not one that an entry"), "{said:?}");
    }
    let first = HEADER_SIZE..HEADER_SIZE + Service::SIZE;
    let renamed = |change: fn(&mut u32)| {
        let mut other = blob.clone();
        let mut service = Service::decode(&other[first.clone()]).unwrap();
        change(&mut service.name.length);
        service.encode(&mut other[first.clone()]);
        form(&other)
    };
    let said = renamed(|length| *length = 0);
    assert!(said.iter().any(|line| line.contains("is not one that an entry of a policy makes")), "{said:?}");
    for said in [renamed(|length| *length -= 1), renamed(|length| *length += 1)] {
        assert!(said.iter().any(|line| line.contains("of their section are not in order")), "{said:?}");
    }
}

/// The number of segments bounds the work of the checks that follow.
#[test]
fn more_segments_than_an_image_has_are_not_read() {
    let file = image();
    let image = Image::read(&file, &mut Vec::new()).unwrap();
    let load = image.tables().unwrap();
    let blob = &load.bytes[..word(&load.bytes, 12)];
    let first = word(blob, 48 + SEGMENTS * 8);
    let segment = &blob[first..first + Section::ALL[SEGMENTS].record_size()];
    let said = |more: usize| {
        let blob = grown(blob, SEGMENTS, &segment.repeat(more));
        let (tables, mut verdict) = (Tables::parse(&blob).unwrap(), Verdict::empty());
        let programs = layout::programs(&image, &tables, &mut verdict).len();
        let is_refused = verdict.findings.iter().any(|finding| finding.message.contains("segments of programs"));
        (is_refused, programs)
    };
    let room = crate::image_limits::MAX_LOADS - word(blob, 52 + SEGMENTS * 8);
    assert_eq!([said(room), said(room + 1), said(room + 2)], [(false, 3), (true, 0), (true, 0)]);
}

/// Segments that the kernel would map: it checks neither the program's range, nor that two share a
/// page.
#[test]
fn segments_of_a_program_are_as_the_linker_makes_them() {
    let file = image();
    let image = Image::read(&file, &mut Vec::new()).unwrap();
    let load = image.tables().unwrap();
    let said = |number: usize, change: fn(&mut Segment)| {
        let mut blob = load.bytes.to_vec();
        let at = word(&blob, 48 + SEGMENTS * 8) + number * Segment::SIZE;
        let mut segment = Segment::decode(&blob[at..at + Segment::SIZE]).unwrap();
        change(&mut segment);
        segment.encode(&mut blob[at..at + Segment::SIZE]);
        let (tables, mut verdict) = (Tables::parse(&blob).unwrap(), Verdict::empty());
        layout::programs(&image, &tables, &mut verdict);
        verdict.findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(said(0, |_| ()), "");
    let (constants, text, data) = (0, 1, 2);
    let useless = "is useless: it cannot be read, or has no bytes";
    assert!(said(text, |segment| segment.flags = 4).contains(useless));
    let nothing = |segment: &mut Segment| (segment.file_size, segment.memory_size, segment.image_address) = (0, 0, 0);
    assert!(said(constants, nothing).contains(useless));
    let placed = "the segment at 0x1003000 has no bytes, but an address in the image";
    assert!(said(data, |segment| segment.file_size = 0).contains(placed));
    let empty = said(data, |segment| (segment.file_size, segment.image_address) = (0, 0));
    assert!(!empty.contains(placed), "{empty}");
    let shared = "two segments share the page at 0x1001000";
    let longer = |segment: &mut Segment| (segment.file_size, segment.memory_size) = (0x1001, 0x1001);
    assert!(said(constants, longer).contains(shared));
    // The program's range is 16 MiB.
    assert_eq!(said(data, |segment| segment.memory_size = 0xFF_D000), "");
    let outside = "the segment at 0x1003000 is outside 0x1000000 to 0x1ffffff";
    assert!(said(data, |segment| segment.memory_size = 0xFF_D001).contains(outside));
}

/// What no shipped policy has, and the addresses and clearing of regions depend on.
#[test]
fn the_second_path_agrees_on_policies_made_for_one_rule() {
    for (rule, from, to) in [
        ("a granted region of one service", "driver = \"read-write\", store = \"read\" }", "driver = \"read-write\" }"),
        (
            "a region after a share of more than 1 GiB",
            "maximum = \"1M\"\nmap = { driver = \"heap\" }\n",
            "maximum = \"2G\"\nmap = { driver = \"heap\" }\n\n[regions.later]\nkind = \"module\"\nmap = { driver = \"read\" }\n",
        ),
        (
            "a region after the module",
            "[ports.events]",
            "[regions.a-module]\nkind = \"module\"\nmap = { driver = \"read\" }\n\n[ports.events]",
        ),
    ] {
        assert!(GOOD.contains(from), "{rule}");
        let text = GOOD.replace(from, to);
        let policy = crate::parse("made.toml", &text).unwrap_or_else(|report| panic!("{rule}: {report}"));
        let blob = policy.tables().unwrap();
        let (tables, mut findings) = (Tables::parse(&blob).unwrap(), Vec::new());
        let derived = derive(&text::read(&text).unwrap(), true).unwrap();
        facts::of_tables(&tables, true).compare(&derived.facts, &mut findings);
        assert!(findings.is_empty(), "{rule}: {findings:?}");
    }
}
