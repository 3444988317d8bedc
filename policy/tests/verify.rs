//! `verify` on an image that holds, on input that is not an image, and on damaged images.

mod common;

use cloister_caps::tables::VERSION;
use cloister_policy::verify::{Against, Unusable, verify};
use common::image::{image, kernel, policy, program};
use common::{Elf, Part};
use proptest::prelude::*;

fn errors(file: &[u8]) -> Vec<String> {
    errors_against(file, &Against::default())
}

fn errors_against(file: &[u8], against: &Against<'_>) -> Vec<String> {
    let findings = verify(file, against).unwrap().findings;
    findings.iter().map(ToString::to_string).filter(|finding| finding.starts_with("error")).collect()
}

const GOOD: &str = include_str!("good.toml");

#[test]
fn a_packed_image_verifies() {
    let file = image();
    assert_eq!(errors(&file), Vec::<String>::new());
    let verdict = verify(&file, &Against { policy: Some(GOOD), ..Against::default() }).unwrap();
    assert!(verdict.holds(), "{}", verdict.text());
    assert_eq!(verdict.policy_hash, policy().hash());
    assert_eq!(verdict.policy, policy().canonical());
    assert!(verdict.facts > 200);
    let names: Vec<&str> = verdict.programs.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["kernel", "driver", "manager", "store"]);
    let text = verdict.text();
    assert!(text.contains("\nshown: the form of the file") && !text.contains("verified"), "{text}");
    assert!(
        text.contains("\nnot shown: that the code of the kernel and of the services is the code that was"),
        "{text}"
    );
}

/// Data that starts as zeros has an address, and no bytes in the image.
#[test]
fn a_program_refers_to_data_that_has_no_bytes_in_the_image_and_not_beyond() {
    let errors_with = |target: u32| {
        let mut empty = program(1);
        empty.parts[2].bytes.clear();
        // `mov eax, [rip + …]`, six bytes.
        empty.parts[1].bytes[0x20..0x22].copy_from_slice(&[0x8B, 0x05]);
        empty.parts[1].bytes[0x22..0x26].copy_from_slice(&(target - 0x1026).to_le_bytes());
        errors(&common::image::pack_all(&kernel(), &[program(0), empty, program(2)]))
    };
    assert_eq!(errors_with(0x3000), Vec::<String>::new());
    assert_eq!(errors_with(0x3000 + 0x1057), Vec::<String>::new());
    let beyond = errors_with(0x3000 + 0x1058);
    assert!(beyond.len() == 1 && beyond[0].contains("refers to 0x2004058, outside the program"), "{beyond:?}");
}

#[test]
fn the_same_program_has_the_same_hash_in_two_images() {
    let one = verify(&image(), &Against::default()).unwrap();
    let mut other = common::image::program(1);
    other.parts[0].bytes[5] ^= 1;
    let programs = [common::image::program(0), other, common::image::program(2)];
    let two = verify(&common::image::pack_all(&kernel(), &programs), &Against::default()).unwrap();
    let same: Vec<bool> = one.programs.iter().zip(&two.programs).map(|(one, two)| one.hash == two.hash).collect();
    assert_eq!(same, [true, true, false, true]);
}

/// A program's hash covers where its segments lie and how long they are. The kernel's leaves out
/// the pointer to the tables, so that it is the same with another policy.
#[test]
fn hashes_of_programs_cover_their_segments_and_no_tables() {
    let one = verify(&image(), &Against::default()).unwrap().programs;
    assert_eq!((one[1].bytes, one[1].text), (0x3000, 0x1000));
    let mut longer = program(1);
    longer.parts[2].memory_size += 8;
    let file = common::image::pack_all(&kernel(), &[program(0), longer, program(2)]);
    let two = verify(&file, &Against::default()).unwrap().programs;
    assert!(one[2].hash != two[2].hash && one[0].hash == two[0].hash);
    let policy = cloister_policy::parse("other.toml", &GOOD.replace("priority = 50", "priority = 100")).unwrap();
    let files: Vec<Vec<u8>> = (0..3).map(|index| program(index).build()).collect();
    let programs: Vec<_> = common::image::NAMES
        .iter()
        .zip(&files)
        .map(|(service, elf)| cloister_policy::Program { service, elf })
        .collect();
    let file = cloister_policy::pack(&policy, &kernel().build(), &programs).unwrap();
    let three = verify(&file, &Against::default()).unwrap().programs;
    assert!(one.iter().zip(&three).all(|(one, three)| one.hash == three.hash));
}

#[test]
fn an_image_of_another_policy_is_refused() {
    let other = GOOD.replace("depth = 8", "depth = 16");
    let found = errors_against(&image(), &Against { policy: Some(&other), ..Against::default() });
    assert!(found[0].contains("the image carries another policy"), "{found:?}");
    assert!(found.iter().any(|error| error.contains("the depth is 8; [queues.pages] makes it 16")), "{found:?}");
    // The same authority from other lines: only the lines in the log of refusals differ.
    let moved = format!("# One more line.\n{GOOD}");
    let found = errors_against(&image(), &Against { policy: Some(&moved), ..Against::default() });
    assert!(!found.is_empty() && found.iter().all(|error| error.contains("the line of the policy is")), "{found:?}");
    let found = errors_against(&image(), &Against { policy: Some("format = 2"), ..Against::default() });
    assert!(found.iter().any(|error| error.contains("the given policy does not hold")), "{found:?}");
}

