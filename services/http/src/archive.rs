//! The site's archive: cpio ("newc", with or without checksums) or tar (ustar, with the long names
//! of GNU and pax).
//!
//! The published readers for `no_std` panic on a hostile cpio length, or support no tar name beyond
//! 100 bytes. This one reads headers in place, trusts no length, and stops at the first thing that
//! is not an entry.

use core::cmp::Ordering;

/// A name in two parts, as tar splits it. The parts are joined by `/` if the first is not empty.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    prefix: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Name<'a> {
    fn whole(rest: &'a [u8]) -> Self {
        Name { prefix: &[], rest: trimmed(rest) }
    }

    fn split(prefix: &'a [u8], rest: &'a [u8]) -> Self {
        if prefix.is_empty() { Name::whole(rest) } else { Name { prefix: trimmed(prefix), rest } }
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
}

fn trimmed(mut name: &[u8]) -> &[u8] {
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    name
}

/// A regular file.
///
/// # Holding one proves
/// If [`Files`] returned it: the header of its entry was valid, and its name and contents lie
/// inside the archive.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name.
    pub name: Name<'a>,
    /// Its contents.
    pub data: &'a [u8],
    /// The time at which it was last changed, in seconds since 1970. 0 if unknown.
    pub modified: u64,
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
}

/// The files of an archive, in order.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    bytes: &'a [u8],
    at: usize,
    format: Format,
    long_name: Option<&'a [u8]>,
    /// The way in which the archive ended.
    pub end: End,
}

impl<'a> Files<'a> {
    /// Returns the files of `bytes`, an archive of `format`.
    #[must_use]
    pub fn new(bytes: &'a [u8], format: Format) -> Self {
        Files { bytes, at: 0, format, long_name: None, end: End::Open }
    }

    /// Takes the next `count` bytes.
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Skips to the next multiple of `unit`, or to the end if that comes first.
    fn align(&mut self, unit: usize) {
        self.at = self.at.next_multiple_of(unit).min(self.bytes.len());
    }

    /// Reads the next entry: a file, or `Some(None)` for anything else.
    fn step(&mut self) -> Option<Option<File<'a>>> {
        match self.format {
            Format::Cpio => self.step_cpio(),
            Format::Tar => self.step_tar(),
        }
    }

    fn step_cpio(&mut self) -> Option<Option<File<'a>>> {
        const HEADER: usize = 110;
        let header = self.take(HEADER)?;
        Format::of(header).filter(|format| *format == Format::Cpio)?;
        // Fields of eight hexadecimal digits after the magic number: ino, mode, uid, gid, nlink,
        // mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check (cpio(5)).
        let field = |index: usize| hexadecimal(header.get(6 + index * 8..14 + index * 8)?);
        let (mode, modified, size, name_size) = (field(1)?, field(5)?, field(6)?, field(11)?);
        let name = self.take(name_size as usize)?.strip_suffix(b"\0")?;
        self.align(4);
        if name == b"TRAILER!!!" {
            self.end = End::Marked;
            return None;
        }
        let data = self.take(size as usize)?;
        self.align(4);
        let regular = mode & 0o170_000 == 0o100_000;
        Some(regular.then_some(File { name: Name::whole(name), data, modified: u64::from(modified) }))
    }

    fn step_tar(&mut self) -> Option<Option<File<'a>>> {
        const BLOCK: usize = 512;
        let header = self.take(BLOCK)?;
        if header.iter().all(|byte| *byte == 0) {
            self.end = End::Marked;
            return None;
        }
        if !checksum_holds(header) {
            return None;
        }
        let size = usize::try_from(number(header.get(124..136)?)?).ok()?;
        let modified = number(header.get(136..148)?).unwrap_or(0);
        let data = self.take(size)?;
        self.align(BLOCK);
        let long_name = self.long_name.take();
        match header.get(156)? {
            b'L' => self.long_name = Some(until_nul(data)),
            b'x' => self.long_name = pax_path(data),
            b'0' | b'7' | 0 => {
                let (name, prefix) = (until_nul(header.get(..100)?), until_nul(header.get(345..500)?));
                // GNU's own format has other fields in place of ustar's prefix.
                let prefix = if header.get(257..263)? == b"ustar\0" { prefix } else { &[] };
                let name = long_name.map_or(Name::split(prefix, name), Name::whole);
                return Some(Some(File { name, data, modified }));
            }
            _ => {}
        }
        Some(None)
    }
}

impl<'a> Iterator for Files<'a> {
    type Item = File<'a>;

    fn next(&mut self) -> Option<File<'a>> {
        while self.end == End::Open {
            match self.step() {
                Some(Some(file)) => return Some(file),
                Some(None) => {}
                None if self.end == End::Open => self.end = End::Damaged,
                None => {}
            }
        }
        None
    }
}

// Only called at boot. Inlined, this function and the next would be in the image many times.
#[inline(never)]
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | digit)
    })
}

/// Parses a tar number: octal digits, or big-endian binary if the first bit is set (GNU, for 8 GiB
/// and more).
#[inline(never)]
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first & 0x80 != 0 {
        let start = u64::from(first & 0x7f);
        return rest.iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| !matches!(byte, 0 | b' '));
    digits
        .into_iter()
        .try_fold(0u64, |value, digit| value.checked_mul(8)?.checked_add(u64::from(char::from(*digit).to_digit(8)?)))
}

