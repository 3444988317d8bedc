//! The verdict on an image, and its parts.

use std::fmt;

use cloister_caps::tables::TableError;

use crate::printable::printable;
use crate::release::Release;

/// The reason why a file cannot be verified.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The file is empty.
    #[error("the file is empty")]
    Empty,
    /// It is not a 64-bit little-endian ELF file, or its headers are cut off.
    #[error("not an ELF file that can be read: {0}")]
    NotElf(String),
    /// A segment's bytes are not in the file, or wrap round the address space.
    #[error("the segment at {0:#x} does not fit the file: it is cut short or damaged")]
    Truncated(u64),
    /// It is an ELF file of another kind.
    #[error("not a Cloister image: it {0}")]
    OtherProgram(String),
    /// Its tables are of another version.
    #[error("an image with {0}; use the verifier of its release")]
    OtherVersion(TableError),
    /// An `--accept` matches nothing that was found.
    #[error("nothing was found at {0}, which `--accept` names")]
    NothingAccepted(String),
}

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Worth knowing, but not wrong.
    Notice,
    /// The image is wrong.
    Error,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its severity.
    pub severity: Severity,
    /// The part of the image that it is about: `elf`, `tables`, `policy`, `layout`, `data`, `code`,
    /// `attached`, `seal`, `symbols`, `pin`, `release`, `lock`, `configuration`, `signature` or
    /// `verify`.
    pub about: &'static str,
    /// The message.
    pub message: String,
}

impl Finding {
    /// Returns `true` if it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Makes an error. The message may quote a file.
    #[must_use]
    pub fn error(about: &'static str, message: impl AsRef<str>) -> Self {
        Finding { severity: Severity::Error, about, message: printable(message.as_ref()).into_owned() }
    }

    /// Makes a notice. The message may quote a file.
    #[must_use]
    pub fn notice(about: &'static str, message: impl AsRef<str>) -> Self {
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

/// An instruction in a service's text that no service needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The service.
    pub service: String,
    /// Its address.
    pub address: u64,
    /// Its mnemonic.
    pub mnemonic: String,
    /// `true` if the compiled code has it; otherwise it appears only when executed from the middle
    /// of another instruction.
    pub compiled: bool,
    /// `true` if it is an error.
    pub refused: bool,
}

/// Instructions that appear only when executed from the middle of another, and are useless to a
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
pub struct ProgramSummary {
    /// The service, or `kernel`.
    pub name: String,
    /// SHA-256 of its segments, each with its address, flags and sizes: equal in two images if the
    /// program is.
    pub hash: [u8; 32],
    /// Its size in the image, in bytes.
    pub bytes: u64,
    /// The size of its executable part, in bytes.
    pub text: u64,
}

/// What an image is verified against, besides its own policy.
#[derive(Default)]
pub struct Against<'a> {
    /// The policy file that it must be built from: its text.
    pub policy: Option<&'a str>,
    /// Instructions that are accepted, each as `SERVICE@ADDRESS=MNEMONIC`.
    pub accept: &'a [String],
    /// The programs' own ELF files, with symbols, by the names of their services.
    pub symbols: &'a [(String, Vec<u8>)],
    /// The manifest of the release that it must be.
    pub release: Option<&'a Release>,
    /// The lock file whose crates it must be made of: its text.
    pub lock: Option<&'a str>,
    /// The `xl` configuration of the guest that it is for: its text.
    pub configuration: Option<&'a str>,
}

/// What a verdict without errors shows besides what follows from the image alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The programs that the policy pins by hash.
    pub pinned: Vec<String>,
    /// Each part is that of a manifest.
    pub release: bool,
    /// The manifest is signed with a trusted key.
    pub signed: bool,
    /// The inventories list crates of a lock file.
    pub lock: bool,
    /// cargo-deny refuses no crate of the lock file.
    pub judged: bool,
    /// The guest's configuration fits the image.
    pub configuration: bool,
}

/// The result of verifying an image.
pub struct Verdict {
    /// Errors first.
    pub findings: Vec<Finding>,
    /// Instructions that no service needs: those that are refused, and the first of the others.
    pub hits: Vec<Hit>,
    /// Numbers of useless instructions in the middle of others, by service and mnemonic.
    pub unaligned: Vec<Unaligned>,
    /// The kernel, then the services.
    pub programs: Vec<ProgramSummary>,
    /// The policy hash, which the tables carry and the kernel prints.
    pub policy_hash: [u8; 32],
    /// SHA-256 of the tables, which the kernel computes and prints.
    pub tables_hash: [u8; 32],
    /// SHA-256 of the whole file.
    pub image_hash: [u8; 32],
    /// The number of facts of the tables that were compared with the policy.
    pub facts: usize,
    /// The inventories that the image carries.
    pub inventory: Inventory,
    /// The embedded policy.
    pub policy: String,
    /// What else was compared.
    pub shown: Shown,
}

impl Verdict {
    /// Returns `true` if there are no errors.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.findings.iter().any(Finding::is_error)
    }

    pub(super) fn empty() -> Self {
        Verdict {
            findings: Vec::new(),
            hits: Vec::new(),
            unaligned: Vec::new(),
            programs: Vec::new(),
            policy_hash: [0; 32],
            tables_hash: [0; 32],
            image_hash: [0; 32],
            facts: 0,
            inventory: Inventory::default(),
            policy: String::new(),
            shown: Shown::default(),
        }
    }

    /// Adds an error.
    pub fn error(&mut self, about: &'static str, message: impl AsRef<str>) {
        self.findings.push(Finding::error(about, message));
    }

    /// Returns the number of errors.
    pub(super) fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_error()).count()
    }
}

/// The inventories that an image carries.
#[derive(Default)]
pub struct Inventory {
    /// The bill of materials, as it is in the image.
    pub sbom: Option<String>,
    /// The components that it lists.
    pub components: Vec<Component>,
    /// `unsafe` in each crate of the image, if the image has the inventory.
    pub unsafe_uses: Option<Vec<UnsafeUse>>,
    /// SHA-256 of that inventory's JSON.
    pub unsafe_hash: Option<[u8; 32]>,
}

/// A component of the bill of materials: a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The crate.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its package, if it comes from a registry.
    pub checksum: Option<String>,
}

/// `unsafe` in the sources of a crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsafeUse {
    /// The crate.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `true` if the crate forbids it.
    pub forbids: bool,
    /// Blocks, functions, traits and implementations, each counted where the word stands.
    pub counts: [u64; 4],
}

/// The names of [`UnsafeUse::counts`].
pub(crate) const COUNTS: [&str; 4] = ["blocks", "functions", "traits", "implementations"];
