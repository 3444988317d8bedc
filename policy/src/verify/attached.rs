//! What the packer attaches to an image in sections that no segment loads: the seal, the SBOM and the inventory of
//! `unsafe`. They cost the guest no memory, and the kernel does not know of them.

use std::io::Read;

use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::image::{Image, section};
use super::{Finding, Verdict};

/// SHA-256 of the file, with its own bytes taken as zeros.
pub(crate) const SEAL: &str = ".cloister.seal";
/// The bill of materials: CycloneDX, JSON, compressed.
pub(crate) const SBOM: &str = ".cloister.sbom";
/// Where `unsafe` is written: JSON, compressed; see `docs/verify.md`.
pub(crate) const UNSAFE: &str = ".cloister.unsafe";

/// What an image carries about its own making.
#[derive(Default)]
pub struct Inventory {
    /// The bill of materials, as it is in the image.
    pub sbom: Option<String>,
    /// The names of the components that it lists.
    pub components: Vec<String>,
    /// `unsafe` in each crate of the image.
    pub unsafe_uses: Vec<UnsafeUse>,
}

/// `unsafe` in the sources of a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeUse {
    /// The crate.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether the crate forbids it.
    pub forbids: bool,
    /// Blocks, functions, traits and implementations, each counted where the word stands.
    pub counts: [u64; 4],
}

/// The names of [`UnsafeUse::counts`].
pub(crate) const COUNTS: [&str; 4] = ["blocks", "functions", "traits", "implementations"];

/// Checks the seal and reads the inventories.
pub(super) fn check(image: &Image<'_>, verdict: &mut Verdict) {
    check_seal(image.file, &mut verdict.findings);
    match section(image.file, SBOM) {
        Some((_, bytes)) => match inflated(bytes).as_deref().and_then(read_sbom) {
            Some((text, components)) => {
                verdict.inventory.sbom = Some(text);
                verdict.inventory.components = components;
            }
            None => verdict.findings.push(Finding::error("attached", "the SBOM is not CycloneDX in JSON")),
        },
        None => verdict.findings.push(Finding::notice("attached", "the image carries no SBOM")),
    }
    match section(image.file, UNSAFE) {
        Some((_, bytes)) => match inflated(bytes).as_deref().and_then(read_unsafe) {
            Some(uses) => verdict.inventory.unsafe_uses = uses,
            None => {
                verdict.findings.push(Finding::error("attached", "the inventory of `unsafe` cannot be read"));
            }
        },
        None => verdict.findings.push(Finding::notice("attached", "the image carries no inventory of `unsafe`")),
    }
}

fn check_seal(file: &[u8], findings: &mut Vec<Finding>) {
    let place = section(file, SEAL).and_then(|(offset, bytes)| {
        let start = usize::try_from(offset).ok()?;
        Some((start, <[u8; 32]>::try_from(bytes).ok()?))
    });
    match place {
        Some((start, seal)) if sealed(file, start) == Some(seal) => {}
        Some(_) => {
            findings.push(Finding::error("seal", "the file is not as it was packed: its bytes do not match its seal"));
        }
        None => findings.push(Finding::error("seal", "the file has no seal: the packer gives every image one")),
    }
}

/// The hash of a file in which the seal's bytes are zeros.
pub(crate) fn sealed(file: &[u8], seal: usize) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(file.get(..seal)?);
    hash.update([0; 32]);
    hash.update(file.get(seal.checked_add(32)?..)?);
    Some(hash.finalize().into())
}

/// The largest inventory that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// An inventory as it is attached: a zlib stream (RFC 1950), as `cargo-auditable` attaches its own.
pub(crate) fn deflated(json: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(json, Compression::best());
    let mut out = Vec::new();
    // Neither the slice nor the vector can fail.
    let _ = encoder.read_to_end(&mut out);
    out
}

fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    ZlibDecoder::new(bytes).take(LARGEST).read_to_end(&mut out).ok()?;
    Some(out)
}

fn read_sbom(bytes: &[u8]) -> Option<(String, Vec<String>)> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let format = value.get("bomFormat")?.as_str()? == "CycloneDX" && value.get("specVersion")?.is_string();
    let components = value.get("components")?.as_array()?;
    let name = |component: &Value| Some(component.get("name")?.as_str()?.to_owned());
    let names = components.iter().map(name).collect::<Option<Vec<String>>>()?;
    let text = std::str::from_utf8(bytes).ok()?;
    format.then(|| (text.to_owned(), names))
}

impl Inventory {
    /// What of the inventories does not agree with the programs of the policy, or with each other.
    pub(super) fn contradictions(&self, programs: &[String]) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.sbom.is_none() {
            return found;
        }
        for program in programs.iter().filter(|program| !self.components.contains(program)) {
            found.push(Finding::error("attached", format!("the SBOM does not list the program {program}")));
        }
        let counted: Vec<&String> = self.unsafe_uses.iter().map(|item| &item.name).collect();
        for name in self.components.iter().filter(|name| !counted.is_empty() && !counted.contains(name)) {
            found.push(Finding::error("attached", format!("the inventory of `unsafe` does not count {name}")));
        }
        for item in self.unsafe_uses.iter().filter(|item| item.forbids && item.counts != [0; 4]) {
            found.push(Finding::error("attached", format!("{} forbids `unsafe` and is said to have it", item.name)));
        }
        found
    }
}

fn read_unsafe(bytes: &[u8]) -> Option<Vec<UnsafeUse>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    if value.get("format")? != "cloister-unsafe" || value.get("version")? != 1 {
        return None;
    }
    let read = |item: &Value| {
        let mut counts = [0; 4];
        for (count, name) in counts.iter_mut().zip(COUNTS) {
            *count = item.get(name)?.as_u64()?;
        }
        Some(UnsafeUse {
            name: item.get("name")?.as_str()?.to_owned(),
            version: item.get("crate-version")?.as_str()?.to_owned(),
            forbids: item.get("forbids")?.as_bool()?,
            counts,
        })
    };
    value.get("crates")?.as_array()?.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_comes_back_as_it_was_and_nothing_else_is_one() {
        let json = br#"{"format":"cloister-unsafe","version":1,"crates":[]}"#.repeat(40);
        let small = deflated(&json);
        assert!(small.len() * 4 < json.len());
        assert_eq!(inflated(&small), Some(json.clone()));
        assert_eq!((inflated(&json), inflated(&small[..small.len() - 5])), (None, None));
        let bomb = deflated(&vec![b' '; LARGEST as usize + 1]);
        assert_eq!(inflated(&bomb).map(|bytes| bytes.len() as u64), Some(LARGEST));
    }
}
