//! The input that the toolstack passes to the image: start info, memory map, modules and command
//! line.

use arbitrary::Arbitrary;
use cloister_caps::xen::start_info::MAGIC;
use cloister_kernel_core::boot::{BootError, MAX_COMMAND_LINE, MAX_MAP, PhysicalMemory, StartInfo, command_line};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use std::cell::Cell;

use crate::script::{Bytes, Claim, Trace, World};

/// The end of the physical memory that is used.
const REACH: u64 = 1 << 32;
/// The address of the sample's start info.
const AT: u64 = 0x100;

/// Low memory. It counts the reads.
struct Ram {
    bytes: Vec<u8>,
    reads: Cell<usize>,
}

impl PhysicalMemory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        match start.checked_add(into.len()).and_then(|end| self.bytes.get(start..end)) {
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
}

/// The toolstack's input.
pub struct Boot {
    ram: Ram,
    at: u64,
}

impl Boot {
    fn check(&self) {
        self.ram.reads.set(0);
        let read = StartInfo::read(&self.ram, self.at);
        assert!(self.ram.reads.get() <= 4 + MAX_MAP, "{} reads", self.ram.reads.get());
        let info = match read {
            Ok(info) => info,
            Err(error @ (BootError::Unreadable(_) | BootError::NotPvh(_) | BootError::NoMemory)) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        let mut free = FreeMemory::new();
        let mut all = 0;
        for entry in &info.map {
            assert!(entry.length == 0 || entry.address + entry.length <= REACH, "{entry:?}");
            if entry.ram {
                all += entry.length;
                free.add(FrameRange::within(entry.address, entry.length));
            }
        }
        assert!(free.free_frames() <= all / 4096, "more memory than the map describes");
        for entry in &info.boot_data {
            free.remove(FrameRange::touching(entry.address, entry.length));
        }
        if let Some(module) = info.module {
            assert!(module.length > 0 && module.address + module.length <= REACH, "{module:?}");
            free.remove(FrameRange::touching(module.address, module.length));
        }
        let (largest, total) = (free.largest(), free.free_frames());
        if largest > 0 {
            let frames = free.take(largest).expect("the largest is there");
            assert!(frames.range().count() == largest && frames.range().end <= REACH / 4096);
            assert_eq!(free.free_frames(), total - largest);
        }
        if let Some(address) = info.command_line {
            let mut line = [0; MAX_COMMAND_LINE];
            let length = command_line(&self.ram, address, &mut line);
            assert!(length <= MAX_COMMAND_LINE && !line[..length].contains(&0));
            cloister_tcpip::config::parse(&line[..length], |option| assert!(option.to_string().len() < 1000));
        }
    }
}

impl World for Boot {
    type Setup = ();
    type Step = Change;

    fn new((): (), _: &Trace) -> Self {
        Boot { ram: Ram::sample(), at: AT }
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
        }
        self.check();
    }

    fn honest(self) {
        let info = StartInfo::read(&Ram::sample(), AT).expect("a start info");
        assert!(info.map.len() == 2 && info.module.is_some() && info.command_line.is_some());
    }
}
