//! `verify` refuses each instruction that no service needs: every mnemonic of its classes, and every
//! form that a class gives by a property.
#![forbid(unsafe_code)]

mod common;

use cloister_policy::verify::{Against, verify};
use common::image::{image, kernel, pack_all, program};

/// Encodings (Intel SDM volume 2, AMD APM volume 3), with the name in the report.
const REFUSED: [(&[u8], &str); 68] = [
    // Leave the domain, or undo protections.
    (&[0x0F, 0x01, 0xC1], "vmcall"),
    (&[0x0F, 0x01, 0xD9], "vmmcall"),
    (&[0x0F, 0x01, 0xD4], "vmfunc"),
    (&[0xF3, 0x0F, 0x01, 0xD9], "vmgexit"),
    (&[0x66, 0x0F, 0x01, 0xCC], "tdcall"),
    (&[0x66, 0x0F, 0x01, 0xCF], "seamcall"),
    (&[0x0F, 0x01, 0xEF], "wrpkru"),
    (&[0x0F, 0xAE, 0x28], "xrstor"),
    (&[0x48, 0x0F, 0xAE, 0x28], "xrstor64"),
    (&[0x0F, 0xC7, 0x18], "xrstors"),
    (&[0x48, 0x0F, 0xC7, 0x18], "xrstors64"),
    (&[0x0F, 0x01, 0xD1], "xsetbv"),
    // Ports.
    (&[0xE4, 0x10], "in"),
    (&[0x6C], "insb"),
    (&[0x66, 0x6D], "insw"),
    (&[0x6D], "insd"),
    (&[0xE6, 0xE9], "out"),
    (&[0x6E], "outsb"),
    (&[0x66, 0x6F], "outsw"),
    (&[0x6F], "outsd"),
    // Descriptors.
    (&[0x0F, 0x01, 0x00], "sgdt"),
    (&[0x0F, 0x01, 0x08], "sidt"),
    (&[0x0F, 0x00, 0xC0], "sldt"),
    (&[0x0F, 0x00, 0xC8], "str"),
    (&[0x0F, 0x01, 0xE0], "smsw"),
    (&[0x0F, 0x02, 0xC0], "lar"),
    (&[0x0F, 0x03, 0xC0], "lsl"),
    (&[0x0F, 0x00, 0xE0], "verr"),
    (&[0x0F, 0x00, 0xE8], "verw"),
    // Counters and the interrupt flag.
    (&[0x0F, 0x31], "rdtsc"),
    (&[0x0F, 0x01, 0xF9], "rdtscp"),
    (&[0x0F, 0x33], "rdpmc"),
    (&[0xF3, 0x0F, 0xC7, 0xF8], "rdpid"),
    (&[0x0F, 0x01, 0xEE], "rdpkru"),
    (&[0xFA], "cli"),
    (&[0xFB], "sti"),
    // Entries and returns.
    (&[0x0F, 0x34], "sysenter"),
    (&[0xCD, 0x80], "int"),
    (&[0xF1], "int1"),
    (&[0x66, 0xCF], "iret"),
    (&[0xCF], "iretd"),
    (&[0x48, 0xCF], "iretq"),
    (&[0xCB], "retf"),
    // Flags and segments.
    (&[0x66, 0x9D], "popf"),
    (&[0x9D], "popfq"),
    (&[0x0F, 0xB4, 0x00], "lfs"),
    (&[0x0F, 0xB5, 0x00], "lgs"),
    (&[0x0F, 0xB2, 0x00], "lss"),
    (&[0x0F, 0x01, 0xD7], "enclu"),
    // Waits.
    (&[0x0F, 0x01, 0xC8], "monitor"),
    (&[0x0F, 0x01, 0xC9], "mwait"),
    (&[0x0F, 0x01, 0xFA], "monitorx"),
    (&[0x0F, 0x01, 0xFB], "mwaitx"),
    (&[0xF3, 0x0F, 0xAE, 0xF0], "umonitor"),
    (&[0xF2, 0x0F, 0xAE, 0xF0], "umwait"),
    (&[0x66, 0x0F, 0xAE, 0xF0], "tpause"),
    // Bases of segments.
    (&[0xF3, 0x0F, 0xAE, 0xC0], "rdfsbase"),
    (&[0xF3, 0x0F, 0xAE, 0xC8], "rdgsbase"),
    (&[0xF3, 0x0F, 0xAE, 0xD0], "wrfsbase"),
    (&[0xF3, 0x0F, 0xAE, 0xD8], "wrgsbase"),
    // By a property: privileged, moves of special registers, far.
    (&[0x0F, 0x30], "wrmsr"),
    (&[0x0F, 0x22, 0xD8], "mov cr3"),
    (&[0x0F, 0x23, 0xF8], "mov dr7"),
    (&[0x8E, 0xD8], "mov ds"),
    (&[0x0F, 0xA0], "push fs"),
    (&[0x0F, 0xA1], "pop fs"),
    (&[0xFF, 0x28], "jmp"),
    (&[0xFF, 0x18], "call"),
];

