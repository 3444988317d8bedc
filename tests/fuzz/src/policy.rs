//! The policy compiler under files of any content, and the verification of images under changed
//! images.

use arbitrary::Arbitrary;
use cloister_caps::tables::Tables;
use cloister_policy::guest_config::{self, Needs};
use cloister_policy::release::Release;
use cloister_policy::verify::{Against, verify};
use cloister_policy::{About, ShowFormat, Sound, analyse_text, diff, facts_of_policy, format, is_plain, parse};

use crate::script::{Bytes, Claim, Trace, World};

const TEXTS: [&str; 7] = [
    include_str!("../../../policy/tests/good.toml"),
    include_str!("../../../policy/default.toml"),
    include_str!("../../guests/selftest.toml"),
    include_str!("../../guests/back-end.toml"),
    "",
    include_str!("../../guests/strict.toml"),
    include_str!("../../guests/refusing.toml"),
];

/// Files beside an image: a manifest, and a guest's configuration.
const BESIDE: [&str; 2] = [
    "format = 1\n[image]\nsha256 = \"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"\n[programs]\nkernel = \"\"\n",
    "type = \"pvh\"\nkernel = \"/cloister.elf\"\nmemory = 16\nvcpus = 1\nvif = [ \"bridge=xenbr0\" ]\ncmdline = \"ip=dhcp\"\n",
];

/// The file that is changed.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    file: u8,
}

/// A change of a file.
#[derive(Arbitrary, Debug)]
pub enum Edit {
    /// Remove, repeat or exchange lines.
    Remove(u8),
    Repeat(u8, u8),
    Swap(u8, u8),
    /// Replace the value after the equals sign by this word, or by that of another line.
    Value(u8, u8),
    Borrow(u8, u8),
    /// Change a number.
    Number(u8, i64),
    /// Write bytes into a line.
    Insert(u8, u8, Bytes),
}

/// A file that an attacker writes.
pub struct Text(Vec<String>);

impl Text {
    fn at(&self, line: u8) -> usize {
        // Most lines of the longest file are in reach: it has some 600.
        (usize::from(line) * 5) % self.0.len().max(1)
    }

    fn value(&mut self, line: u8, value: &str) {
        let at = self.at(line);
        if let Some((key, _)) = self.0.get(at).and_then(|line| line.split_once('=')) {
            self.0[at] = format!("{key}= {value}");
        }
    }
}

impl World for Text {
    type Setup = Setup;
    type Step = Edit;

    fn new(setup: Setup, _: &Trace) -> Self {
        let file = match setup.file {
            254.. => BESIDE[usize::from(setup.file) - 254],
            number => TEXTS[usize::from(number) % TEXTS.len()],
        };
        Text(file.lines().map(str::to_string).collect())
    }

