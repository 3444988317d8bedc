//! Reads and checks the ELF files that the packer joins.

use cloister_caps::xen::elfnote;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol};

use super::error::PackError;
use crate::image_form::NOTE_SIZE;

type Header = elf::FileHeader64<LittleEndian>;

/// A loadable segment.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    /// `p_flags`: bit 0 executable, bit 1 writable, bit 2 readable.
    pub flags: u32,
    pub virtual_address: u64,
    pub physical_address: u64,
    pub memory_size: u64,
    /// The offset of its bytes in the file that it was read from.
    pub offset: u64,
    pub bytes: &'a [u8],
}

impl Load<'_> {
    pub(super) const EXECUTE: u32 = 1;
    pub(super) const WRITE: u32 = 2;

    /// Returns the position of an address in the segment, if it is there.
    fn position(&self, address: u64) -> Option<u64> {
        address.checked_sub(self.virtual_address).filter(|position| *position < self.memory_size)
    }
}

/// An ELF file for x86-64 that is linked to run at fixed addresses.
pub(super) struct Program<'a> {
    /// The name in errors.
    pub name: &'a str,
    pub entry: u64,
    /// The segments that take memory, in the order of the file.
    pub loads: Vec<Load<'a>>,
    file: &'a [u8],
}

impl<'a> Program<'a> {
    /// Reads the program headers of `file`.
    pub(super) fn read(name: &'a str, file: &'a [u8]) -> Result<Self, PackError> {
        let unreadable = |reason| PackError::NotElf { program: name.to_owned(), reason };
        let header = Header::parse(file).map_err(|error| unreadable(error.to_string()))?;
        let endian = header.endian().map_err(|error| unreadable(error.to_string()))?;
        if header.e_machine(endian) != elf::EM_X86_64 {
            return Err(PackError::WrongMachine { program: name.to_owned() });
        }
        if header.e_type(endian) != elf::ET_EXEC {
            return Err(PackError::NotStatic { program: name.to_owned() });
        }
        let headers = header.program_headers(endian, file).map_err(|error| unreadable(error.to_string()))?;
        let mut loads = Vec::new();
        for segment in headers {
            match segment.p_type(endian) {
                elf::PT_LOAD if segment.p_memsz(endian) > 0 => loads.push(read_load(name, file, segment)?),
                elf::PT_DYNAMIC | elf::PT_INTERP => return Err(PackError::NotStatic { program: name.to_owned() }),
                elf::PT_TLS => return Err(PackError::ThreadLocal { program: name.to_owned() }),
                _ => {}
            }
        }
        let program = Program { name, entry: header.e_entry(endian), loads, file };
        program.check_entry()?;
        Ok(program)
    }

    fn check_entry(&self) -> Result<(), PackError> {
        let holds = |load: &&Load<'_>| load.flags & Load::EXECUTE != 0 && load.position(self.entry).is_some();
        match self.loads.iter().find(holds) {
            Some(_) => Ok(()),
            None => Err(PackError::Entry { program: self.name.to_owned(), entry: self.entry }),
        }
    }

    /// Returns the index of the segment with the PVH note, and the note's position in it.
    ///
    /// The note segment must have nothing else: a loader may act on any other note.
    pub(super) fn pvh_note(&self) -> Result<(usize, u64), PackError> {
        let unreadable =
            |error: object::read::Error| PackError::NotElf { program: self.name.to_owned(), reason: error.to_string() };
        let header = Header::parse(self.file).map_err(unreadable)?;
        let endian = LittleEndian;
        let headers = header.program_headers(endian, self.file).map_err(unreadable)?;
        let mut found = None;
        for segment in headers.iter().filter(|segment| segment.p_type(endian) == elf::PT_NOTE) {
            let Some(mut notes) = segment.notes(endian, self.file).map_err(unreadable)? else { continue };
            while let Some(note) = notes.next().map_err(unreadable)? {
                let pvh = note.name() == elfnote::OWNER && note.n_type(endian).0 == elfnote::PHYS32_ENTRY;
                if found.is_some() || (pvh && segment.p_filesz(endian) != NOTE_SIZE) {
                    return Err(PackError::Note);
                }
                found = pvh.then(|| segment.p_offset(endian));
            }
        }
        let offset = found.ok_or(PackError::NoPvhNote)?;
        let position = |load: &Load<'_>| {
            let position = offset.checked_sub(load.offset)?;
            (position.checked_add(NOTE_SIZE)? <= load.bytes.len() as u64).then_some(position)
        };
        let place = self.loads.iter().enumerate().find_map(|(index, load)| Some((index, position(load)?)));
        place.ok_or(PackError::Note)
    }

    /// Finds the `size` bytes of a symbol: returns the index of the segment, and the position in
    /// its bytes.
    pub(super) fn symbol(&self, name: &str, size: u64) -> Result<(usize, usize), PackError> {
        let file = object::read::elf::ElfFile64::<LittleEndian>::parse(self.file)
            .map_err(|error| PackError::NotElf { program: self.name.to_owned(), reason: error.to_string() })?;
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name)).ok_or(PackError::NoTablesSymbol)?;
        for (index, load) in self.loads.iter().enumerate() {
            if let Some(position) = load.position(symbol.address()) {
                let end = position.checked_add(size).filter(|end| *end <= load.bytes.len() as u64);
                return match (end, usize::try_from(position)) {
                    (Some(_), Ok(position)) => Ok((index, position)),
                    _ => Err(PackError::TablesSymbolPlace),
                };
            }
        }
        Err(PackError::TablesSymbolPlace)
    }
}

fn read_load<'a>(
    name: &str,
    file: &'a [u8],
    segment: &elf::ProgramHeader64<LittleEndian>,
) -> Result<Load<'a>, PackError> {
    let endian = LittleEndian;
    let address = segment.p_vaddr(endian);
    let broken = || PackError::Segment { program: name.to_owned(), address };
    let load = Load {
        flags: segment.p_flags(endian).0,
        virtual_address: address,
        physical_address: segment.p_paddr(endian),
        memory_size: segment.p_memsz(endian),
        offset: segment.p_offset(endian),
        bytes: segment.data(endian, file).map_err(|()| broken())?,
    };
    let whole = load.bytes.len() as u64 <= load.memory_size
        && address.checked_add(load.memory_size).is_some()
        && load.physical_address.checked_add(load.memory_size).is_some();
    if !whole {
        return Err(broken());
    }
    if load.flags & Load::WRITE != 0 && load.flags & Load::EXECUTE != 0 {
        return Err(PackError::WritableAndExecutable { program: name.to_owned(), address });
    }
    Ok(load)
}
