//! The site that is served: the files of an archive, or the built-in page.

mod found;
mod index;
#[cfg(test)]
pub(crate) mod tests;

use crate::archive::Format;
use crate::path::Path;
pub use found::{DeadLinks, File, Found, Unreadable};
pub use index::Archive;

/// The site.
pub enum Site {
    /// There is no archive: the built-in page.
    BuiltIn,
    /// The files of an archive.
    Archive(Archive),
}

impl Site {
    /// Reads the site in `bytes`: the built-in page if there are none.
    ///
    /// # Errors
    /// They are no archive, or one that cannot be read to its end in one way only.
    pub fn new(bytes: &'static [u8]) -> Result<Site, Unreadable> {
        match Format::of(bytes) {
            Some(format) => Archive::new(bytes, format).map(Site::Archive),
            None if bytes.is_empty() => Ok(Site::BuiltIn),
            None => Err(Unreadable::Format),
        }
    }

    /// Returns what `path` names.
    pub fn find(&self, path: &Path) -> Found {
        match self {
            Site::BuiltIn if matches!(path.as_bytes(), b"" | b"index.html") => Found::Page,
            Site::BuiltIn => Found::Nothing,
            Site::Archive(archive) => archive.find(path),
        }
    }
}
