use std::path::PathBuf;

use cloister_policy::guest_config::MAX_CONFIGURATION;
use cloister_policy::release::hash_of;
use cloister_policy::sign::{self, SignError};
use cloister_policy::verify::{Against, MAX_IMAGE, MAX_LOCK, Verdict, verify};

use super::outcome::{Format, Outcome, Output, Status, json};
use super::sign::{beside, read_release};
use crate::{deny, file};

/// Verify from the ELF file alone that an image's form, tables, rules and bounds are those of the
/// policy that it carries; and with more files, that its code is that of a release
#[derive(clap::Args)]
pub struct Arguments {
    /// The image
    image: PathBuf,
    /// The policy file that it must be built from
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The manifest of the release that it must be, `release.toml`
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// The public key with which the manifest must be signed
    #[arg(long, value_name = "KEY", requires = "release")]
    key: Option<PathBuf>,
    /// The signature; by default `RELEASE.sig`
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,
    /// The `Cargo.lock` that must list its crates, with version and checksum
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Judge the crates of the lock file by the rules in a `deny.toml`: licences, bans, sources and
    /// advisories. Runs cargo-deny in the lock file's folder
    #[arg(long, value_name = "FILE", requires = "lock")]
    deny: Option<PathBuf>,
    /// The `xl` configuration of its guest: it must give the image what it needs, and no device of
    /// which the policy does not speak
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the image's bill of materials (CycloneDX, JSON) to a file
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,
    /// Accept an instruction that would be refused; it must be there
    #[arg(long, value_name = "SERVICE@ADDRESS=MNEMONIC")]
    accept: Vec<String>,
    /// A folder with the programs' own ELF files, `SERVICE.elf`: their symbols must reach only what
    /// the service holds
    #[arg(long, value_name = "DIR")]
    symbols: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        match self.verdict() {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::unusable(problem),
        }
    }

    fn verdict(&self) -> Result<Outcome, String> {
        let image = file::read(&self.image, MAX_IMAGE)?;
        let policy = self.policy.as_ref().map(|path| file::read_policy(path)).transpose()?;
        let release = self.release.as_ref().map(|path| read_release(path)).transpose()?;
        let lock = self.lock.as_ref().map(|path| file::read_text(path, MAX_LOCK)).transpose()?;
        let configuration = self.config.as_ref().map(|path| file::read_text(path, MAX_CONFIGURATION)).transpose()?;
        let unverifiable = |error| format!("{}: {error}", self.image.display());
        let mut against = Against {
            policy: policy.as_deref(),
            accept: &self.accept,
            symbols: &[],
            release: release.as_ref().map(|(_, release)| release),
            lock: lock.as_deref(),
            configuration: configuration.as_deref(),
        };
        let first = verify(&image, &against).map_err(unverifiable)?;
        let symbols = self.read_symbols(&first)?;
        against.symbols = &symbols;
        let verdict = if symbols.is_empty() { Ok(first) } else { verify(&image, &against) };
        let mut verdict = verdict.map_err(unverifiable)?;
        if let Some((text, _)) = &release {
            self.check_signature(text, &mut verdict)?;
        }
        self.judge_crates(&mut verdict)?;
        if let Some(path) = &self.sbom {
            let sbom = verdict.inventory.sbom.as_deref().ok_or("the image carries no bill of materials")?;
            std::fs::write(path, sbom).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let output = match self.output.format() {
            Format::Text => verdict.text(),
            Format::Json => json("verify", &verdict.json()),
        };
        let status = if verdict.holds() { Status::Holds } else { Status::Refused };
        Ok(Outcome { status, ..Outcome::holds(output) })
    }

    /// Reads the ELF file of each service of the image, if `--symbols` asks for it.
    fn read_symbols(&self, verdict: &Verdict) -> Result<Vec<(String, Vec<u8>)>, String> {
        let Some(folder) = &self.symbols else { return Ok(Vec::new()) };
        let services = verdict.programs.iter().skip(1);
        services
            .map(|part| Ok((part.name.clone(), file::read(&folder.join(format!("{}.elf", part.name)), MAX_IMAGE)?)))
            .collect()
    }

    /// Checks the signature of the manifest, if a key is given.
    fn check_signature(&self, release: &str, verdict: &mut Verdict) -> Result<(), String> {
        let (Some(key), Some(manifest)) = (&self.key, &self.release) else { return Ok(()) };
        let path = self.signature.clone().unwrap_or_else(|| beside(manifest));
        let (text, key_text) = (file::read_text(&path, sign::MAX_FILE)?, file::read_text(key, sign::MAX_FILE)?);
        match sign::check(&hash_of(release.as_bytes()), &text, &key_text) {
            Ok(()) => verdict.shown.signed = true,
            Err(error @ (SignError::Malformed { .. } | SignError::Version { .. } | SignError::Key)) => {
                return Err(error.to_string());
            }
            Err(error) => verdict.error("signature", error.to_string()),
        }
        Ok(())
    }

    /// Has cargo-deny judge the crates of the lock file, if rules are given.
    fn judge_crates(&self, verdict: &mut Verdict) -> Result<(), String> {
        let (Some(rules), Some(lock)) = (&self.deny, &self.lock) else { return Ok(()) };
        match deny::judge(lock, rules)? {
            None => verdict.shown.judged = true,
            Some(report) => report.lines().for_each(|line| verdict.error("deny", line)),
        }
        Ok(())
    }
}
