//! The site that is served: the files of an archive, or the built-in page.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cell::Cell;
use core::cmp::Ordering;

use twox_hash::XxHash64;

use crate::archive::{End, File, Files, Format};
use crate::path::Path;

/// The site.
pub enum Site {
    /// There is no archive: the built-in page.
    BuiltIn,
    /// The files of an archive.
    Archive(Archive),
}

/// The target of a path.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// The built-in page.
    Page,
    /// A file, and the hash of its content, unless there is no index to keep it in.
    File(File<'static>, Option<u64>),
    /// A directory, in a path without a slash at the end.
    Directory,
    /// Nothing.
    Nothing,
}

/// An archive, with an index if the heap has room for one.
pub struct Archive {
    bytes: &'static [u8],
    format: Format,
    index: Vec<Indexed>,
    /// The number of files in it.
    pub files: usize,
    /// It ends with its end mark.
    pub complete: bool,
}

/// A file in the order of the index: by name, and of files with the same name the later one first.
/// The last one counts, as if the archive had been unpacked.
struct Indexed {
    file: File<'static>,
    /// The hash of its content, once somebody has asked for it. So a large site costs nothing at the
    /// start.
    hash: Cell<Option<u64>>,
}

impl Indexed {
    fn new(file: File<'static>) -> Self {
        Indexed { file, hash: Cell::new(None) }
    }

    fn hash(&self) -> u64 {
        self.hash.get().unwrap_or_else(|| {
            let hash = XxHash64::oneshot(0, self.file.data);
            self.hash.set(Some(hash));
            hash
        })
    }
}

impl Ord for Indexed {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.file, &other.file);
        a.name.bytes().cmp(b.name.bytes()).then(b.data.as_ptr().cmp(&a.data.as_ptr()))
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

impl Site {
    /// Reads the site in `bytes`: the built-in page if there are none. Returns `None` if they are
    /// no archive.
    pub fn new(bytes: &'static [u8]) -> Option<Site> {
        match Format::of(bytes) {
            Some(format) => Some(Site::Archive(Archive::new(bytes, format))),
            None => bytes.is_empty().then_some(Site::BuiltIn),
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

impl Archive {
    fn new(bytes: &'static [u8], format: Format) -> Self {
        let mut files = Files::new(bytes, format);
        let count = files.by_ref().count();
        let mut archive =
            Archive { bytes, format, index: Vec::new(), files: count, complete: files.end == End::Marked };
        // Without an index, every look-up walks the archive, which is slow but correct.
        if archive.index.try_reserve_exact(count).is_ok() {
            archive.index.extend(Files::new(bytes, format).map(Indexed::new));
            // Sorts in place, like `sort_unstable`, in a tenth of its code.
            archive.index = BinaryHeap::from(archive.index).into_sorted_vec();
        }
        archive
    }

    fn is_indexed(&self) -> bool {
        self.index.len() == self.files
    }

    fn find(&self, path: &Path) -> Found {
        let name = if path.directory { with_index(path) } else { Some(path.clone()) };
        let Some(name) = name else { return Found::Nothing };
        if let Some((file, hash)) = self.file(name.as_bytes()) {
            return Found::File(file, hash);
        }
        let directory = if path.directory { None } else { path.with(b"/").ok() };
        match directory {
            Some(directory) if self.has_below(directory.as_bytes()) => Found::Directory,
            _ => Found::Nothing,
        }
    }

    fn file(&self, name: &[u8]) -> Option<(File<'static>, Option<u64>)> {
        if !self.is_indexed() {
            let named = |file: &File<'static>| file.name.order(name) == Ordering::Equal;
            return Some((Files::new(self.bytes, self.format).filter(named).last()?, None));
        }
        let at = self.index.partition_point(|indexed| indexed.file.name.order(name) == Ordering::Less);
        let indexed = self.index.get(at)?;
        (indexed.file.name.order(name) == Ordering::Equal).then(|| (indexed.file, Some(indexed.hash())))
    }

    /// Returns `true` if a file's name starts with `directory`, which ends with a slash.
    fn has_below(&self, directory: &[u8]) -> bool {
        let below = |file: &File<'static>| file.name.bytes().take(directory.len()).eq(directory.iter().copied());
        if !self.is_indexed() {
            return Files::new(self.bytes, self.format).any(|file| below(&file));
        }
        let at = self.index.partition_point(|indexed| indexed.file.name.order(directory) == Ordering::Less);
        self.index.get(at).is_some_and(|indexed| below(&indexed.file))
    }
}

fn with_index(path: &Path) -> Option<Path> {
    path.with(if path.as_bytes().is_empty() { b"index.html" } else { b"/index.html" }).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use cloister_sim::archive::cpio;

    use super::*;

    /// Returns a site of these files.
    pub(crate) fn site(files: &[(&str, &[u8])]) -> Site {
        Site::new(cpio(files).leak()).expect("an archive")
    }

    fn look(site: &Site, target: &str) -> String {
        match site.find(&Path::parse(target).unwrap()) {
            Found::Page => "page".into(),
            Found::File(file, _) => String::from_utf8_lossy(file.data).into_owned(),
            Found::Directory => "directory".into(),
            Found::Nothing => "nothing".into(),
        }
    }

    #[test]
    fn an_index_and_a_walk_find_the_same() {
        let files: [(&str, &[u8]); 6] = [
            ("./b/index.html", b"b index"),
            ("./index.html", b"root"),
            ("b!", b"before the slash"),
            ("b0", b"after the slash"),
            ("c/d/e.txt", b"deep"),
            ("./index.html", b"later root"),
        ];
        let indexed = site(&files);
        let Site::Archive(mut walked) = site(&files) else { panic!("no archive") };
        walked.index.clear();
        assert!(!walked.is_indexed());
        for site in [&indexed, &Site::Archive(walked)] {
            for (target, expected) in [
                ("/", "later root"),
                ("/index.html", "later root"),
                ("/b", "directory"),
                ("/b/", "b index"),
                ("/b%21", "before the slash"),
                ("/c/d", "directory"),
                ("/c/d/", "nothing"),
                ("/c/d/e.txt", "deep"),
                ("/c/d/e.txt/", "nothing"),
                ("/c/d/e", "nothing"),
                ("/zz", "nothing"),
            ] {
                assert_eq!(look(site, target), expected, "{target}");
            }
        }
    }

    #[test]
    fn without_an_archive_there_is_one_page() {
        let site = Site::new(b"").expect("the built-in page");
        assert_eq!((look(&site, "/"), look(&site, "/index.html")), ("page".into(), "page".into()));
        assert_eq!(look(&site, "/favicon.ico"), "nothing");
        assert!(Site::new(b"\x1f\x8b compressed").is_none());
    }
}
