//! Changes an image in ways that could mean one thing to Xen and another to `verify`.

use cloister_sim::seed::Random;
use sha2::{Digest, Sha256};

/// Bytes of an ELF header, of a program header and of a section header (ELF64).
pub const HEADER: usize = 64;
pub const PROGRAM_HEADER: usize = 56;
pub const SECTION_HEADER: usize = 64;

/// Returns eight bytes of a file as a number.
pub fn word(file: &[u8], at: usize) -> usize {
    u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes")) as usize
}

/// Makes the seal again, at the place where the original has it.
pub fn seal(file: &mut [u8], original: &[u8]) {
    let at = word(original, word(original, 40) + SECTION_HEADER + 24);
    if file.len() >= at + 32 {
        file[at..at + 32].fill(0);
        let hash = Sha256::digest(&*file);
        file[at..at + 32].copy_from_slice(&hash);
    }
}

/// Returns the image with bytes of the kernel changed, and sealed again: the form stays.
pub fn resealed(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = original.to_vec();
    // Segments of the kernel: boot code after its note, text, constants after the pointer, data.
    for _ in 0..=random.below(3) {
        let header = HEADER + PROGRAM_HEADER * (1 + random.below(4));
        let (offset, size) = (word(&file, header + 8), word(&file, header + 32));
        file[offset + 20 + random.below(size - 20)] ^= 1 << random.below(8);
    }
    seal(&mut file, original);
    file
}

/// Values that headers are likely to give a meaning.
const VALUES: [u64; 16] =
    [0, 1, 2, 3, 4, 7, 8, 20, 24, 0xFFFF, 0x1000, 0x10_0000, 0x10_1000, u64::MAX, 1 << 32, 0x8000_0000_0000_0000];

/// Returns the image with a few changes of its structure, sealed again.
pub fn changed(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = original.to_vec();
    let count = usize::from(file[56]);
    for _ in 0..=random.below(3) {
        match random.below(12) {
            0 => swap_headers(&mut file, random, count),
            1 => add_headers(&mut file, random, count),
            2 => second_note(&mut file, random),
            3 => sections_as_notes(&mut file, random),
            4 if random.below(4) == 0 => file.truncate(original.len() - random.below(original.len() / 2)),
            4 => file.extend_from_slice(&[0; 24][..random.below(24)]),
            _ => put_field(&mut file, random, count),
        }
        if file.len() < original.len() {
            return file;
        }
    }
    seal(&mut file, original);
    file
}

/// Writes a value to a field of a header.
fn put_field(file: &mut [u8], random: &mut Random, count: usize) {
    let end = HEADER + count * PROGRAM_HEADER;
    let at = match random.below(10) {
        0..2 => random.below(HEADER),
        2..7 => HEADER + random.below(end - HEADER),
        7 => word(file, HEADER + 8) + random.below(24),
        8 => word(file, 40).min(file.len() - 1) + random.below(SECTION_HEADER * 4),
        _ => random.below(file.len()),
    };
    let size = [1, 2, 4, 8][random.below(4)];
    let at = at / size * size;
    let value = match random.below(4) {
        0 | 1 => VALUES[random.below(VALUES.len())],
        2 => random.word(),
        _ => word(file, random.below(end / 8) * 8) as u64,
    };
    for (place, byte) in file.iter_mut().skip(at).zip(value.to_le_bytes()).take(size) {
        *place = byte;
    }
}

fn swap_headers(file: &mut [u8], random: &mut Random, count: usize) {
    let [one, other] = [random.below(count), random.below(count)].map(|index| HEADER + index * PROGRAM_HEADER);
    for at in 0..PROGRAM_HEADER {
        file.swap(one + at, other + at);
    }
}

/// Names more program headers than there are, or hides the number (`PN_XNUM`), with headers of
/// segments behind the honest ones.
fn add_headers(file: &mut [u8], random: &mut Random, count: usize) {
    let number = [0xFFFF, count + 1, count + 2, 0][random.below(4)];
    file[56..58].copy_from_slice(&(number as u16).to_le_bytes());
    let from = HEADER + random.below(count) * PROGRAM_HEADER;
    let header = file[from..from + PROGRAM_HEADER].to_vec();
    let to = HEADER + (count + random.below(2)) * PROGRAM_HEADER;
    file[to..to + PROGRAM_HEADER].copy_from_slice(&header);
}

/// Makes room in the note segment for a second note, behind the first one.
fn second_note(file: &mut [u8], random: &mut Random) {
    let header = HEADER;
    let note = word(file, header + 8);
    let size = [20, 24, 40, 44, 4096][random.below(5)] as u64;
    file[header + 32..header + 40].copy_from_slice(&size.to_le_bytes());
    let align = [1, 4, 8, 16, 0][random.below(5)] as u64;
    file[header + 48..header + 56].copy_from_slice(&align.to_le_bytes());
    if note + 64 > file.len() {
        return;
    }
    let second = note + 20 + 4 * random.below(2);
    file.copy_within(note..note + 20, second);
    file[second + 16..second + 20].copy_from_slice(&0x0010_0100_u32.to_le_bytes());
}

/// Makes a section that no segment loads a section of notes.
fn sections_as_notes(file: &mut [u8], random: &mut Random) {
    let section = word(file, 40) + SECTION_HEADER * random.below(4);
    if section + SECTION_HEADER <= file.len() {
        file[section + 4..section + 8].copy_from_slice(&7_u32.to_le_bytes());
        let note = file[HEADER + 8..HEADER + 16].to_vec();
        file[section + 24..section + 32].copy_from_slice(&note);
    }
    // libelf looks at sections only if no segment has a note.
    if random.below(2) == 0 {
        file[HEADER] = 6;
    }
}

/// Flips a bit of the kernel's text.
pub fn changed_kernel(original: &[u8]) -> Vec<u8> {
    let mut file = original.to_vec();
    let text = word(&file, HEADER + 2 * PROGRAM_HEADER + 8);
    file[text + 0x123] ^= 4;
    seal(&mut file, original);
    file
}
