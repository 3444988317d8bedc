//! The hashes by which the parts of two images are compared.

use cloister_caps::tables::Tables;
use sha2::{Digest, Sha256};

use super::image::Image;
use super::verdict::{Unusable, Verdict};
use super::{attached, layout};
use crate::release::Hashes;

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
