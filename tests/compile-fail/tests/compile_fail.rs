//! Checks that the compiler refuses each attempt of `cases` with the message of its `.stderr` file.
//!
//! `TRYBUILD=overwrite cargo test -p cloister-compile-fail` rewrites the messages: review the
//! changes.
#![forbid(unsafe_code)]

use std::path::Path;

#[test]
fn attempts_do_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("cases/honest.rs");
    cases.compile_fail("cases/[!h]*.rs");
    cases.compile_fail("cases/kernel/*.rs");
}

#[test]
fn every_attempt_has_its_message() {
    for (folder, expected) in [("cases", 28), ("cases/kernel", 29)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut attempts = 0;
        for entry in std::fs::read_dir(folder).expect("the cases") {
            let path = entry.expect("an entry").path();
            let attempt = path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("honest.rs");
            assert!(!attempt || path.with_extension("stderr").exists(), "{}", path.display());
            attempts += u32::from(attempt);
        }
        assert_eq!(attempts, expected);
    }
}
