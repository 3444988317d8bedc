//! Images whose embedded policy breaks one of its assertions, one for each kind. Everything else
//! agrees, including the hash and the seal; `verify` must name the rules.
#![forbid(unsafe_code)]

mod common;

use cloister_policy::verify::{Against, verify};
use cloister_policy::{Program, pack, parse};
use common::image::{NAMES, kernel, program};
use common::{offset_of, seal};
use sha2::{Digest, Sha256};

/// Returns the errors of the image of `good.toml` with one more assertion, with `from` replaced by
/// `to` in the embedded text.
fn errors(assertion: &str, from: &str, to: &str) -> Vec<String> {
    let text = format!("{}\n[[assert]]\nname = \"it\"\nwhy = \"a threat\"\n{assertion}", include_str!("good.toml"));
    let policy = parse("good.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    let files: Vec<Vec<u8>> = (0..NAMES.len()).map(|index| program(index).build()).collect();
    let programs: Vec<Program<'_>> = NAMES.iter().zip(&files).map(|(service, elf)| Program { service, elf }).collect();
    let mut file = pack(&policy, &kernel().build(), &programs).unwrap();
    let holds = verify(&file, &Against::default()).unwrap();
    assert!(holds.findings.iter().all(|finding| !finding.is_error()), "{:?}", holds.findings);

    // Shorter text is filled up with spaces, which mean nothing in TOML.
    let padded = format!("{to:<width$}", width = from.len());
    assert_eq!(padded.len(), from.len());
    let start = offset_of(&file, b"CLOISTER");
    let canonical = policy.canonical();
    let at =
        file.windows(canonical.len()).position(|window| window == canonical.as_bytes()).expect("the embedded policy");
    let place = canonical.find(from).unwrap_or_else(|| panic!("{from} is not in\n{canonical}"));
    file[at + place..at + place + from.len()].copy_from_slice(padded.as_bytes());
    let hash = Sha256::digest(&file[at..at + canonical.len()]);
    file[start + 16..start + 48].copy_from_slice(&hash);
    seal(&mut file);
    let verdict = verify(&file, &Against::default()).unwrap();
    verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect()
}

#[track_caller]
fn names_the_path(assertion: &str, from: &str, to: &str, path: &[&str]) {
    let errors = errors(assertion, from, to);
    let named =
        errors.iter().any(|error| error.contains("`it` does not hold") && path.iter().all(|part| error.contains(part)));
    assert!(named, "{path:?}: {errors:#?}");
}

#[test]
fn a_flow_breaks_its_assertion() {
    names_the_path(
        "kind = \"cannot-cause\"\nfrom = \"driver\"\nto = \"clock.wall\"\n",
        "\"clock.wall\"",
        "\"pool.write\"",
        &["driver can write pool", "driver maps pool as read-write"],
    );
}

#[test]
fn one_more_subject_breaks_its_assertion() {
    names_the_path(
        "kind = \"only\"\nwho = [\"backend\", \"driver\"]\nmay = \"pool.write\"\ndirectly = true\n",
        "\"backend\", \"driver\"",
        "\"manager\", \"driver\"",
        &["backend can write pool", "manager may grant 4 pages of pool to backend"],
    );
}

#[test]
fn a_region_that_is_not_exclusive_breaks_its_assertion() {
    names_the_path(
        "kind = \"exclusive\"\nowner = \"driver\"\nregions = [\"pool\"]\naccess = \"write\"\nbesides = [\"backend\"]\n",
        "access = \"write\"",
        "access = \"map\"",
        &["store maps pool as read"],
    );
}

#[test]
fn a_shared_region_breaks_its_assertion() {
    names_the_path(
        "kind = \"cannot-cause\"\nfrom = \"driver\"\nto = \"clock.wall\"\nunless = [\"manager\", \"store\"]\n",
        "kind = \"cannot-cause\"\nfrom = \"driver\"\nto = \"clock.wall\"\nunless = [\"manager\", \"store\"]",
        "kind = \"share-nothing\"\nbetween = [\"driver\", \"store\"]",
        &["driver and store both map pool", "driver maps pool", "store maps pool"],
    );
}

#[test]
fn more_than_the_bound_breaks_its_assertion() {
    names_the_path(
        "kind = \"at-most\"\nwhat = \"granted-pages\"\nlimit = 4\n",
        "limit = 4",
        "limit = 3",
        &["granted-pages: 4, and the bound is 3", "manager may grant 4 pages of pool"],
    );
}
