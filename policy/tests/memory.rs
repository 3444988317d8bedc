//! `verify` needs no more than a stated amount of memory for any file: it runs here with a limit on
//! its address space (`RLIMIT_AS`, by the shell's `ulimit`). A test never fails on time: what
//! bounds the time is the work that the limits of `image_limits` leave.
#![cfg(unix)]

mod common;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use cloister_policy::Extras;
use common::image::{image, kernel, pack_all, pack_extras, program};
use common::{Elf, Part};

/// The address space of the program, in KiB: the file, and 300 MiB with the program itself.
const SPACE: u64 = (300 + 256) << 10;
/// For the files of this test that are small.
const SMALL: u64 = 300 << 10;

/// Runs `verify` with a limit, and checks that it answers. Returns what it says.
#[track_caller]
fn answers(kind: &str, space: u64, file: &[u8], options: &[(&str, &[u8])], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("image.elf", file);
    let mut arguments = String::new();
    for (option, bytes) in options {
        write(option, bytes);
        let _ = write!(arguments, " --{option} {option}");
    }
    runs(kind, space, folder.path(), &format!("verify image.elf{arguments}"), expected);
}

#[track_caller]
fn runs(kind: &str, space: u64, folder: &Path, arguments: &str, expected: &str) {
    let script = format!("ulimit -v {space} && exec \"$0\" {arguments}");
    let mut command = Command::new("sh");
    let output =
        command.args(["-c", &script, env!("CARGO_BIN_EXE_cloister-policy")]).current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let answered = matches!(output.status.code(), Some(0..=2)) && !text.contains("panicked");
    assert!(answered, "{kind}: {}: {}", output.status, text.chars().take(2000).collect::<String>());
    assert!(text.contains(expected), "{kind}: {}", text.chars().take(2000).collect::<String>());
}

fn word(file: &[u8], at: usize) -> usize {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
}

/// Returns the image with a file's size of the limit, its new bytes being zeros.
fn with_length(length: usize) -> Vec<u8> {
    let mut file = image();
    file.resize(length, 0);
    file
}

/// Returns the image whose manager has this text after its own.
fn with_text(text: &[u8]) -> Vec<u8> {
    let mut elf = program(1);
    // A program has 16 MiB.
    elf.parts[1].bytes.extend_from_slice(text);
    elf.parts[1].memory_size = elf.parts[1].bytes.len() as u64;
    let mut data = Part::new(6, 0x02F8_0000, 0x02F8_0000, &[1; 8]);
    data.memory_size = 0x1000;
    elf.parts[2] = data;
    pack_all(&kernel(), &[program(0), elf, program(2)])
}

fn repeated(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes.iter().copied().cycle().take(length).collect()
}

