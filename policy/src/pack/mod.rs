//! Packing: the kernel, the programs, the tables and the data of the policy as one ELF file that a
//! PVH loader takes. The kernel's segments stay as they are, filled up to whole pages, but for the sixteen bytes that
//! tell it where the tables are; everything else follows them in guest-physical memory, page by page.

mod elf;
pub(crate) mod write;

use std::borrow::Cow;

use cloister_caps::PAGE_SIZE;
use cloister_caps::tables::raw::Segment;
use cloister_caps::tables::{TableError, Tables};

use crate::Checked;
use crate::emit::{self, Placement};
use crate::plan::{self, PROGRAM_ROOM};
use crate::verify::limits::{MAX_INVENTORY, MAX_LOADS, MAX_POLICY, MAX_TABLES, MAX_TEXT};
use crate::verify::{MAX_IMAGE, deflated, sealed};
use elf::Load;
use write::{Content, Piece};

const PAGE: u64 = PAGE_SIZE as u64;
/// The symbol of the kernel that is told where the tables are: their address and length, each a `u64`.
const TABLES_SYMBOL: &str = "CLOISTER_TABLES";
/// Where an image must end: the kernel takes no tables beyond.
const MAX_PHYSICAL: u64 = 1 << 30;

/// The program of a service.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The service's name in the policy.
    pub service: &'a str,
    /// The linked ELF file.
    pub elf: &'a [u8],
}

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file is no 64-bit little-endian ELF file, or a broken one.
    #[error("{program}: not an ELF file that can be read: {reason}")]
    NotElf {
        /// The service, or the kernel.
        program: String,
        /// What the reader says.
        reason: String,
    },
    /// A file is for another processor.
    #[error("{program}: not for x86-64; build it for x86_64-unknown-none")]
    WrongMachine {
        /// The service, or the kernel.
        program: String,
    },
    /// A file needs a dynamic linker or may be moved.
    #[error("{program}: not linked at a fixed address; build it with -C relocation-model=static")]
    NotStatic {
        /// The service, or the kernel.
        program: String,
    },
    /// A file has thread-local data, for which services have no support.
    #[error("{program}: has thread-local data, which services cannot have")]
    ThreadLocal {
        /// The service, or the kernel.
        program: String,
    },
    /// A segment reaches out of the file or of the address space.
    #[error("{program}: the segment at {address:#x} does not fit the file or the address space")]
    Segment {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment could be written and executed.
    #[error("{program}: the segment at {address:#x} is writable and executable")]
    WritableAndExecutable {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// The entry point is not in text.
    #[error("{program}: the entry point {entry:#x} is in no executable segment")]
    Entry {
        /// The service, or the kernel.
        program: String,
        /// The entry point.
        entry: u64,
    },
    /// A segment does not start a page of its own.
    #[error("{program}: the segment at {address:#x} does not start at a page")]
    Unaligned {
        /// The service.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// Two segments share a page.
    #[error("{program}: the segment at {address:#x} shares a page with another")]
    Overlap {
        /// The service, or the kernel.
        program: String,
        /// The segment's virtual address.
        address: u64,
    },
    /// There are pages between two segments of the kernel.
    #[error("kernel: the segment at {address:#x} does not begin with the page behind the one before it")]
    Apart {
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment of the kernel has memory that the file has no bytes for, and is not data up to the end of a page.
    #[error("kernel: the segment at {address:#x} is longer in memory, and is not data that ends with a page")]
    NotWhole {
        /// The segment's virtual address.
        address: u64,
    },
    /// A segment lies outside the addresses that the service's program has.
    #[error(
        "{program}: the segment at {address:#x} is outside {first:#x} to {last:#x}; link it with --defsym=IMAGE_BASE={first:#x}"
    )]
    OutsideRoom {
        /// The service.
        program: String,
        /// The segment's virtual address.
        address: u64,
        /// The lowest address of the service's program.
        first: u64,
        /// The highest.
        last: u64,
    },
    /// A program has nothing to load.
    #[error("{program}: has no loadable segment")]
    Empty {
        /// The service, or the kernel.
        program: String,
    },
    /// The policy names a service whose program was not given.
    #[error("the program of service `{0}` is missing")]
    MissingProgram(String),
    /// A program was given for no service of the policy, or twice.
    #[error("a program was given for `{0}`, which the policy does not name, or was given before")]
    StrayProgram(String),
    /// The kernel lacks the note that makes Xen start it.
    #[error("kernel: has no PVH entry note (owner Xen, type 18)")]
    NoPvhNote,
    /// The kernel's note segment has more than the PVH note, or no segment loads it.
    #[error("kernel: its note segment must be the PVH entry note alone, in the bytes of a loadable segment")]
    Note,
    /// The image would be larger than any that is verified.
    #[error("the image has {found} {what}; at most {most} are verified")]
    OverLimit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        most: u64,
    },
    /// The kernel lacks the place for the tables' address.
    #[error("kernel: has no symbol {TABLES_SYMBOL}; is it stripped?")]
    NoTablesSymbol,
    /// The place for the tables' address is not in the kernel's read-only data.
    #[error("kernel: {TABLES_SYMBOL} is not sixteen zero bytes in a read-only segment")]
    TablesSymbolPlace,
    /// The image would reach beyond where the kernel looks for its tables.
    #[error("the image reaches guest-physical address {0:#x}; it must end below 1 GiB")]
    TooLarge(u64),
    /// The kernel would refuse the tables.
    #[error("the kernel would refuse the tables: {0}")]
    Tables(TableError),
    /// The ELF writer refused.
    #[error("the image cannot be written: {0}")]
    Write(String),
}

