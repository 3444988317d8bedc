//! Checks that the file of an image has its one form.
//!
//! The content that `verify` read is written again by the packer's own writer, and compared with
//! the file byte for byte. So there is no byte in which another reader could find something else.

use std::borrow::Cow;

use object::elf;
use object::write::WritableBuffer;

use super::image::Image;
use super::verdict::Finding;
use crate::image_form::{Content, Piece, write};

/// Bytes of an ELF header, of a program header and of a section header (ELF64).
const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

/// A buffer that compares what is written with the file, and keeps only the first difference.
struct Compared<'a> {
    rest: &'a [u8],
    at: u64,
    difference: Option<Difference>,
}

#[derive(Clone, Copy)]
struct Difference {
    at: u64,
    /// The byte of the file, if it has one there, and the byte of its one form.
    found: Option<u8>,
    wanted: u8,
}

impl WritableBuffer for Compared<'_> {
    fn reserve(&mut self, _: u64) -> Result<(), ()> {
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        if self.difference.is_some() {
            return;
        }
        match self.rest.split_at_checked(bytes.len()) {
            Some((same, rest)) if same == bytes => {
                self.rest = rest;
                self.at += bytes.len() as u64;
            }
            _ => {
                let equal = self.rest.iter().zip(bytes).take_while(|(one, other)| one == other).count();
                let wanted = bytes.get(equal).copied().unwrap_or_default();
                self.difference =
                    Some(Difference { at: self.at + equal as u64, found: self.rest.get(equal).copied(), wanted });
            }
        }
    }
}

/// Checks that the file has the one form of its content.
pub(super) fn check(image: &Image<'_>, findings: &mut Vec<Finding>) {
    let mut error = |message: String| findings.push(Finding::error("elf", message));
    let Some(note) = image.note else { return };
    let Some(seal) = image.seal.and_then(|seal| <[u8; 32]>::try_from(seal.bytes).ok()) else {
        findings.push(Finding::error("seal", "the file has no seal: the packer gives every image one"));
        return;
    };
    let pieces: Vec<Piece<'_>> = image
        .loads
        .iter()
        .map(|load| Piece {
            flags: load.flags(),
            virtual_address: load.address,
            physical_address: load.physical,
            memory_size: load.memory,
            bytes: Cow::Borrowed(&load.bytes),
        })
        .collect();
    let content = Content {
        entry: image.entry,
        pieces: &pieces,
        note: (note.load, note.position),
        seal,
        sbom: image.sbom.map(|section| section.bytes),
        unsafe_uses: image.unsafe_uses.map(|section| section.bytes),
    };
    let mut compared = Compared { rest: image.file, at: 0, difference: None };
    match write(&content, &mut compared) {
        Err(reason) => error(reason.to_string()),
        Ok(_) => {
            if let Some(difference) = compared.difference {
                error(describe(difference, pieces.len() as u64 + 1));
            } else if !compared.rest.is_empty() {
                let (bytes, at) = (compared.rest.len(), compared.at);
                error(format!("there are {bytes} bytes after the end of the image, from {at:#x} on"));
            }
        }
    }
}

fn describe(Difference { at, found, wanted }: Difference, headers: u64) -> String {
    let in_header = at.checked_sub(HEADER);
    let part = match in_header.map(|at| at / PROGRAM_HEADER) {
        None => "in the ELF header".to_owned(),
        Some(number) if number < headers => format!("in program header {number}"),
        Some(_) => "outside the headers' and the segments' own bytes, or in a section's header".to_owned(),
    };
    let found = found.map_or("missing".to_owned(), |byte| format!("{byte:#04x}"));
    format!(
        "the file is not in the form that the packer writes: the byte at {at:#x}, {part}, is {found}, not {wanted:#04x}"
    )
}

impl super::image::Load<'_> {
    /// Returns `p_flags` as the packer writes them.
    fn flags(&self) -> u32 {
        [(self.read, elf::PF_R), (self.write, elf::PF_W), (self.execute, elf::PF_X)]
            .into_iter()
            .filter_map(|(held, bit)| held.then_some(bit.0))
            .sum()
    }
}
