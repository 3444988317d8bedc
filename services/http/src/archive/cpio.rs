//! The entries of a cpio archive in the "newc" format (Linux:
//! Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5)).

use super::{DAMAGED, End, Entries, Format, Inode, Kind, Name, Read, Stop, until_nul};

/// Bytes of a header: a magic number, and 13 fields of eight hexadecimal digits.
const HEADER: usize = 110;
/// The kinds of a file in its mode (`S_IFMT` and others of stat(2)).
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

impl<'a> Entries<'a> {
    pub(super) fn read_cpio(&mut self) -> Read<'a> {
        let header = self.take(HEADER)?;
        Format::of(header).filter(|format| *format == Format::Cpio).ok_or(DAMAGED)?;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check.
        let field = |index: usize| hexadecimal(header.get(6 + index * 8..14 + index * 8)?);
        let field = |index: usize| field(index).ok_or(DAMAGED);
        let (mode, modified, size, name_size) = (field(1)?, field(5)?, field(6)?, field(11)?);
        let name = until_nul(self.take(name_size as usize)?.strip_suffix(b"\0").ok_or(DAMAGED)?);
        self.align(4);
        if name == b"TRAILER!!!" {
            return Err(Stop(End::Marked));
        }
        let data = self.take(size as usize)?;
        self.align(4);
        let kind = match mode & KIND {
            REGULAR => {
                if field(4)? > 1 {
                    self.inode = Some(Inode([field(7)?, field(8)?, field(0)?]));
                }
                // The content comes with the last of a file's names.
                match self.inode {
                    Some(inode) if data.is_empty() => Kind::SameFile(inode),
                    _ => Kind::File(data),
                }
            }
            FOLDER => return Ok(None),
            SYMLINK => Kind::Symlink(until_nul(data)),
            _ => Kind::Other,
        };
        Ok(Some((Name::whole(name), kind, u64::from(modified))))
    }
}

// Only called at boot. Inlined, this function would be in the image many times.
#[inline(never)]
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | digit)
    })
}
