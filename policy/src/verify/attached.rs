//! Checks the sections that no segment loads: the seal, the bill of materials (SBOM) and the
//! inventory of `unsafe`. They take no memory of the guest, and the kernel does not read them.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

use flate2::bufread::ZlibDecoder;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::image::Image;
use super::verdict::{Component, Finding, Inventory, UnsafeUse, Verdict};
use crate::image_form::seal_and_file_hash;
use crate::image_limits::{MAX_ENTRIES, MAX_ERRORS, MAX_INVENTORY, MAX_WORD};

/// Checks the seal and reads the inventories.
pub(super) fn check(image: &Image<'_>, verdict: &mut Verdict) {
    check_seal(image, verdict);
    match image.sbom {
        Some(section) => match inflated(section.bytes).and_then(|json| read_sbom(&json)) {
            Ok((text, components)) => {
                verdict.inventory.sbom = Some(text);
                verdict.inventory.components = components;
            }
            Err(reason) => verdict.error("attached", format!("the SBOM is not CycloneDX in JSON: {reason}")),
        },
        None => verdict.findings.push(Finding::notice("attached", "the image carries no SBOM")),
    }
    match image.unsafe_uses {
        Some(section) => match inflated(section.bytes).and_then(|json| Ok((read_unsafe(&json)?, json))) {
            Ok((uses, json)) => {
                verdict.inventory.unsafe_uses = Some(uses);
                verdict.inventory.unsafe_hash = Some(Sha256::digest(&json).into());
            }
            Err(reason) => {
                verdict.error("attached", format!("the inventory of `unsafe` cannot be read: {reason}"));
            }
        },
        None => verdict.findings.push(Finding::notice("attached", "the image carries no inventory of `unsafe`")),
    }
}

/// Checks the seal, and computes the hash of the file in the same pass.
fn check_seal(image: &Image<'_>, verdict: &mut Verdict) {
    let place = image.seal.and_then(|seal| {
        let start = usize::try_from(seal.offset).ok()?;
        Some((seal_and_file_hash(image.file, start)?, seal.bytes))
    });
    let Some(((hash, whole), seal)) = place else {
        verdict.error("seal", "the file has no seal: the packer gives every image one");
        return;
    };
    verdict.image_hash = whole;
    if seal != hash {
        verdict.error("seal", "the file is not as it was packed: its bytes do not match its seal");
    }
}

/// Decompresses an inventory. The stream must end where the section ends, and be no larger than the
/// limit.
fn inflated(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut decoder = ZlibDecoder::new(bytes);
    decoder
        .by_ref()
        .take(MAX_INVENTORY + 1)
        .read_to_end(&mut out)
        .map_err(|error| format!("it is not a zlib stream: {error}"))?;
    if out.len() as u64 > MAX_INVENTORY {
        return Err(format!("it has more than {MAX_INVENTORY} bytes"));
    }
    if decoder.total_in() != bytes.len() as u64 {
        return Err("there is something after its end".into());
    }
    Ok(out)
}

/// Returns `true` for characters of an inventory: visible ASCII, spaces, tabs and ends of lines.
fn is_shown(c: char) -> bool {
    c.is_ascii_graphic() || matches!(c, ' ' | '\t' | '\n')
}

/// Any JSON in which each character of the strings and keys is visible.
struct VisibleJson;

impl<'de> Deserialize<'de> for VisibleJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VisibleJson)
    }
}

