//! ELF files for tests: made field by field, so that each field can be wrong, and read back without
//! the packer.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod image;
pub mod release;
pub mod xen;

/// A loadable segment.
#[derive(Clone)]
pub struct Part {
    pub flags: u32,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub memory_size: u64,
    pub bytes: Vec<u8>,
}

impl Part {
    pub fn new(flags: u32, virtual_address: u64, physical_address: u64, bytes: &[u8]) -> Self {
        Part { flags, virtual_address, physical_address, memory_size: bytes.len() as u64, bytes: bytes.to_vec() }
    }
}

/// The description of an ELF file.
#[derive(Clone)]
pub struct Elf {
    pub entry: u64,
    /// `e_type`: 2 is `ET_EXEC`.
    pub kind: u16,
    /// `e_machine`: 62 is x86-64.
    pub machine: u16,
    pub parts: Vec<Part>,
    /// The segment that starts with a note, and the note's length.
    pub note: Option<(usize, u64)>,
    /// A note that is in no segment.
    pub loose_note: Option<Vec<u8>>,
    /// `p_type` of an additional program header.
    pub extra: Option<u32>,
    /// A symbol and its address.
    pub symbol: Option<(String, u64)>,
}

impl Default for Elf {
    fn default() -> Self {
        Elf {
            entry: 0,
            kind: 2,
            machine: 62,
            parts: Vec::new(),
            note: None,
            loose_note: None,
            extra: None,
            symbol: None,
        }
    }
}

/// The note of `elfnote.h` that names the PVH entry point.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}

fn program_header(kind: u32, part: &Part, offset: u64, align: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(kind.to_le_bytes());
    out.extend(part.flags.to_le_bytes());
    let size = part.bytes.len() as u64;
    for word in [offset, part.virtual_address, part.physical_address, size, part.memory_size, align] {
        out.extend(word.to_le_bytes());
    }
    out
}

fn section_header(kind: u32, offset: u64, size: u64, link: u32, entry: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0, kind] {
        out.extend(u32::to_le_bytes(word));
    }
    for word in [0, 0, offset, size] {
        out.extend(u64::to_le_bytes(word));
    }
    for word in [link, 1] {
        out.extend(u32::to_le_bytes(word));
    }
    for word in [1, entry] {
        out.extend(u64::to_le_bytes(word));
    }
    out
}

impl Elf {
    /// Returns the file.
    pub fn build(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let program_headers = self.append_segments(&mut body);
        body.resize(body.len().next_multiple_of(8), 0);
        let sections = self.append_symbols(&mut body);
        let mut out = b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        out.extend(self.kind.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        let section_offset = if sections.is_empty() { 0 } else { 4096 + body.len() as u64 };
        for word in [self.entry, 64, section_offset] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        let last = if sections.is_empty() { 0 } else { 2 };
        for half in [64, 56, program_headers.len() as u16, 64, sections.len() as u16, last] {
            out.extend(half.to_le_bytes());
        }
        out.extend(program_headers.concat());
        out.resize(4096, 0);
        out.extend(body);
        out.extend(sections.concat());
        out
    }

    /// Appends the segments and notes to the body. Returns their program headers.
    fn append_segments(&self, body: &mut Vec<u8>) -> Vec<Vec<u8>> {
        let mut program_headers = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            body.resize(body.len().next_multiple_of(4096), 0);
            let offset = 4096 + body.len() as u64;
            body.extend(&part.bytes);
            if let Some((of, length)) = self.note
                && of == index
            {
                let note = Part::new(4, part.virtual_address, part.physical_address, &part.bytes[..length as usize]);
                program_headers.push(program_header(4, &note, offset, 4));
            }
            program_headers.push(program_header(1, part, offset, 4096));
        }
        if let Some(note) = &self.loose_note {
            body.resize(body.len().next_multiple_of(4), 0);
            program_headers.push(program_header(4, &Part::new(4, 0, 0, note), 4096 + body.len() as u64, 4));
            body.extend(note);
        }
        if let Some(kind) = self.extra {
            program_headers.push(program_header(kind, &Part::new(4, 0, 0, &[]), 4096, 8));
        }
        program_headers
    }

    /// Appends the symbol and its name to the body. Returns the section headers, none without a
    /// symbol.
    fn append_symbols(&self, body: &mut Vec<u8>) -> Vec<Vec<u8>> {
        let mut sections = Vec::new();
        if let Some((name, address)) = &self.symbol {
            let symbols = 4096 + body.len() as u64;
            body.extend([0; 24]);
            body.extend(1u32.to_le_bytes());
            // STB_GLOBAL, STT_OBJECT, in section 1.
            body.extend([0x11, 0, 1, 0]);
            body.extend(address.to_le_bytes());
            body.extend(16u64.to_le_bytes());
            let strings = 4096 + body.len() as u64;
            body.push(0);
            body.extend(name.as_bytes());
            body.push(0);
            sections.push(section_header(0, 0, 0, 0, 0));
            sections.push(section_header(2, symbols, 48, 2, 24));
            sections.push(section_header(3, strings, name.len() as u64 + 2, 0, 0));
            body.resize(body.len().next_multiple_of(8), 0);
        }
        sections
    }
}

