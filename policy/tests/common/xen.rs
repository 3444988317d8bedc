//! Loads an ELF file as Xen loads a PVH guest.
//!
//! The rules are written a second time from `libelf`
//! (`xen/common/libelf/libelf-{tools,loader,dominfo}.c`, Xen 4.17), without the reader under test.
//! Addresses are those of the guest's memory. Fields beyond the end of the file read as zero, as
//! Xen reads them.

use std::collections::BTreeMap;

/// Pages of guest-physical memory, by their number.
pub type Memory = BTreeMap<u64, Box<[u8; 4096]>>;

/// A loaded guest.
#[derive(PartialEq, Eq, Clone)]
pub struct Guest {
    /// `XEN_ELFNOTE_PHYS32_ENTRY`.
    pub entry: Option<u64>,
    /// The loaded memory.
    pub memory: Memory,
    /// The lowest loaded address, and the end of the highest.
    pub range: (u64, u64),
}

const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const SHT_NOTE: u64 = 7;
const XEN_ELFNOTE_PHYS32_ENTRY: u64 = 18;

/// The limit of memory, more than any test needs.
const MOST: u64 = 64 << 20;

struct File<'a>(&'a [u8]);

impl File<'_> {
    /// Reads a little-endian number of one to eight bytes (`elf_access_unsigned`).
    fn number(&self, at: u64, size: u64) -> u64 {
        let bytes = usize::try_from(at).ok().and_then(|at| self.0.get(at..at.checked_add(size as usize)?));
        bytes.unwrap_or_default().iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn bytes(&self, at: u64, size: u64) -> Option<&[u8]> {
        let at = usize::try_from(at).ok()?;
        self.0.get(at..at.checked_add(usize::try_from(size).ok()?)?)
    }

    /// Returns the offset of program header `index`, by the size of one in the ELF header.
    fn program_header(&self, index: u64) -> u64 {
        self.number(32, 8).wrapping_add(self.number(54, 2) * index)
    }

    /// Returns the number of program headers (`elf_phdr_count`): sixteen bits, without special
    /// values.
    fn program_headers(&self) -> impl Iterator<Item = u64> {
        (0..self.number(56, 2)).map(|index| self.program_header(index))
    }

    /// Returns the entry point of the notes from `start` to `end`; the last one counts
    /// (`elf_xen_parse_notes`, `elf_note_next`).
    fn notes(&self, start: u64, end: u64, entry: &mut Option<u64>) -> u64 {
        let (mut at, mut found) = (start, 0);
        // A note that begins before the end counts, even if it ends after it.
        while at < end && (at as usize) < self.0.len() {
            let (name, content, kind) = (self.number(at, 4), self.number(at + 4, 4), self.number(at + 8, 4));
            // Sizes have 32 bits there, and wrap.
            let whole = |size: u64| (size + 3) & 0xFFFF_FFFC;
            let content_at = at + 12 + whole(name);
            if self.bytes(at + 12, 4) == Some(b"Xen\0") {
                found += 1;
                if kind == XEN_ELFNOTE_PHYS32_ENTRY {
                    let number = if [1, 2, 4, 8].contains(&content) { self.number(content_at, content) } else { 0 };
                    *entry = Some(number & 0xFFFF_FFFF);
                }
            }
            at = content_at + whole(content);
        }
        found
    }

    fn entry(&self) -> Option<u64> {
        let (mut entry, mut found) = (None, 0);
        for header in self.program_headers().filter(|header| self.number(*header, 4) == PT_NOTE) {
            let offset = self.number(header + 8, 8);
            // Old versions of binutils leave the offset of a note empty.
            if offset != 0 {
                found += self.notes(offset, offset.wrapping_add(self.number(header + 32, 8)), &mut entry);
            }
        }
        if found == 0 {
            let (table, size) = (self.number(40, 8), self.number(58, 2));
            for section in (0..self.number(60, 2)).map(|index| table.wrapping_add(size * index)) {
                if self.number(section.wrapping_add(4), 4) == SHT_NOTE {
                    let offset = self.number(section + 24, 8);
                    self.notes(offset, offset.wrapping_add(self.number(section + 32, 8)), &mut entry);
                }
            }
        }
        entry
    }
}

/// Loads a file; `None` if Xen would refuse it, it takes more memory than a test has, or it names
/// bytes that it does not have. Xen only logs the latter, and leaves zeros, or what was there.
pub fn load(bytes: &[u8]) -> Option<Guest> {
    let file = File(bytes);
    // `elf_is_elfbinary`, and 64 bits. Type and machine mean nothing for a PVH guest.
    if !bytes.starts_with(b"\x7FELF") || file.number(4, 1) != 2 {
        return None;
    }
    // `elf_init`: both tables end in the file.
    let table_end = |at, size, count| file.number(at, 8).wrapping_add(file.number(size, 2) * file.number(count, 2));
    if table_end(32, 54, 56) > bytes.len() as u64 || table_end(40, 58, 60) > bytes.len() as u64 {
        return None;
    }
    let (mut memory, mut range, mut total) = (Memory::new(), (u64::MAX, 0), 0_u64);
    for header in file.program_headers() {
        // `elf_phdr_is_loadable`: a segment that may not even be read is none.
        if file.number(header, 4) != PT_LOAD || file.number(header + 4, 4) & 7 == 0 {
            continue;
        }
        let field = |at: u64| file.number(header.wrapping_add(at), 8);
        let (offset, physical, in_file, size) = (field(8), field(24), field(32), field(40));
        total = total.checked_add(size).filter(|total| *total <= MOST)?;
        if in_file > size {
            return None;
        }
        range = (range.0.min(physical), range.1.max(physical.checked_add(size)?));
        let source = file.bytes(offset, in_file)?;
        // `elf_load_image`: the bytes of the file, then zeros. A later segment writes over an
        // earlier one.
        let mut at = 0;
        while at < size {
            let (page, within) = ((physical + at) / 4096, (physical + at) % 4096);
            let length = (4096 - within).min(size - at);
            let place = memory.entry(page).or_insert_with(|| Box::new([0; 4096]));
            let place = &mut place[within as usize..(within + length) as usize];
            let from = source.get(at.min(in_file) as usize..(at + length).min(in_file) as usize).unwrap_or_default();
            place.fill(0);
            place[..from.len()].copy_from_slice(from);
            at += length;
        }
    }
    // `elf_xen_addr_calc_check`.
    let entry = file.entry();
    let inside = entry.is_none_or(|entry| (range.0..=range.1).contains(&entry));
    let small = range.1.checked_sub(range.0).is_some_and(|length| length <= MOST);
    (inside && small).then_some(Guest { entry, memory, range })
}
