//! `verify --lock`: the inventories of an image against a lock file.

mod common;

use cloister_policy::Extras;
use cloister_policy::verify::{Against, verify};
use common::image::{kernel, pack_extras, program};
use common::release::LOCK;

const SUM: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Returns what `--lock` says about an image with these inventories: the checksum of the crate of a
/// registry in the SBOM, and its version in both.
fn said(lock: &str, checksum: Option<&str>, version: &str) -> Vec<String> {
    let ours = ["cloister-driver", "cloister-manager", "cloister-store"].map(|name| (name, "0.1.0"));
    let all = || ours.into_iter().chain([("foreign", version)]);
    let sum = checksum.map(|sum| format!(",\"hashes\":[{{\"alg\":\"SHA-256\",\"content\":\"{sum}\"}}]"));
    let component = |(name, version): (&str, &str)| {
        let sum = if name == "foreign" { sum.as_deref().unwrap_or_default() } else { "" };
        format!("{{\"name\":\"{name}\",\"version\":\"{version}\"{sum}}}")
    };
    let components: Vec<String> = all().map(component).collect();
    let counted: Vec<String> = all()
        .map(|(name, version)| {
            format!(
                "{{\"name\":\"{name}\",\"crate-version\":\"{version}\",\"forbids\":true,\"blocks\":0,\"functions\":0,\
                 \"traits\":0,\"implementations\":0}}"
            )
        })
        .collect();
    let sbom =
        format!("{{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"components\":[{}]}}", components.join(","));
    let uses = format!("{{\"format\":\"cloister-unsafe\",\"version\":1,\"crates\":[{}]}}", counted.join(","));
    let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: Some(uses.as_bytes()) };
    let file = pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras);
    let verdict = verify(&file, &Against { lock: Some(lock), ..Against::default() }).unwrap();
    assert_eq!(verdict.shown.lock, verdict.holds(), "{}", verdict.text());
    verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect()
}

#[test]
fn crates_of_the_lock_file_are_accepted() {
    assert_eq!(said(LOCK, Some(SUM), "1.2.3"), [""; 0]);
}

#[test]
fn name_version_and_checksum_must_be_those_of_the_lock_file() {
    let b = "b".repeat(64);
    assert_eq!(
        said(LOCK, Some(&b), "1.2.3"),
        [format!("error: lock: foreign 1.2.3 has the checksum {b} in the SBOM, and {SUM} in the lock file")]
    );
    assert_eq!(
        said(LOCK, None, "1.2.3"),
        [format!("error: lock: foreign 1.2.3 has the checksum none in the SBOM, and {SUM} in the lock file")]
    );
    assert_eq!(said(LOCK, Some(SUM), "1.2.4"), ["error: lock: foreign 1.2.4 is not in the lock file"]);
    let without = LOCK.replace("name = \"cloister-store\"", "name = \"cloister-shop\"");
    assert_eq!(said(&without, Some(SUM), "1.2.3"), ["error: lock: cloister-store 0.1.0 is not in the lock file"]);
    // One of ours has no checksum: a crate of a registry cannot pass for it.
    let ours = LOCK.replace("source = \"registry+https://github.com/rust-lang/crates.io-index\"\n", "");
    let ours = ours.replace(&format!("checksum = \"{SUM}\"\n"), "");
    assert_eq!(said(&ours, Some(SUM), "1.2.3").len(), 1);
}

#[test]
fn a_lock_file_that_proves_nothing_is_refused() {
    for (lock, expected) in [
        ("", "lists no packages"),
        ("version = 4\n", "lists no packages"),
        ("version = 5\n", "line 1 of the lock file is not of the form"),
        ("package = 1", "line 1 of the lock file is not of the form"),
        ("[[package]]\n[x", "line 2 of the lock file is not of the form"),
        ("[[package]]\n[[package]]\n", "line 2 of the lock file is not of the form"),
        ("[[package]]\nname = \"a\"\n", "has no name or no version"),
        ("[[package]]\nname = 1\n", "line 2 of the lock file is not of the form"),
        ("[[package]]\nname = \"a\\\"b\"\n", "line 2 of the lock file is not of the form"),
        ("[[package]]\nname = \"a\"\nname = \"b\"\n", "line 3 of the lock file says `name` again"),
        ("[[package]]\nname = \"a\"\nversion = \"1\"\ndependencies = [\n", "ends within a list"),
        ("[[package]]\nname = \"a\"\nversion = \"1\"\ndependencies = [\n\"]\n", "line 5 of the lock file"),
        ("[patch]\n", "line 1 of the lock file is not of the form"),
    ] {
        let found = said(lock, Some(SUM), "1.2.3");
        assert!(found.len() == 1 && found[0].contains(expected), "{lock}: {found:?}");
    }
    let twice = format!("{LOCK}\n[[package]]\nname = \"foreign\"\nversion = \"1.2.3\"\nsource = \"git+https://x#1\"\n");
    assert!(said(&twice, Some(SUM), "1.2.3")[0].contains("the lock file has foreign 1.2.3 more than once"));
    let from_git = LOCK.replace("registry+https://github.com/rust-lang/crates.io-index", "git+https://x#1");
    let from_git = from_git.replace(&format!("checksum = \"{SUM}\"\n"), "");
    let found = said(&from_git, None, "1.2.3");
    assert!(found[0].contains("foreign 1.2.3 has no checksum in the lock file"), "{found:?}");
}
