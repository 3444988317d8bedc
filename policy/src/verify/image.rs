//! Reads the image as an ELF file, and checks which bytes a loader would put at which address.

use std::borrow::Cow;

use cloister_caps::abi::KERNEL_OFFSET;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, read};

use super::verdict::{Finding, Unusable};
use crate::image_form::{SBOM, SEAL, UNSAFE};
use crate::image_limits::{MAX_LOADS, MAX_SECTION_NAMES, MAX_SECTIONS, MAX_TABLES, MAX_TEXT};

type Header = elf::FileHeader64<LittleEndian>;

/// Bytes of a page.
pub(super) const PAGE: u64 = 4096;
/// The start of the kernel's half of the address space.
const UPPER_HALF: u64 = 0xFFFF_8000_0000_0000;
/// The highest guest-physical address at which an image may end.
const MAX_PHYSICAL: u64 = 1 << 30;
/// The first eight bytes of the capability tables.
const MAGIC: &[u8; 8] = b"CLOISTER";
/// The note by which Xen finds the PVH entry point, without the entry point
/// (`XEN_ELFNOTE_PHYS32_ENTRY`, `elfnote.h`): bytes of the name, bytes of the content, type 18,
/// name.
const PVH_NOTE: &[u8; 16] = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";

/// A segment that a loader copies to memory.
#[derive(Clone)]
pub(super) struct Load<'a> {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub offset: u64,
    pub address: u64,
    pub physical: u64,
    pub memory: u64,
    /// What a loader puts there: the bytes of the file, and zeros up to the end of the last page.
    pub bytes: Cow<'a, [u8]>,
}

impl Load<'_> {
    /// Returns the access as letters: R, W and X.
    pub(super) fn mode(&self) -> String {
        [(self.read, 'R'), (self.write, 'W'), (self.execute, 'X')]
            .into_iter()
            .filter_map(|(held, letter)| held.then_some(letter))
            .collect()
    }

    pub(super) fn in_kernel_half(&self) -> bool {
        self.address >= UPPER_HALF
    }
}

/// The PVH note.
#[derive(Clone, Copy)]
pub(super) struct Note {
    /// The segment that contains it, and its position there.
    pub load: usize,
    pub position: u64,
    /// The entry point that it names.
    pub entry: u64,
}

/// An image.
pub(super) struct Image<'a> {
    pub file: &'a [u8],
    pub entry: u64,
    /// The segments in the order of the program headers, which must be that of the physical
    /// addresses.
    pub loads: Vec<Load<'a>>,
    /// The index of the segment with the tables.
    pub tables: usize,
    /// The note, if there is one in the bytes of a segment.
    pub note: Option<Note>,
    /// The sections that no segment loads.
    pub seal: Option<Section<'a>>,
    pub sbom: Option<Section<'a>>,
    pub unsafe_uses: Option<Section<'a>>,
}

