//! Parses what the toolstack hands over at boot: `hvm_start_info` and its lists
//! (`arch-x86/hvm/start_info.h`).
//!
//! The toolstack is trusted not to be an attacker, but its data is parsed as if it were one: an
//! address is followed only if it is readable, and every count is capped.

use core::fmt;
use core::mem::offset_of;

use arrayvec::ArrayVec;
use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::start_info::{self as xen, INIT_DOMAIN, MAGIC, MEMMAP_TYPE_RAM};

use crate::owner::Owner;

/// Bytes of a start info of version 0.
const SIZE_OF_VERSION_0: usize = offset_of!(xen::StartInfo, memmap_paddr);
/// Bytes of a start info of version 1.
const SIZE_OF_VERSION_1: usize = size_of::<xen::StartInfo>();
/// Bytes of an entry of the module list.
const MODULE_SIZE: usize = size_of::<xen::Module>();
/// Bytes of an entry of the memory map.
const ENTRY_SIZE: usize = size_of::<xen::MemmapEntry>();

/// Reads physical memory during the boot.
pub trait PhysicalMemory {
    /// Copies from physical `address` to `into`. Returns `true` if all of it could be read.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// The largest number of entries that a memory map may have. libxl makes five.
pub const MAX_MAP: usize = 64;
/// The longest command line in bytes, without its NUL.
pub const MAX_COMMAND_LINE: usize = 4095;
/// End of the boot code's identity map. Physical memory above it is not used.
pub const IDENTITY_MAP_END: u64 = 1 << 32;

/// Says why the boot data cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootError {
    /// The named part of the boot data lies outside readable memory.
    Unreadable(&'static str),
    /// The start info begins with this number instead of [`MAGIC`]: this is no PVH boot.
    NotPvh(u32),
    /// The memory map describes no RAM.
    NoMemory,
    /// The memory map has this many entries, and more than [`MAX_MAP`]. One that is left out could
    /// reserve memory.
    LongMap(u32),
    /// The boot module does not start at a page boundary.
    ModuleUnaligned,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Unreadable(what) => write!(f, "{what} lies outside readable memory"),
            BootError::NotPvh(magic) => write!(f, "not started as a PVH guest (magic {magic:#010x}); use type=\"pvh\""),
            BootError::NoMemory => write!(f, "the memory map describes no RAM"),
            BootError::LongMap(entries) => {
                write!(f, "the memory map has {entries} entries; this kernel reads at most {MAX_MAP}")
            }
            BootError::ModuleUnaligned => write!(f, "the boot module does not start at a page boundary"),
        }
    }
}

/// Describes a range of the memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// Physical address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// `true` if the range is RAM.
    pub ram: bool,
}

impl MapEntry {
    /// Creates an entry from its raw fields. A range that reaches past the identity map is clipped.
    #[must_use]
    pub fn new(address: u64, length: u64, kind: u32) -> MapEntry {
        let end = address.saturating_add(length).min(IDENTITY_MAP_END);
        MapEntry { address, length: end.saturating_sub(address), ram: kind == MEMMAP_TYPE_RAM }
    }
}

/// Locates a boot module. It is not empty, starts at a page boundary, and lies within the identity
/// map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Module {
    /// Physical address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Locates a part of the boot data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BootData {
    /// The part.
    pub owner: Owner,
    /// Physical address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Locates the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandLine {
    /// Physical address of the first byte.
    pub address: u64,
    /// Length in bytes, at most [`MAX_COMMAND_LINE`]. What follows is not part of it.
    pub length: usize,
}

/// Holds the start info, checked and copied out of the toolstack's memory.
#[derive(Clone, Debug, Default)]
pub struct StartInfo {
    /// The start info, its lists and the command line. They must not be reused before they are
    /// read.
    pub boot_data: ArrayVec<BootData, 4>,
    /// The first module of the list, if there is one that is not empty.
    pub module: Option<Module>,
    /// The command line, if there is one that is not empty.
    pub command_line: Option<CommandLine>,
    /// The memory map. It is empty if the start info has none, as version 0 has.
    pub map: ArrayVec<MapEntry, MAX_MAP>,
    /// `true` if this is the hardware domain (`SIF_INITDOMAIN`).
    pub initial_domain: bool,
}

/// Holds a copy of `N` bytes of boot data, to read fields from.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn read(memory: &impl PhysicalMemory, address: u64, what: &'static str) -> Result<Self, BootError> {
        let mut bytes = [0; N];
        let end = address.checked_add(N as u64);
        if end.is_some_and(|end| end <= IDENTITY_MAP_END) && memory.read(address, &mut bytes) {
            Ok(Fields(bytes))
        } else {
            Err(BootError::Unreadable(what))
        }
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

