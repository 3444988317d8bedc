//! The sound policy, on which every analysis works.

use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::address_space::image_base;
use crate::authority::closure::rights;
use crate::authority::reach::Authority;
use crate::authority::{Index, Right, Rule, index, names};
use crate::canonical;
use crate::check;
use crate::diagnostic::{Diagnostic, Lines, Log, Report};
use crate::model::Policy;
use crate::printable::printable;
use crate::read;
use crate::read::text::{Size, text_of};

/// A policy that is sound, and can be analysed.
///
/// # Holding one proves
/// Every name in the policy is defined, every value is in range, and its entries are consistent. It
/// does not prove that an image has room for the policy or that its assertions hold.
pub struct Sound {
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) policy: Policy,
    pub(crate) index: Index,
    pub(crate) lines: Lines,
    pub(crate) canonical: String,
    pub(crate) hash: [u8; 32],
    pub(crate) authority: OnceLock<Authority>,
    pub(crate) closure: OnceLock<Vec<Right>>,
}

/// A rule in the chain of rules that gives a right.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Step {
    /// The rule's key in the policy.
    pub rule: String,
    /// The rule's line, from 1.
    pub line: usize,
    /// The rule as a sentence.
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
    /// Returns the service's name in the policy.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Returns the crate of its program.
    #[must_use]
    pub fn program(&self) -> &'a str {
        self.program
    }

    /// Returns the virtual address at which its program must be linked.
    #[must_use]
    pub fn image_base(&self) -> u64 {
        image_base(self.index)
    }
}

impl Sound {
    /// Returns the services, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = Service<'_>> {
        self.policy.services.items.iter().enumerate().map(|(index, item)| Service {
            name: &item.name.value,
            program: &item.body.program.value,
            index,
        })
    }

    /// Returns the policy hash: SHA-256 of the canonical form.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Returns the canonical form: the same for every file that differs only in comments, order and
    /// spacing.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// Returns the name of the file that it was read from.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the authority of the policy, which is computed once.
    pub(crate) fn authority(&self) -> &Authority {
        self.authority.get_or_init(|| Authority::new(&self.policy, &self.index))
    }

    /// Returns every right of every subject without takeovers, which are listed once.
    pub(crate) fn closure(&self) -> &[Right] {
        self.closure.get_or_init(|| rights(self.authority()))
    }

    pub(crate) fn step(&self, rule: Rule) -> Step {
        let (name, says) = names::rule(&self.policy, rule);
        let span = index::span(&self.policy, rule);
        Step { rule: name, line: span.map_or(0, |span| self.lines.line(span.start)), says }
    }
}

/// Reads the policy file at `path` for analysis: see [`analyse_text`].
///
/// # Errors
/// The file cannot be read, or the policy is not sound; the report says where and why.
pub fn analyse(path: &Path) -> Result<Sound, Report> {
    analyse_text(&path.display().to_string(), &text_of(path)?)
}

/// Reads the policy `text` for analysis.
///
/// It must be sound, but may be larger than an image has room for, and its assertions may fail.
///
/// # Errors
/// The policy is not sound; the report says where and why.
pub fn analyse_text(name: &str, text: &str) -> Result<Sound, Report> {
    let mut log = Log::default();
    let policy = read::read(name, text, Size::Analysis, &mut log)?;
    check::check(&policy, &mut log);
    if !log.is_empty() {
        return Err(Report::refused(name, text, log));
    }
    sound(name, text, policy)
}

/// The largest number of rules times the number of subjects: everybody may be able to do
/// everything, and each right is listed with its rules.
const MAX_RIGHTS: usize = 500_000;

/// Returns the reason if the closure of a policy would be too large. An image has room for a
/// hundredth of that.
fn too_large(policy: &Policy) -> Option<Diagnostic> {
    let mapped: usize = policy.regions.items.iter().map(|region| region.body.map.len()).sum();
    let paths: usize = policy.xenstore.items.iter().map(|client| client.body.len()).sum();
    let links = policy.queues.items.len() + policy.ports.items.len() + policy.grants.items.len();
    let subjects = policy.services.items.len() + policy.domains.items.len() + 2;
    let rules = mapped + paths + links + policy.services.items.len();
    let most = MAX_RIGHTS / subjects;
    (rules > most).then(|| {
        Diagnostic::of_file(format!(
            "the policy has {rules} rules and {subjects} subjects, which are too many to analyse"
        ))
        .help(format!("with {subjects} subjects, it can have {most} rules"))
    })
}

pub(crate) fn sound(name: &str, text: &str, policy: Policy) -> Result<Sound, Report> {
    if let Some(mistake) = too_large(&policy) {
        let mut log = Log::default();
        log.push(mistake);
        return Err(Report::refused(name, text, log));
    }
    let canonical = canonical::render(&policy);
    let hash: [u8; 32] = Sha256::digest(canonical.as_bytes()).into();
    let Some(index) = Index::new(&policy) else {
        let mut log = Log::default();
        log.push(Diagnostic::of_file("the policy names an entry that is not defined"));
        return Err(Report::refused(name, text, log));
    };
    let lines = Lines::new(text);
    Ok(Sound {
        file: printable(name).into_owned(),
        text: text.to_owned(),
        policy,
        index,
        lines,
        canonical,
        hash,
        authority: OnceLock::new(),
        closure: OnceLock::new(),
    })
}
