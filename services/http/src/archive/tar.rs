//! The entries of a tar archive: ustar (POSIX.1-1988), with what pax (POSIX.1-2001) and GNU tar say
//! of an entry in entries before it.

use super::state::{Said, State};
use super::{DAMAGED, End, Entries, Kind, Name, Read, Stop, until_nul};

/// Bytes of a header, and the unit of everything.
const BLOCK: usize = 512;

impl<'a> Entries<'a> {
    pub(super) fn read_tar(&mut self) -> Read<'a> {
        let header = self.take(BLOCK)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(Stop(End::Marked));
        }
        if !checksum_holds(header) {
            return Err(DAMAGED);
        }
        let field = |start: usize, end: usize| header.get(start..end).unwrap_or_default();
        let stated = number(field(124, 136)).ok_or(DAMAGED)?;
        let kind = field(156, 157);
        // What speaks of the next entry is not spoken of.
        match kind {
            b"x" | b"X" | b"g" => {
                let said = records(self.take_data(stated)?)?;
                // Of two before one entry the second counts, as GNU tar has it.
                if kind == b"g" {
                    self.tar.global.add(said);
                } else {
                    self.tar.next = said;
                }
                return Ok(None);
            }
            b"L" => {
                self.tar.long_name = Some(until_nul(self.take_data(stated)?));
                return Ok(None);
            }
            b"K" => {
                self.tar.long_link = Some(until_nul(self.take_data(stated)?));
                return Ok(None);
            }
            b"S" => return Err(Stop(End::Unsupported("a sparse file"))),
            b"M" => return Err(Stop(End::Unsupported("a part of a file"))),
            _ => {}
        }
        let state = self.tar;
        self.tar = State { global: state.global, ..State::default() };
        let size = match state.said(|said| said.size) {
            Some(size) => decimal(size).ok_or(DAMAGED)?,
            None => stated,
        };
        // Programs differ in whether they skip the content of what has none.
        if size > 0 && matches!(kind, b"1" | b"2" | b"3" | b"4" | b"5" | b"6") {
            return Err(Stop(End::Unsupported("a folder, link or device with content")));
        }
        let data = self.take_data(size)?;
        let name = match state.said(|said| said.path).or(state.long_name) {
            Some(name) => Name::whole(name),
            // GNU's own format has other fields in place of ustar's prefix.
            None if field(257, 263) == b"ustar\0" => Name::split(until_nul(field(345, 500)), until_nul(field(0, 100))),
            None => Name::whole(until_nul(field(0, 100))),
        };
        let link = state.said(|said| said.link).or(state.long_link).unwrap_or(until_nul(field(157, 257)));
        let modified = match state.said(|said| said.modified) {
            Some(time) => decimal(time.split(|byte| *byte == b'.').next().unwrap_or_default()),
            None => number(field(136, 148)),
        };
        let kind = match kind {
            b"1" => Kind::HardLink(link),
            b"2" => Kind::Symlink(link),
            b"3" | b"4" | b"6" => Kind::Other,
            // Folders, also with their lists in GNU's incremental archives, and a volume's label.
            b"5" | b"D" | b"V" => return Ok(None),
            // Every other kind is to be read as a regular file. Before ustar, a folder was one with
            // a slash at its end.
            _ if name.ends_with_slash() => return Ok(None),
            _ => Kind::File(data),
        };
        Ok(Some((name, kind, modified.unwrap_or(0))))
    }

    /// Takes the content of an entry.
    fn take_data(&mut self, size: u64) -> Result<&'a [u8], Stop> {
        let data = self.take(usize::try_from(size).map_err(|_| DAMAGED)?)?;
        self.align(BLOCK);
        Ok(data)
    }
}

/// Reads pax records: "length key=value\n". Of several with one key the last counts.
fn records(mut records: &[u8]) -> Result<Said<'_>, Stop> {
    let mut said = Said::default();
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or(DAMAGED)?;
        let length = records.get(..space).and_then(decimal).and_then(|length| usize::try_from(length).ok());
        let (record, rest) = length.and_then(|length| records.split_at_checked(length)).ok_or(DAMAGED)?;
        let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(DAMAGED)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(DAMAGED)?;
        let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
        match key {
            b"path" => said.path = Some(value),
            b"linkpath" => said.link = Some(value),
            b"size" => said.size = Some(value),
            b"mtime" => said.modified = Some(value),
            _ if key.starts_with(b"GNU.sparse.") => return Err(Stop(End::Unsupported("a sparse file"))),
            _ => {}
        }
        records = rest;
    }
    Ok(said)
}

// Only called at boot. Inlined, this function and the next would be in the image many times.
#[inline(never)]
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        value.checked_mul(10)?.checked_add(u64::from(digit))
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
