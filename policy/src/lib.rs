//! The policy compiler: one TOML file is the whole authority of an image. This crate reads and checks the file,
//! makes from it the capability tables that the kernel enforces and the bindings that each program is
//! compiled with, and packs kernel, programs and tables into one bootable ELF file.
//!
//! ```
//! use cloister_policy::{STARTING_POLICY, parse};
//!
//! let policy = parse("mine.toml", STARTING_POLICY).unwrap();
//! let names: Vec<_> = policy.services().map(|service| service.name()).collect();
//! assert_eq!(names, ["server", "worker"]);
//! // What the worker's program is compiled with: a capability it does not have is not there.
//! let bindings = policy.bindings("worker").unwrap();
//! assert!(bindings.contains("clock") && !bindings.contains("entropy"));
//!
//! // A mistake is refused, with its place and with what would be right.
//! let mistaken = STARTING_POLICY.replace("interface = \"socket\"", "interface = \"sockets\"");
//! let Err(report) = parse("mine.toml", &mistaken) else { panic!("`sockets` is no interface") };
//! assert!(report.to_string().contains("sockets"), "{report}");
//! ```
#![forbid(unsafe_code)]

mod authority;
mod bindings;
mod canonical;
mod check;
mod diagnostic;
mod diff;
mod emit;
mod explain;
mod format;
mod graph;
mod model;
mod pack;
mod plan;
mod printable;
mod prove;
mod read;
mod schema;
mod show;
pub mod sign;
pub mod unused;
pub mod verify;

// The files of tests/common name the crate from outside.
#[cfg(test)]
extern crate self as cloister_policy;

use std::io::Read;
use std::path::Path;

use cloister_caps::tables::Tables;
use sha2::{Digest, Sha256};

pub use diagnostic::{Finding, Related, Report};
pub use diff::{Change, Class, Difference, Witness, diff};
pub use explain::{Answer, Explanation, Unclear};
pub use format::{format, format_file};
pub use graph::Graph;
pub use pack::{Extras, PackError, Program, pack, pack_with};
pub use printable::{is_plain, printable, printable_json, printable_lines};
pub use prove::Verdict;
pub use schema::schema;
pub use show::{Page, ShowFormat};

use diagnostic::{Diagnostic, Log};

/// A commented policy to start from.
pub const STARTING_POLICY: &str = include_str!("init.toml");

/// A policy that is sound: every name in it is defined, every value is in range, and what it says is consistent. It
/// can be analysed; whether an image has room for it, and whether its assertions hold, is another matter.
pub struct Sound {
    file: String,
    text: String,
    policy: model::Policy,
    index: authority::Index,
    lines: diagnostic::Lines,
    canonical: String,
    hash: [u8; 32],
}

/// A policy that holds: it is sound, its assertions are proved, and an image has room for it.
pub struct Checked {
    sound: Sound,
    plan: plan::Plan,
}

impl std::ops::Deref for Checked {
    type Target = Sound;

    fn deref(&self) -> &Sound {
        &self.sound
    }
}

/// One rule on the way to a right.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Step {
    /// The rule, by its key in the policy.
    pub rule: String,
    /// Its line, from 1.
    pub line: usize,
    /// What it says.
    pub says: String,
}

/// A service of a policy.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    name: &'a str,
    program: &'a str,
    index: usize,
}

impl<'a> Service<'a> {
    /// Its name in the policy.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The crate of its program.
    #[must_use]
    pub fn program(&self) -> &'a str {
        self.program
    }

    /// The virtual address at which its program must be linked.
    #[must_use]
    pub fn image_base(&self) -> u64 {
        plan::image_base(self.index)
    }
}

impl Sound {
    /// The services, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = Service<'_>> {
        self.policy.services.items.iter().enumerate().map(|(index, item)| Service {
            name: &item.name.value,
            program: &item.body.program.value,
            index,
        })
    }

    /// SHA-256 of the canonical form.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The canonical form: the same for every file that says the same, whatever its comments, order and spacing.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The name of the file that it was read from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Whether every assertion holds.
    ///
    /// # Errors
    /// The report names each that does not, and the rules that break it.
    pub fn proved(&self) -> Result<(), Report> {
        let mut log = Log::default();
        prove::check(self, &mut log);
        if log.is_empty() { Ok(()) } else { Err(Report::refused(&self.file, &self.text, log)) }
    }

    fn search(&self) -> authority::search::Search<'_> {
        authority::search::Search { policy: &self.policy, index: &self.index }
    }

    fn step(&self, rule: authority::Rule) -> Step {
        let (name, says) = authority::names::rule(&self.policy, rule);
        let span = authority::index::span(&self.policy, rule);
        Step { rule: name, line: span.map_or(0, |span| self.lines.line(span.start)), says }
    }
}

