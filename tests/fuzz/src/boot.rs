//! The input that the toolstack passes to the image: start info, memory map, modules and command
//! line, and the pages that Xen's parameters name.

use std::cell::Cell;
use std::ops::Range;

use arbitrary::Arbitrary;
use cloister_caps::tables::{RegionKind, Tables};
use cloister_caps::xen::start_info::MAGIC;
use cloister_caps::{Gfn, PAGE_SIZE};
use cloister_kernel_core::address_space::allocate_copies;
use cloister_kernel_core::boot::{MAX_COMMAND_LINE, MAX_MAP, PhysicalMemory, StartInfo, copy_command_line};
use cloister_kernel_core::claims::{GuestMemory, KernelLocation, SpecialPages};
use cloister_kernel_core::placement::{BootRegions, page_table_reserve, place_regions};

use crate::script::{Bytes, Claim, Trace, World};

/// The end of the physical memory that is used.
const REACH: u64 = 1 << 32;
/// The address of the sample's start info.
const AT: u64 = 0x100;
/// The addresses of the image's kernel.
const KERNEL: Range<u64> = 0x10_0000..0x10_8000;
/// The pages that libxl makes.
const PAGES: SpecialPages = SpecialPages { xenstore: Some(Gfn(0xF_EFFC)), console: Some(Gfn(0xF_EFFF)) };
/// Frames in and beside the kernel, the tables, programs and data, the module, free memory, the
/// holes, the local APIC and the special pages. Two are in the kernel, multiplied without care.
const SPOTS: [u64; 14] = [
    0,
    5,
    0x100,
    0x107,
    0x109,
    0x10B,
    0x112,
    0x400,
    0xE_0000,
    0xF_0000,
    0xF_EE00,
    0xF_EFFB,
    0x10_0100,
    1 << 52 | 0x100,
];

/// Physical memory: the same page everywhere. It counts the reads.
struct Ram {
    bytes: Vec<u8>,
    reads: Cell<usize>,
}

impl PhysicalMemory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        if address == 0 || address.checked_add(into.len() as u64).is_none_or(|end| end > REACH) {
            return false;
        }
        for (place, at) in into.iter_mut().zip(address..) {
            *place = self.bytes[at as usize % self.bytes.len()];
        }
        true
    }
}

impl Ram {
    /// Reads a number of a structure, if it lies in memory.
    fn number(&self, address: u64, size: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes[..size]).then(|| u64::from_le_bytes(bytes))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }

    /// Returns a start info of version 1 with one module, a command line and two map entries.
    fn sample() -> Ram {
        let mut ram = Ram { bytes: vec![0; 0x1000], reads: Cell::new(0) };
        ram.put(0x100, &MAGIC.to_le_bytes());
        for (at, word) in [(0x104, 1), (0x10C, 1), (0x130, 2), (0x410, 1), (0x428, 2)] {
            ram.put(at, &u32::to_le_bytes(word));
        }
        let long = [
            (0x110, 0x200),
            (0x118, 0x300),
            (0x128, 0x400),
            (0x200, 0x5000),
            (0x208, 77),
            (0x408, 0x0400_0000),
            (0x418, 0xFEFF_8000),
            (0x420, 0x8000),
        ];
        for (at, word) in long {
            ram.put(at, &u64::to_le_bytes(word));
        }
        ram.put(0x300, b"ip=10.0.0.2/24 gw=10.0.0.1\0");
        ram
    }
}

/// A change of the toolstack's input.
#[derive(Arbitrary, Debug)]
pub enum Change {
    /// Change a field of the start info, of the module's entry or of the map, by its index.
    Field(u8, u64),
    Near(u8, Claim),
    /// Add entries to the map.
    Entry(u8, u64, u64, u32),
    Count(u32),
    Line(Bytes),
    Bytes(u16, Bytes),
    /// Change the address of the start info.
    At(u64),
    /// Change the console page, or the XenStore page, to a frame near a spot.
    Page(bool, u8, u8),
    /// Change it to any, or to none.
    AnyPage(bool, Option<u64>),
    /// Put the start info, the module list, the module, the command line or the memory map near a
    /// spot.
    Put(u8, u8, u8, u16),
}

