//! Verifies an image from the ELF file alone: its form, its tables, its rules and the bounds of its
//! programs must be those of the policy that it carries.
//!
//! It does not check that the code is the reviewed code, and the verdict says so.
//!
//! The file has one form (`canonical`), so that Xen reads the same as the verifier. The tables are
//! read as the kernel reads them, by `Tables::parse`. A second path (`text`, `derive`) derives the
//! expected facts from the embedded policy text, and compares them with the tables in both
//! directions.

mod attached;
mod canonical;
mod code;
mod configuration;
mod derive;
mod export;
mod facts;
mod hashes;
mod image;
mod layout;
mod lock;
mod render;
mod symbols;
mod text;
mod verdict;

use cloister_caps::tables::{TableError, Tables};
use sha2::{Digest, Sha256};

use crate::checked::parse;
use crate::guest_config;
use crate::image_limits::{MAX_ERRORS, MAX_POLICY};
use crate::printable::hexadecimal;
use crate::release::hash_of;
use image::Image;

pub(crate) use export::table_facts;

pub use crate::image_limits::{MAX_IMAGE, MAX_LOCK};
pub use crate::release::{Hashes, KERNEL};
pub use hashes::hashes;
pub use verdict::{
    Against, Component, Finding, Hit, Inventory, ProgramSummary, Severity, Shown, Unaligned, UnsafeUse, Unusable,
    Verdict,
};

/// Verifies an image.
///
/// A mistake in the form of the file, of the tables or of the layout ends the work. The rest is not
/// checked then, and the verdict says so.
///
/// # Errors
/// The file is not an image, or not one that this verifier knows.
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
        verdict.compare(&image, against);
    } else {
        verdict.image_hash = Sha256::digest(file).into();
        verdict.findings.push(Finding::notice("verify", "the rest of the image was not checked"));
    }
    verdict.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Ok(verdict)
}

impl Verdict {
    /// Checks the tables, and the things that they describe. Returns `false` if a mistake left the
    /// rest unchecked.
    fn tables(&mut self, image: &Image<'_>, against: &Against<'_>) -> Result<bool, Unusable> {
        let bytes = image.tables().map(|load| &*load.bytes).unwrap_or_default();
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
        self.tables_hash = Sha256::digest(tables.bytes()).into();
        let length = layout::blob(bytes, &tables, &mut self.findings);
        image.check_pointer(length, &mut self.findings);
        if self.errors() > before {
            return Ok(false);
        }
        let programs = layout::programs(image, &tables, self);
        // A text with another hash than the tables' proves nothing.
        if self.errors() > before || !self.check_policy(tables.policy_text()) {
            return Ok(false);
        }
        for program in programs {
            program.check(self);
        }
        let services: Vec<&str> = tables.services().iter().map(|service| tables.name(service.name)).collect();
        for (service, _) in against.symbols.iter().filter(|(service, _)| !services.contains(&service.as_str())) {
            self.error("symbols", format!("symbols are given for `{service}`, which is not a service"));
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
                format!("the text's hash is {}, the tables say {}", hexadecimal(&hash), hexadecimal(&self.policy_hash)),
            );
            return false;
        }
        // In addition to the second path: the compiler's own checks, including the assertions.
        match parse("embedded policy", text) {
            Ok(checked) if checked.canonical() != text => {
                self.error("policy", "the embedded text is not in canonical form");
            }
            Ok(_) => {}
            Err(report) => {
                self.findings.extend(report.findings().take(MAX_ERRORS).map(|finding| {
                    // For an assertion, these are the rules that break it.
                    let rules = finding.related.iter().map(|rule| format!("; line {}: {}", rule.line, rule.says));
                    let path: String = rules.collect();
                    Finding::error("policy", format!("the embedded policy does not hold: {}{path}", finding.message))
                }));
                return false;
            }
        }
        true
    }

    /// Derives the facts by the second path, and compares them with the tables.
    fn check_facts(&mut self, image: &Image<'_>, tables: &Tables<'_>, against: &Against<'_>) {
        let read = text::read(&self.policy);
        let embedded = match read.as_ref().map_err(Clone::clone).and_then(|text| derive::derive(text, false)) {
            Ok(derived) => derived,
            Err(reason) => {
                self.findings
                    .push(Finding::error("policy", format!("no image can be made of the embedded policy: {reason}")));
                return;
            }
        };
        for (service, elf) in against.symbols {
            symbols::check(image, tables, service, elf, &mut self.findings);
        }
        let services = read.map(|text| text.services).unwrap_or_default();
        self.check_pins(&services);
        let programs: Vec<String> = services.into_values().map(|service| service.value.program).collect();
        self.findings.extend(self.inventory.contradictions(&programs));
        let found = facts::of_tables(tables, false);
        self.facts = found.len();
        found.compare(&embedded.facts, &mut self.findings);
        layout::data(image, tables, &embedded.data, &mut self.findings);
        if let Some(policy) = against.policy {
            self.check_against(tables, policy);
        }
    }

    /// Compares the programs with the hashes that the policy pins them to.
    fn check_pins(&mut self, services: &text::Entries<text::Service>) {
        let hashes = self.hashes();
        for (name, service) in services {
            let Some(wanted) = &service.value.program_hash else { continue };
            let found = hashes.program(name).map(|hash| hexadecimal(hash)).unwrap_or_default();
            if found == *wanted {
                self.shown.pinned.push(name.clone());
            } else {
                self.error("pin", format!("the policy pins the program of {name} to {wanted}; the image has {found}"));
            }
        }
    }

    /// Compares the tables with a policy file, including the lines of its entries.
    fn check_against(&mut self, tables: &Tables<'_>, policy: &str) {
        match parse("policy", policy) {
            Ok(checked) if checked.canonical() != self.policy => {
                self.findings.push(Finding::error(
                    "policy",
                    format!(
                        "the image carries another policy: the given file's hash is {}",
                        hexadecimal(&checked.hash())
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
                self.findings
                    .push(Finding::error("policy", format!("no image can be made of the given policy: {reason}")));
            }
        }
    }

    /// Compares the image with what else was given, and notes what that shows.
    fn compare(&mut self, image: &Image<'_>, against: &Against<'_>) {
        if let Some(release) = against.release {
            let found = release.compare(&self.hashes());
            self.shown.release = found.is_empty();
            self.findings.extend(found);
        }
        if let Some(text) = against.lock {
            let mut found = lock::compare(text, &self.inventory);
            found.extend(against.release.and_then(|release| release.compare_lock(&hash_of(text.as_bytes()))));
            self.shown.lock = found.is_empty();
            self.findings.extend(found);
        }
        if let (Some(release), Some(text)) = (against.release, against.policy) {
            self.findings.extend(release.compare_policy_file(&hash_of(text.as_bytes())));
        }
        if let Some(text) = against.configuration {
            let mut found = guest_config::check(text, &configuration::needs(image, &self.policy));
            self.shown.configuration = !found.iter().any(Finding::is_error);
            found.extend(against.release.and_then(|release| release.compare_configuration(&hash_of(text.as_bytes()))));
            self.findings.extend(found);
        }
    }

    /// Turns refused hits into findings.
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