impl StartInfo {
    /// Reads the start info at `address`.
    ///
    /// # Errors
    /// There is no start info at `address`, or it points outside readable memory.
    pub fn read(memory: &impl PhysicalMemory, address: u64) -> Result<StartInfo, BootError> {
        let head = Fields::<SIZE_OF_VERSION_0>::read(memory, address, "the start info")?;
        let magic = head.u32(offset_of!(xen::StartInfo, magic));
        if magic != MAGIC {
            return Err(BootError::NotPvh(magic));
        }
        let mut info = StartInfo {
            initial_domain: head.u32(offset_of!(xen::StartInfo, flags)) & INIT_DOMAIN != 0,
            ..StartInfo::default()
        };
        let has_map = head.u32(offset_of!(xen::StartInfo, version)) >= 1;
        let size = if has_map { SIZE_OF_VERSION_1 } else { SIZE_OF_VERSION_0 };
        info.keep(Owner::StartInfo, address, size as u64);
        if head.u32(offset_of!(xen::StartInfo, nr_modules)) > 0 {
            info.read_module(memory, head.u64(offset_of!(xen::StartInfo, modlist_paddr)))?;
        }
        if has_map {
            info.read_map(memory, address)?;
        }
        info.find_command_line(memory, head.u64(offset_of!(xen::StartInfo, cmdline_paddr)));
        Ok(info)
    }

    /// Keeps a part of the boot data from being reused.
    fn keep(&mut self, owner: Owner, address: u64, length: u64) {
        self.boot_data.push(BootData { owner, address, length });
    }

    /// Finds the length of the command line at `address`. There is none at 0.
    fn find_command_line(&mut self, memory: &impl PhysicalMemory, address: u64) {
        let mut byte = [0];
        let is_text = |at: &usize| {
            let at = address.checked_add(*at as u64);
            at.is_some_and(|at| at < IDENTITY_MAP_END && memory.read(at, &mut byte)) && byte[0] != 0
        };
        let length = if address == 0 { 0 } else { (0..MAX_COMMAND_LINE).take_while(is_text).count() };
        if length > 0 {
            self.keep(Owner::CommandLine, address, length as u64);
            self.command_line = Some(CommandLine { address, length });
        }
    }

    /// Reads the first entry of the module list.
    fn read_module(&mut self, memory: &impl PhysicalMemory, list: u64) -> Result<(), BootError> {
        let entry = Fields::<MODULE_SIZE>::read(memory, list, "the module list")?;
        self.keep(Owner::ModuleList, list, MODULE_SIZE as u64);
        let address = entry.u64(offset_of!(xen::Module, paddr));
        let module = Module { address, length: entry.u64(offset_of!(xen::Module, size)) };
        let end = module.address.checked_add(module.length);
        if end.is_none_or(|end| end > IDENTITY_MAP_END) {
            return Err(BootError::Unreadable("the boot module"));
        }
        if module.length > 0 && !module.address.is_multiple_of(PAGE_SIZE as u64) {
            return Err(BootError::ModuleUnaligned);
        }
        self.module = Some(module).filter(|module| module.length > 0);
        Ok(())
    }

    /// Reads the memory map of a start info of version 1.
    fn read_map(&mut self, memory: &impl PhysicalMemory, address: u64) -> Result<(), BootError> {
        let info = Fields::<SIZE_OF_VERSION_1>::read(memory, address, "the start info")?;
        let list = info.u64(offset_of!(xen::StartInfo, memmap_paddr));
        let count = info.u32(offset_of!(xen::StartInfo, memmap_entries));
        if list == 0 {
            return Ok(());
        }
        if count > MAX_MAP as u32 {
            return Err(BootError::LongMap(count));
        }
        let count = u64::from(count);
        for index in 0..count {
            let at = list.checked_add(index * ENTRY_SIZE as u64).ok_or(BootError::Unreadable("the memory map"))?;
            let entry = Fields::<ENTRY_SIZE>::read(memory, at, "the memory map")?;
            self.map.push(MapEntry::new(
                entry.u64(offset_of!(xen::MemmapEntry, addr)),
                entry.u64(offset_of!(xen::MemmapEntry, size)),
                entry.u32(offset_of!(xen::MemmapEntry, kind)),
            ));
        }
        self.keep(Owner::MemoryMap, list, count * ENTRY_SIZE as u64);
        Ok(())
    }
}