/// Verifies the sum of a header's bytes, in which the sum itself counts as blanks.
fn checksum_holds(header: &[u8]) -> bool {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
        .sum();
    header.get(148..156).and_then(number) == Some(sum)
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Returns the value of `path` in a pax header: records of "length key=value\n".
fn pax_path(mut records: &[u8]) -> Option<&[u8]> {
    loop {
        let space = records.iter().position(|byte| *byte == b' ')?;
        let length: usize = core::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
        let (record, rest) = records.split_at_checked(length)?;
        if let Some(path) = record.get(space + 1..)?.strip_suffix(b"\n")?.strip_prefix(b"path=") {
            return Some(path);
        }
        // A record of length 0 would never end.
        if length == 0 {
            return None;
        }
        records = rest;
    }
}

#[cfg(test)]
mod tests {
    use cloister_sim::archive::cpio;
    use proptest::prelude::*;

    use super::*;

    fn tar_entry(name: &str, prefix: &str, kind: u8, data: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(format!("{:011o}", 1_700_000_000).as_bytes());
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.extend_from_slice(data);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    fn list(bytes: &[u8]) -> (Vec<(String, Vec<u8>)>, End) {
        let mut files = Files::new(bytes, Format::of(bytes).expect("an archive"));
        let text = |file: File<'_>| (String::from_utf8(file.name.bytes().collect()).unwrap(), file.data.to_vec());
        let found = files.by_ref().map(text).collect();
        (found, files.end)
    }

    #[test]
    fn a_cpio_archive_is_listed_and_its_names_are_relative() {
        let (files, end) = list(&cpio(&[("./index.html", b"hello"), ("a/b.css", b""), ("/abs", b"123")]));
        assert_eq!(end, End::Marked);
        assert_eq!(
            files,
            [("index.html", &b"hello"[..]), ("a/b.css", b""), ("abs", b"123")].map(|(n, d)| (n.into(), d.to_vec()))
        );
    }

    #[test]
    fn a_tar_archive_with_prefixes_and_long_names() {
        let long = "d/".repeat(80) + "file";
        let pax = format!("{} path={long}\n", long.len() + 10);
        let archive = [
            tar_entry("./", "", b'5', b""),
            tar_entry("short", "", b'0', b"one"),
            tar_entry("name", "./some/prefix", b'0', b"two"),
            tar_entry("././@LongLink", "", b'L', format!("{long}\0").as_bytes()),
            tar_entry("cut off", "", b'0', b"three"),
            tar_entry("header", "", b'x', pax.as_bytes()),
            tar_entry("cut off", "", b'0', b"four"),
            vec![0; 1024],
        ]
        .concat();
        let (files, end) = list(&archive);
        assert_eq!(end, End::Marked);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["short", "some/prefix/name", &long, &long]);
        assert_eq!(files[3].1, b"four");
    }

    #[test]
    fn a_truncated_or_damaged_archive_yields_its_complete_files() {
        let archive = cpio(&[("a", b"first"), ("b", &[7; 100])]);
        // Less than the padding after the end mark.
        for cut in 0..archive.len() - 3 {
            if let Some(format) = Format::of(&archive[..cut]) {
                let mut files = Files::new(&archive[..cut], format);
                assert!(files.by_ref().count() <= 2);
                assert_eq!(files.end, End::Damaged, "cut at {cut}");
            }
        }
        let mut archive = [tar_entry("a", "", b'0', b"one"), tar_entry("b", "", b'0', b"two"), vec![0; 1024]].concat();
        archive[1024] ^= 1;
        assert_eq!((list(&archive).0.len(), list(&archive).1), (1, End::Damaged));
    }

    #[test]
    fn sizes_beyond_the_archive_are_refused() {
        let mut archive = cpio(&[("a", b"first")]);
        archive[6 + 6 * 8..14 + 6 * 8].copy_from_slice(b"ffffffff");
        assert_eq!(list(&archive), (vec![], End::Damaged));
        archive[6 + 11 * 8..14 + 11 * 8].copy_from_slice(b"00000000");
        assert_eq!(list(&archive), (vec![], End::Damaged));
    }

    proptest! {
        #[test]
        fn parsing_ends_for_any_bytes_after_a_magic_number(tail in prop::collection::vec(any::<u8>(), 0..2048), tar: bool) {
            let bytes = if tar {
                let mut bytes = tail;
                bytes.resize(bytes.len().max(512), 0);
                bytes[257..262].copy_from_slice(b"ustar");
                bytes
            } else {
                [b"070701".to_vec(), tail].concat()
            };
            let mut files = Files::new(&bytes, Format::of(&bytes).unwrap());
            prop_assert!(files.by_ref().count() <= bytes.len() / 110);
            prop_assert!(files.end != End::Open);
        }

        #[test]
        fn one_changed_byte_never_panics(at in 0usize..2048, value: u8) {
            let mut archive = [tar_entry("a", "p", b'0', b"one"), tar_entry("b", "", b'x', b"12 path=abc\n"), vec![0; 512]].concat();
            let place = at % archive.len();
            archive[place] = value;
            if let Some(format) = Format::of(&archive) {
                Files::new(&archive, format).for_each(drop);
            }
        }

        #[test]
        fn every_packed_file_is_found(files in prop::collection::vec(("[a-z]{1,12}", prop::collection::vec(any::<u8>(), 0..50)), 0..8)) {
            let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, d)| (n.as_str(), d.as_slice())).collect();
            prop_assert_eq!(list(&cpio(&borrowed)), (files, End::Marked));
        }
    }
}
