//! The page as tables, and its form for programs.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::claims::AssertionRow;
use crate::printable::hexadecimal;

/// The version of the tool that makes the page.
const TOOL: &str = concat!("cloister-policy ", env!("CARGO_PKG_VERSION"));

/// A table of the page.
pub(crate) struct Table {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Its explanation.
    pub note: &'static str,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// What the page says besides the policy. Each part may be unknown.
#[derive(Clone, Default, Debug)]
pub struct About {
    /// The date, as `2024-02-29`.
    pub date: Option<String>,
    /// The hashes of an image that was built from the policy.
    pub image: Option<ImageHashes>,
    /// SHA-256 of the release's manifest.
    pub release: Option<[u8; 32]>,
}

/// The hashes of an image that verifies, and carries the policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageHashes {
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// SHA-256 of its tables, which the kernel prints.
    pub tables: [u8; 32],
}

/// The page to sign.
pub struct Page {
    /// The image's name.
    pub image: String,
    /// The file.
    pub file: String,
    /// SHA-256 of the canonical form.
    pub hash: [u8; 32],
    pub(super) about: About,
    pub(crate) tables: Vec<Table>,
    /// The assertions, with the verdicts.
    pub assertions: Vec<AssertionRow>,
}

impl Page {
    /// Returns `true` if every assertion holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.assertions.iter().all(|row| row.verdict.holds)
    }

    /// Returns the lines above the tables: what each is, and its value.
    pub(super) fn head(&self) -> Vec<(&'static str, String)> {
        let known = |hash: Option<[u8; 32]>| hash.map_or("not given".to_owned(), |hash| hexadecimal(&hash));
        vec![
            ("file", self.file.clone()),
            ("policy SHA-256", hexadecimal(&self.hash)),
            ("image SHA-256", known(self.about.image.as_ref().map(|image| image.file))),
            ("tables SHA-256", known(self.about.image.as_ref().map(|image| image.tables))),
            ("release SHA-256", known(self.about.release)),
            ("made by", TOOL.to_owned()),
            ("date", self.about.date.clone().unwrap_or_else(|| "not given".into())),
        ]
    }

    /// Returns a sentence about all assertions together.
    pub(super) fn summary(&self) -> String {
        let failed = self.assertions.iter().filter(|row| !row.verdict.holds).count();
        match (self.assertions.len(), failed) {
            (0, _) => "The policy has no assertions.".into(),
            (1, 0) => "The assertion holds, proved over the closure.".into(),
            (count, 0) => format!("All {count} assertions hold, proved over the closure."),
            (count, failed) => format!("{failed} of {count} assertions do not hold."),
        }
    }
}

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hash = |hash: Option<[u8; 32]>| hash.map(|hash| hexadecimal(&hash));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("image", &self.image)?;
        map.serialize_entry("file", &self.file)?;
        map.serialize_entry("hash", &hexadecimal(&self.hash))?;
        map.serialize_entry("image_sha256", &hash(self.about.image.as_ref().map(|image| image.file)))?;
        map.serialize_entry("tables_sha256", &hash(self.about.image.as_ref().map(|image| image.tables)))?;
        map.serialize_entry("release_sha256", &hash(self.about.release))?;
        map.serialize_entry("tool", TOOL)?;
        map.serialize_entry("date", &self.about.date)?;
        for table in &self.tables {
            map.serialize_entry(table.key, table)?;
        }
        map.serialize_entry("assertions", &self.assertions)?;
        map.end()
    }
}

/// Serializes the table as a list of objects, one a row, with the columns as keys.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [String], &'a [String]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().zip(self.1))
            }
        }
        serializer.collect_seq(self.rows.iter().map(|row| Row(&self.columns, row)))
    }
}
