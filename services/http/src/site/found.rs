//! What a path of a site leads to.

use core::fmt;

use crate::archive::Name;

/// The largest number of symbolic links between a path and its file (Linux: `MAXSYMLINKS`).
pub const MAX_LINKS: usize = 40;

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
    /// It has this entry after this number of others. Its content could be taken for entries.
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