/// Files of 256 MiB, the largest that are read.
#[test]
fn of_the_largest_files() {
    const LARGEST: usize = 256 << 20;
    answers("zeros", SPACE, &vec![0; LARGEST], &[], "not an ELF file");
    answers("bytes after the image", SPACE, &with_length(LARGEST), &[], "bytes after the end of the image");
    // The seal says that it is all of these bytes, and so do the inventories.
    let mut file = with_length(LARGEST);
    let sections = word(&file, 40);
    for section in 1..3 {
        let at = sections + section * 64;
        file[at + 24..at + 32].copy_from_slice(&4096_u64.to_le_bytes());
        file[at + 32..at + 40].copy_from_slice(&(LARGEST as u64 - 4096).to_le_bytes());
    }
    answers("sections of all bytes", SPACE, &file, &[], "bytes of names of sections");
    // Every segment is the same 255 MiB.
    let mut file = with_length(LARGEST);
    for header in (64 + 56..).step_by(56).take(usize::from(file[56]) - 1) {
        for (field, value) in [(8, 4096_u64), (32, LARGEST as u64 - 4096), (40, LARGEST as u64 - 4096)] {
            file[header + field..header + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    answers("segments of the same bytes", SPACE, &file, &[], "");
    let data = Part::new(6, 0xFFFF_FFFF_8010_3000, 0x10_3000, &vec![7; 255 << 20]);
    let mut large = kernel();
    large.parts[3] = data;
    answers("a kernel of 255 MiB", SPACE, &pack_all(&large, &[program(0), program(1), program(2)]), &[], "shown: ");
}

/// Programs of which each byte is decoded.
#[test]
fn of_large_programs() {
    const ROOM: usize = 14 << 20;
    let mut state = 1_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(ROOM)
    .collect();
    for (kind, text) in [
        ("hlt", repeated(&[0xF4], ROOM)),
        ("syscall", repeated(&[0x0F, 0x05], ROOM)),
        ("vmcall in the middle", repeated(&[0xB8, 0x0F, 0x01, 0xC1, 0x90], ROOM)),
        ("jumps out", repeated(&[0xE9, 0, 0, 0, 0x70], ROOM)),
        ("addresses of the kernel", repeated(&0xFFFF_FFFF_8010_1000_u64.to_le_bytes(), ROOM)),
        ("random bytes", random),
    ] {
        answers(kind, SMALL, &with_text(&text), &[], "refused: ");
    }
    answers("nop", SMALL, &with_text(&repeated(&[0x90], ROOM)), &[], "shown: ");
}

/// Inventories that are small in the file, and large or deep when they are read.
#[test]
fn of_inventories() {
    const PROGRAMS: [&str; 3] = ["cloister-driver", "cloister-manager", "cloister-store"];
    let listed = |name: &str| format!(r#"{{"name":"{name}","version":"1"}}"#);
    let bill = |rest: &str| {
        let list = PROGRAMS.map(listed).join(",");
        format!(r#"{{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{list}{rest}]}}"#)
    };
    let of = |sbom: &str| {
        let extras = Extras { sbom: Some(sbom.as_bytes()), unsafe_uses: None };
        pack_extras(&kernel(), &[program(0), program(1), program(2)], &extras)
    };
    let crates: String = (0..60_000).map(|index| format!(",{}", listed(&format!("crate-{index}")))).collect();
    answers("60,000 crates", SMALL, &of(&bill(&crates)), &[], "shown: ");
    let hashes = r#"{"alg":"SHA-256","content":"0"},"#.repeat(100_000);
    let hashes = format!(r#",{{"name":"a","version":"1","hashes":[{hashes}{{"alg":"x","content":"y"}}]}}"#);
    answers("100,000 hashes of one crate", SMALL, &of(&bill(&hashes)), &[], "shown: ");
    let deep = bill("").replacen('{', &format!("{{\"a\":{},", "[".repeat(2_000_000)), 1);
    answers("deep JSON", SMALL, &of(&deep), &[], "the SBOM is not CycloneDX in JSON");
    let empty = format!("{}{}", bill(""), " ".repeat((4 << 20) - 1000));
    answers("4 MiB of spaces", SMALL, &of(&empty), &[], "shown: ");
    // A lock file of the largest size, against many crates.
    let mut lock = String::new();
    while lock.len() < (2 << 20) - 100 {
        let _ = write!(lock, "[[package]]\nname = \"crate-{}\"\nversion = \"1\"\n\n", lock.len());
    }
    answers("a large lock file", SMALL, &of(&bill(&crates)), &[("lock", lock.as_bytes())], "is not in the lock file");
}

/// The other files that `verify` reads: each has a limit of its own.
#[test]
fn of_the_files_beside_the_image() {
    let spaces = |length: usize| vec![b' '; length];
    for (option, limit) in [("release", 16 << 10), ("config", 64 << 10), ("lock", 2 << 20), ("policy", 256 << 10)] {
        answers(
            option,
            SMALL,
            &image(),
            &[(option, &spaces(limit + 1))],
            &format!("{option} has more than {limit} bytes"),
        );
        answers(option, SMALL, &image(), &[(option, &spaces(limit))], "");
        let deep = format!("a = {}", "[".repeat(limit - 4));
        answers(option, SMALL, &image(), &[(option, deep.as_bytes())], "");
        let keys: String = (0..limit / 16).map(|index| format!("k{index} = {}\n", index % 10)).collect();
        let keys = keys.get(..limit.min(keys.len())).unwrap_or_default();
        answers(option, SMALL, &image(), &[(option, keys.as_bytes())], "");
        let words = repeated(b"[[package]]\nname = \"\"\nversion = \"\"\n\n", limit);
        answers(option, SMALL, &image(), &[(option, &words)], "");
    }
}

/// An ELF file of another make, with very many program headers.
#[test]
fn of_other_elf_files() {
    let parts: Vec<Part> = (0..60_u64).map(|index| Part::new(4, index << 24, index << 24, &[1; 64])).collect();
    let many = Elf { parts, ..kernel() }.build();
    answers("60 segments", SMALL, &many, &[], "");
    let mut headers = image();
    headers[56..58].copy_from_slice(&0xFFFE_u16.to_le_bytes());
    headers.resize(64 + 0xFFFE * 56, 1);
    answers("65,534 program headers", SMALL, &headers, &[], "has 65534 program headers");
}
