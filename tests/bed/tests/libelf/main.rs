//! Xen's own libelf, the rules of it that tests of `verify` wrote down, and `verify` itself, on the
//! image that ships and on thousands of changed ones.
//!
//! Whatever `verify` accepts, Xen loads as its headers say: the same entry point and the same
//! bytes. And on every file, whether it is accepted or not, the written rules
//! (`policy/tests/common/xen.rs`) do what libelf does.
#![forbid(unsafe_code)]

mod mutate;
mod real_xen;
mod source;
mod tampered;
#[path = "../../../../policy/tests/common/xen.rs"]
mod xen;

use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use cloister_policy::release::Release;
use cloister_policy::verify::{Against, verify};
use cloister_sim::seed::Random;
use mutate::{changed, changed_kernel, resealed};
use tampered::Tampered;

/// The number of changed files.
const FILES: u32 = 6000;
/// Of these, the files of which only the content differs: each is verified to its end.
const CONTENTS: u32 = 60;

/// A guest as libelf loads it.
struct Loaded {
    /// `true` if the file names bytes that it does not have.
    broken: bool,
    entry: u64,
    start: u64,
    bytes: Vec<u8>,
}

/// Xen's loader, in a process.
struct Libelf {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Libelf {
    fn start() -> Self {
        let mut child =
            Command::new(source::loader()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the loader");
        let (input, output) = (child.stdin.take().expect("input"), child.stdout.take().expect("output"));
        Libelf { child, input: BufWriter::new(input), output: BufReader::new(output) }
    }

    /// Loads a file; `None` if libelf refuses it.
    fn load(&mut self, file: &[u8]) -> Option<Loaded> {
        self.input.write_all(&(file.len() as u64).to_le_bytes()).expect("the loader reads");
        self.input.write_all(file).expect("the loader reads");
        self.input.flush().expect("the loader reads");
        let status = self.number();
        if status == 0 {
            return None;
        }
        let (entry, start, length) = (self.number(), self.number(), self.number());
        let mut bytes = vec![0; usize::try_from(length).expect("a length")];
        self.output.read_exact(&mut bytes).expect("the loader answers");
        Some(Loaded { broken: status == 2, entry, start, bytes })
    }

    fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.output.read_exact(&mut bytes).expect("the loader answers, and no sanitizer ended it");
        u64::from_le_bytes(bytes)
    }
}

impl Drop for Libelf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shipped() -> Vec<u8> {
    let path = cloister_bed::target_dir().join("image/default/cloister.elf");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; cargo xtask build makes it", path.display()))
}

/// Returns `true` if a guest has the same entry point and the same memory as the other reader's.
fn same(one: &Loaded, other: &xen::Guest) -> bool {
    let end = one.start + one.bytes.len() as u64;
    other.entry == Some(one.entry)
        && other.range == (one.start, end)
        && (one.start / 4096..end.div_ceil(4096)).all(|page| {
            let from = (page * 4096).max(one.start);
            let to = ((page + 1) * 4096).min(end);
            let bytes = &one.bytes[(from - one.start) as usize..(to - one.start) as usize];
            let within = (from % 4096) as usize;
            match other.memory.get(&page) {
                Some(known) => known[within..within + bytes.len()] == *bytes,
                None => bytes.iter().all(|byte| *byte == 0),
            }
        })
}

/// Checks that the written rules do with a file what libelf does.
///
/// They are for files of 64 bits, little-endian, that do not name bytes that they lack.
fn follows_the_written_rules(number: u32, file: &[u8], loaded: Option<&Loaded>) {
    if file[4..6] != [2, 1] || loaded.is_some_and(|loaded| loaded.broken) {
        return;
    }
    let model = xen::load(file).filter(|guest| guest.entry.is_some());
    let agree = match (loaded, &model) {
        (None, None) => true,
        (Some(one), Some(other)) => same(one, other),
        _ => false,
    };
    let said = |there: bool| if there { "loads" } else { "refuses" };
    let (xen, rules) = (said(loaded.is_some()), said(model.is_some()));
    assert!(agree, "file {number}: libelf {xen} it, the written rules say: {rules}");
}

/// Checks that libelf loads an accepted file exactly as its headers say: entry point, addresses,
/// bytes, zeros.
fn is_loaded_as_read(loaded: Option<&Loaded>, file: &[u8]) {
    let loaded = loaded.expect("Xen refuses a file that verify accepts");
    assert!(!loaded.broken, "verify accepts a file that names bytes that it does not have");
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let mut expected = vec![0; loaded.bytes.len()];
    let mut next = loaded.start;
    for header in (64..).step_by(56).take(usize::from(file[56])).filter(|at| file[*at] == 1) {
        let [offset, physical, size, memory] = [8, 24, 32, 40].map(|at| word(header + at));
        assert_eq!(physical, next, "the segments follow each other");
        let to = (physical - loaded.start) as usize;
        expected[to..to + size as usize].copy_from_slice(&file[offset as usize..(offset + size) as usize]);
        next = physical + memory;
    }
    assert_eq!(next, loaded.start + loaded.bytes.len() as u64);
    assert_eq!(loaded.entry, word(24), "e_entry");
    assert!(loaded.bytes == expected, "Xen loads other bytes");
}

/// Asserts that `verify` refuses an image, and accepts the same without what is hidden.
fn is_refused(tampered: &Tampered) {
    let reasons = |file: &[u8]| match verify(file, &Against::default()) {
        Ok(verdict) => verdict.findings.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect(),
        Err(unusable) => vec![unusable.to_string()],
    };
    let (name, found) = (tampered.name, reasons(&tampered.file));
    assert!(found.iter().any(|reason| reason.contains(tampered.refusal)), "{name}: {found:#?}");
    let plain = tampered.plain.as_deref().map(reasons).unwrap_or_default();
    assert!(plain.is_empty(), "{name}: it is refused for something else: {plain:#?}");
}

fn manifest() -> Release {
    let path = cloister_bed::target_dir().join("image/default/release.toml");
    Release::parse(&std::fs::read_to_string(path).expect("the manifest")).expect("a manifest")
}

/// Images with which the tool of an auditor can be fooled. Xen would run other code of each, and
/// `verify` refuses it; the honest image is the one of its manifest. `real_xen.rs` boots them.
#[test]
fn tampered_images_are_refused_and_the_honest_one_is_its_release() {
    let original = shipped();
    let mut libelf = Libelf::start();
    let release = manifest();
    let against = Against { release: Some(&release), ..Against::default() };
    let honest = verify(&original, &against).expect("an image");
    assert!(honest.holds() && honest.shown.release, "{}", honest.text());
    let loaded = libelf.load(&original).expect("Xen loads it");
    for tampered in tampered::all(&original) {
        is_refused(&tampered);
        let other = libelf.load(&tampered.file).expect("Xen loads it");
        let entry = |guest: &Loaded| guest.bytes[(guest.entry - guest.start) as usize..][..16].to_vec();
        assert!(entry(&other) != entry(&loaded), "{}: other code is at the entry point", tampered.name);
    }
    let changed = changed_kernel(&original);
    let other = libelf.load(&changed).expect("Xen loads it");
    assert_eq!(other.bytes.iter().zip(&loaded.bytes).filter(|(one, other)| one != other).count(), 1);
    let verdict = verify(&changed, &against).expect("an image");
    assert!(verdict.text().contains("error: release: the kernel is another"), "{}", verdict.text());
}

#[test]
fn xen_loads_what_verify_accepts_as_it_was_read() {
    let original = shipped();
    let (mut libelf, mut random) = (Libelf::start(), Random(0x0C10_157E));
    let (mut accepted, mut loaded_by_xen) = (0, 0);
    for number in 0..=FILES {
        let file = match number {
            0 => original.clone(),
            _ if number <= CONTENTS => resealed(&original, &mut random),
            _ => changed(&original, &mut random),
        };
        let loaded = libelf.load(&file);
        follows_the_written_rules(number, &file, loaded.as_ref());
        loaded_by_xen += u32::from(loaded.is_some());
        if verify(&file, &Against::default()).is_ok_and(|verdict| verdict.holds()) {
            is_loaded_as_read(loaded.as_ref(), &file);
            accepted += 1;
        }
    }
    println!("{accepted} of {FILES} files accepted, {loaded_by_xen} loaded by Xen");
    assert!(
        accepted > CONTENTS / 4 && loaded_by_xen > FILES / 4,
        "{accepted} and {loaded_by_xen}: the test says little"
    );
}
