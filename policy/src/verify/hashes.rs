//! The hashes by which the parts of two images are compared.

use cloister_caps::tables::Tables;
use sha2::{Digest, Sha256};

use super::image::Image;
use super::verdict::{Unusable, Verdict};
use super::{attached, layout};

/// The name of the kernel among the programs. No service can have it.
pub const KERNEL: &str = "kernel";

/// SHA-256 of an image and of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The whole file.
    pub image: [u8; 32],
    /// The canonical policy, as the tables name it.
    pub policy: [u8; 32],
    /// The capability tables, which the kernel computes and prints.
    pub tables: [u8; 32],
    /// The bill of materials, not compressed.
    pub sbom: Option<[u8; 32]>,
    /// The inventory of `unsafe`, not compressed.
    pub unsafe_uses: Option<[u8; 32]>,
    /// The kernel and the program of each service: segments with their addresses, flags and sizes,
    /// the kernel's without the sixteen bytes that point to the tables.
    pub programs: Vec<(String, [u8; 32])>,
}

impl Hashes {
    /// Returns the hash of a service's program, or of the kernel ([`KERNEL`]).
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&[u8; 32]> {
        self.programs.iter().find_map(|(known, hash)| (known == name).then_some(hash))
    }
}

impl Verdict {
    /// Returns the hashes of the image and of its parts.
    #[must_use]
    pub fn hashes(&self) -> Hashes {
        Hashes {
            image: self.image_hash,
            policy: self.policy_hash,
            tables: self.tables_hash,
            sbom: self.inventory.sbom.as_ref().map(|sbom| Sha256::digest(sbom).into()),
            unsafe_uses: self.inventory.unsafe_hash,
            programs: self.programs.iter().map(|part| (part.name.clone(), part.hash)).collect(),
        }
    }
}

/// Returns the hashes of an image and of its parts. Judges nothing.
///
/// # Errors
/// The file is not an image, or its tables are none that this verifier knows.
pub fn hashes(file: &[u8]) -> Result<Hashes, Unusable> {
    let mut verdict = Verdict::empty();
    let image = Image::read(file, &mut verdict.findings)?;
    let bytes = image.tables().map(|load| &*load.bytes).unwrap_or_default();
    let tables = Tables::parse(bytes).map_err(Unusable::OtherVersion)?;
    attached::check(&image, &mut verdict);
    layout::programs(&image, &tables, &mut verdict);
    verdict.image_hash = Sha256::digest(file).into();
    verdict.policy_hash = tables.policy_hash();
    verdict.tables_hash = Sha256::digest(tables.bytes()).into();
    Ok(verdict.hashes())
}
