//! Writes the file of an image, in the only form that is accepted.
//!
//! The headers come first, then each piece without the zeros that end its last page, which the
//! loader fills in. Sections that no segment loads follow, among them the seal.
//!
//! The packer writes the file. The verifier writes it again from the parts that it read, and
//! compares. Therefore no byte of a verified file can mean something else to another reader.

use std::borrow::Cow;
use std::io::Read;

use cloister_caps::PAGE_SIZE;
use flate2::Compression;
use flate2::read::ZlibEncoder;
use object::write::StringId;
use object::write::WritableBuffer;
use object::write::elf::{FileHeader, ProgramHeader, SectionHeader, Writer};
use object::{Endianness, elf};
use sha2::{Digest, Sha256};

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;
/// The section of the seal: SHA-256 of the file with the seal's own bytes as zeros.
pub(crate) const SEAL: &str = ".cloister.seal";
/// The section of the bill of materials: CycloneDX, JSON, compressed.
pub(crate) const SBOM: &str = ".cloister.sbom";
/// The section of the inventory of `unsafe`: JSON, compressed; see `docs/verify.md`.
pub(crate) const UNSAFE: &str = ".cloister.unsafe";
/// The size of the note by which Xen finds the PVH entry point, in bytes.
pub(crate) const NOTE_SIZE: u64 = 20;
/// The alignment of notes: Xen walks them by four bytes (`elf_note_next`), whatever the program
/// header says.
const NOTE_ALIGN: u64 = 4;

/// The alignment of segments: none. Xen copies each to its address, wherever it is in the file.
const ANYWHERE: u64 = 1;

/// Bytes of a word. Everything in the file begins at a multiple of it.
const WORD: usize = 8;

/// The reason why the ELF writer refuses the content.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WriteError(pub String);

/// One loadable segment of the image.
pub(crate) struct Piece<'a> {
    /// `p_flags`: bit 0 executable, bit 1 writable, bit 2 readable.
    pub flags: u32,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub memory_size: u64,
    /// Whole pages.
    pub bytes: Cow<'a, [u8]>,
}

impl Piece<'_> {
    /// Makes a read-only piece, filled up to whole pages with zeros.
    pub(crate) fn data(address: u64, mut bytes: Vec<u8>) -> Self {
        bytes.resize(bytes.len().next_multiple_of(PAGE as usize), 0);
        Piece {
            flags: elf::PF_R.0,
            virtual_address: address,
            physical_address: address,
            memory_size: bytes.len() as u64,
            bytes: Cow::Owned(bytes),
        }
    }

    /// Returns what is in the file: all but the words of zeros that end the last page. The first
    /// word of the page is always there, so that the size in the file tells the number of pages.
    fn stored(&self) -> &[u8] {
        let zeros = self.bytes.rchunks(WORD).take(PAGE as usize / WORD - 1).take_while(|word| **word == [0; WORD]);
        let zeros = zeros.count() * WORD;
        self.bytes.get(..self.bytes.len() - zeros).unwrap_or_default()
    }
}

/// The content of an image's file.
pub(crate) struct Content<'a> {
    pub entry: u64,
    /// In the order of their physical addresses.
    pub pieces: &'a [Piece<'a>],
    /// The piece with the PVH note, and the note's position in it.
    pub note: (usize, u64),
    pub seal: [u8; 32],
    /// Zlib streams of JSON.
    pub sbom: Option<&'a [u8]>,
    pub unsafe_uses: Option<&'a [u8]>,
}

/// A section that no segment loads.
struct Attached<'a> {
    name: StringId,
    offset: u64,
    bytes: &'a [u8],
}