/// Sizes of a policy that no address space has.
#[test]
fn a_given_policy_with_huge_numbers_is_refused() {
    for (from, to) in [
        ("stack = \"16K\"", "stack = \"18014398509481983K\""),
        ("maximum = \"1M\"", "maximum = \"18014398509481983K\""),
        ("pages = 4", "pages = 9223372036854775807"),
        ("depth = 8", "depth = 9223372036854775807"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = errors_against(&image(), &Against { policy: Some(&GOOD.replace(from, to)), ..Against::default() });
        assert!(found.iter().any(|error| error.contains("the given policy does not hold")), "{to}: {found:?}");
    }
}

#[test]
fn the_json_form_says_the_same() {
    let verdict = verify(&image(), &Against::default()).unwrap();
    let json = verdict.json();
    assert_eq!(json["holds"], true);
    assert_eq!(json["programs"].as_array().unwrap().len(), 4);
    assert_eq!(json["findings"].as_array().unwrap().len(), verdict.findings.len());
    assert_eq!(json["policy-sha256"].as_str().unwrap().len(), 64);
}

/// The tables are found by the pointer in the kernel, as the kernel finds them, and hashed again.
#[test]
fn the_verdict_names_the_hash_of_the_tables_in_memory() {
    use sha2::{Digest, Sha256};
    let image = image();
    let word = |at| u64::from_le_bytes(common::physical(&image, at, 8).try_into().unwrap());
    let tables = common::physical(&image, word(0x10_2000), usize::try_from(word(0x10_2008)).unwrap());
    let hash = Sha256::digest(&tables);
    let verdict = verify(&image, &Against::default()).unwrap();
    assert_eq!(verdict.tables_hash[..], hash[..]);
    assert_eq!(cloister_policy::verify::hashes(&image).unwrap(), verdict.hashes());
    let hexadecimal: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(verdict.json()["tables-sha256"], hexadecimal.as_str());
    assert!(verdict.text().contains(&format!("tables    sha256 {hexadecimal}\n")), "{}", verdict.text());
    // A byte of the tables makes another hash.
    let mut other = image.clone();
    common::fill_up(&mut other, word(0x10_2000));
    let at = common::offset_of(&other, &tables) + tables.len() - 1;
    other[at] ^= 1;
    assert_ne!(verify(&other, &Against::default()).unwrap().tables_hash, verdict.tables_hash);
}

fn unusable(file: &[u8]) -> String {
    verify(file, &Against::default()).err().expect("refused").to_string()
}

#[test]
fn a_file_that_is_no_image_is_refused_as_one() {
    assert_eq!(unusable(b""), "the file is empty");
    assert!(unusable(&[0xFF; 4096]).starts_with("not an ELF file that can be read"));
    assert!(unusable(b"\x7FELF").starts_with("not an ELF file that can be read"));
    assert!(unusable(&vec![0; 100_000_000]).starts_with("not an ELF file that can be read"));
    assert_eq!(unusable(&kernel().build()), "not a Cloister image: it holds no capability tables");
    assert_eq!(unusable(&Elf { machine: 183, ..kernel() }.build()), "not a Cloister image: it is not for x86-64");
    let movable = unusable(&Elf { kind: 3, ..kernel() }.build());
    assert_eq!(movable, "not a Cloister image: it is not linked at fixed addresses");
    let file = image();
    assert!(unusable(&file[..file.len() / 2]).contains("does not fit the file"));
    assert!(unusable(&file[..100]).starts_with("not an ELF file that can be read"));
    let mut twice = kernel();
    for address in [0x20_0000, 0x30_0000] {
        twice.parts.push(Part::new(4, address, address, b"CLOISTER........"));
    }
    assert_eq!(unusable(&twice.build()), "not a Cloister image: it holds capability tables more than once");
}

#[test]
fn an_image_of_a_newer_version_is_not_judged() {
    let mut file = image();
    let at = common::offset_of(&file, b"CLOISTER");
    file[at + 8] += 1;
    let error = verify(&file, &Against::default()).err();
    assert!(matches!(error, Some(Unusable::OtherVersion(_))), "{error:?}");
    assert!(unusable(&file).contains(&format!("capability tables of version {}", VERSION + 1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Damage anywhere gives a verdict or an error, and never passes.
    #[test]
    fn damaged_images_are_answered(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6),
        headers_only in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let original = image();
        let mut file = original.clone();
        let reach = if headers_only { 0x500 } else { file.len() };
        for (at, flip) in damage {
            let at = at.index(reach);
            file[at] ^= flip;
        }
        if let Some(cut) = cut {
            let length = cut.index(file.len());
            file.truncate(length);
        }
        if let Ok(verdict) = verify(&file, &Against::default()) {
            prop_assert!(!verdict.holds() || file == original);
            prop_assert!(!verdict.text().is_empty() && verdict.json().is_object());
        }
    }

    /// Any bytes in the place of the tables.
    #[test]
    fn any_tables_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut file = image();
        let at = common::offset_of(&file, b"CLOISTER") + 12;
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        if let Ok(verdict) = verify(&file, &Against::default()) {
            prop_assert!(bytes.is_empty() || !verdict.holds());
        }
    }
}
