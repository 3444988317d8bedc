//! The exhaustive test of the comparison alone: without the seal, which finds every changed bit
//! too, and without the scan of the code, which finds a moved entry point.

use cloister_caps::tables::{HEADER_SIZE, Section, Tables};
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
