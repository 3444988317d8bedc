//! The policy compiler: one TOML file is the whole authority of an image. This crate reads and checks the file,
//! makes from it the capability tables that the kernel enforces and the bindings that each program is
//! compiled with, and packs kernel, programs and tables into one bootable ELF file.
#![forbid(unsafe_code)]

mod bindings;
mod canonical;
mod check;
mod diagnostic;
mod emit;
mod model;
mod pack;
mod plan;
mod read;

use std::io::Read;
use std::path::Path;

use cloister_caps::tables::Tables;
use sha2::{Digest, Sha256};

pub use diagnostic::{Finding, Report};
pub use pack::{PackError, Program, pack};

use diagnostic::{Diagnostic, Log};

/// A policy that holds: every name in it is defined, every value is in range, and every check passed.
pub struct Checked {
    policy: model::Policy,
    plan: plan::Plan,
    canonical: String,
    hash: [u8; 32],
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

impl Checked {
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
    let name = path.display().to_string();
    let unusable = |problem: String| Report::unusable(&name, "", Diagnostic::of_file(problem));
    let file = std::fs::File::open(path).map_err(|error| unusable(format!("cannot open the file: {error}")))?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its size.
    file.take(read::MAX_FILE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(format!("cannot read the file: {error}")))?;
    if bytes.len() > read::MAX_FILE {
        return Err(unusable(format!("the file has more than {} bytes, which no policy has", read::MAX_FILE)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        unusable(format!("the file is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    })?;
    parse(&name, &text)
}

/// Reads and checks the policy `text`; `name` stands for the file in the report.
///
/// # Errors
/// The policy does not hold; the report says where and why.
pub fn parse(name: &str, text: &str) -> Result<Checked, Report> {
    let mut log = Log::default();
    let policy = read::read(name, text, &mut log)?;
    check::check(&policy, &mut log);
    if !log.is_empty() {
        return Err(Report::refused(name, text, log));
    }
    let canonical = canonical::render(&policy);
    let hash: [u8; 32] = Sha256::digest(canonical.as_bytes()).into();
    let refused = |problem: String| {
        let mut log = Log::default();
        log.push(Diagnostic::of_file(problem));
        Report::refused(name, text, log)
    };
    let plan =
        plan::plan(&policy, text).ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    // The kernel's own check, on the tables as they are before the programs are known.
    let tables = emit::emit(&plan, &emit::Placement::default(), hash, &canonical)
        .ok_or_else(|| refused("the policy does not fit the capability tables".into()))?;
    Tables::parse(&tables).map_err(|error| refused(format!("the kernel would refuse the policy: {error}")))?;
    Ok(Checked { policy, plan, canonical, hash })
}