    fn step(&mut self, edit: Edit) {
        const WORDS: [&str; 16] = [
            "true",
            "\"\"",
            "[]",
            "{}",
            "-1",
            "0",
            "9223372036854775807",
            "\"http\"",
            "[\"http\", \"tcpip\"]",
            "1.5",
            "1979-05-27",
            "\"a-b\"",
            "\"../x\"",
            "[[[[]]]]",
            "{ pages = 4 }",
            "\"0-32751\"",
        ];
        match edit {
            Edit::Remove(line) if !self.0.is_empty() => drop(self.0.remove(self.at(line))),
            Edit::Remove(_) => {}
            Edit::Repeat(line, times) => {
                let at = self.at(line);
                if let Some(text) = self.0.get(at).cloned().filter(|_| self.0.len() < 3000) {
                    self.0.splice(at..at, std::iter::repeat_n(text, usize::from(times % 40)));
                }
            }
            Edit::Swap(one, other) if !self.0.is_empty() => {
                let (one, other) = (self.at(one), self.at(other));
                self.0.swap(one, other);
            }
            Edit::Swap(..) => {}
            Edit::Value(line, word) => self.value(line, WORDS[usize::from(word) % WORDS.len()]),
            Edit::Borrow(line, from) => {
                let other = self.0.get(self.at(from)).and_then(|line| line.split_once('='));
                if let Some(value) = other.map(|(_, value)| value.trim().to_string()) {
                    self.value(line, &value);
                }
            }
            Edit::Number(line, number) => self.value(line, &number.to_string()),
            Edit::Insert(line, column, Bytes(bytes)) => {
                let at = self.at(line);
                let Some(text) = self.0.get_mut(at) else { return self.0.push(String::from_utf8_lossy(&bytes).into()) };
                let column = text.char_indices().map(|(at, _)| at).nth(column.into()).unwrap_or(text.len());
                text.insert_str(column, &String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Checks that the file is compiled, or refused with reasons, and that a compiled file is the
    /// same in its canonical form.
    fn honest(self) {
        let text = self.0.join("\n");
        if let Ok(release) = Release::parse(&text) {
            assert_eq!(Release::parse(&release.text()), Ok(release), "a manifest is not read back");
        }
        let needs =
            Needs { bytes: 1 << 20, domains: vec![(0, 0)], module: true, command_line: true, grants: 268, channels: 6 };
        for finding in guest_config::check(&text, &needs) {
            assert!(finding.message.chars().all(is_plain), "{finding}");
        }
        if let Ok(sound) = analyse_text("the policy", &text) {
            let again = analyse_text("the policy", sound.canonical()).expect("the canonical form is a policy");
            assert_eq!(again.hash(), sound.hash(), "the canonical form says something else");
            views(&sound);
        }
        if let Ok(shown) = format("the policy", &text) {
            let twice = format("the policy", &shown).expect("what was formatted is a policy");
            assert_eq!(twice, shown, "formatting twice differs from formatting once");
        }
        match parse("the policy", &text) {
            Ok(policy) => {
                let bytes = policy.tables().expect("a policy that holds has tables");
                let tables = Tables::parse(&bytes).expect("the kernel takes the compiler's tables");
                assert_eq!(tables.policy_hash(), policy.hash());
            }
            Err(report) => assert!(!report.to_string().is_empty()),
        }
    }
}

/// Checks that what is shown of a policy can be printed. Each policy is shown in one way, and most
/// in none, because a page takes longer than everything else here.
fn views(policy: &Sound) {
    let about = About::default();
    let shown = match policy.hash()[0] {
        0..=7 => policy.show(ShowFormat::Text, &about),
        8..=15 => policy.show(ShowFormat::Markdown, &about),
        16..=23 => policy.show(ShowFormat::Html, &about),
        24..=31 => facts_of_policy(policy).datalog(),
        32..=39 => analyse_text("the other", TEXTS[0]).map_or(String::new(), |good| diff(&good, policy).to_string()),
        40..=47 => policy.warnings().into_iter().map(|warning| warning.message).collect(),
        _ => return,
    };
    assert!(shown.chars().all(|c| is_plain(c) || c == '\n'), "a character that steers a terminal is shown");
}

/// A small whole image: that of `good.toml`.
fn image() -> Vec<u8> {
    thread_local! {
        static IMAGE: Vec<u8> = crate::elf::image::image();
    }
    IMAGE.with(Clone::clone)
}

/// Checks that by Xen's rules a changed image that verifies takes the same pages and starts at the
/// same address. Its bytes may differ where nothing of the policy decides them.
fn same_place(file: &[u8], whole: &[u8]) {
    let [found, wanted] = [file, whole].map(|file| crate::elf::xen::load(file).expect("Xen loads what verifies"));
    assert_eq!((found.entry, found.range), (wanted.entry, wanted.range), "Xen starts something else");
    assert!(found.memory.keys().eq(wanted.memory.keys()), "Xen loads other pages");
}

/// A change of an image.
#[derive(Arbitrary, Debug)]
pub enum Change {
    /// In the headers, at the start.
    Header(u16, Claim),
    Byte(u32, u8),
    Bytes(u32, Bytes),
    Cut(u32),
    Append(Bytes),
    /// Copy a part of the file to another offset.
    Copy(u32, u32, u16),
}

/// An image that an attacker changed.
pub struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let length = self.0.len().max(1);
        for (place, byte) in self.0.iter_mut().skip(at % length).zip(bytes) {
            *place = *byte;
        }
    }
}

impl World for Image {
    type Setup = ();
    type Step = Change;

    fn new((): (), _: &Trace) -> Self {
        Image(image())
    }

    fn step(&mut self, change: Change) {
        match change {
            Change::Header(at, claim) => {
                let at = usize::from(at % 1024) & !3;
                let honest =
                    self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
                self.put(at, &claim.of(honest).to_le_bytes());
            }
            Change::Byte(at, value) => self.put(at as usize, &[value]),
            Change::Bytes(at, Bytes(bytes)) => self.put(at as usize, &bytes),
            Change::Cut(at) => self.0.truncate(at as usize % (self.0.len() + 1)),
            Change::Append(Bytes(bytes)) if self.0.len() < 1 << 20 => self.0.extend(bytes),
            Change::Append(_) => {}
            Change::Copy(from, to, length) => {
                let start = from as usize % (self.0.len() + 1);
                let end = (start + usize::from(length)).min(self.0.len());
                let part = self.0[start..end].to_vec();
                self.put(to as usize, &part);
            }
        }
    }

    /// Checks that the verification ends, and that the unchanged image holds.
    fn honest(self) {
        let whole = image();
        let check = |file: &[u8]| {
            if let Ok(verdict) = verify(file, &Against::default()) {
                let text = verdict.text();
                assert!(
                    !text.is_empty() && text.chars().all(|c| is_plain(c) || c == '\n') && verdict.json().is_object()
                );
                if verdict.holds() {
                    same_place(file, &whole);
                }
            }
        };
        check(&self.0);
        // If the seal is at its offset, the file is sealed again, so that the verification goes on
        // past the seal.
        let mut file = self.0;
        let sections = u64::from_le_bytes(whole[40..48].try_into().expect("8 bytes")) as usize;
        let places = [40..48, sections + 64..sections + 128];
        if file.len() == whole.len() && places.into_iter().all(|place| file[place.clone()] == whole[place]) {
            crate::elf::seal(&mut file);
            check(&file);
        }
    }
}
