//! Tests of the form of the file alone, without the seal, which would find most changes too.
//!
//! Each byte that only describes the structure has one value, and the verifier reads from a file
//! exactly what Xen loads.

use std::borrow::Cow;

use super::canonical;
use super::common::image::image;
use super::common::xen::{self, Guest, Memory};
use super::image::Image;
use super::verdict::Finding;
use crate::image_form::{Content, Piece, write};

/// Reads a file, if its form is accepted.
fn accepted(file: &[u8]) -> Option<Image<'_>> {
    let mut findings = Vec::new();
    let image = Image::read(file, &mut findings).ok()?;
    image.check(&mut findings);
    canonical::check(&image, &mut findings);
    (!findings.iter().any(Finding::is_error)).then_some(image)
}

/// Returns the guest that was read.
fn guest(image: &Image<'_>) -> Guest {
    let mut memory = Memory::new();
    for load in &image.loads {
        for page in 0..load.memory.div_ceil(4096) {
            let at = (page * 4096) as usize;
            let rest = load.bytes.get(at..).unwrap_or_default();
            let mut bytes = Box::new([0; 4096]);
            bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            memory.insert(load.physical / 4096 + page, bytes);
        }
    }
    let ends = image.loads.iter().map(|load| load.physical + load.memory);
    let first = image.loads.iter().map(|load| load.physical).min().unwrap();
    Guest { entry: image.note.map(|note| note.entry), memory, range: (first, ends.max().unwrap()) }
}

/// SplitMix64 (Steele, Lea and Flood).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn word(file: &[u8], at: usize) -> usize {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
}

/// Returns the positions of the bytes outside segments, sections and the seal: headers, names of
/// sections, gaps.
fn structure(file: &[u8]) -> Vec<usize> {
    let image = accepted(file).expect("the image that nobody changed");
    let mut own = vec![false; file.len()];
    for (number, load) in image.loads.iter().enumerate() {
        // The size in the file; the header of the note comes first.
        let size = word(file, 64 + 56 * (number + 1) + 32);
        own[load.offset as usize..][..size].fill(true);
    }
    for section in [image.seal, image.sbom, image.unsafe_uses].into_iter().flatten() {
        own[section.offset as usize..section.offset as usize + section.bytes.len()].fill(true);
    }
    let note = image.note.unwrap();
    let note = (image.loads[note.load].offset + note.position) as usize;
    own[note..note + 20].fill(false);
    (0..file.len()).filter(|at| !own[*at]).collect()
}

/// Returns `true` for bytes that the form does not decide: flags and virtual address of a segment,
/// which `layout` compares with the tables.
fn is_meaning(file: &[u8], at: usize) -> bool {
    let headers = 64 + usize::from(u16::from_le_bytes([file[56], file[57]])) * 56;
    (64 + 56..headers).contains(&at) && matches!((at - 64) % 56, 4..8 | 16..24)
}

#[test]
fn each_byte_of_the_structure_has_one_value() {
    let original = image();
    let before = guest(&accepted(&original).unwrap());
    let places = structure(&original);
    assert!(places.len() > 64 + 15 * 56 + 3 * 64 + 20, "{}", places.len());
    let mut file = original.clone();
    let mut meanings = 0;
    for at in places {
        let old = file[at];
        for value in [0, 1, old ^ 0x10, old.wrapping_add(1), old ^ 0x80, 0xFF] {
            file[at] = value;
            if value == old {
                continue;
            }
            if let Some(image) = accepted(&file) {
                // Another meaning, which `layout` judges, and the same memory.
                assert!(is_meaning(&original, at), "{value:#x} at {at:#x}");
                assert!(guest(&image) == before, "{value:#x} at {at:#x}");
                meanings += 1;
            }
        }
        file[at] = old;
    }
    assert!(meanings > 0);
}

