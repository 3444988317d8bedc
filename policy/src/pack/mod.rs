//! Packs kernel, programs, tables and data of the policy into one ELF file for a PVH loader.
//!
//! The kernel's segments stay as they are, filled up to whole pages, except for the sixteen bytes
//! that point to the tables. Everything else follows them in guest-physical memory, page by page.

mod elf;
mod error;

use std::borrow::Cow;

use cloister_caps::abi::IMAGE_ADDRESSES;
use cloister_caps::tables::raw::Segment;
use cloister_caps::tables::{TableError, Tables};

use crate::address_space::{PROGRAM_ROOM, image_base};
use crate::checked::Checked;
use crate::emit::{self, Placement};
use crate::image_form::{self, Content, PAGE, Piece, deflate, seal_and_file_hash};
use crate::image_limits::{MAX_IMAGE, MAX_INVENTORY, MAX_LOADS, MAX_POLICY, MAX_TABLES, MAX_TEXT};
use crate::printable::hexadecimal;
use crate::verify::hashes;
use elf::Load;
use error::TABLES_SYMBOL;

pub use error::PackError;

/// The guest-physical address at which an image must end.
const MAX_PHYSICAL: u64 = IMAGE_ADDRESSES.end;

/// The program of a service.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The service's name in the policy.
    pub service: &'a str,
    /// The linked ELF file.
    pub elf: &'a [u8],
}

/// The inventories for those who verify an image, in sections that no loader copies to memory.
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
/// A file is wrong; the error says which, and why.
pub fn pack(policy: &Checked, kernel_elf: &[u8], programs: &[Program<'_>]) -> Result<Vec<u8>, PackError> {
    pack_with(policy, kernel_elf, programs, &Extras::default())
}

/// Packs as [`pack`] does, and attaches inventories.
///
/// # Errors
/// A file is wrong; the error says which, and why.
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

    // The tables come first; their length does not depend on the addresses of the rest.
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
    let file = finish(kernel.entry, &patched, (note_piece.ok_or(PackError::Note)?, note_position), extras)?;
    check_pins(policy, &file)?;
    Ok(file)
}

/// Checks that the packed programs are those that the policy pins.
fn check_pins(policy: &Checked, file: &[u8]) -> Result<(), PackError> {
    let services = policy.policy.services.items.iter();
    let pinned: Vec<_> = services.filter_map(|item| Some((&item.name.value, item.body.program_hash?))).collect();
    if pinned.is_empty() {
        return Ok(());
    }
    let hashes = hashes(file).map_err(|error| PackError::Write(error.to_string()))?;
    for (service, wanted) in pinned {
        let found = hashes.program(service).copied().unwrap_or_default();
        if found != wanted {
            let [wanted, found] = [wanted, found].map(|hash| hexadecimal(&hash));
            return Err(PackError::Pinned { service: service.clone(), wanted, found });
        }
    }
    Ok(())
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
    let [sbom, unsafe_uses] = [extras.sbom, extras.unsafe_uses].map(|json| json.map(deflate));
    let content =
        Content { entry, pieces, note, seal: [0; 32], sbom: sbom.as_deref(), unsafe_uses: unsafe_uses.as_deref() };
    let mut out = Vec::new();
    let seal = image_form::write(&content, &mut out)?;
    at_most("bytes", out.len() as u64, MAX_IMAGE)?;
    let unsealed = || PackError::Write("the image has no room for the seal".into());
    let seal = usize::try_from(seal).map_err(|_| unsealed())?;
    let (hash, _) = seal_and_file_hash(&out, seal).ok_or_else(unsealed)?;
    out.get_mut(seal..seal + hash.len()).ok_or_else(unsealed)?.copy_from_slice(&hash);
    Ok(out)
}

fn at_most(what: &'static str, found: u64, most: u64) -> Result<(), PackError> {
    if found > most { Err(PackError::OverLimit { what, found, most }) } else { Ok(()) }
}

fn tables(policy: &Checked, placement: &Placement) -> Result<Vec<u8>, PackError> {
    emit::emit(&policy.plan, placement, policy.hash, &policy.canonical).ok_or(PackError::Tables(TableError::Truncated))
}

/// Reads the programs in the order of the services, and checks their addresses.
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
        check_program(&program, image_base(index))?;
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

/// Checks the kernel's segments, and returns the first free guest-physical page after them.
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

/// Returns the record of a segment, without its address in the image.
///
/// A segment that is mapped from the image must be there as a whole. Only a writable segment, which
/// is copied, may be longer in memory.
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

/// Converts ELF's flags (X, W, R from bit 0) to those of the tables (R, W, X).
fn table_flags(flags: u32) -> u8 {
    (u8::from(flags & Load::EXECUTE != 0) << 2) | (u8::from(flags & Load::WRITE != 0) << 1) | u8::from(flags & 4 != 0)
}

/// Makes the piece of a program's segment. It is never writable, since the kernel copies what a
/// service may write.
fn program_piece<'a>(load: &Load<'_>, segment: &Segment) -> Piece<'a> {
    let mut bytes = load.bytes.to_vec();
    bytes.resize(segment.file_size as usize, 0);
    Piece {
        flags: load.flags & 7 & !Load::WRITE,
        virtual_address: load.virtual_address,
        ..Piece::data(segment.image_address, bytes)
    }
}

/// Makes the pieces of the kernel's segments, filled up to whole pages, which no other segment
/// shares.
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

/// Writes address and length of the tables into the kernel.
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
