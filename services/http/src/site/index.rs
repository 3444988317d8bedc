//! An archive's files by name, and the links between them.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cell::Cell;
use core::cmp::Ordering;
use core::ops::ControlFlow;

use twox_hash::XxHash64;

use super::found::{DeadLinks, File, Found, MAX_LINKS, Unreadable};
use crate::archive::{End, Entries, Entry, Format, Inode, Kind, Name};
use crate::path::Path;

/// An archive, with an index if the heap has room for one.
pub struct Archive {
    bytes: &'static [u8],
    format: Format,
    index: Vec<Indexed>,
    /// The number of entries in it.
    entries: usize,
    /// The number of names that can be served.
    pub files: usize,
    /// It ends with its end mark.
    pub complete: bool,
}

/// An entry in the order of the index: by name, and of entries with the same name the later one
/// first. The last one counts, as if the archive had been unpacked.
struct Indexed {
    entry: Entry<'static>,
    /// The hash of its content, once somebody has asked for it. So a large site costs nothing at the
    /// start.
    hash: Cell<Option<u64>>,
}

impl Indexed {
    fn new(entry: Entry<'static>) -> Self {
        Indexed { entry, hash: Cell::new(None) }
    }

    fn hash(&self, data: &[u8]) -> u64 {
        self.hash.get().unwrap_or_else(|| {
            let hash = XxHash64::oneshot(0, data);
            self.hash.set(Some(hash));
            hash
        })
    }
}

impl Ord for Indexed {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.entry, &other.entry);
        a.name.bytes().cmp(b.name.bytes()).then(b.end.cmp(&a.end))
    }
}

impl PartialOrd for Indexed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Indexed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Indexed {}

/// An entry that was found, and where in the index, if there is one.
#[derive(Clone, Copy)]
struct Located<'a> {
    entry: Entry<'static>,
    indexed: Option<&'a Indexed>,
}

/// What a path is, or the path that it is by a symbolic link.
type Step = ControlFlow<Found, Path>;

impl Archive {
    pub(super) fn new(bytes: &'static [u8], format: Format) -> Result<Self, Unreadable> {
        let mut read = Entries::new(bytes, format);
        let (mut entries, mut files) = (0, 0);
        for entry in read.by_ref() {
            entries += 1;
            files += usize::from(!matches!(entry.kind, Kind::Other));
        }
        if let End::Unsupported(what) = read.end {
            return Err(Unreadable::Unsupported(what, entries));
        }
        let mut archive =
            Archive { bytes, format, index: Vec::new(), entries, files, complete: read.end == End::Marked };
        // Without an index, every look-up walks the archive, which is slow but correct.
        if archive.index.try_reserve_exact(entries).is_ok() {
            archive.index.extend(archive.walk().map(Indexed::new));
            archive.find_contents();
            // Sorts in place, like `sort_unstable`, in a tenth of its code.
            archive.index = BinaryHeap::from(core::mem::take(&mut archive.index)).into_sorted_vec();
        }
        Ok(archive)
    }