/// Returns the image with other values where the form allows some, written as the packer does.
fn varied(original: &[u8], random: &mut Random) -> Vec<u8> {
    let image = accepted(original).unwrap();
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let mut next = image.loads[0].physical;
    for load in &image.loads {
        let mut bytes = load.bytes.to_vec();
        if random.below(3) == 0 {
            let at = random.below(bytes.len());
            bytes[at] ^= random.next() as u8;
        }
        let mut memory = load.memory;
        if load.write && random.below(2) == 0 {
            memory = memory.next_multiple_of(4096) + 4096 * random.below(4) as u64;
        }
        // The kernel's addresses stay together. Only the tables and the segments after them may
        // move.
        let distance = load.address.wrapping_sub(load.physical);
        let identical = load.address == load.physical || load.in_kernel_half();
        let virtual_address = if identical { next.wrapping_add(distance) } else { load.address };
        let flags = u32::from(load.read) * 4 + u32::from(load.write) * 2 + u32::from(load.execute);
        pieces.push(Piece {
            flags,
            virtual_address,
            physical_address: next,
            memory_size: memory,
            bytes: Cow::Owned(bytes),
        });
        next = (next + memory).next_multiple_of(4096);
    }
    let note = image.note.unwrap();
    let seal = [random.next() as u8; 32];
    let sbom = (random.below(2) == 0).then_some(&b"anything"[..]);
    let content = Content {
        entry: image.entry,
        pieces: &pieces,
        note: (note.load, note.position),
        seal,
        sbom,
        unsafe_uses: None,
    };
    let mut out = Vec::new();
    write(&content, &mut out).unwrap();
    out
}

/// Changes a few bytes or fields, most of them in headers, to values that are likely to mean
/// something.
fn damage(file: &mut Vec<u8>, random: &mut Random) {
    const VALUES: [u64; 12] = [0, 1, 4, 8, 24, 0xFFFF, 0x1000, 0x10_0000, 0x10_1000, 0x2000, u64::MAX, 1 << 32];
    let (headers, sections, note) = (64 + 15 * 56, word(file, 40), word(file, 64 + 8));
    for _ in 0..random.below(4) {
        let at = match random.below(8) {
            0..5 => random.below(headers),
            5 => sections.min(file.len() - 1) + random.below(64),
            6 => note.min(file.len() - 40) + random.below(40),
            _ => random.below(file.len()),
        };
        let size = [1, 2, 4, 8][random.below(4)];
        let at = at / size * size;
        let value = match random.below(3) {
            0 => VALUES[random.below(VALUES.len())],
            1 => random.next(),
            _ => {
                let from = random.below(headers) / 8 * 8;
                word(file, from) as u64
            }
        };
        for (place, byte) in file.iter_mut().skip(at).zip(value.to_le_bytes()).take(size) {
            *place = byte;
        }
    }
    if random.below(40) == 0 {
        file.extend_from_slice(&[0; 3]);
    }
}

/// Both readings agree on every file whose form is accepted.
#[test]
fn xen_loads_what_is_read_of_an_accepted_file() {
    let seed = 0x0C10_1573;
    let (original, mut random) = (image(), Random(seed));
    let (mut taken, mut changed) = (0, 0);
    for number in 0..4000 {
        let undamaged = varied(&original, &mut random);
        let mut file = undamaged.clone();
        damage(&mut file, &mut random);
        if let Some(image) = accepted(&file) {
            let loaded = xen::load(&file).unwrap_or_else(|| panic!("seed {seed:#x}, {number}: Xen refuses it"));
            let read = guest(&image);
            assert_eq!((loaded.entry, loaded.range), (read.entry, read.range), "seed {seed:#x}, {number}");
            assert!(loaded.memory == read.memory, "seed {seed:#x}, {number}: other memory");
            taken += 1;
            changed += usize::from(file != undamaged);
        }
    }
    assert!(taken > 700 && changed > 15, "{taken}, {changed} of them damaged: the test says little");
}