/// Each is in compiled code, at a distance at which none becomes part of another.
#[test]
fn each_instruction_of_the_classes_is_refused_where_it_is_compiled() {
    for some in REFUSED.chunks(40) {
        let mut elf = program(1);
        for (place, (bytes, _)) in elf.parts[1].bytes[0x100..].chunks_mut(16).zip(some) {
            place[..bytes.len()].copy_from_slice(bytes);
        }
        let file = pack_all(&kernel(), &[program(0), elf, program(2)]);
        let verdict = verify(&file, &Against::default()).unwrap();
        for (number, (_, name)) in some.iter().enumerate() {
            let address = 0x0200_1100 + 16 * number as u64;
            let hit = verdict.hits.iter().find(|hit| hit.address == address);
            let hit = hit.unwrap_or_else(|| panic!("{name} is not found"));
            assert_eq!((&*hit.mnemonic, hit.compiled, hit.refused), (*name, true, true));
            let says = format!("manager: the compiled code has `{name}` at {address:#x}");
            assert!(verdict.findings.iter().any(|finding| finding.is_error() && finding.message == says), "{says}");
        }
    }
}

/// What finds the others does not find everything.
#[test]
fn the_compiled_code_of_the_test_image_has_none() {
    let verdict = verify(&image(), &Against::default()).unwrap();
    assert!(verdict.hits.iter().all(|hit| !hit.compiled && !hit.refused), "{:?}", verdict.hits);
}

/// Returns the notices of bytes that are no instruction, for an image whose `manager` has these bytes in its text, by offset.
fn notices(changes: &[(usize, &[u8])]) -> Vec<String> {
    let mut elf = program(1);
    for (at, bytes) in changes {
        elf.parts[1].bytes[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    let verdict = verify(&pack_all(&kernel(), &[program(0), elf, program(2)]), &Against::default()).unwrap();
    assert!(verdict.holds(), "{}", verdict.text());
    let own = verdict.findings.iter().filter(|finding| finding.message.contains("not an instruction"));
    own.map(|finding| finding.message.clone()).collect()
}

/// `push es` is no instruction in 64-bit mode. The last byte of the text counts, too; the zeros
/// after it do not.
#[test]
fn bytes_that_are_no_instruction_are_counted() {
    assert_eq!(notices(&[]), [""; 0]);
    let says =
        |count, first| format!("manager: bytes in the text that are not an instruction: {count}, the first at {first}");
    assert_eq!(notices(&[(0x100, &[0x06])]), [says(1, "0x2001100")]);
    assert_eq!(notices(&[(0x100, &[0x06]), (0x110, &[0x06, 0x06])]), [says(3, "0x2001100")]);
    assert_eq!(notices(&[(0x3FF, &[0x06])]), [says(1, "0x20013ff")]);
    // `add al, 0` takes one of the zeros, so that the last of them is half an instruction.
    assert_eq!(notices(&[(0x3FF, &[0x04])]), [""; 0]);
}

/// Outside the kernel's own bytes only aligned words of data are taken for its addresses.
#[test]
fn numbers_in_code_and_across_words_are_no_addresses() {
    let fixmap = 0xFFFF_FFFF_C01F_FFFF_u64.to_le_bytes();
    // `mov rax, imm64` whose number is an aligned word.
    assert_eq!(notices(&[(0x106, &[0x48, 0xB8]), (0x108, &fixmap)]), [""; 0]);
    let mut elf = program(1);
    elf.parts[0].bytes[0x11..0x19].copy_from_slice(&fixmap);
    let verdict = verify(&pack_all(&kernel(), &[program(0), elf, program(2)]), &Against::default()).unwrap();
    assert!(verdict.holds(), "{}", verdict.text());
}

/// Returns the errors about an image whose `manager` has these bytes at offset 0x100 of its text.
fn errors(bytes: &[u8]) -> Vec<String> {
    let mut elf = program(1);
    elf.parts[1].bytes[0x100..0x100 + bytes.len()].copy_from_slice(bytes);
    let verdict = verify(&pack_all(&kernel(), &[program(0), elf, program(2)]), &Against::default()).unwrap();
    verdict.findings.iter().filter(|finding| finding.is_error()).map(|finding| finding.message.clone()).collect()
}

#[test]
fn the_text_ends_with_its_last_page() {
    // `jmp rel32` to the last byte of the page, and to the first of the next.
    assert_eq!(errors(&[0xE9, 0xFA, 0x0E, 0, 0]), [""; 0]);
    let beyond = "manager: the code at 0x2001100 goes to 0x2002000, outside the program's text";
    assert_eq!(errors(&[0xE9, 0xFB, 0x0E, 0, 0]), [beyond]);
}

#[test]
fn memory_of_the_kernel_has_no_name_in_the_code() {
    // `mov eax, [disp32]`: the kernel's text, and the page before it.
    let named = "manager: the code at 0x2001100 names 0xffffffff80101000, an address of the kernel";
    assert_eq!(errors(&[0x8B, 0x04, 0x25, 0, 0x10, 0x10, 0x80]), [named]);
    assert_eq!(errors(&[0x8B, 0x04, 0x25, 0, 0, 0x10, 0x80]), [""; 0]);
}

/// The bytes of the stub in the middle of an instruction give what the stub gives.
#[test]
fn a_stub_that_was_not_compiled_is_no_second_stub() {
    assert_eq!(errors(&[0xB8, 0x0F, 0x05, 0xC3, 0]), [""; 0]);
}

#[test]
fn the_errors_of_a_program_are_bounded() {
    let of = |count: usize| errors(&[0xFA; 0x200][..count]);
    assert_eq!(of(199).len(), 199);
    for many in [of(201), of(300)] {
        assert_eq!(many.len(), 201, "{many:?}");
        assert!(many.contains(&"manager: more than 200 errors; the rest of it was not checked".to_owned()));
    }
}
