//! Holds the inventories against a lock file: each crate with its version and its checksum.
//!
//! The lock file is read line by line, in the form that cargo writes: a tree of TOML would take
//! more than a hundred times its size.

use std::collections::BTreeMap;

use super::verdict::{Finding, Inventory};
use crate::image_limits::MAX_ERRORS;

const ABOUT: &str = "lock";

/// A crate of the lock file.
#[derive(Clone, Copy, Default)]
struct Locked<'a> {
    name: Option<&'a str>,
    version: Option<&'a str>,
    source: Option<&'a str>,
    checksum: Option<&'a str>,
}

/// The crates of a lock file by name and version.
type Crates<'a> = BTreeMap<(&'a str, &'a str), Locked<'a>>;

/// Reads a lock file of version 3 or 4.
fn read(text: &str) -> Result<Crates<'_>, String> {
    let mut crates = Crates::new();
    let mut current: Option<Locked<'_>> = None;
    let mut in_list = false;
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        match (line, &mut current) {
            ("", _) if !in_list => add(current.take(), &mut crates)?,
            ("]", _) if in_list => in_list = false,
            (line, _) if in_list => {
                string(line.trim_start().trim_end_matches(',')).ok_or_else(|| unreadable(number))?;
            }
            ("[[package]]", None) => current = Some(Locked::default()),
            ("dependencies = [", Some(_)) => in_list = true,
            ("version = 3" | "version = 4", None) => {}
            (line, None) if line.starts_with('#') => {}
            (line, Some(package)) => {
                let (key, value) = line.split_once(" = ").ok_or_else(|| unreadable(number))?;
                let field = match key {
                    "name" => &mut package.name,
                    "version" => &mut package.version,
                    "source" => &mut package.source,
                    "checksum" => &mut package.checksum,
                    _ => return Err(unreadable(number)),
                };
                let value = string(value).ok_or_else(|| unreadable(number))?;
                if field.replace(value).is_some() {
                    return Err(format!("line {number} of the lock file says `{key}` again"));
                }
            }
            _ => return Err(unreadable(number)),
        }
    }
    if in_list {
        return Err("the lock file ends within a list".to_owned());
    }
    add(current, &mut crates)?;
    if crates.is_empty() { Err("the lock file lists no packages".to_owned()) } else { Ok(crates) }
}

fn unreadable(line: usize) -> String {
    format!(
        "line {line} of the lock file is not of the form that cargo writes: `cargo update --workspace` writes it again"
    )
}

/// Returns the text of a string without escapes.
fn string(value: &str) -> Option<&str> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains(['"', '\\'])).then_some(text)
}

/// Adds a crate. The inventories have no sources, so that a name and version twice could mean
/// either.
fn add<'a>(package: Option<Locked<'a>>, crates: &mut Crates<'a>) -> Result<(), String> {
    let Some(package) = package else { return Ok(()) };
    let Some((name, version)) = package.name.zip(package.version) else {
        return Err("a package of the lock file has no name or no version".to_owned());
    };
    match crates.insert((name, version), package) {
        None => Ok(()),
        Some(_) => Err(format!("the lock file has {name} {version} more than once")),
    }
}

/// Compares the inventories of an image with the text of a `Cargo.lock`.
pub(super) fn compare(text: &str, inventory: &Inventory) -> Vec<Finding> {
    let locked = match read(text) {
        Ok(locked) => locked,
        Err(reason) => return vec![Finding::error(ABOUT, reason)],
    };
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
            (Some(Locked { checksum: None, source: Some(_), .. }), _) => {
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
