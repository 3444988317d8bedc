//! Writing the packed ELF file: headers, each piece at an offset that agrees with its address modulo a page, and behind
//! them sections that no segment loads, the seal among them.

use object::write::StringId;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, Writer};
use object::{Endianness, elf};

use super::{Extras, PAGE, PackError};
use crate::verify::{SBOM, SEAL, UNSAFE, sealed};

/// One loadable segment of the image.
pub(super) struct Piece {
    pub flags: u32,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub memory_size: u64,
    pub align: u64,
    /// Its offset in the kernel's file, if it is from there.
    pub source: Option<u64>,
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Read-only bytes at an address, filled up to whole pages with zeros, so that every byte of every page
    /// that is mapped is in the file.
    pub(super) fn data(address: u64, mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        Piece {
            flags: elf::PF_R.0,
            virtual_address: address,
            physical_address: address,
            memory_size: bytes.len() as u64,
            align: PAGE,
            source: None,
            bytes,
        }
    }
}

/// The file offset of each piece. Loaders take `p_offset` and `p_vaddr` to be equal modulo a page.
fn offsets(pieces: &[Piece], headers_end: u64) -> Vec<u64> {
    let mut next = headers_end;
    pieces
        .iter()
        .map(|piece| {
            let offset = next + (piece.virtual_address % PAGE + PAGE - next % PAGE) % PAGE;
            next = offset + piece.bytes.len() as u64;
            offset
        })
        .collect()
}

/// A section that no segment loads.
struct Attached<'a> {
    name: StringId,
    offset: u64,
    bytes: &'a [u8],
}

/// Writes the image. The note is the kernel's: offset in its file, bytes, alignment.
pub(super) fn write(
    entry: u64,
    pieces: &[Piece],
    (note_source, note, note_align): (u64, &[u8], u64),
    extras: &Extras<'_>,
) -> Result<Vec<u8>, PackError> {
    let mut out = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut out);
    writer.reserve_file_header();
    writer.reserve_program_headers(pieces.len() as u32 + 1);
    let offsets = offsets(pieces, writer.reserved_len());
    for (piece, offset) in pieces.iter().zip(&offsets) {
        writer.reserve_until(*offset);
        writer.reserve(piece.bytes.len() as u64, 1);
    }
    // A note is usually part of a segment, and then stays part of it.
    let within = pieces.iter().zip(&offsets).find_map(|(piece, offset)| {
        let position = note_source.checked_sub(piece.source?)?;
        let fits = position + note.len() as u64 <= piece.bytes.len() as u64;
        fits.then_some((offset + position, piece.virtual_address + position, piece.physical_address + position))
    });
    let place = within.unwrap_or_else(|| (writer.reserve(note.len() as u64, note_align.clamp(1, 8)), 0, 0));
    let (attached, seal) = attach(&mut writer, extras)?;

    writer
        .write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_SYSV,
            abi_version: 0,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: entry,
            e_flags: elf::FileFlags(0),
        })
        .map_err(refused)?;
    write_program_headers(&mut writer, pieces, &offsets, place, (note, note_align));
    for (piece, offset) in pieces.iter().zip(&offsets) {
        writer.pad_until(*offset);
        writer.write(&piece.bytes);
    }
    if within.is_none() {
        writer.write_align(note_align.clamp(1, 8));
        writer.write(note);
    }
    write_attached(&mut writer, &attached);
    let unsealed = || PackError::Write("the seal has no place".into());
    let seal = usize::try_from(seal).map_err(|_| unsealed())?;
    let hash = sealed(&out, seal).ok_or_else(unsealed)?;
    out.get_mut(seal..seal + hash.len()).ok_or_else(unsealed)?.copy_from_slice(&hash);
    Ok(out)
}

fn refused(error: object::write::Error) -> PackError {
    PackError::Write(error.to_string())
}

/// Reserves what is attached; answers it and the offset of the seal.
fn attach<'a>(writer: &mut Writer<'a>, extras: &Extras<'a>) -> Result<(Vec<Attached<'a>>, u64), PackError> {
    const NO_SEAL_YET: &[u8] = &[0; 32];
    let mut attached = Vec::new();
    writer.reserve_null_section_index();
    let all = [(SEAL, Some(NO_SEAL_YET)), (SBOM, extras.sbom), (UNSAFE, extras.unsafe_uses)];
    for (name, bytes) in all.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
        let name = writer.add_section_name(name.as_bytes());
        writer.reserve_section_index();
        let offset = writer.reserve(bytes.len() as u64, 8);
        attached.push(Attached { name, offset, bytes });
    }
    let seal = attached.first().map_or(0, |seal| seal.offset);
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab().map_err(refused)?;
    writer.reserve_section_headers();
    Ok((attached, seal))
}

fn write_attached(writer: &mut Writer<'_>, attached: &[Attached<'_>]) {
    for item in attached {
        writer.pad_until(item.offset);
        writer.write(item.bytes);
    }
    writer.write_shstrtab();
    writer.write_null_section_header();
    for item in attached {
        let sh_name = writer.section_name_offset(Some(item.name));
        writer.write_section_header(&SectionHeader {
            sh_name,
            sh_type: elf::SHT_PROGBITS,
            sh_flags: elf::SectionFlags(0),
            sh_addr: 0,
            sh_offset: item.offset,
            sh_size: item.bytes.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: 8,
            sh_entsize: 0,
        });
    }
    writer.write_shstrtab_section_header();
}

fn write_program_headers(
    writer: &mut Writer<'_>,
    pieces: &[Piece],
    offsets: &[u64],
    (note_offset, note_virtual, note_physical): (u64, u64, u64),
    (note, note_align): (&[u8], u64),
) {
    writer.write_align_program_headers();
    writer.write_program_header(&ProgramHeader {
        p_type: elf::PT_NOTE,
        p_flags: elf::PF_R,
        p_offset: note_offset,
        p_vaddr: note_virtual,
        p_paddr: note_physical,
        p_filesz: note.len() as u64,
        p_memsz: note.len() as u64,
        p_align: note_align,
    });
    for (piece, offset) in pieces.iter().zip(offsets) {
        writer.write_program_header(&ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: elf::ProgramFlags(piece.flags),
            p_offset: *offset,
            p_vaddr: piece.virtual_address,
            p_paddr: piece.physical_address,
            p_filesz: piece.bytes.len() as u64,
            p_memsz: piece.memory_size,
            p_align: piece.align,
        });
    }
}