/// A section that no segment loads.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub offset: u64,
    pub bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// Reads the headers of `file`. Mistakes that allow reading on go to `findings`.
    pub(super) fn read(file: &'a [u8], findings: &mut Vec<Finding>) -> Result<Self, Unusable> {
        if file.is_empty() {
            return Err(Unusable::Empty);
        }
        let broken = |error: read::Error| Unusable::NotElf(error.to_string());
        let header = Header::parse(file).map_err(broken)?;
        let endian = header.endian().map_err(broken)?;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return Err(Unusable::OtherProgram("is not for x86-64".into()));
        }
        if header.e_type(endian) != elf::ET_EXEC {
            return Err(Unusable::OtherProgram("is not linked at fixed addresses".into()));
        }
        // The number as it is in the header: to Xen, 0xffff is not a mark for a number elsewhere.
        let count = header.e_phnum(endian);
        if usize::from(count) > MAX_LOADS + 1 {
            return Err(Unusable::OtherProgram(format!("has {count} program headers, and an image has few")));
        }
        let (mut loads, mut note) = (Vec::new(), None);
        let segments = header.program_headers(endian, file).map_err(broken)?;
        let mut stored = 0;
        for segment in segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD) {
            let cut = |()| Unusable::Truncated(segment.p_vaddr(endian));
            stored += segment.data(endian, file).map_err(cut)?.len();
        }
        if stored > file.len() {
            return Err(Unusable::OtherProgram("has segments that share bytes of the file".into()));
        }
        for segment in segments {
            match segment.p_type(endian) {
                elf::PT_LOAD => loads.push(load(segment, file)?),
                elf::PT_NOTE if note.is_none() => note = Some(segment.p_offset(endian)),
                elf::PT_NOTE => findings.push(Finding::error("elf", "more than one note segment")),
                other => findings.push(Finding::error(
                    "elf",
                    format!("a program header of type {:#x}, which no image has", other.0),
                )),
            }
        }
        let note = note.and_then(|offset| find_note(&loads, offset));
        let tables = find_tables(&loads)?;
        let [seal, sbom, unsafe_uses] = attached(header, file)?;
        Ok(Image { file, entry: header.e_entry(endian), loads, tables, note, seal, sbom, unsafe_uses })
    }

    /// Returns the kernel's segments: those before the tables.
    pub(super) fn kernel(&self) -> &[Load<'a>] {
        self.loads.get(..self.tables).unwrap_or_default()
    }

    /// Returns the segment with the tables: whole pages, as the kernel finds them.
    pub(super) fn tables(&self) -> Option<&Load<'a>> {
        self.loads.get(self.tables)
    }

    /// Returns the segments of services and of image data.
    pub(super) fn rest(&self) -> &[Load<'a>] {
        self.loads.get(self.tables + 1..).unwrap_or_default()
    }

    /// Returns the addresses at which the kernel is linked.
    pub(super) fn kernel_range(&self) -> std::ops::Range<u64> {
        let own = || self.kernel().iter().filter(|load| load.in_kernel_half());
        let first = own().map(|load| load.address).min().unwrap_or(u64::MAX);
        let end = own().map(|load| load.address.saturating_add(load.memory)).max().unwrap_or(first);
        first..end
    }

    /// Checks the meaning of the headers for a loader and for the processor.
    pub(super) fn check(&self, findings: &mut Vec<Finding>) {
        let mut error = |message: String| findings.push(Finding::error("elf", message));
        for load in &self.loads {
            let at = format!("the segment at {:#x} (physical {:#x})", load.address, load.physical);
            if load.write && load.execute {
                error(format!("{at} is writable and executable"));
            }
            if !load.read {
                error(format!("{at} is not readable"));
            }
            if load.physical % PAGE != load.address % PAGE {
                error(format!("{at} does not lie on its page"));
            }
            if load.physical.saturating_add(load.memory) > MAX_PHYSICAL {
                error(format!("{at} reaches beyond 1 GiB"));
            }
            let sizes = [load.bytes.len() as u64, load.memory];
            if sizes.iter().any(|size| *size == 0 || !size.is_multiple_of(PAGE)) {
                error(format!("{at} is not whole pages of the file and of memory"));
            }
        }
        self.check_order(&mut error);
        self.check_kernel(&mut error);
        self.check_rest(&mut error);
    }

    /// Checks that each segment begins with the page after the one before.
    fn check_order(&self, error: &mut impl FnMut(String)) {
        for pair in self.loads.windows(2) {
            let [one, other] = pair else { continue };
            let at = format!("the segments at physical {:#x} and {:#x}", one.physical, other.physical);
            let (end, start) = (pages(one).end, pages(other).start);
            if end > start {
                error(format!("{at} overlap, or are not in order"));
            } else if end < start {
                error(format!("there are pages between {at}"));
            }
        }
    }

    fn check_kernel(&self, error: &mut impl FnMut(String)) {
        for load in self.kernel() {
            let identical = load.address == load.physical;
            if !identical && load.address != load.physical.saturating_add(KERNEL_OFFSET) {
                error(format!("the kernel's segment at {:#x} is not loaded where it is linked", load.address));
            }
            if identical && load.write {
                error(format!("the boot code at {:#x} is writable", load.address));
            }
            // Only the kernel's data may have memory beyond its bytes.
            if load.memory != load.bytes.len() as u64 && !load.write {
                error(format!("the kernel's segment at {:#x} has memory without bytes of the file", load.address));
            }
        }
        let modes: Vec<String> = self.kernel().iter().map(Load::mode).collect();
        if modes != ["RX", "RX", "R", "RW"] {
            error(format!("the kernel's segments are {}: not boot code, text, constants and data", modes.join(", ")));
        }
        let is_text = |address: u64| {
            self.kernel().iter().any(|load| {
                load.execute && load.address == load.physical && address.wrapping_sub(load.address) < load.memory
            })
        };
        let Some(Note { entry, .. }) = self.note else {
            return error(
                "there is no PVH entry note in the bytes of a segment, without which Xen does not start the image"
                    .into(),
            );
        };
        if !is_text(entry) {
            error(format!("the PVH entry point {entry:#x} is not in the kernel's boot code"));
        }
        if entry != self.entry {
            error(format!("the PVH entry point is {entry:#x}, that of the ELF header {:#x}", self.entry));
        }
    }

    /// Checks that only the kernel's own data is loaded writable: the kernel copies what services
    /// may write.
    fn check_rest(&self, error: &mut impl FnMut(String)) {
        let text = self.loads.iter().filter(|load| load.execute);
        let text = text.fold(0_u64, |sum, load| sum.saturating_add(load.memory));
        if text > MAX_TEXT {
            error(format!("the segments have {text} bytes of text; at most {MAX_TEXT} are read"));
        }
        if self.tables().is_some_and(|tables| tables.bytes.len() as u64 > MAX_TABLES + PAGE) {
            error(format!("the tables have more than {MAX_TABLES} bytes"));
        }
        if let Some(tables) = self.tables().filter(|tables| tables.address != tables.physical || tables.mode() != "R") {
            let (address, physical, mode) = (tables.address, tables.physical, tables.mode());
            error(format!("the tables are linked at {address:#x}, and loaded at {physical:#x}, {mode}"));
        }
        for load in self.loads.get(self.tables..).unwrap_or_default() {
            let at = format!("the segment at physical {:#x}", load.physical);
            if load.write {
                error(format!("{at} is writable in the image"));
            }
            if load.memory != load.bytes.len() as u64 {
                error(format!("{at} has memory without bytes of the file"));
            }
            if load.in_kernel_half() {
                error(format!("{at} is linked at {:#x}, in the kernel's half", load.address));
            }
        }
    }

    /// Checks the pointer to the tables: the first sixteen bytes of the kernel's read-only data.
    pub(super) fn check_pointer(&self, length: u64, findings: &mut Vec<Finding>) {
        let Some(tables) = self.tables() else { return };
        let constants = self.kernel().iter().find(|load| load.in_kernel_half() && !load.write && !load.execute);
        let word = |at: usize| {
            let bytes = constants?.bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let found = word(0).zip(word(8));
        if found != Some((tables.physical, length)) {
            let (address, says) = found.unwrap_or((0, 0));
            findings.push(Finding::error(
                "elf",
                format!(
                    "the kernel looks for its tables at {address:#x}, {says} bytes; they are at {:#x}, {length} bytes",
                    tables.physical
                ),
            ));
        }
    }
}

