//! What is found of an image.

use std::fmt;

use cloister_caps::tables::TableError;

use crate::printable::printable;

/// Why a file cannot be verified at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// Nothing is in it.
    #[error("the file is empty")]
    Empty,
    /// It is no 64-bit little-endian ELF file, or its headers are cut off.
    #[error("not an ELF file that can be read: {0}")]
    NotElf(String),
    /// A segment's bytes are not in the file, or wrap round the address space.
    #[error("the segment at {0:#x} does not fit the file: it is cut short or damaged")]
    Truncated(u64),
    /// It is an ELF file of something else.
    #[error("not a Cloister image: it {0}")]
    OtherProgram(String),
    /// Its tables are of another version.
    #[error("an image with {0}; use the verifier of its release")]
    OtherVersion(TableError),
    /// An `--accept` names nothing that was found.
    #[error("nothing was found at {0}, which was to be accepted")]
    NothingAccepted(String),
}

/// How serious a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Notice,
    /// The image is not what it must be.
    Error,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What it is about: `elf`, `tables`, `policy`, `layout`, `data`, `code`, `attached`, `seal`,
    /// `symbols` or `verify`.
    pub about: &'static str,
    /// What it is.
    pub message: String,
}

impl Finding {
    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    // A message may quote what is in the file.
    pub(super) fn error(about: &'static str, message: impl AsRef<str>) -> Self {
        Finding { severity: Severity::Error, about, message: printable(message.as_ref()).into_owned() }
    }

    pub(super) fn notice(about: &'static str, message: impl AsRef<str>) -> Self {
        Finding { severity: Severity::Notice, about, message: printable(message.as_ref()).into_owned() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Notice => "notice",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: {}", self.about, self.message)
    }
}

/// An instruction in a service's text that a service does not need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The service.
    pub service: String,
    /// Where it starts.
    pub address: u64,
    /// Its mnemonic.
    pub mnemonic: String,
    /// Whether the compiled code has it; otherwise it appears only when executed from the middle of
    /// another instruction.
    pub compiled: bool,
    /// Whether it is an error.
    pub refused: bool,
}

/// Instructions that appear only when executed from the middle of another, and are of no use to a
/// service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unaligned {
    /// The service.
    pub service: String,
    /// Their mnemonic.
    pub mnemonic: String,
    /// Their number.
    pub count: u64,
    /// The address of the first.
    pub first: u64,
}

/// A program in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The service, or `kernel`.
    pub name: String,
    /// SHA-256 of its segments, each with its address, flags and sizes: equal in two images if the
    /// program is.
    pub hash: [u8; 32],
    /// Bytes that it takes in the image.
    pub bytes: u64,
    /// Bytes of these that are executable.
    pub text: u64,
}

/// What an image is verified against, beside itself.
#[derive(Default)]
pub struct Against<'a> {
    /// The policy file that it must be built from: its text.
    pub policy: Option<&'a str>,
    /// Instructions that are accepted, each as `SERVICE@ADDRESS=MNEMONIC`.
    pub accept: &'a [String],
    /// The programs' own ELF files, with symbols, by the names of their services.
    pub symbols: &'a [(String, Vec<u8>)],
}

/// What became of verifying an image.
pub struct Verdict {
    /// Errors first.
    pub findings: Vec<Finding>,
    /// Instructions that a service does not need: those that are refused, and the first of the
    /// others.
    pub hits: Vec<Hit>,
    /// How many instructions of no use there are in the middle of others, by service and mnemonic.
    pub unaligned: Vec<Unaligned>,
    /// The kernel, then the services.
    pub parts: Vec<Part>,
    /// The hash that the tables carry, and the kernel prints.
    pub policy_hash: [u8; 32],
    /// SHA-256 of the whole file.
    pub image_hash: [u8; 32],
    /// How many facts of the tables were compared with the policy.
    pub facts: usize,
    /// The inventories that the image carries.
    pub inventory: Inventory,
    /// The embedded policy.
    pub policy: String,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.findings.iter().any(Finding::is_error)
    }

    pub(super) fn empty() -> Self {
        Verdict {
            findings: Vec::new(),
            hits: Vec::new(),
            unaligned: Vec::new(),
            parts: Vec::new(),
            policy_hash: [0; 32],
            image_hash: [0; 32],
            facts: 0,
            inventory: Inventory::default(),
            policy: String::new(),
        }
    }

    pub(super) fn error(&mut self, about: &'static str, message: impl AsRef<str>) {
        self.findings.push(Finding::error(about, message));
    }

    /// Returns the number of errors.
    pub(super) fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_error()).count()
    }
}

/// What an image carries about its own making.
#[derive(Default)]
pub struct Inventory {
    /// The bill of materials, as it is in the image.
    pub sbom: Option<String>,
    /// The components that it lists.
    pub components: Vec<Component>,
    /// `unsafe` in each crate of the image, if the image has the inventory.
    pub unsafe_uses: Option<Vec<UnsafeUse>>,
}

/// A component of the bill of materials: a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The crate.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `unsafe` in the sources of a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeUse {
    /// The crate.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether the crate forbids it.
    pub forbids: bool,
    /// Blocks, functions, traits and implementations, each counted where the word stands.
    pub counts: [u64; 4],
}

/// The names of [`UnsafeUse::counts`].
pub(crate) const COUNTS: [&str; 4] = ["blocks", "functions", "traits", "implementations"];
