//! The site that is served: the files of an archive, or the built-in page.

mod index;
#[cfg(test)]
pub(crate) mod tests;

use core::fmt;

use crate::archive::{Format, Name};
use crate::path::Path;
pub use index::Archive;

/// The largest number of symbolic links between a path and its file (Linux: `MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The site.
pub enum Site {
    /// There is no archive: the built-in page.
    BuiltIn,
    /// The files of an archive.
    Archive(Archive),
}

/// A file that is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    /// Its content, a part of the archive.
    pub data: &'static [u8],
    /// The time at which it was last changed, in seconds since 1970. 0 if unknown.
    pub modified: u64,
    /// The hash of its content, unless there is no index to keep it in.
    pub hash: Option<u64>,
}

/// The target of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The built-in page.
    Page,
    /// A file.
    File(File),
    /// A directory, in a path without a slash at the end.
    Directory,
    /// Nothing.
    Nothing,
}

/// Links that lead to nothing that is served.
#[derive(Clone, Copy, Debug)]
pub struct DeadLinks {
    /// Their number.
    pub count: usize,
    /// The name of one of them.
    pub example: Name<'static>,
}

/// Why a module is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// It is neither a cpio nor a tar archive.
    Format,
    /// It has this entry, after so many others. Its content could be taken for entries.
    Unsupported(&'static str, usize),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Format => f.write_str("the module is neither a cpio nor a tar archive"),
            Unreadable::Unsupported(what, entries) => {
                write!(f, "the archive is not served: after {entries} entries it has {what}, which is not supported")
            }
        }
    }
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
