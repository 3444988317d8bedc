//! The facts of an image's tables, for other programs.

use cloister_caps::tables::Tables;

use super::facts::of_tables;
use super::image::Image;

/// Returns the facts of an image's tables: section, name, field, value. They are empty if the file
/// has no tables that can be read; [`super::verify`] says why.
pub(crate) fn table_facts(file: &[u8]) -> Vec<[String; 4]> {
    let image = Image::read(file, &mut Vec::new()).ok();
    let bytes = image.as_ref().and_then(Image::tables).map(|load| load.bytes.clone()).unwrap_or_default();
    Tables::parse(&bytes).map_or(Vec::new(), |tables| of_tables(&tables, true).rows().collect())
}
