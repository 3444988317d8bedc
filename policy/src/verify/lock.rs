//! Holds the inventories against a lock file: each crate with its version and its checksum.

use std::collections::BTreeMap;

use toml_edit::{Document, Item};

use super::verdict::{Finding, Inventory};
use crate::image_limits::MAX_ERRORS;

const ABOUT: &str = "lock";

/// A crate of the lock file: its checksum, and `true` if it comes from elsewhere.
struct Locked<'a> {
    checksum: Option<&'a str>,
    foreign: bool,
}

/// Compares the inventories of an image with the text of a `Cargo.lock`.
pub(super) fn compare(text: &str, inventory: &Inventory) -> Vec<Finding> {
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return vec![Finding::error(ABOUT, format!("the lock file is not TOML: {}", error.message()))],
    };
    let Some(packages) = document.get("package").and_then(Item::as_array_of_tables) else {
        return vec![Finding::error(ABOUT, "the lock file lists no packages")];
    };
    let mut locked: BTreeMap<(&str, &str), Locked<'_>> = BTreeMap::new();
    for package in packages {
        let field = |key| package.get(key).and_then(Item::as_str);
        let Some(key) = field("name").zip(field("version")) else {
            return vec![Finding::error(ABOUT, "a package of the lock file has no name or no version")];
        };
        let entry = Locked { checksum: field("checksum"), foreign: field("source").is_some() };
        // The inventories have no sources, so they could mean either.
        if locked.insert(key, entry).is_some() {
            return vec![Finding::error(ABOUT, format!("the lock file has {} {} more than once", key.0, key.1))];
        }
    }
    let mut found = Vec::new();
    if inventory.sbom.is_none() {
        found.push(Finding::error(ABOUT, "the image carries no SBOM to compare"));
    }
    let listed =
        inventory.components.iter().map(|item| (item.name.as_str(), item.version.as_str(), Some(&item.checksum)));
    let counted = inventory.unsafe_uses.iter().flatten();
    let counted = counted.map(|item| (item.name.as_str(), item.version.as_str(), None));
    for (name, version, checksum) in listed.chain(counted) {
        let problem = match (locked.get(&(name, version)), checksum) {
            (None, _) => "is not in the lock file".to_owned(),
            (Some(Locked { checksum: None, foreign: true }), _) => {
                "has no checksum in the lock file, which names a source outside of a registry".to_owned()
            }
            (Some(locked), Some(checksum)) if checksum.as_deref() != locked.checksum => {
                let [listed, locked] = [checksum.as_deref(), locked.checksum].map(|sum| sum.unwrap_or("none"));
                format!("has the checksum {listed} in the SBOM, and {locked} in the lock file")
            }
            _ => continue,
        };
        found.push(Finding::error(ABOUT, format!("{name} {version} {problem}")));
    }
    // Both inventories may name a crate that the lock file lacks.
    found.sort_by(|one, other| one.message.cmp(&other.message));
    found.dedup();
    found.truncate(MAX_ERRORS);
    found
}
