//! The page as tables, and its form for programs.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::printable::hexadecimal;
use crate::prove::Verdict;

/// A table of the page.
pub(crate) struct Table {
    /// Its key in JSON.
    pub key: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Its explanation.
    pub note: &'static str,
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

/// The page to sign.
pub struct Page {
    /// The image's name.
    pub image: String,
    /// The file.
    pub file: String,
    /// SHA-256 of the canonical form.
    pub hash: [u8; 32],
    pub(crate) tables: Vec<Table>,
    /// The verdicts on the assertions.
    pub verdicts: Vec<Verdict>,
}

impl Page {
    /// Returns `true` if every assertion holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.holds)
    }

    /// Returns the hash in hexadecimal.
    pub(super) fn hash_text(&self) -> String {
        hexadecimal(&self.hash)
    }
}

impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("image", &self.image)?;
        map.serialize_entry("file", &self.file)?;
        map.serialize_entry("hash", &self.hash_text())?;
        for table in &self.tables {
            map.serialize_entry(table.key, table)?;
        }
        map.serialize_entry("assertions", &self.verdicts)?;
        map.end()
    }
}

/// Serializes the table as a list of objects, one a row, with the columns as keys.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [&'static str], &'a [String]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().zip(self.1))
            }
        }
        serializer.collect_seq(self.rows.iter().map(|row| Row(self.columns, row)))
    }
}
