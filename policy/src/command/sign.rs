use std::path::{Path, PathBuf};

use cloister_policy::sign::{self, Subject};
use cloister_policy::verify::{Against, MAX_IMAGE, verify};

use super::outcome::{Outcome, Status, shown};
use crate::file;

/// Sign an image that verifies: its policy's hash and its own
#[derive(clap::Args)]
pub struct Arguments {
    /// The image
    image: PathBuf,
    /// The secret key, as `keygen` makes it
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Where to write the signature; by default `IMAGE.sig`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accept an instruction, as for `verify`
    #[arg(long, value_name = "SERVICE@ADDRESS=MNEMONIC")]
    accept: Vec<String>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        match self.sign() {
            Ok(outcome) => outcome,
            Err(problem) => Outcome::unusable(problem),
        }
    }

    fn sign(&self) -> Result<Outcome, String> {
        let image = file::read(&self.image, MAX_IMAGE)?;
        let against = Against { accept: &self.accept, ..Against::default() };
        let verdict = verify(&image, &against).map_err(|error| format!("{}: {error}", self.image.display()))?;
        if !verdict.holds() {
            let problems = format!("{}error: an image that does not verify is not signed\n", verdict.text());
            return Ok(Outcome { problems, status: Status::Refused, ..Outcome::holds("") });
        }
        let subject = Subject { policy: verdict.policy_hash, image: verdict.image_hash };
        let key = file::read_text(&self.key, sign::MAX_FILE)?;
        let signature = sign::sign(&subject, &key).map_err(|error| format!("{}: {error}", self.key.display()))?;
        let path = self.out.clone().unwrap_or_else(|| beside(&self.image));
        std::fs::write(&path, &signature).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Outcome::holds(format!("signature {}\n{signature}", shown(&path))))
    }
}

/// Returns the path of the signature beside an image.
pub fn beside(image: &Path) -> PathBuf {
    let mut path = image.to_owned().into_os_string();
    path.push(".sig");
    PathBuf::from(path)
}
