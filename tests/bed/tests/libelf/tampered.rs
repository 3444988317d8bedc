//! Images that read as the one that ships, and of which Xen runs other code.
//!
//! Each hides another way to the same few instructions, which write a line to the debug port and
//! stop: a defect of the tool of an auditor, not of a kernel, is what an attacker needs for it.

use crate::mutate::{HEADER, PROGRAM_HEADER, SECTION_HEADER, seal, word};

/// The fields of a program header (ELF64).
const OFFSET: usize = 8;
const PHYSICAL: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;
const ALIGN: usize = 48;
/// The size of the PVH note, and the position of the entry point in it.
const NOTE: usize = 20;
const NOTE_ENTRY: usize = 16;
/// The reason of `verify` for a file that means the same to its own reader, and is written otherwise.
const FORM: &str = "the file is not in the form that the packer writes";

/// An image that was tampered with.
pub struct Tampered {
    /// The name of a guest with it.
    pub name: &'static str,
    pub file: Vec<u8>,
    /// The line that the other code writes.
    pub says: String,
    /// A part of the reason for which `verify` refuses it.
    pub refusal: &'static str,
    /// The same image without what is hidden, where there is one: `verify` accepts it.
    pub plain: Option<Vec<u8>>,
}

/// Returns an image of each kind.
pub fn all(original: &[u8]) -> [Tampered; 3] {
    [hidden_segment(original), hidden_note(original), note_in_a_section(original)]
}

/// Returns the program header of an index.
fn header(index: usize) -> usize {
    HEADER + index * PROGRAM_HEADER
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_word(file: &mut [u8], at: usize, value: usize) {
    put(file, at, &(value as u64).to_le_bytes());
}

/// Returns code for a PVH entry point at a physical address, and the line that it writes to Xen's
/// debug port, 0xE9. Then it halts without interrupts, which Xen takes for a power-off.
fn other_code(name: &str, address: usize) -> (Vec<u8>, String) {
    let says = format!("other code runs: {name}");
    // cld; mov esi, text; mov ecx, length; mov edx, 0xE9; again: lodsb; out dx, al; loop again; hlt
    let mut code = vec![0xFC, 0xBE, 0, 0, 0, 0, 0xB9, 0, 0, 0, 0, 0xBA, 0xE9, 0, 0, 0, 0xAC, 0xEE, 0xE2, 0xFC, 0xF4];
    let (text, length) = (address + code.len(), says.len() + 1);
    put(&mut code, 2, &(text as u32).to_le_bytes());
    put(&mut code, 7, &(length as u32).to_le_bytes());
    code.extend_from_slice(says.as_bytes());
    code.push(b'\n');
    (code, says)
}

/// Says that there are 65,535 program headers, and puts the true number where ELF has one that does
/// not fit its field. To Xen the number means itself: a header behind the honest ones counts, of a
/// segment over the kernel's entry point. All other headers are empty.
fn hidden_segment(original: &[u8]) -> Tampered {
    let name = "hidden-segment";
    let mut file = original.to_vec();
    let (count, entry) = (usize::from(file[56]), word(original, 24));
    let table = file.len();
    file.extend_from_slice(&original[HEADER..header(count)]);
    let mut hidden = original[header(1)..header(2)].to_vec();
    let (code, says) = other_code(name, entry);
    put_word(&mut hidden, OFFSET, table + 0xFFFF * PROGRAM_HEADER);
    put_word(&mut hidden, PHYSICAL, entry);
    put_word(&mut hidden, FILE_SIZE, code.len());
    put_word(&mut hidden, MEMORY_SIZE, code.len());
    file.extend_from_slice(&hidden);
    file.resize(table + 0xFFFF * PROGRAM_HEADER, 0);
    file.extend_from_slice(&code);
    put_word(&mut file, 32, table);
    put(&mut file, 56, &0xFFFF_u16.to_le_bytes());
    // `sh_info` of the first section.
    let section = word(&file, 40);
    put(&mut file, section + 44, &(count as u32).to_le_bytes());
    seal(&mut file, original);
    Tampered { name, file, says, refusal: "has 65535 program headers", plain: None }
}

/// Puts other code among the constants of a service, which may have any bytes there. Returns the
/// image, which keeps its form, the code's address, and what it writes.
fn with_other_code(original: &[u8], name: &str) -> (Vec<u8>, usize, String) {
    let mut file = original.to_vec();
    // The kernel's segments and the tables, all below 16 MiB, come before those of services.
    let is_services = |index: &usize| word(original, header(*index) + 16) == 0x0100_0000;
    let segment = (1..usize::from(file[56])).find(is_services).map(header).expect("the first service's constants");
    let within = word(&file, segment + FILE_SIZE) / 2 & !15;
    let address = word(&file, segment + PHYSICAL) + within;
    let (code, says) = other_code(name, address);
    let at = word(&file, segment + OFFSET) + within;
    put(&mut file, at, &code);
    seal(&mut file, original);
    (file, address, says)
}

/// Puts a second note behind the first, which names other code as the entry point. Readers that
/// align notes as the program header says do not see it.
fn hidden_note(original: &[u8]) -> Tampered {
    let name = "hidden-note";
    let (plain, address, says) = with_other_code(original, name);
    let mut file = plain.clone();
    let note = word(&file, header(0) + OFFSET);
    put_word(&mut file, header(0) + FILE_SIZE, NOTE + 4);
    put_word(&mut file, header(0) + ALIGN, 8);
    file.copy_within(note..note + NOTE, note + NOTE);
    put(&mut file, note + NOTE + NOTE_ENTRY, &(address as u32).to_le_bytes());
    seal(&mut file, original);
    Tampered { name, file, says, refusal: FORM, plain: Some(plain) }
}

/// Makes the segment of the note none, and the seal a section of notes, with a note at the end of
/// the file. Xen looks at sections if no segment has a note.
fn note_in_a_section(original: &[u8]) -> Tampered {
    let name = "note-in-a-section";
    let (plain, address, says) = with_other_code(original, name);
    let mut file = plain.clone();
    let note = word(&file, header(0) + OFFSET);
    // `PT_NULL`.
    put(&mut file, header(0), &0_u32.to_le_bytes());
    let added = file.len();
    file.extend_from_within(note..note + NOTE);
    put(&mut file, added + NOTE_ENTRY, &(address as u32).to_le_bytes());
    // The section after the seal: `SHT_NOTE`, `sh_offset`, `sh_size`.
    let section = word(&file, 40) + 2 * SECTION_HEADER;
    put(&mut file, section + 4, &7_u32.to_le_bytes());
    put_word(&mut file, section + 24, added);
    put_word(&mut file, section + 32, NOTE);
    seal(&mut file, original);
    Tampered { name, file, says, refusal: "a program header of type 0x0", plain: Some(plain) }
}