/// Writes the file to `out`. Returns the offset of the seal.
///
/// # Errors
/// The ELF writer refuses the content.
pub(crate) fn write(content: &Content<'_>, out: &mut dyn WritableBuffer) -> Result<u64, WriteError> {
    let pieces = content.pieces;
    let mut writer = Writer::new(Endianness::Little, true, out);
    writer.reserve_file_header();
    writer.reserve_program_headers(pieces.len() as u32 + 1);
    let offsets: Vec<u64> = pieces.iter().map(|piece| writer.reserve(piece.stored().len() as u64, 1)).collect();
    let attached = attach(&mut writer, content)?;

    writer
        .write_file_header(&FileHeader {
            os_abi: elf::ELFOSABI_SYSV,
            abi_version: 0,
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: content.entry,
            e_flags: elf::FileFlags(0),
        })
        .map_err(refused)?;
    write_program_headers(&mut writer, content, &offsets)?;
    pieces.iter().for_each(|piece| writer.write(piece.stored()));
    write_attached(&mut writer, &attached);
    Ok(attached.first().map_or(0, |seal| seal.offset))
}

fn refused(error: object::write::Error) -> WriteError {
    WriteError(error.to_string())
}

/// Reserves the sections that no segment loads, the seal first.
fn attach<'a>(writer: &mut Writer<'a>, content: &'a Content<'a>) -> Result<Vec<Attached<'a>>, WriteError> {
    let mut attached = Vec::new();
    writer.reserve_null_section_index();
    let all = [(SEAL, Some(&content.seal[..])), (SBOM, content.sbom), (UNSAFE, content.unsafe_uses)];
    for (name, bytes) in all.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
        let name = writer.add_section_name(name.as_bytes());
        writer.reserve_section_index();
        let offset = writer.reserve(bytes.len() as u64, WORD as u64);
        attached.push(Attached { name, offset, bytes });
    }
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab().map_err(refused)?;
    writer.reserve_section_headers();
    Ok(attached)
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
            sh_addralign: WORD as u64,
            sh_entsize: 0,
        });
    }
    writer.write_shstrtab_section_header();
}

fn write_program_headers(writer: &mut Writer<'_>, content: &Content<'_>, offsets: &[u64]) -> Result<(), WriteError> {
    let (index, position) = content.note;
    let note = content
        .pieces
        .get(index)
        .zip(offsets.get(index))
        .ok_or_else(|| WriteError("no segment has the note".to_owned()))?;
    let (piece, offset) = note;
    let at = |start: u64| start.wrapping_add(position);
    writer.write_align_program_headers();
    writer.write_program_header(&ProgramHeader {
        p_type: elf::PT_NOTE,
        p_flags: elf::PF_R,
        p_offset: at(*offset),
        p_vaddr: at(piece.virtual_address),
        p_paddr: at(piece.physical_address),
        p_filesz: NOTE_SIZE,
        p_memsz: NOTE_SIZE,
        p_align: NOTE_ALIGN,
    });
    for (piece, offset) in content.pieces.iter().zip(offsets) {
        writer.write_program_header(&ProgramHeader {
            p_type: elf::PT_LOAD,
            p_flags: elf::ProgramFlags(piece.flags),
            p_offset: *offset,
            p_vaddr: piece.virtual_address,
            p_paddr: piece.physical_address,
            p_filesz: piece.stored().len() as u64,
            p_memsz: piece.memory_size,
            p_align: ANYWHERE,
        });
    }
    Ok(())
}

/// Returns two hashes of a file: with the seal's bytes as zeros, and as it is.
pub(crate) fn seal_and_file_hash(file: &[u8], seal: usize) -> Option<([u8; 32], [u8; 32])> {
    let (before, rest) = file.split_at_checked(seal)?;
    let (seal, after) = rest.split_at_checked(32)?;
    let mut whole = Sha256::new();
    whole.update(before);
    let mut unsealed = whole.clone();
    for (hash, middle) in [(&mut whole, seal), (&mut unsealed, &[0; 32][..])] {
        hash.update(middle);
        hash.update(after);
    }
    Some((unsealed.finalize().into(), whole.finalize().into()))
}

/// Compresses an inventory to a zlib stream (RFC 1950), as `cargo-auditable` does.
pub(crate) fn deflate(json: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(json, Compression::best());
    let mut out = Vec::new();
    // Reading a slice and writing to a vector never fail.
    let _ = encoder.read_to_end(&mut out);
    out
}
