//! Verifying an image: from the ELF file alone, are its form, its tables, its rules and the bounds of its programs those
//! of the policy that it carries? Not whether its code is the code that was reviewed: the verdict says so.
//!
//! The file has one form (`canonical`), so that Xen reads what was read here.
//!
//! The tables are read as the kernel reads them, by `Tables::parse`. What they must say is derived from the embedded
//! policy text by a second path (`text`, `derive`), and compared fact by fact in both directions.

mod attached;
mod canonical;
mod code;
mod derive;
mod facts;
mod image;
mod layout;
pub(crate) mod limits;
mod render;
mod symbols;
mod text;

use std::fmt;

use cloister_caps::tables::{TableError, Tables};
use sha2::{Digest, Sha256};

use crate::printable::printable;
use image::Image;
use limits::{MAX_ERRORS, MAX_POLICY};

pub use attached::{Component, Inventory, UnsafeUse};
pub(crate) use attached::{SBOM, SEAL, UNSAFE, deflated, sealed};

/// The largest image that is read.
pub const MAX_IMAGE: u64 = 256 << 20;

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
    /// What it is about: `elf`, `tables`, `policy`, `layout`, `data`, `code`, `attached`, `seal`, `symbols` or `verify`.
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
    fn error(about: &'static str, message: impl AsRef<str>) -> Self {
        Finding { severity: Severity::Error, about, message: printable(message.as_ref()).into_owned() }
    }

    fn notice(about: &'static str, message: impl AsRef<str>) -> Self {
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
    /// Whether the compiled code has it; otherwise it appears only when executed from the middle of another instruction.
    pub compiled: bool,
    /// Whether it is an error.
    pub refused: bool,
}

/// Instructions that appear only when executed from the middle of another, and are of no use to a service.
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
    /// SHA-256 of its segments, each with its address, flags and sizes: equal in two images if the program is.
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
    /// Instructions that a service does not need: those that are refused, and the first of the others.
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

    /// For reading.
    #[must_use]
    pub fn text(&self) -> String {
        render::text(self)
    }

    /// For programs; `docs/verify.md` describes it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        render::json(self)
    }
}

/// Verifies an image.
///
/// What is wrong with the form of the file, of the tables or of the layout ends the work: what is behind it was not
/// looked at, and the verdict says so.
///
/// # Errors
/// The file is no image, or not one that this verifier knows.
pub fn verify(file: &[u8], against: &Against<'_>) -> Result<Verdict, Unusable> {
    let mut verdict = Verdict::empty();
    let image = Image::read(file, &mut verdict.findings)?;
    image.check(&mut verdict.findings);
    if verdict.holds() {
        canonical::check(&image, &mut verdict.findings);
    }
    let complete = verdict.holds() && {
        attached::check(&image, &mut verdict);
        verdict.tables(&image, against)?
    };
    if complete {
        verdict.judge_hits(against)?;
    } else {
        verdict.image_hash = Sha256::digest(file).into();
        verdict.findings.push(Finding::notice("verify", "the rest of the image was not looked at"));
    }
    verdict.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(verdict)
}

