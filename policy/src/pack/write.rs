//! Writing the packed ELF file: headers, and each piece at an offset that agrees with its address modulo a page.

use object::write::elf::{FileHeader, ProgramHeader, Writer};
use object::{Endianness, elf};

use super::{PAGE, PackError};

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

/// Writes the image. The note is the kernel's: offset in its file, bytes, alignment.
pub(super) fn write(
    entry: u64,
    pieces: &[Piece],
    (note_source, note, note_align): (u64, &[u8], u64),
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
    let (note_offset, note_virtual, note_physical) =
        within.unwrap_or_else(|| (writer.reserve(note.len() as u64, note_align.clamp(1, 8)), 0, 0));

    let refused = |error: object::write::Error| PackError::Write(error.to_string());
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
    for (piece, offset) in pieces.iter().zip(&offsets) {
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
    for (piece, offset) in pieces.iter().zip(&offsets) {
        writer.pad_until(*offset);
        writer.write(&piece.bytes);
    }
    if within.is_none() {
        writer.write_align(note_align.clamp(1, 8));
        writer.write(note);
    }
    Ok(out)
}