impl Checked {
    /// The capability tables of an image that has no programs yet: as they are in the image, but without segments, and
    /// with image data at address 0. For a kernel that runs on the host. `None` if they would be too large, which
    /// [`parse`] excludes.
    #[must_use]
    pub fn tables(&self) -> Option<Vec<u8>> {
        emit::emit(&self.plan, &emit::Placement::default(), self.hash, &self.canonical)
    }

    /// The regions whose bytes the compiler makes, such as the rules that a service enforces: name and bytes.
    pub fn data(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.plan.data.iter().filter_map(|(index, bytes)| {
            let region = self.plan.regions.get(*index)?;
            Some((region.name.as_str(), bytes.as_slice()))
        })
    }

    /// The Rust source with which the program of `service` is compiled; `None` if there is no such service.
    #[must_use]
    pub fn bindings(&self, service: &str) -> Option<String> {
        bindings::bindings(&self.policy, &self.plan, self.policy.services.index(service)?)
    }
}

/// Reads and checks the policy file at `path`.
///
/// # Errors
/// The file cannot be read, or the policy does not hold; the report says where and why.
pub fn load(path: &Path) -> Result<Checked, Report> {
    parse(&path.display().to_string(), &text_within(path, read::Size::Image)?)
}

/// Reads the policy file at `path` for analysis: see [`analyse_text`].
///
/// # Errors
/// The file cannot be read, or the policy is not sound; the report says where and why.
pub fn analyse(path: &Path) -> Result<Sound, Report> {
    analyse_text(&path.display().to_string(), &text_of(path)?)
}

/// The text of a policy file, if it is one that could be a policy's.
///
/// # Errors
/// It cannot be read, is too large, or is no text.
pub fn text_of(path: &Path) -> Result<String, Report> {
    text_within(path, read::Size::Analysis)
}

fn text_within(path: &Path, size: read::Size) -> Result<String, Report> {
    let name = path.display().to_string();
    let unusable = |problem: String| Report::unusable(&name, "", Diagnostic::of_file(problem));
    let file = std::fs::File::open(path).map_err(|error| unusable(format!("cannot open the file: {error}")))?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its size.
    file.take(size.bytes() as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(format!("cannot read the file: {error}")))?;
    if bytes.len() > size.bytes() {
        return Err(unusable(size.exceeded()));
    }
    String::from_utf8(bytes).map_err(|error| {
        unusable(format!("the file is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    })
}

/// Reads and checks the policy `text`; `name` stands for the file in the report.
///
/// # Errors
/// The policy does not hold; the report says where and why.
pub fn parse(name: &str, text: &str) -> Result<Checked, Report> {
    let mut log = Log::default();
    let policy = read::read(name, text, read::Size::Image, &mut log)?;
    check::check(&policy, &mut log);
    check::limits(&policy, &mut log);
    if !log.is_empty() {
        return Err(Report::refused(name, text, log));
    }
    let sound = sound(name, text, policy);
    sound.proved()?;
    let refused = |problem: String| {
        let mut log = Log::default();
        log.push(Diagnostic::of_file(problem));
        Report::refused(name, text, log)
    };
    let plan = plan::plan(&sound.policy, &sound.lines)
        .ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    // The kernel's own check, on the tables as they are before the programs are known.
    let tables = emit::emit(&plan, &emit::Placement::default(), sound.hash, &sound.canonical)
        .ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    Tables::parse(&tables).map_err(|error| refused(format!("the kernel would refuse the policy: {error}")))?;
    Ok(Checked { sound, plan })
}

/// Reads the policy `text` for analysis: it must be sound, but may be larger than an image has room for, and its
/// assertions may fail.
///
/// # Errors
/// The policy is not sound; the report says where and why.
pub fn analyse_text(name: &str, text: &str) -> Result<Sound, Report> {
    let mut log = Log::default();
    let policy = read::read(name, text, read::Size::Analysis, &mut log)?;
    check::check(&policy, &mut log);
    if !log.is_empty() {
        return Err(Report::refused(name, text, log));
    }
    Ok(sound(name, text, policy))
}

fn sound(name: &str, text: &str, policy: model::Policy) -> Sound {
    let canonical = canonical::render(&policy);
    let hash: [u8; 32] = Sha256::digest(canonical.as_bytes()).into();
    let index = authority::Index::new(&policy);
    let lines = diagnostic::Lines::new(text);
    Sound { file: printable(name).into_owned(), text: text.to_owned(), policy, index, lines, canonical, hash }
}
