use std::path::PathBuf;

use cloister_policy::printable;
use cloister_policy::sign::{self, SignError, Subject};
use cloister_policy::verify::{Against, MAX_IMAGE, Verdict, verify};

use super::outcome::{Format, Outcome, Output, Status, json};
use super::sign::beside;
use crate::file;

/// Verify from the ELF file alone that an image's form, tables, rules and bounds are those of the
/// policy that it carries
#[derive(clap::Args)]
pub struct Arguments {
    /// The image
    image: PathBuf,
    /// The policy file that it must be built from
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
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
    /// The public key with which the image must be signed
    #[arg(long, value_name = "KEY")]
    key: Option<PathBuf>,
    /// The signature; by default `IMAGE.sig`
    #[arg(long, value_name = "FILE", requires = "key")]
    signature: Option<PathBuf>,
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
        let unverifiable = |error| format!("{}: {error}", self.image.display());
        let mut against = Against { policy: policy.as_deref(), accept: &self.accept, symbols: &[] };
        let first = verify(&image, &against).map_err(unverifiable)?;
        let symbols = self.read_symbols(&first)?;
        against.symbols = &symbols;
        let verdict = if symbols.is_empty() { Ok(first) } else { verify(&image, &against) };
        let verdict = verdict.map_err(unverifiable)?;
        let unsigned = self.unsigned(&Subject { policy: verdict.policy_hash, image: verdict.image_hash })?;
        if let Some(path) = &self.sbom {
            let sbom = verdict.inventory.sbom.as_deref().ok_or("the image carries no bill of materials")?;
            std::fs::write(path, sbom).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut problems = String::new();
        if let Some(reason) = &unsigned {
            problems = format!("error: signature: {}\n", printable(reason));
        }
        let signed = self.key.is_some() && unsigned.is_none();
        let output = match self.output.format() {
            Format::Text => verdict.text() + if signed { "signed: by the given key\n" } else { "" },
            Format::Json => {
                let mut value = verdict.json();
                if self.key.is_some() {
                    value["signed"] = signed.into();
                }
                json("verify", &value)
            }
        };
        let status = if verdict.holds() && unsigned.is_none() { Status::Holds } else { Status::Refused };
        Ok(Outcome { problems, status, ..Outcome::holds(output) })
    }

    /// Reads the ELF file of each service of the image, if `--symbols` asks for it.
    fn read_symbols(&self, verdict: &Verdict) -> Result<Vec<(String, Vec<u8>)>, String> {
        let Some(folder) = &self.symbols else { return Ok(Vec::new()) };
        let services = verdict.programs.iter().skip(1);
        services
            .map(|part| Ok((part.name.clone(), file::read(&folder.join(format!("{}.elf", part.name)), MAX_IMAGE)?)))
            .collect()
    }

    /// Returns why the signature is refused, if it is checked and refused.
    fn unsigned(&self, subject: &Subject) -> Result<Option<String>, String> {
        let Some(key) = &self.key else { return Ok(None) };
        let path = self.signature.clone().unwrap_or_else(|| beside(&self.image));
        let (text, key_text) = (file::read_text(&path, sign::MAX_FILE)?, file::read_text(key, sign::MAX_FILE)?);
        match sign::check(subject, &text, &key_text) {
            Ok(()) => Ok(None),
            Err(error @ (SignError::Malformed { .. } | SignError::Version { .. } | SignError::Key)) => {
                Err(error.to_string())
            }
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}