/// Copies the command line to `into`. Returns the number of bytes that were copied.
///
/// A line that is longer than `into` is cut off. So is one that became shorter since its length was
/// found.
pub fn copy_command_line(memory: &impl PhysicalMemory, line: CommandLine, into: &mut [u8]) -> usize {
    let length = line.length.min(into.len());
    let text = &mut into[..length];
    if !memory.read(line.address, text) {
        return 0;
    }
    text.iter().position(|byte| *byte == 0).unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Ram(Vec<u8>);

    impl PhysicalMemory for Ram {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let start = usize::try_from(address).unwrap_or(usize::MAX);
            match start.checked_add(into.len()).and_then(|end| self.0.get(start..end)) {
                Some(bytes) => {
                    into.copy_from_slice(bytes);
                    true
                }
                None => false,
            }
        }
    }

    impl Ram {
        fn put(&mut self, at: usize, bytes: &[u8]) {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// A start info at 0x100 with one module, a command line and two map entries.
    fn sample() -> Ram {
        let mut ram = Ram(vec![0; 0x1000]);
        ram.put(0x100, &MAGIC.to_le_bytes());
        ram.put(0x104, &1_u32.to_le_bytes());
        ram.put(0x10C, &1_u32.to_le_bytes());
        ram.put(0x110, &0x200_u64.to_le_bytes());
        ram.put(0x118, &0x300_u64.to_le_bytes());
        ram.put(0x128, &0x400_u64.to_le_bytes());
        ram.put(0x130, &2_u32.to_le_bytes());
        ram.put(0x200, &0x5000_u64.to_le_bytes());
        ram.put(0x208, &77_u64.to_le_bytes());
        ram.put(0x300, b"ip=dhcp\0");
        ram.put(0x408, &0x0400_0000_u64.to_le_bytes());
        ram.put(0x410, &1_u32.to_le_bytes());
        ram.put(0x418, &0xFEFF_8000_u64.to_le_bytes());
        ram.put(0x420, &0x8000_u64.to_le_bytes());
        ram.put(0x428, &2_u32.to_le_bytes());
        ram
    }

    #[test]
    fn a_version_1_start_info_is_read() {
        let ram = sample();
        let info = StartInfo::read(&ram, 0x100).unwrap();
        assert_eq!(info.module, Some(Module { address: 0x5000, length: 77 }));
        assert_eq!(info.map.len(), 2);
        assert!(info.map[0].ram && !info.map[1].ram);
        assert_eq!(info.command_line, Some(CommandLine { address: 0x300, length: 7 }));
    }

    #[test]
    fn the_command_line_is_copied_up_to_its_length_at_first() {
        let mut ram = sample();
        let line = StartInfo::read(&ram, 0x100).unwrap().command_line.unwrap();
        let copy = |ram: &Ram, line, room: usize| {
            let mut text = vec![0; room];
            let length = copy_command_line(ram, line, &mut text);
            text.truncate(length);
            text
        };
        assert_eq!(copy(&ram, line, 16), b"ip=dhcp");
        assert_eq!(copy(&ram, line, 3), b"ip=");
        // The toolstack changes it meanwhile.
        ram.put(0x307, b" gw=1\0");
        assert_eq!(copy(&ram, line, 16), b"ip=dhcp");
        ram.put(0x302, b"\0");
        assert_eq!(copy(&ram, line, 16), b"ip");
        assert_eq!(copy(&ram, CommandLine { address: u64::MAX - 1, length: 9 }, 16), b"");
    }

    #[test]
    fn version_0_has_no_map() {
        let mut ram = sample();
        ram.put(0x104, &0_u32.to_le_bytes());
        let info = StartInfo::read(&ram, 0x100).unwrap();
        assert!(info.map.is_empty());
        assert_eq!(info.boot_data[0], BootData { owner: Owner::StartInfo, address: 0x100, length: 40 });
    }

    #[test]
    fn the_memory_of_the_start_info_is_kept_from_reuse() {
        let info = StartInfo::read(&sample(), 0x100).unwrap();
        let taken: Vec<_> = info.boot_data.iter().map(|data| (data.owner, data.address, data.length)).collect();
        assert_eq!(
            taken,
            [
                (Owner::StartInfo, 0x100, 56),
                (Owner::ModuleList, 0x200, 32),
                (Owner::MemoryMap, 0x400, 48),
                (Owner::CommandLine, 0x300, 7)
            ]
        );
    }

    #[test]
    fn a_map_with_more_entries_than_are_read_is_refused() {
        let mut ram = sample();
        ram.put(0x130, &(MAX_MAP as u32).to_le_bytes());
        ram.0.resize(0x400 + MAX_MAP * ENTRY_SIZE, 0);
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap().map.len(), MAX_MAP);
        ram.put(0x130, &(MAX_MAP as u32 + 1).to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap_err(), BootError::LongMap(65));
    }

    #[test]
    fn a_module_starts_at_a_page_boundary_or_is_empty() {
        let mut ram = sample();
        ram.put(0x200, &0x5010_u64.to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap_err(), BootError::ModuleUnaligned);
        ram.put(0x208, &0_u64.to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap().module, None);
    }

    #[test]
    fn without_a_module_the_module_list_is_not_followed() {
        let mut ram = sample();
        ram.put(0x10C, &0_u32.to_le_bytes());
        ram.put(0x110, &u64::MAX.to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap().module, None);
        let mut ram = sample();
        ram.put(0x208, &0_u64.to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap().module, None, "an empty one is none");
    }

    #[test]
    fn a_module_may_end_where_the_identity_map_ends() {
        let mut ram = sample();
        ram.put(0x208, &(IDENTITY_MAP_END - 0x5000).to_le_bytes());
        assert_eq!(
            StartInfo::read(&ram, 0x100).unwrap().module,
            Some(Module { address: 0x5000, length: IDENTITY_MAP_END - 0x5000 })
        );
        ram.put(0x208, &(IDENTITY_MAP_END - 0x4FFF).to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap_err(), BootError::Unreadable("the boot module"));
    }

    #[test]
    fn only_its_flag_marks_the_hardware_domain() {
        for (flags, initial) in [(0_u32, false), (2, true), (1, false), (!2, false), (!0, true)] {
            let mut ram = sample();
            ram.put(0x108, &flags.to_le_bytes());
            assert_eq!(StartInfo::read(&ram, 0x100).unwrap().initial_domain, initial, "{flags:#x}");
        }
    }

    #[test]
    fn wide_fields_have_both_halves() {
        let mut ram = sample();
        ram.put(0x408, &0x0000_0001_8000_0001_u64.to_le_bytes());
        ram.put(0x118, &0x0000_0001_0000_0300_u64.to_le_bytes());
        let info = StartInfo::read(&ram, 0x100).unwrap();
        assert_eq!(info.command_line, None, "not the one at 0x300");
        assert_eq!(
            info.map[0],
            MapEntry { address: 0, length: IDENTITY_MAP_END, ram: true },
            "clipped, not cut to 32 bits"
        );
    }

    #[test]
    fn a_command_line_ends_where_the_identity_map_ends() {
        /// Memory with an `x` in every byte.
        struct Endless;
        impl PhysicalMemory for Endless {
            fn read(&self, _: u64, into: &mut [u8]) -> bool {
                into.fill(b'x');
                true
            }
        }
        let length = |address| {
            let mut info = StartInfo::default();
            info.find_command_line(&Endless, address);
            (info.command_line.map(|line| line.length), info.boot_data.len())
        };
        assert_eq!(length(IDENTITY_MAP_END - 5), (Some(5), 1));
        assert_eq!((length(IDENTITY_MAP_END), length(u64::MAX), length(0)), ((None, 0), (None, 0), (None, 0)));
        assert_eq!(length(1), (Some(MAX_COMMAND_LINE), 1));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let errors = [
            BootError::Unreadable("the list"),
            BootError::NotPvh(7),
            BootError::NoMemory,
            BootError::LongMap(65),
            BootError::ModuleUnaligned,
        ];
        let texts = errors.map(|e| e.to_string());
        let marks = ["the list lies outside", "0x00000007", "no RAM", "65 entries", "page boundary"];
        assert!(texts.iter().zip(marks).all(|(text, mark)| text.contains(mark)), "{texts:?}");
    }

    #[test]
    fn other_bytes_than_a_start_info_are_refused() {
        assert_eq!(StartInfo::read(&Ram(vec![0; 64]), 0).unwrap_err(), BootError::NotPvh(0));
        assert!(matches!(StartInfo::read(&Ram(vec![0; 64]), 40), Err(BootError::Unreadable(_))));
        assert!(matches!(StartInfo::read(&Ram(vec![]), u64::MAX), Err(BootError::Unreadable(_))));
        let mut ram = sample();
        ram.put(0x208, &u64::MAX.to_le_bytes());
        assert_eq!(StartInfo::read(&ram, 0x100).unwrap_err(), BootError::Unreadable("the boot module"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..0x400), at in 0_u64..0x500) {
            let mut ram = Ram(bytes);
            if let Some(place) = ram.0.get_mut(at as usize..at as usize + 4) {
                place.copy_from_slice(&MAGIC.to_le_bytes());
            }
            let _ = StartInfo::read(&ram, at);
        }
    }
}