    fn walk(&self) -> Entries<'static> {
        Entries::new(self.bytes, self.format)
    }

    fn is_indexed(&self) -> bool {
        self.index.len() == self.entries
    }

    /// Gives the further names of a file its content, which comes with one of them.
    fn find_contents(&mut self) {
        let is_further = |indexed: &Indexed| matches!(indexed.entry.kind, Kind::SameFile(_));
        if !self.index.iter().any(is_further) {
            return;
        }
        let mut contents: Vec<(Inode, &'static [u8])> = Vec::new();
        self.each_content(|inode, data| {
            // Without room, each is looked for when it is asked for.
            if contents.try_reserve(1).is_ok() {
                contents.push((inode, data));
            }
        });
        contents.sort_by_key(|(inode, _)| *inode);
        for Indexed { entry, .. } in &mut self.index {
            if let Kind::SameFile(inode) = entry.kind
                && let Some((_, data)) = contents
                    .partition_point(|(known, _)| *known <= inode)
                    .checked_sub(1)
                    .and_then(|at| contents.get(at))
                    .filter(|(known, _)| *known == inode)
            {
                entry.kind = Kind::File(data);
            }
        }
    }

    /// Calls `each` with the contents of files that have several names, in order. The last of a
    /// file's counts.
    fn each_content(&self, mut each: impl FnMut(Inode, &'static [u8])) {
        let mut entries = self.walk();
        while let Some(entry) = entries.next() {
            if let (Some(inode), Kind::File(data)) = (entries.inode, entry.kind) {
                each(inode, data);
            }
        }
    }

    pub(super) fn find(&self, path: &Path) -> Found {
        let mut path = path.clone();
        for _ in 0..=MAX_LINKS {
            match self.step(&path) {
                Step::Break(found) => return found,
                Step::Continue(next) => path = next,
            }
        }
        Found::Nothing
    }

    fn step(&self, path: &Path) -> Step {
        let name = if path.directory { with_index(path) } else { Some(path.clone()) };
        let Some(name) = name else { return Step::Break(Found::Nothing) };
        if let Some(located) = self.entry(name.as_bytes()) {
            return match located.entry.kind {
                Kind::Symlink(target) => follow(&name, name.as_bytes().len(), target),
                _ => Step::Break(self.content(located).map_or(Found::Nothing, Found::File)),
            };
        }
        // A link may lead to the site's root, whose name is empty.
        let slash: &[u8] = if path.as_bytes().is_empty() { b"" } else { b"/" };
        let directory = if path.directory { None } else { path.with(slash).ok() };
        if directory.is_some_and(|directory| self.has_below(directory.as_bytes())) {
            return Step::Break(Found::Directory);
        }
        // A part of the path may be a link to a directory.
        let bytes = name.as_bytes();
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut links = ends.filter_map(|end| match self.entry(bytes.get(..end)?)?.entry.kind {
            Kind::Symlink(target) => Some(follow(&name, end, target)),
            _ => None,
        });
        links.next().unwrap_or(Step::Break(Found::Nothing))
    }

    /// Returns the file of an entry.
    fn content(&self, Located { entry, indexed }: Located<'_>) -> Option<File> {
        let data = match entry.kind {
            Kind::File(data) => data,
            Kind::SameFile(inode) => {
                let mut data = &[][..];
                self.each_content(|known, content| {
                    if known == inode {
                        data = content;
                    }
                });
                data
            }
            Kind::HardLink(_) | Kind::Symlink(_) | Kind::Other => return None,
        };
        Some(File { data, modified: entry.modified, hash: indexed.map(|indexed| indexed.hash(data)) })
    }

    /// Returns the last entry of this name. A hard link is the entry that its name had when it was
    /// made.
    fn entry(&self, name: &[u8]) -> Option<Located<'_>> {
        let mut located = self.entry_before(Name::whole(name), usize::MAX)?;
        while let Kind::HardLink(target) = located.entry.kind {
            located = self.entry_before(Name::whole(target), located.entry.end)?;
        }
        Some(located)
    }

    /// Returns the last entry of this name that ends before `end`.
    fn entry_before(&self, name: Name<'_>, end: usize) -> Option<Located<'_>> {
        let has_name = |entry: &Entry<'static>| entry.name.bytes().eq(name.bytes());
        if !self.is_indexed() {
            let entry = self.walk().take_while(|entry| entry.end < end).filter(has_name).last()?;
            return Some(Located { entry, indexed: None });
        }
        let is_before = |Indexed { entry, .. }: &Indexed| {
            entry.name.bytes().cmp(name.bytes()).then(end.cmp(&entry.end)).then(Ordering::Less).is_lt()
        };
        let indexed = self.index.get(self.index.partition_point(is_before))?;
        has_name(&indexed.entry).then_some(Located { entry: indexed.entry, indexed: Some(indexed) })
    }

    /// Returns `true` if an entry's name starts with `directory`, which ends with a slash.
    fn has_below(&self, directory: &[u8]) -> bool {
        let below = |entry: &Entry<'static>| entry.name.bytes().take(directory.len()).eq(directory.iter().copied());
        if !self.is_indexed() {
            return self.walk().any(|entry| below(&entry));
        }
        let at = self.index.partition_point(|indexed| indexed.entry.name.order(directory) == Ordering::Less);
        self.index.get(at).is_some_and(|indexed| below(&indexed.entry))
    }

    /// Returns the links that lead to nothing that is served. `None` if there are none, or no index,
    /// without which it would take long.
    pub fn dead_links(&self) -> Option<DeadLinks> {
        let is_link = |entry: &Entry<'_>| matches!(entry.kind, Kind::Symlink(_) | Kind::HardLink(_));
        let entries = self.index.iter().map(|indexed| indexed.entry).filter(is_link);
        let dead = |entry: &Entry<'static>| {
            let path = Path::of_name(entry.name.bytes());
            path.is_none_or(|path| self.find(&path) == Found::Nothing)
        };
        let mut dead = entries.filter(dead).map(|entry| entry.name);
        let example = dead.next()?;
        Some(DeadLinks { count: 1 + dead.count(), example })
    }
}

/// Returns what follows a link with this target, which is the first `end` bytes of `name`.
fn follow(name: &Path, end: usize, target: &[u8]) -> Step {
    name.through_link(end, target).map_or(Step::Break(Found::Nothing), Step::Continue)
}

fn with_index(path: &Path) -> Option<Path> {
    path.with(if path.as_bytes().is_empty() { b"index.html" } else { b"/index.html" }).ok()
}

#[cfg(test)]
impl Archive {
    /// Takes the index away.
    pub(super) fn without_index(mut self) -> Self {
        self.index.clear();
        assert!(!self.is_indexed());
        self
    }
}