/// What is attached to an image for those who verify it, in sections that no loader puts into memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// The bill of materials: CycloneDX, JSON.
    pub sbom: Option<&'a [u8]>,
    /// The inventory of `unsafe`: JSON, as `docs/verify.md` describes it.
    pub unsafe_uses: Option<&'a [u8]>,
}

/// Packs one ELF file from the kernel and the program of each service.
///
/// # Errors
/// A file is not as it must be; the error says which, and why.
pub fn pack(policy: &Checked, kernel_elf: &[u8], programs: &[Program<'_>]) -> Result<Vec<u8>, PackError> {
    pack_with(policy, kernel_elf, programs, &Extras::default())
}

/// Packs as [`pack`] does, and attaches inventories.
///
/// # Errors
/// A file is not as it must be; the error says which, and why.
pub fn pack_with(
    policy: &Checked,
    kernel_elf: &[u8],
    programs: &[Program<'_>],
    extras: &Extras<'_>,
) -> Result<Vec<u8>, PackError> {
    let kernel = elf::Program::read("kernel", kernel_elf)?;
    let note = kernel.pvh_note()?;
    let (tables_load, tables_position) = kernel.symbol(TABLES_SYMBOL, 16)?;
    let read = read_programs(policy, programs)?;
    let mut next = check_kernel(&kernel)?;

    // The tables come first; their length does not depend on where the rest lies.
    let mut placement = Placement::default();
    placement.entries.extend(read.iter().map(|program| program.entry));
    for (index, program) in read.iter().enumerate() {
        placement.segments.extend(program.loads.iter().map(|load| segment(index, load)));
    }
    placement.data = vec![0; policy.plan.data.len()];
    let length = tables(policy, &placement)?.len() as u64;
    let tables_address = next;
    advance(&mut next, length)?;
    let mut pieces = Vec::new();
    for (load, segment) in read.iter().flat_map(|program| &program.loads).zip(&mut placement.segments) {
        if segment.file_size > 0 {
            segment.image_address = next;
            pieces.push(program_piece(load, segment));
            advance(&mut next, segment.file_size)?;
        }
    }
    for ((_, bytes), address) in policy.plan.data.iter().zip(&mut placement.data) {
        *address = next;
        pieces.push(Piece::data(next, bytes.clone()));
        advance(&mut next, bytes.len() as u64)?;
    }
    let blob = tables(policy, &placement)?;
    Tables::parse(&blob).map_err(PackError::Tables)?;
    at_most("bytes of tables", blob.len() as u64, MAX_TABLES)?;
    at_most("bytes of policy", policy.canonical.len() as u64, MAX_POLICY)?;

    let mut patched = kernel_pieces(&kernel);
    patch(&kernel, &mut patched, (tables_load, tables_position), tables_address, blob.len() as u64)?;
    let (note_load, note_position) = note;
    let note_address = kernel.loads.get(note_load).ok_or(PackError::Note)?.physical_address;
    pieces.insert(0, Piece::data(tables_address, blob));
    patched.extend(pieces);
    patched.sort_by_key(|piece| piece.physical_address);
    let note_piece = patched.iter().position(|piece| piece.physical_address == note_address);
    finish(kernel.entry, &patched, (note_piece.ok_or(PackError::Note)?, note_position), extras)
}

/// Writes the file and seals it.
fn finish(entry: u64, pieces: &[Piece<'_>], note: (usize, u64), extras: &Extras<'_>) -> Result<Vec<u8>, PackError> {
    for json in [extras.sbom, extras.unsafe_uses].into_iter().flatten() {
        at_most("bytes in an inventory", json.len() as u64, MAX_INVENTORY)?;
    }
    let text = pieces.iter().filter(|piece| piece.flags & Load::EXECUTE != 0).map(|piece| piece.memory_size).sum();
    at_most("segments", pieces.len() as u64, MAX_LOADS as u64)?;
    at_most("bytes of text", text, MAX_TEXT)?;
    at_most("bytes", pieces.iter().map(|piece| piece.bytes.len() as u64).sum(), MAX_IMAGE)?;
    let [sbom, unsafe_uses] = [extras.sbom, extras.unsafe_uses].map(|json| json.map(deflated));
    let content =
        Content { entry, pieces, note, seal: [0; 32], sbom: sbom.as_deref(), unsafe_uses: unsafe_uses.as_deref() };
    let mut out = Vec::new();
    let seal = write::write(&content, &mut out)?;
    at_most("bytes", out.len() as u64, MAX_IMAGE)?;
    let unsealed = || PackError::Write("the seal has no place".into());
    let seal = usize::try_from(seal).map_err(|_| unsealed())?;
    let (hash, _) = sealed(&out, seal).ok_or_else(unsealed)?;
    out.get_mut(seal..seal + hash.len()).ok_or_else(unsealed)?.copy_from_slice(&hash);
    Ok(out)
}

fn at_most(what: &'static str, found: u64, most: u64) -> Result<(), PackError> {
    if found > most { Err(PackError::OverLimit { what, found, most }) } else { Ok(()) }
}

fn tables(policy: &Checked, placement: &Placement) -> Result<Vec<u8>, PackError> {
    emit::emit(&policy.plan, placement, policy.hash, &policy.canonical).ok_or(PackError::Tables(TableError::Truncated))
}

/// The programs in the order of the services, each checked to lie where the policy puts it.
fn read_programs<'a>(policy: &'a Checked, programs: &[Program<'a>]) -> Result<Vec<elf::Program<'a>>, PackError> {
    for (index, program) in programs.iter().enumerate() {
        let before = programs.get(..index).unwrap_or_default();
        let known = policy.policy.services.index(program.service).is_some();
        if !known || before.iter().any(|other| other.service == program.service) {
            return Err(PackError::StrayProgram(program.service.to_owned()));
        }
    }
    let mut read = Vec::new();
    for (index, service) in policy.services().enumerate() {
        let given = programs.iter().find(|program| program.service == service.name());
        let given = given.ok_or_else(|| PackError::MissingProgram(service.name().to_owned()))?;
        let program = elf::Program::read(service.name(), given.elf)?;
        check_program(&program, plan::image_base(index))?;
        read.push(program);
    }
    Ok(read)
}

fn check_program(program: &elf::Program<'_>, base: u64) -> Result<(), PackError> {
    let name = || program.name.to_owned();
    let end = base + PROGRAM_ROOM;
    let mut loads: Vec<&Load<'_>> = program.loads.iter().collect();
    loads.sort_by_key(|load| load.virtual_address);
    let mut free = base;
    for load in loads {
        let address = load.virtual_address;
        if address < base || address + load.memory_size > end {
            return Err(PackError::OutsideRoom { program: name(), address, first: base, last: end - 1 });
        }
        if !address.is_multiple_of(PAGE) {
            return Err(PackError::Unaligned { program: name(), address });
        }
        if address < free {
            return Err(PackError::Overlap { program: name(), address });
        }
        free = round_up(address + load.memory_size);
    }
    if program.loads.is_empty() { Err(PackError::Empty { program: name() }) } else { Ok(()) }
}

/// The first free guest-physical page after the kernel.
fn check_kernel(kernel: &elf::Program<'_>) -> Result<u64, PackError> {
    let mut loads: Vec<&Load<'_>> = kernel.loads.iter().collect();
    loads.sort_by_key(|load| load.physical_address);
    let mut free = 0;
    for load in loads {
        let (program, address) = (kernel.name.to_owned(), load.virtual_address);
        if load.physical_address < free {
            return Err(PackError::Overlap { program, address });
        }
        if load.physical_address >= MAX_PHYSICAL {
            return Err(PackError::TooLarge(load.physical_address));
        }
        if free > 0 && load.physical_address != round_up(free) {
            return Err(PackError::Apart { address });
        }
        let whole = load.bytes.len() as u64 == load.memory_size;
        if !(whole || load.flags & Load::WRITE != 0 && load.memory_size.is_multiple_of(PAGE)) {
            return Err(PackError::NotWhole { address });
        }
        free = load.physical_address + load.memory_size;
        if free >= MAX_PHYSICAL {
            return Err(PackError::TooLarge(free));
        }
    }
    Ok(round_up(free))
}

fn round_up(value: u64) -> u64 {
    value.saturating_add(PAGE - 1) / PAGE * PAGE
}

fn advance(next: &mut u64, length: u64) -> Result<(), PackError> {
    *next = round_up(next.saturating_add(length));
    if *next >= MAX_PHYSICAL { Err(PackError::TooLarge(*next)) } else { Ok(()) }
}

/// The record of a segment, before it has a place. What is mapped where the image holds it must be in the
/// image as a whole; only a writable segment, which is copied, may be longer in memory.
fn segment(service: usize, load: &Load<'_>) -> Segment {
    let writable = load.flags & Load::WRITE != 0;
    let file_size = if writable { load.bytes.len() as u64 } else { load.memory_size };
    Segment {
        service: service as u8,
        flags: table_flags(load.flags),
        address: load.virtual_address,
        image_address: 0,
        file_size,
        memory_size: load.memory_size,
    }
}

/// ELF's flags (X, W, R from bit 0) as the tables' (R, W, X).
fn table_flags(flags: u32) -> u8 {
    (u8::from(flags & Load::EXECUTE != 0) << 2) | (u8::from(flags & Load::WRITE != 0) << 1) | u8::from(flags & 4 != 0)
}

/// A program's bytes in the image: never writable there, since the kernel copies what a service may write.
fn program_piece<'a>(load: &Load<'_>, segment: &Segment) -> Piece<'a> {
    let mut bytes = load.bytes.to_vec();
    bytes.resize(segment.file_size as usize, 0);
    Piece {
        flags: load.flags & 7 & !Load::WRITE,
        virtual_address: load.virtual_address,
        ..Piece::data(segment.image_address, bytes)
    }
}

/// The kernel's bytes in the image, filled up to whole pages: its segments have these to themselves.
fn kernel_pieces<'a>(kernel: &elf::Program<'a>) -> Vec<Piece<'a>> {
    let piece = |load: &Load<'a>| {
        let mut bytes = load.bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        Piece {
            flags: load.flags & 7,
            virtual_address: load.virtual_address,
            physical_address: load.physical_address,
            memory_size: round_up(load.memory_size),
            bytes: Cow::Owned(bytes),
        }
    };
    kernel.loads.iter().map(piece).collect()
}

/// Tells the kernel where the tables are.
fn patch(
    kernel: &elf::Program<'_>,
    pieces: &mut [Piece<'_>],
    (load, position): (usize, usize),
    address: u64,
    length: u64,
) -> Result<(), PackError> {
    let writable = kernel.loads.get(load).is_none_or(|load| load.flags & Load::WRITE != 0);
    let place = pieces
        .get_mut(load)
        .and_then(|piece| piece.bytes.to_mut().get_mut(position..position + 16))
        .filter(|place| !writable && place.iter().all(|byte| *byte == 0))
        .ok_or(PackError::TablesSymbolPlace)?;
    let (low, high) = place.split_at_mut(8);
    low.copy_from_slice(&address.to_le_bytes());
    high.copy_from_slice(&length.to_le_bytes());
    Ok(())
}
