use std::path::PathBuf;

use cloister_policy::verify::{Against, MAX_IMAGE, verify};

use super::{Format, Outcome, Output, Status};
use crate::file;

/// Prove from the ELF file alone that an image is the policy that it carries
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
        let against = Against { policy: policy.as_deref(), accept: &self.accept };
        let verdict = verify(&image, &against).map_err(|error| format!("{}: {error}", self.image.display()))?;
        if let Some(path) = &self.sbom {
            let sbom = verdict.inventory.sbom.as_deref().ok_or("the image carries no bill of materials")?;
            std::fs::write(path, sbom).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let output = match self.output.format {
            Format::Text => verdict.text(),
            Format::Json => format!("{:#}\n", verdict.json()),
        };
        let status = if verdict.holds() { Status::Holds } else { Status::Refused };
        Ok(Outcome { output, problems: String::new(), status })
    }
}
