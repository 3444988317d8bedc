//! Writes a cpio archive in the "newc" format (`cpio -H newc`; Linux:
//! Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Everything that could differ between two runs over the same input (times, owners, inode numbers)
//! is fixed.
#![forbid(unsafe_code)]

use std::io::{self, Write};

/// A regular file (`S_IFREG`).
const FILE: u32 = 0o100_000;
/// A folder (`S_IFDIR`).
const FOLDER: u32 = 0o040_000;
/// A symbolic link (`S_IFLNK`).
const LINK: u32 = 0o120_000;
/// A character device (`S_IFCHR`).
const DEVICE: u32 = 0o020_000;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// Writes an archive to `out`.
pub struct Archive<W> {
    out: W,
    /// The number of bytes written: headers and contents are aligned to four bytes.
    written: u64,
    inode: u32,
    /// The time of every entry, in seconds since 1970.
    modified: u32,
}

impl<W: Write> Archive<W> {
    /// Creates an empty archive. Its entries have no time.
    pub fn new(out: W) -> Self {
        Self::modified(out, 0)
    }

    /// Creates an empty archive whose entries were changed at this time, in seconds since 1970.
    pub fn modified(out: W, modified: u32) -> Self {
        Self { out, written: 0, inode: 0, modified }
    }

    /// Adds a regular file. `name` has no leading `/`.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | mode, (0, 0), content)
    }

    /// Adds a folder. A folder comes before its contents.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, FOLDER | 0o755, (0, 0), &[])
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, DEVICE | 0o600, (major, minor), &[])
    }

    /// Ends the archive. Returns the writer.
    pub fn finish(mut self) -> io::Result<W> {
        (self.inode, self.modified) = (0, 0);
        self.header(TRAILER, 0, (0, 0), 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is larger than 4 GiB")))?;
        self.inode += 1;
        self.header(name, mode, device, size)?;
        self.put(content)?;
        self.align()
    }

    fn header(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), size: u32) -> io::Result<()> {
        let name_size = u32::try_from(name.len() + 1)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a name is too long"))?;
        // c_ino c_mode c_uid c_gid c_nlink c_mtime c_filesize c_devmajor c_devminor c_rdevmajor
        // c_rdevminor c_namesize c_check
        let fields = [self.inode, mode, 0, 0, 1, self.modified, size, 0, 0, major, minor, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let padding = (4 - self.written % 4) % 4;
        self.put(&[0; 4][..padding as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dir").expect("folder");
        archive.file("dir/one", 0o644, b"12345").expect("file");
        archive.file("empty", 0o755, b"").expect("file");
        archive.link("dir/link", "one").expect("link");
        archive.finish().expect("finish")
    }

    #[test]
    fn the_layout_is_newc() {
        let mut archive = Archive::new(Vec::new());
        archive.file("ab", 0o644, b"xyz").expect("file");
        let bytes = archive.finish().expect("finish");
        assert!(bytes.starts_with(b"07070100000001000081a4"));
        // 110 bytes of header, "ab\0" and padding to 116, then the content padded to 120.
        assert_eq!(&bytes[110..120], b"ab\0\0\0\0xyz\0");
        assert_eq!(&bytes[120..126], b"070701");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(TRAILER.len()).any(|w| w == TRAILER.as_bytes()));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    /// cpio itself reads the archive back.
    #[test]
    fn cpio_reads_it_back() {
        let dir = tempfile::tempdir().expect("folder");
        let spawned =
            Command::new("cpio").args(["-i", "-d", "--quiet"]).current_dir(dir.path()).stdin(Stdio::piped()).spawn();
        let mut child = spawned.expect("`apt-get install cpio`");
        child.stdin.take().expect("stdin").write_all(&sample()).expect("write");
        assert!(child.wait().expect("cpio").success());
        assert_eq!(std::fs::read(dir.path().join("dir/link")).expect("through the link"), b"12345");
        assert_eq!(std::fs::read(dir.path().join("empty")).expect("empty"), b"");
    }
}