impl<'de> Visitor<'de> for VisibleJson {
    type Value = VisibleJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<VisibleJson, E> {
        match text.chars().find(|c| !is_shown(*c)) {
            Some(c) => Err(E::custom(hidden(c))),
            None => Ok(VisibleJson),
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<VisibleJson, E> {
        Ok(VisibleJson)
    }

    fn visit_i64<E>(self, _: i64) -> Result<VisibleJson, E> {
        Ok(VisibleJson)
    }

    fn visit_u64<E>(self, _: u64) -> Result<VisibleJson, E> {
        Ok(VisibleJson)
    }

    fn visit_f64<E>(self, _: f64) -> Result<VisibleJson, E> {
        Ok(VisibleJson)
    }

    fn visit_unit<E>(self) -> Result<VisibleJson, E> {
        Ok(VisibleJson)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<VisibleJson, A::Error> {
        while items.next_element::<VisibleJson>()?.is_some() {}
        Ok(VisibleJson)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<VisibleJson, A::Error> {
        while entries.next_entry::<VisibleJson, VisibleJson>()?.is_some() {}
        Ok(VisibleJson)
    }
}

/// A name or a version, which is printed in a line.
struct VisibleWord(String);

impl<'de> Deserialize<'de> for VisibleWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > MAX_WORD || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = format_args!("a name or version is not 1 to {MAX_WORD} visible characters of ASCII");
            return Err(de::Error::custom(reason));
        }
        Ok(VisibleWord(text))
    }
}

fn hidden(c: char) -> String {
    format!("it has the character {}, which is not visible ASCII", c.escape_unicode())
}

/// Reads JSON. First checks that all its characters are visible, both as written and after
/// unescaping.
fn read_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if let Some(c) = text.chars().find(|c| !is_shown(*c)) {
        return Err(hidden(c));
    }
    serde_json::from_slice::<VisibleJson>(bytes).map_err(|error| error.to_string())?;
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn few<T>(items: &[T]) -> Result<(), String> {
    if items.len() > MAX_ENTRIES { Err(format!("it has more than {MAX_ENTRIES} entries")) } else { Ok(()) }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sbom {
    bom_format: VisibleWord,
    #[serde(rename = "specVersion")]
    _spec_version: VisibleWord,
    components: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: VisibleWord,
    version: VisibleWord,
    #[serde(default)]
    hashes: Vec<Checksum>,
}

#[derive(Deserialize)]
struct Checksum {
    alg: VisibleWord,
    content: VisibleWord,
}

impl Listed {
    fn component(self) -> Component {
        let checksum = self.hashes.into_iter().find(|hash| hash.alg.0 == "SHA-256").map(|hash| hash.content.0);
        Component { name: self.name.0, version: self.version.0, checksum }
    }
}

fn read_sbom(bytes: &[u8]) -> Result<(String, Vec<Component>), String> {
    let sbom: Sbom = read_json(bytes)?;
    if sbom.bom_format.0 != "CycloneDX" {
        return Err("it has another format".into());
    }
    few(&sbom.components)?;
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok((text.to_owned(), sbom.components.into_iter().map(Listed::component).collect()))
}

impl Inventory {
    /// Returns where the inventories disagree with the programs of the policy, or with each other.
    ///
    /// Each must have every program, and each version of a crate once. If both are there, they must
    /// have the same crates.
    pub(super) fn contradictions(&self, programs: &[String]) -> Vec<Finding> {
        const OF_SBOM: &str = "the SBOM does not list";
        const OF_UNSAFE: &str = "the inventory of `unsafe` does not count";
        let listed = self.sbom.is_some().then(|| self.components.iter().map(|item| (&*item.name, &*item.version)));
        let counted = self.unsafe_uses.as_ref().map(|uses| uses.iter().map(|item| (&*item.name, &*item.version)));
        let mut found = Vec::new();
        let listed = listed.map(|crates| set(crates.collect(), OF_SBOM, programs, &mut found));
        let counted = counted.map(|crates| set(crates.collect(), OF_UNSAFE, programs, &mut found));
        if let Some((listed, counted)) = listed.zip(counted) {
            for (one, other, lacks) in [(&listed, &counted, OF_UNSAFE), (&counted, &listed, OF_SBOM)] {
                for (name, version) in one.difference(other).take(MAX_ERRORS) {
                    found.push(Finding::error("attached", format!("{lacks} {name} {version}")));
                }
            }
        }
        let contradictory = self.unsafe_uses.iter().flatten().filter(|item| item.forbids && item.counts != [0; 4]);
        for item in contradictory.take(MAX_ERRORS) {
            found.push(Finding::error(
                "attached",
                format!("{} forbids `unsafe` and is listed with uses of it", item.name),
            ));
        }
        found
    }
}

/// A crate of an inventory: its name and its version.
type Crate<'a> = (&'a str, &'a str);

/// Returns the crates of an inventory, each of which it must have once, and every program among
/// them.
fn set<'a>(
    mut crates: Vec<Crate<'a>>,
    lacks: &str,
    programs: &[String],
    found: &mut Vec<Finding>,
) -> BTreeSet<Crate<'a>> {
    crates.sort_unstable();
    let twice = crates.windows(2).filter_map(|pair| (pair.first() == pair.last()).then_some(pair.first()?));
    for (name, version) in twice.take(MAX_ERRORS) {
        found.push(Finding::error("attached", format!("an inventory has {name} {version} more than once")));
    }
    let names: BTreeSet<&str> = crates.iter().map(|(name, _)| *name).collect();
    let missing: BTreeSet<&str> = programs.iter().map(String::as_str).filter(|name| !names.contains(name)).collect();
    for program in missing {
        found.push(Finding::error("attached", format!("{lacks} the program {program}")));
    }
    crates.into_iter().collect()
}

