//! The manifest of a release, `release.toml`: what its image is made of, as hashes.
//!
//! `xtask build` and `dist` write it, `sign` signs it, `verify --release` holds an image against
//! it. `docs/verify.md` describes each line.

mod compare;
mod text;

use sha2::{Digest, Sha256};

use crate::verify::Hashes;

pub use text::ReleaseError;
pub(crate) use text::hash;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The size of the largest manifest, in bytes.
pub const MAX_RELEASE: u64 = 16 << 10;

/// A manifest: all that a release consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The parts of the image.
    pub hashes: Hashes,
    /// What the image was built from.
    pub sources: Sources,
    /// SHA-256 of the guest's `xl` configuration, if the release has one.
    pub configuration: Option<Hash>,
}

/// What an image was built from. A build of the same again gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// SHA-256 of the policy file as it was written: the log of refusals shows its lines.
    pub policy_file: Hash,
    /// SHA-256 of `Cargo.lock`.
    pub lock: Hash,
    /// The compiler, as `rustc --version` names it.
    pub toolchain: String,
    /// The commit, in hexadecimal; `None` if the sources were those of no commit.
    pub commit: Option<String>,
}

impl Release {
    /// Parses the text of a manifest.
    ///
    /// # Errors
    /// The text is not a manifest of this version; the error says where and why.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        text::parse(text)
    }

    /// Returns the text of the manifest, which [`Release::parse`] reads.
    #[must_use]
    pub fn text(&self) -> String {
        text::render(self)
    }
}

/// Returns the SHA-256 of a file's bytes.
#[must_use]
pub fn hash_of(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