/// Returns the index of the tables: the one segment that starts with their magic.
fn find_tables(loads: &[Load<'_>]) -> Result<usize, Unusable> {
    let mut found = loads.iter().enumerate().filter(|(_, load)| load.bytes.starts_with(MAGIC)).map(|(index, _)| index);
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        (None, _) => Err(Unusable::OtherProgram("holds no capability tables".into())),
        _ => Err(Unusable::OtherProgram("holds capability tables more than once".into())),
    }
}

/// Returns the PVH note at an offset of the file, if it is in the bytes of a segment.
fn find_note(loads: &[Load<'_>], offset: u64) -> Option<Note> {
    loads.iter().enumerate().find_map(|(load, segment)| {
        let position = offset.checked_sub(segment.offset)?;
        let bytes = segment.bytes.get(usize::try_from(position).ok()?..)?;
        let entry = bytes.strip_prefix(PVH_NOTE)?.get(..4)?.try_into().ok()?;
        Some(Note { load, position, entry: u32::from_le_bytes(entry).into() })
    })
}

/// Returns the addresses of the pages of a segment.
fn pages(load: &Load<'_>) -> std::ops::Range<u64> {
    let end = load.physical.saturating_add(load.memory);
    load.physical / PAGE * PAGE..end.saturating_add(PAGE - 1) / PAGE * PAGE
}

/// Reads a segment. What a loader fills with zeros is there too, up to the end of the last page that
/// the file has bytes of.
fn load<'a>(segment: &elf::ProgramHeader64<LittleEndian>, file: &'a [u8]) -> Result<Load<'a>, Unusable> {
    let endian = LittleEndian;
    let address = segment.p_vaddr(endian);
    let cut = || Unusable::Truncated(address);
    let flags = segment.p_flags(endian).0;
    let stored = segment.data(endian, file).map_err(|()| cut())?;
    let whole = stored.len().next_multiple_of(PAGE as usize);
    let mut bytes = Cow::Borrowed(stored);
    if bytes.len() < whole && whole as u64 <= segment.p_memsz(endian) {
        bytes.to_mut().resize(whole, 0);
    }
    let load = Load {
        read: flags & elf::PF_R.0 != 0,
        write: flags & elf::PF_W.0 != 0,
        execute: flags & elf::PF_X.0 != 0,
        offset: segment.p_offset(endian),
        address,
        physical: segment.p_paddr(endian),
        memory: segment.p_memsz(endian),
        bytes,
    };
    let whole = load.bytes.len() as u64 <= load.memory
        && address.checked_add(load.memory).is_some()
        && load.physical.checked_add(load.memory).is_some();
    if whole { Ok(load) } else { Err(cut()) }
}

