//! A small image that holds, for tests that change one thing of it.

use super::{Elf, Part, pvh_note};
use cloister_policy::{Checked, Extras, Program, pack_with, parse};

/// The services of `good.toml`.
pub const NAMES: [&str; 3] = ["driver", "manager", "store"];

pub fn policy() -> Checked {
    parse("good.toml", include_str!("../good.toml")).unwrap()
}

/// Returns a kernel like ours: the note in its first segment, the pointer to the tables at the
/// start of the third.
pub fn kernel() -> Elf {
    let mut boot = pvh_note(0x10_0020);
    boot.resize(0x15E, 0x90);
    let mut data = Part::new(6, 0xFFFF_FFFF_8010_3000, 0x10_3000, &[7; 0x3D0]);
    data.memory_size = 0x5000;
    Elf {
        entry: 0x10_0020,
        parts: vec![
            Part::new(5, 0x10_0000, 0x10_0000, &boot),
            Part::new(5, 0xFFFF_FFFF_8010_1000, 0x10_1000, &[0xCC; 0x1000]),
            Part::new(4, 0xFFFF_FFFF_8010_2000, 0x10_2000, &[0; 0x1000]),
            data,
        ],
        note: Some((0, 20)),
        symbol: Some(("CLOISTER_TABLES".into(), 0xFFFF_FFFF_8010_2000)),
        ..Elf::default()
    }
}

/// Returns a program like the runtime's: `_start` at the start of its text, then the stub, then
/// `int3`.
pub fn program(index: usize) -> Elf {
    let base = 0x0100_0000 * (index as u64 + 1);
    let fill = index as u8 + 1;
    let mut text = vec![0x31, 0xED, 0xE8, 5, 0, 0, 0, 0x0F, 0x0B, 0xCC, 0xCC, 0xCC, 0x0F, 0x05, 0xC3];
    text.resize(0x400, 0xCC);
    let mut data = Part::new(6, base + 0x3000, base + 0x3000, &[fill + 0x20; 0x24]);
    data.memory_size = 0x1058;
    Elf {
        entry: base + 0x1000,
        parts: vec![Part::new(4, base, base, &[fill; 0x123]), Part::new(5, base + 0x1000, base + 0x1000, &text), data],
        ..Elf::default()
    }
}

/// Returns the image of `good.toml` with these programs.
pub fn pack_all(kernel: &Elf, programs: &[Elf]) -> Vec<u8> {
    pack_extras(kernel, programs, &Extras::default())
}

/// Returns the image with inventories.
pub fn pack_extras(kernel: &Elf, programs: &[Elf], extras: &Extras<'_>) -> Vec<u8> {
    let files: Vec<Vec<u8>> = programs.iter().map(Elf::build).collect();
    let given: Vec<Program<'_>> = NAMES.iter().zip(&files).map(|(service, elf)| Program { service, elf }).collect();
    pack_with(&policy(), &kernel.build(), &given, extras).unwrap()
}

/// Returns the image that holds.
pub fn image() -> Vec<u8> {
    pack_all(&kernel(), &[program(0), program(1), program(2)])
}
