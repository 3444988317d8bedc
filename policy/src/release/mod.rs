//! The manifest of a release, `release.toml`: what its image is made of, as hashes.
//!
//! `xtask build` and `dist` write it, `sign` signs it, `verify --release` holds an image against
//! it. `docs/verify.md` describes each line.

mod compare;
mod manifest;
mod text;

use sha2::{Digest, Sha256};

pub use manifest::{Hash, Hashes, KERNEL, Release, Sources};
pub use text::ReleaseError;
pub(crate) use text::hash;

/// The size of the largest manifest, in bytes.
pub const MAX_RELEASE: u64 = 16 << 10;

/// Returns the SHA-256 of a file's bytes.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