/// A program header as a loader reads it.
#[derive(Debug)]
pub struct Header {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub file_size: u64,
    pub memory_size: u64,
}

/// Returns entry point and program headers of a file.
pub fn headers(file: &[u8]) -> (u64, Vec<Header>) {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let short = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let read = |index: usize| {
        let at = word(32) as usize + index * 56;
        Header {
            kind: short(at),
            flags: short(at + 4),
            offset: word(at + 8),
            virtual_address: word(at + 16),
            physical_address: word(at + 24),
            file_size: word(at + 32),
            memory_size: word(at + 40),
        }
    };
    (word(24), (0..count).map(read).collect())
}

/// Returns guest-physical memory after the file is loaded.
pub fn physical(file: &[u8], address: u64, length: usize) -> Vec<u8> {
    let (_, all) = headers(file);
    let holds = |header: &&Header| {
        header.kind == 1
            && header.physical_address <= address
            && address + length as u64 <= header.physical_address + header.memory_size
    };
    let header = all.iter().find(holds).expect("an address of the image");
    let start = (address - header.physical_address) as usize;
    let mut memory = file[header.offset as usize..(header.offset + header.file_size) as usize].to_vec();
    memory.resize(header.memory_size as usize, 0);
    memory[start..start + length].to_vec()
}

/// Returns the first position of these bytes in a file, after its program headers.
pub fn offset_of(file: &[u8], bytes: &[u8]) -> usize {
    let end = headers_end(file);
    end + file[end..].windows(bytes.len()).position(|window| window == bytes).expect("bytes of the file")
}

/// Returns the position after the program headers.
pub fn headers_end(file: &[u8]) -> usize {
    64 + usize::from(u16::from_le_bytes([file[56], file[57]])) * 56
}

/// Replaces `length` bytes of a file by others, and moves what all its headers say with them.
pub fn replace(file: &mut Vec<u8>, at: usize, length: usize, bytes: &[u8]) {
    file.splice(at..at + length, bytes.iter().copied());
    let (end, count) = (headers_end(file), usize::from(u16::from_le_bytes([file[60], file[61]])));
    let mut moved = |field: usize| {
        let offset = u64::from_le_bytes(file[field..field + 8].try_into().unwrap());
        let beyond = offset >= (at + length) as u64;
        let offset = if beyond { offset + bytes.len() as u64 - length as u64 } else { offset };
        file[field..field + 8].copy_from_slice(&offset.to_le_bytes());
        offset as usize
    };
    let sections = moved(40);
    for header in (64..end).step_by(56) {
        moved(header + 8);
    }
    for header in (sections..sections + count * 64).step_by(64).skip(1) {
        moved(header + 24);
    }
}

/// Gives the segment at a physical address these bytes in the file.
fn put_segment(file: &mut Vec<u8>, address: u64, bytes: &[u8]) {
    let (_, all) = headers(file);
    let index = all.iter().position(|header| header.kind == 1 && header.physical_address == address).unwrap();
    replace(file, all[index].offset as usize, all[index].file_size as usize, bytes);
    let field = 64 + index * 56 + 32;
    file[field..field + 8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
}

/// Puts the zeros that end a segment's last page into the file, so that they can be changed.
pub fn fill_up(file: &mut Vec<u8>, address: u64) {
    let mut bytes = stored(file, address);
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    put_segment(file, address, &bytes);
}

/// Takes the words of zeros that end a segment's last page out of the file.
pub fn cut_zeros(file: &mut Vec<u8>, address: u64) {
    let mut bytes = stored(file, address);
    while bytes.len() % 4096 != 8 && bytes.ends_with(&[0; 8]) {
        bytes.truncate(bytes.len() - 8);
    }
    put_segment(file, address, &bytes);
}

fn stored(file: &[u8], address: u64) -> Vec<u8> {
    let (_, all) = headers(file);
    let header = all.iter().find(|header| header.kind == 1 && header.physical_address == address).unwrap();
    file[header.offset as usize..(header.offset + header.file_size) as usize].to_vec()
}

/// Makes the seal of a file again, which is in its second section.
pub fn seal(file: &mut [u8]) {
    use sha2::Digest;
    let word = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let sections = word(file, 40);
    let at = word(file, sections + 64 + 24);
    file[at..at + 32].fill(0);
    let hash = sha2::Sha256::digest(&*file);
    file[at..at + 32].copy_from_slice(&hash);
}