/// The toolstack's input.
pub struct Boot {
    ram: Ram,
    at: u64,
    pages: SpecialPages,
}

/// What lies where, by the harness's own account.
#[derive(Default)]
struct Owners(Vec<(Range<u64>, &'static str)>);

impl Owners {
    /// Notes the frames of an owner, and asserts that they have no other.
    fn take(&mut self, frames: Range<u64>, owner: &'static str) {
        for (others, other) in self.0.iter().filter(|(others, _)| !frames.is_empty() && !others.is_empty()) {
            let apart = others.end <= frames.start || frames.end <= others.start;
            assert!(apart, "{owner} {frames:x?} and {other} {others:x?}");
        }
        self.0.push((frames, owner));
    }

    /// Notes the frames of `length` bytes from `address`.
    fn take_bytes(&mut self, address: u64, length: u64, owner: &'static str) {
        let end = u128::from(address) + u128::from(length);
        let last = u64::try_from(end.div_ceil(4096)).expect("a number of a frame");
        self.take(if length == 0 { 0..0 } else { address >> 12..last }, owner);
    }
}

/// Returns the tables of a small image, and their location.
fn image() -> (Tables<'static>, (u64, u64)) {
    thread_local! {
        static IMAGE: (&'static [u8], u64) = {
            let file = crate::elf::image::image();
            let word = |at| u64::from_le_bytes(crate::elf::physical(&file, at, 8).try_into().expect("a word"));
            let (address, length) = (word(0x10_2000), word(0x10_2008));
            (crate::elf::physical(&file, address, length as usize).leak(), address)
        };
    }
    let (bytes, address) = IMAGE.with(|image| *image);
    (Tables::parse(bytes).expect("tables of the packer"), (address, bytes.len() as u64))
}

/// Asserts that frames are RAM by the map: of entries that have each page as a whole, and of none
/// that reserves a byte.
fn assert_ram(map: &[(u64, u64, u64)], frames: Range<u64>) {
    let (start, end) = (u128::from(frames.start) << 12, u128::from(frames.end) << 12);
    let bytes =
        |(address, length, _): &(u64, u64, u64)| (u128::from(*address), u128::from(*address) + u128::from(*length));
    for entry in map.iter().filter(|entry| entry.2 != 1 && entry.1 > 0) {
        let (from, to) = bytes(entry);
        assert!(to <= start || end <= from, "{frames:x?} is reserved by {entry:x?}");
    }
    let mut at = start;
    while at < end {
        let whole =
            map.iter().filter(|entry| entry.2 == 1).map(bytes).filter(|(from, to)| *from <= at && at + 4096 <= *to);
        let to = whole.map(|(_, to)| to).max().unwrap_or_else(|| panic!("{frames:x?} is no RAM at {at:#x}"));
        at = to >> 12 << 12;
    }
}

impl Boot {
    fn check(&self) {
        self.ram.reads.set(0);
        let read = StartInfo::read(&self.ram, self.at);
        let reads = self.ram.reads.get();
        assert!(reads <= 4 + MAX_MAP + MAX_COMMAND_LINE, "{reads} reads");
        let info = match read {
            Ok(info) => info,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        if let Some(line) = info.command_line {
            let mut text = [0; MAX_COMMAND_LINE];
            let length = copy_command_line(&self.ram, line, &mut text);
            assert!(length == line.length && !text[..length].contains(&0));
            cloister_tcpip::config::parse(&text[..length], |option| assert!(option.to_string().len() < 1000));
        }
        let (tables, location) = image();
        let kernel = (KERNEL.start, KERNEL.end - KERNEL.start);
        let location = KernelLocation { kernel, tables: location };
        match GuestMemory::divide(&info, &info.map, &tables, &location, &self.pages) {
            Ok(memory) => self.check_memory(&info, memory, &tables, &location),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    /// Returns the memory map as it lies in memory. It is empty if there is none.
    fn map(&self) -> Vec<(u64, u64, u64)> {
        let number = |at, size| self.ram.number(at, size).unwrap_or_default();
        let (list, count) = (number(self.at + 40, 8), number(self.at + 48, 4));
        if number(self.at + 4, 4) == 0 || list == 0 {
            return Vec::new();
        }
        (0..count)
            .map(|entry| list + entry * 24)
            .map(|at| (number(at, 8), number(at + 8, 8), number(at + 16, 4)))
            .collect()
    }

    /// Notes what the toolstack names, read from memory once more, without the code under attack.
    fn named(&self, owners: &mut Owners) {
        let number = |at, size| self.ram.number(at, size).expect("it was read before");
        let boot_data = owners.0.len();
        let version = number(self.at + 4, 4);
        let mut data = vec![(self.at, if version == 0 { 40 } else { 56 })];
        if number(self.at + 12, 4) > 0 {
            let list = number(self.at + 16, 8);
            data.push((list, 32));
            owners.take_bytes(number(list, 8), number(list + 8, 8), "module");
        }
        let map = self.map();
        if !map.is_empty() {
            data.push((number(self.at + 40, 8), map.len() as u64 * 24));
        }
        let line = number(self.at + 24, 8);
        let text = (line..=u64::MAX)
            .take(MAX_COMMAND_LINE)
            .take_while(|at| self.ram.number(*at, 1).is_some_and(|byte| byte != 0));
        data.push((line, text.count() as u64));
        for (Gfn(page), owner) in [(self.pages.xenstore, "XenStore"), (self.pages.console, "console")]
            .into_iter()
            .filter_map(|(page, owner)| Some((page?, owner)))
        {
            assert!(page < REACH / 4096, "the page of {owner} is at {page:#x}");
            owners.take(page..page + 1, owner);
        }
        // The boot data may have pages in common with each other, and with nothing else.
        let others = owners.0.len();
        for (address, length) in data {
            let mut alone = Owners(owners.0[..others].to_vec());
            alone.take_bytes(address, length, "boot data");
            owners.0.extend(alone.0.pop());
        }
        assert!(owners.0.len() > boot_data);
    }

    /// Does with the memory what the boot does, and checks that no frame has two owners.
    fn check_memory(&self, info: &StartInfo, memory: GuestMemory, tables: &Tables<'_>, location: &KernelLocation) {
        let (map, mut owners) = (self.map(), Owners::default());
        owners.take(0xF_EE00..0xF_EE01, "local APIC");
        owners.take_bytes(location.kernel.0, location.kernel.1, "kernel");
        owners.take_bytes(location.tables.0, location.tables.1, "tables");
        for segment in tables.segments().iter().filter(|segment| segment.file_size > 0) {
            owners.take_bytes(segment.image_address, segment.file_size, "program");
        }
        for region in tables.regions().iter().filter(|region| region.kind == RegionKind::ImageData) {
            owners.take_bytes(region.image_address, region.image_length, "data");
        }
        self.named(&mut owners);
        let GuestMemory { mut free, ram, module, xenstore, console, shared_pages } = memory;
        assert_eq!(module.is_some(), info.module.is_some());
        assert_eq!(xenstore.as_ref().map(|page| page.first()), self.pages.xenstore);
        assert_eq!(console.map(|page| page.first()), self.pages.console);
        let shared = shared_pages.range();
        assert_eq!(shared.count(), 9);
        let (first, last) = (u128::from(shared.start) << 12, u128::from(shared.end) << 12);
        for (address, length, _) in map.iter().filter(|entry| entry.1 > 0) {
            let end = u128::from(*address) + u128::from(*length);
            assert!(end <= first || last <= u128::from(*address), "the memory map has the shared pages");
        }
        owners.take(shared.start..shared.end, "shared pages");
        assert!(free.free_frames() <= ram / PAGE_SIZE as u64);
        let given = |owners: &mut Owners, frames: Range<u64>, owner| {
            assert!(frames.is_empty() || frames.start > 0, "page 0 is given out");
            assert_ram(&map, frames.clone());
            owners.take(frames, owner);
        };
        let mut take = |owners: &mut Owners, pages, owner| {
            let frames = free.take(pages)?;
            given(owners, frames.range().start..frames.range().end, owner);
            Some(frames)
        };
        let command_line = take(&mut owners, 1, "copy of the command line").map(|page| (page, 0));
        for _ in 0..20 {
            take(&mut owners, 1, "page table");
        }
        let boot_regions = BootRegions { module, command_line, xenstore };
        if let Some(copies) = allocate_copies(tables, &mut free) {
            for copy in &copies {
                let frames = copy.pages().frames();
                given(&mut owners, frames.start..frames.end, "copy of a segment");
            }
            let reserve = page_table_reserve(tables, free.free_frames());
            if let Ok(placements) = place_regions(tables, &mut free, &boot_regions, reserve) {
                for (id, region) in tables.regions().with_ids() {
                    let frames = placements[id].frames();
                    if matches!(region.kind, RegionKind::Fixed | RegionKind::Share) {
                        given(&mut owners, frames.start..frames.end, "region");
                    }
                }
            }
        }
        while let Some(frames) = free.take(free.largest()) {
            given(&mut owners, frames.range().start..frames.range().end, "free");
        }
    }
}

impl World for Boot {
    type Setup = ();
    type Step = Change;

    fn new((): (), _: &Trace) -> Self {
        Boot { ram: Ram::sample(), at: AT, pages: PAGES }
    }

    fn step(&mut self, change: Change) {
        // Four bytes each: start info, module list, memory map.
        let place = |field: u8| [0x100, 0x200, 0x400][usize::from(field) % 3] + usize::from(field / 3 % 16) * 4;
        match change {
            Change::Field(field, value) => self.ram.put(place(field), &value.to_le_bytes()),
            Change::Near(field, claim) => {
                let at = place(field);
                let honest = u32::from_le_bytes(self.ram.bytes[at..at + 4].try_into().expect("four bytes"));
                self.ram.put(at, &claim.of(honest).to_le_bytes());
            }
            Change::Entry(index, address, length, kind) => {
                let at = 0x400 + usize::from(index % 80) * 24;
                self.ram.put(at, &address.to_le_bytes());
                self.ram.put(at + 8, &length.to_le_bytes());
                self.ram.put(at + 16, &(kind % 4).to_le_bytes());
            }
            Change::Count(count) => self.ram.put(0x130, &count.to_le_bytes()),
            Change::Line(Bytes(bytes)) => self.ram.put(0x300, &bytes),
            Change::Bytes(at, Bytes(bytes)) => self.ram.put(usize::from(at) % 0x1000, &bytes),
            Change::At(at) => self.at = at,
            Change::Page(console, spot, more) => self.set_page(console, Some(near(spot, more))),
            Change::AnyPage(console, frame) => self.set_page(console, frame),
            Change::Put(what, spot, more, byte) => {
                let address = near(spot, more) << 12;
                let inside = address + u64::from(byte % 4096);
                match what % 5 {
                    // The same page is everywhere.
                    0 => self.at = address + AT,
                    1 => self.ram.put(0x110, &(address + 0x200).to_le_bytes()),
                    2 => self.ram.put(0x200, &[address, u64::from(byte)].map(u64::to_le_bytes).concat()),
                    3 => self.ram.put(0x118, &inside.to_le_bytes()),
                    _ => self.ram.put(0x128, &(address + 0x400).to_le_bytes()),
                }
            }
        }
        self.check();
    }

    fn honest(self) {
        let boot = Boot { ram: Ram::sample(), at: AT, pages: PAGES };
        let info = StartInfo::read(&boot.ram, AT).expect("a start info");
        assert!(info.map.len() == 2 && info.module.is_some() && info.command_line.is_some());
        let (tables, location) = image();
        let location = KernelLocation { kernel: (KERNEL.start, KERNEL.end - KERNEL.start), tables: location };
        let memory = GuestMemory::divide(&info, &info.map, &tables, &location, &PAGES).expect("a usual guest");
        assert!(memory.free.free_frames() > 16_000);
        boot.check_memory(&info, memory, &tables, &location);
    }
}

/// Returns a frame at a spot, or up to three after it.
fn near(spot: u8, more: u8) -> u64 {
    SPOTS[usize::from(spot) % SPOTS.len()] + u64::from(more % 4)
}

impl Boot {
    fn set_page(&mut self, console: bool, frame: Option<u64>) {
        let page = if console { &mut self.pages.console } else { &mut self.pages.xenstore };
        // Xen's 0 means that there is none.
        *page = frame.filter(|frame| *frame != 0).map(Gfn);
    }
}
