//! The manifest of the image that holds.

use cloister_policy::release::{Release, Sources, hash_of};
use cloister_policy::verify::hashes;

/// Returns the manifest of an image, with sources of the tests' own.
pub fn release_of(image: &[u8]) -> Release {
    let sources = Sources {
        policy_file: hash_of(include_bytes!("../good.toml")),
        lock: hash_of(LOCK.as_bytes()),
        toolchain: "rustc 1.95.0 (0123456789 2026-01-01)".to_owned(),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
    };
    Release { hashes: hashes(image).unwrap(), sources, configuration: None }
}

/// A lock file with the programs of the image and one crate of a registry.
pub const LOCK: &str = r#"version = 4

[[package]]
name = "cloister-driver"
version = "0.1.0"
dependencies = [
 "foreign",
]

[[package]]
name = "cloister-manager"
version = "0.1.0"

[[package]]
name = "cloister-store"
version = "0.1.0"

[[package]]
name = "foreign"
version = "1.2.3"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
"#;