/// Returns the seal, the SBOM and the inventory of `unsafe`, if they are there.
///
/// The number of sections, and that of the section of names, are read from the header and must be
/// small. This bounds the number of sections and names that are read.
fn attached<'a>(header: &Header, file: &'a [u8]) -> Result<[Option<Section<'a>>; 3], Unusable> {
    let endian = LittleEndian;
    let (count, names) = (usize::from(header.e_shnum(endian)), usize::from(header.e_shstrndx(endian).0));
    if count == 0 || count > MAX_SECTIONS {
        return Err(Unusable::OtherProgram(format!("has {count} section headers, and an image has few")));
    }
    let broken = |error: read::Error| Unusable::NotElf(error.to_string());
    let sections = header.section_headers(endian, file).map_err(broken)?;
    let names = sections.get(names).and_then(|names| names.data(endian, file).ok()).unwrap_or_default();
    if names.len() > MAX_SECTION_NAMES {
        let length = names.len();
        return Err(Unusable::OtherProgram(format!("has {length} bytes of names of sections, and an image has few")));
    }
    let named = |section: &elf::SectionHeader64<LittleEndian>, name: &str| {
        let rest = names.get(section.sh_name(endian) as usize..).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    };
    Ok([SEAL, SBOM, UNSAFE].map(|name| {
        let section = sections.iter().find(|section| named(section, name))?;
        Some(Section { offset: section.sh_offset(endian), bytes: section.data(endian, file).ok()? })
    }))
}
