//! The site's archive: cpio ("newc", with or without checksums) or tar (ustar, with the long names
//! and links of GNU and pax).
//!
//! The published readers for `no_std` panic on a hostile cpio length, or support no tar name beyond
//! 100 bytes. This one reads headers in place, trusts no length, and stops at the first thing that
//! is not an entry. It never finds a file that GNU's tar and cpio do not list.

mod cpio;
mod state;
mod tar;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;

/// A name in two parts, as tar splits it. The parts are joined by `/` if the first is not empty.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    prefix: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Name<'a> {
    /// Returns a name that is in one part.
    pub(crate) fn whole(rest: &'a [u8]) -> Self {
        Name { prefix: &[], rest: trimmed(rest) }
    }

    fn split(prefix: &'a [u8], rest: &'a [u8]) -> Self {
        match trimmed(prefix) {
            b"" | b"." => Name::whole(rest),
            prefix => Name { prefix, rest },
        }
    }

    /// Returns the bytes of the name, without a leading `./` or `/`.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + 'a {
        let separator: &[u8] = if self.prefix.is_empty() { b"" } else { b"/" };
        self.prefix.iter().chain(separator).chain(self.rest).copied()
    }

    /// Compares the name with `other`.
    pub fn order(&self, other: &[u8]) -> Ordering {
        self.bytes().cmp(other.iter().copied())
    }

    fn ends_with_slash(&self) -> bool {
        self.rest.ends_with(b"/")
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}{separator}{}", self.prefix.escape_ascii(), self.rest.escape_ascii())
    }
}

fn trimmed(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    name
}

/// The number of a file in a cpio archive, which all of its names share: device and inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Inode([u32; 3]);

/// What an entry is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A regular file with this content.
    File(&'a [u8]),
    /// A further name for the file that has this name before it (tar).
    HardLink(&'a [u8]),
    /// A further name for the file with this number (cpio).
    SameFile(Inode),
    /// A symbolic link to this path.
    Symlink(&'a [u8]),
    /// A device, a pipe or a socket: nothing that can be served.
    Other,
}

/// An entry. Folders are none.
///
/// # Holding one proves
/// If [`Entries`] returned it: its header was valid, and its name and content lie inside the
/// archive.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: Name<'a>,
    /// What it is.
    pub kind: Kind<'a>,
    /// The time at which it was last changed, in seconds since 1970. 0 if unknown.
    pub modified: u64,
    /// The offset in the archive at which it ends.
    pub end: usize,
}

/// The format of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// cpio, "newc".
    Cpio,
    /// tar, ustar.
    Tar,
}

impl Format {
    /// Returns the format of `bytes`, by its magic number.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Format> {
        if bytes.starts_with(b"070701") || bytes.starts_with(b"070702") {
            Some(Format::Cpio)
        } else if bytes.get(257..262) == Some(b"ustar") {
            Some(Format::Tar)
        } else {
            None
        }
    }
}

/// The ways in which an archive can end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It has not ended yet.
    Open,
    /// With its end mark.
    Marked,
    /// It is damaged: what follows is not an entry.
    Damaged,
    /// What follows is an entry of a kind that is not read, whose content could be taken for other
    /// entries.
    Unsupported(&'static str),
}

/// Why there is no next entry.
struct Stop(End);

/// Damage, for the readers' many optional fields.
const DAMAGED: Stop = Stop(End::Damaged);

/// The entries of an archive, in order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    format: Format,
    tar: state::State<'a>,
    /// The number of the file of the last entry, if that says that it has several names.
    pub inode: Option<Inode>,
    /// The way in which the archive ended.
    pub end: End,
}

impl<'a> Entries<'a> {
    /// Returns the entries of `bytes`, an archive of `format`.
    #[must_use]
    pub fn new(bytes: &'a [u8], format: Format) -> Self {
        Entries { bytes, at: 0, format, tar: state::State::default(), inode: None, end: End::Open }
    }

    /// Takes the next `count` bytes.
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(count).ok_or(DAMAGED)?;
        let taken = self.bytes.get(self.at..end).ok_or(DAMAGED)?;
        self.at = end;
        Ok(taken)
    }

    /// Skips to the next multiple of `unit`, or to the end if that comes first.
    fn align(&mut self, unit: usize) {
        self.at = self.at.next_multiple_of(unit).min(self.bytes.len());
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        while self.end == End::Open {
            self.inode = None;
            let read = match self.format {
                Format::Cpio => self.read_cpio(),
                Format::Tar => self.read_tar(),
            };
            match read {
                Ok(Some((name, kind, modified))) => return Some(Entry { name, kind, modified, end: self.at }),
                Ok(None) => {}
                Err(Stop(end)) => self.end = end,
            }
        }
        None
    }
}

/// An entry without its offset. `None` is what is no entry: a folder, or what says more of the next.
type Read<'a> = Result<Option<(Name<'a>, Kind<'a>, u64)>, Stop>;

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