#[derive(Deserialize)]
struct UnsafeUses {
    format: VisibleWord,
    version: u64,
    crates: Vec<CrateUses>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CrateUses {
    name: VisibleWord,
    crate_version: VisibleWord,
    forbids: bool,
    blocks: u64,
    functions: u64,
    traits: u64,
    implementations: u64,
}

fn read_unsafe(bytes: &[u8]) -> Result<Vec<UnsafeUse>, String> {
    let uses: UnsafeUses = read_json(bytes)?;
    if uses.format.0 != "cloister-unsafe" || uses.version != 1 {
        return Err("it has another format".into());
    }
    few(&uses.crates)?;
    let read = |item: CrateUses| UnsafeUse {
        name: item.name.0,
        version: item.crate_version.0,
        forbids: item.forbids,
        counts: [item.blocks, item.functions, item.traits, item.implementations],
    };
    Ok(uses.crates.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_form::deflate;

    #[test]
    fn an_inventory_is_read_back_unchanged_and_nothing_else_is_accepted() {
        let json = br#"{"format":"cloister-unsafe","version":1,"crates":[]}"#.repeat(40);
        let small = deflate(&json);
        assert!(small.len() * 4 < json.len());
        assert_eq!(inflated(&small), Ok(json.clone()));
        assert!(inflated(&json).is_err() && inflated(&small[..small.len() - 5]).is_err());
        let behind = [&small[..], &[0]].concat();
        assert_eq!(inflated(&behind), Err("there is something after its end".into()));
        let largest = deflate(&vec![b' '; MAX_INVENTORY as usize]);
        assert_eq!(inflated(&largest).map(|bytes| bytes.len() as u64), Ok(MAX_INVENTORY));
        let bomb = deflate(&vec![b' '; MAX_INVENTORY as usize + 1]);
        assert_eq!(inflated(&bomb), Err(format!("it has more than {MAX_INVENTORY} bytes")));
    }

    #[test]
    fn no_string_of_an_inventory_has_an_invisible_character() {
        let uses = |version: &str| {
            format!(
                r#"{{"format":"cloister-unsafe","version":1,"crates":[{{"name":"a","crate-version":"{version}","forbids":true,
                "blocks":0,"functions":0,"traits":0,"implementations":0}}]}}"#
            )
        };
        assert_eq!(read_unsafe(uses("1.0.0").as_bytes()).map(|uses| uses.len()), Ok(1));
        let odd =
            [r"\u001b[2J", r"\u202e", "\u{202e}", r"\u009b", r"\n", "\u{200b}", r"\u3164", "\u{2800}", "\u{fe0f}", "é"];
        for odd in odd {
            assert!(read_unsafe(uses(odd).as_bytes()).is_err(), "{odd}");
            let elsewhere = format!(
                r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"a":[{{"b{odd}":1}}],"c":"{odd}"}}"#
            );
            // A line may end in a text that is only given out.
            assert_eq!(read_sbom(elsewhere.as_bytes()).is_ok(), odd == r"\n", "{odd}");
        }
        // Characters between the strings must be visible, too.
        let steered = "{\"bomFormat\":\"CycloneDX\",\r\"specVersion\":\"1.6\",\"components\":[]}";
        assert!(read_sbom(steered.as_bytes()).is_err() && read_sbom(steered.replace('\r', "\n").as_bytes()).is_ok());
        let twice = r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"components":[]}"#;
        assert!(read_sbom(twice.as_bytes()).err().unwrap().contains("duplicate"));
        let deep =
            format!(r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"a":{}"#, "[".repeat(100_000));
        assert!(read_sbom(deep.as_bytes()).is_err());
    }
}