impl Verdict {
    fn empty() -> Self {
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

    fn error(&mut self, about: &'static str, message: impl AsRef<str>) {
        self.findings.push(Finding::error(about, message));
    }

    fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.is_error()).count()
    }

    /// Checks the tables, and what they describe. Returns `false` if something is so wrong that the rest was not
    /// looked at.
    fn tables(&mut self, image: &Image<'_>, against: &Against<'_>) -> Result<bool, Unusable> {
        let bytes = image.tables().map(|load| load.bytes).unwrap_or_default();
        let tables = match Tables::parse(bytes) {
            Ok(tables) => tables,
            Err(error @ (TableError::Version(_) | TableError::NotTables)) => return Err(Unusable::OtherVersion(error)),
            Err(error) => {
                self.error("tables", format!("the kernel would refuse them: {error}"));
                return Ok(false);
            }
        };
        let before = self.errors();
        self.policy_hash = tables.policy_hash();
        let length = layout::blob(bytes, &tables, &mut self.findings);
        image.check_pointer(length, &mut self.findings);
        if self.errors() > before {
            return Ok(false);
        }
        let programs = layout::programs(image, &tables, self);
        // A text that is not the one that was hashed proves nothing.
        if self.errors() > before || !self.check_policy(tables.policy_text()) {
            return Ok(false);
        }
        for program in programs {
            program.check(self);
        }
        let services: Vec<&str> = tables.services().iter().map(|service| tables.name(service.name)).collect();
        for (service, _) in against.symbols.iter().filter(|(service, _)| !services.contains(&service.as_str())) {
            self.error("symbols", format!("symbols are given for `{service}`, which is no service"));
        }
        self.check_facts(image, &tables, against);
        Ok(true)
    }

    /// Checks the embedded policy by itself. Returns `false` if nothing can be compared with it.
    fn check_policy(&mut self, text: &str) -> bool {
        if text.len() as u64 > MAX_POLICY {
            self.error("policy", format!("the embedded text has more than {MAX_POLICY} bytes"));
            return false;
        }
        text.clone_into(&mut self.policy);
        let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        if hash != self.policy_hash {
            self.error(
                "policy",
                format!("the text's hash is {}, the tables say {}", render::hex(&hash), render::hex(&self.policy_hash)),
            );
            return false;
        }
        // Beside the second path: the compiler's own checks, assertions among them.
        match crate::parse("embedded policy", text) {
            Ok(checked) if checked.canonical() != text => {
                self.error("policy", "the embedded text is not in canonical form");
            }
            Ok(_) => {}
            Err(report) => {
                self.findings.extend(report.findings().take(MAX_ERRORS).map(|finding| {
                    // For an assertion, the rules that break it, which is the path.
                    let rules = finding.related.iter().map(|rule| format!("; line {}: {}", rule.line, rule.says));
                    let path: String = rules.collect();
                    Finding::error("policy", format!("the embedded policy does not hold: {}{path}", finding.message))
                }));
                return false;
            }
        }
        true
    }

    /// The second path.
    fn check_facts(&mut self, image: &Image<'_>, tables: &Tables<'_>, against: &Against<'_>) {
        let read = text::read(&self.policy);
        let embedded = match read.as_ref().map_err(Clone::clone).and_then(|text| derive::derive(text, false)) {
            Ok(derived) => derived,
            Err(reason) => {
                self.findings.push(Finding::error("policy", format!("the embedded policy makes no image: {reason}")));
                return;
            }
        };
        for (service, elf) in against.symbols {
            symbols::check(image, tables, service, elf, &mut self.findings);
        }
        let programs = read.into_iter().flat_map(|text| text.services.into_values());
        let programs: Vec<String> = programs.map(|service| service.value.program).collect();
        self.findings.extend(self.inventory.contradictions(&programs));
        let found = facts::of_tables(tables, false);
        self.facts = found.len();
        found.compare(&embedded.facts, &mut self.findings);
        layout::data(image, tables, &embedded.data, &mut self.findings);
        if let Some(policy) = against.policy {
            self.check_against(tables, policy);
        }
    }

    /// Compares with a policy file, the lines of whose entries the tables carry too.
    fn check_against(&mut self, tables: &Tables<'_>, policy: &str) {
        match crate::parse("policy", policy) {
            Ok(checked) if checked.canonical() != self.policy => {
                self.findings.push(Finding::error(
                    "policy",
                    format!(
                        "the image carries another policy: the given file's hash is {}",
                        render::hex(&checked.hash())
                    ),
                ));
            }
            Ok(_) => {}
            Err(_) => self.findings.push(Finding::error("policy", "the given policy does not hold")),
        }
        match text::read(policy).and_then(|text| derive::derive(&text, true)) {
            Ok(derived) => {
                let mut more = Vec::new();
                facts::of_tables(tables, true).compare(&derived.facts, &mut more);
                more.retain(|finding| !self.findings.contains(finding));
                self.findings.append(&mut more);
            }
            Err(reason) => {
                self.findings.push(Finding::error("policy", format!("the given policy makes no image: {reason}")));
            }
        }
    }

    /// Turns hits into findings.
    fn judge_hits(&mut self, against: &Against<'_>) -> Result<(), Unusable> {
        let written = |hit: &Hit| format!("{}@{:#x}={}", hit.service, hit.address, hit.mnemonic);
        for accepted in against.accept {
            let found = self.hits.iter_mut().find(|hit| written(hit) == *accepted);
            let hit = found.ok_or_else(|| Unusable::NothingAccepted(accepted.clone()))?;
            hit.refused = false;
            self.findings.push(Finding::notice("code", format!("accepted: {accepted}")));
        }
        for hit in self.hits.iter().filter(|hit| hit.refused) {
            let how = if hit.compiled {
                "the compiled code has".to_owned()
            } else {
                "a jump into the middle of an instruction would execute".to_owned()
            };
            let message = format!("{}: {how} `{}` at {:#x}", hit.service, hit.mnemonic, hit.address);
            self.findings.push(Finding::error("code", message));
        }
        self.findings.extend(render::unaligned(&self.unaligned));
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../tests/common/mod.rs"]
mod common;
#[cfg(test)]
mod form_tests;
#[cfg(test)]
mod tests;
