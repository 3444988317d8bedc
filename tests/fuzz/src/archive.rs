//! The reader of archives, under damaged archives and other bytes.

use arbitrary::Arbitrary;
use cloister_http::archive::{End, Entries, Format, Kind};
use cloister_http::mime;
use cloister_sim::archive::cpio;

use crate::script::{Bytes, Claim, Trace, World};

/// The files of a sample site.
const FILES: [(&str, &[u8]); 4] =
    [("index.html", b"<p>hello</p>"), ("a.txt", b"0123456789"), ("dir/index.html", b"in dir"), ("dir/b.css", b"x")];

/// Returns a cpio archive of the sample site.
pub fn sample() -> Vec<u8> {
    cpio(&FILES)
}

/// Returns a tar archive (ustar) with a long name of GNU's kind and one of pax's.
fn tar() -> Vec<u8> {
    let mut archive = Vec::new();
    let mut entry = |name: &str, kind: u8, data: &[u8]| {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(b"14530000000");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    };
    entry("././@LongLink", b'L', b"a/very/long/name\0");
    entry("short", b'0', b"one");
    entry("pax", b'x', b"19 path=other/name\n");
    entry("x", b'0', b"two");
    entry("dir/", b'5', b"");
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// The archive that is changed.
#[derive(Arbitrary, Debug)]
pub enum Start {
    Cpio,
    Tar,
    Nothing,
}

/// A change.
#[derive(Arbitrary, Debug)]
pub enum Change {
    /// Write these bytes at this offset.
    Put(u16, Bytes),
    /// Write a number in the archive's own form, hexadecimal or octal, at this offset.
    Hex(u16, Claim),
    Octal(u16, Claim),
    /// Cut it at this offset.
    Cut(u16),
    /// Append bytes.
    Append(Bytes),
    /// Append a copy of a part.
    Repeat(u16, u16),
}

/// An archive that an attacker changes.
pub struct Archive(Vec<u8>);

impl Archive {
    fn check(&self) {
        let bytes = &self.0;
        for format in [Format::Cpio, Format::Tar].into_iter().chain(Format::of(bytes)) {
            let mut files = Entries::new(bytes, format);
            let mut count = 0;
            for file in files.by_ref() {
                count += 1;
                assert!(count <= bytes.len() / 100 + 1, "more files than headers fit");
                if let Kind::File(data) | Kind::Symlink(data) | Kind::HardLink(data) = file.kind {
                    assert!(data.is_empty() || bytes.as_ptr_range().contains(&data.as_ptr()));
                }
                let name: Vec<u8> = file.name.bytes().collect();
                assert!(file.name.order(&name).is_eq());
                let _ = mime::of(&name);
            }
            assert!(files.next().is_none(), "it goes on after its end");
            assert_ne!(files.end, End::Open);
        }
    }

    fn put(&mut self, at: u16, bytes: &[u8]) {
        let length = self.0.len().max(1);
        for (place, byte) in self.0.iter_mut().skip(usize::from(at) % length).zip(bytes) {
            *place = *byte;
        }
    }
}

impl World for Archive {
    type Setup = Start;
    type Step = Change;

    fn new(start: Start, _: &Trace) -> Self {
        Archive(match start {
            Start::Cpio => sample(),
            Start::Tar => tar(),
            Start::Nothing => Vec::new(),
        })
    }

    fn step(&mut self, change: Change) {
        match change {
            Change::Put(at, Bytes(bytes)) => self.put(at, &bytes),
            // From the sizes that are in the archive.
            Change::Hex(at, claim) => self.put(at, format!("{:08x}", claim.of(16)).as_bytes()),
            Change::Octal(at, claim) => self.put(at, format!("{:011o}", claim.of(512)).as_bytes()),
            Change::Cut(at) => self.0.truncate(at.into()),
            Change::Append(Bytes(bytes)) => self.0.extend(bytes),
            Change::Repeat(at, count) => {
                let start = usize::from(at).min(self.0.len());
                let end = (start + usize::from(count) % 1024).min(self.0.len());
                self.0.extend_from_within(start..end);
            }
        }
        self.0.truncate(20_000);
        self.check();
    }

    fn honest(self) {
        for archive in [sample(), tar()] {
            let format = Format::of(&archive).expect("an archive");
            let mut files = Entries::new(&archive, format);
            assert_eq!((files.by_ref().count(), files.end), (if format == Format::Cpio { 4 } else { 2 }, End::Marked));
        }
    }
}
