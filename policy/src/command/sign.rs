use std::path::{Path, PathBuf};

use cloister_policy::release::{MAX_RELEASE, Release, hash_of};
use cloister_policy::sign;
use cloister_policy::verify::{Against, MAX_IMAGE, verify};

use super::outcome::{Outcome, Status, shown};
use crate::file;

/// Sign the manifest of a release, if its image verifies and is the one that the manifest describes
#[derive(clap::Args)]
pub struct Arguments {
    /// The image
    image: PathBuf,
    /// The manifest, as `cargo xtask build` and `dist` write it
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// The secret key, as `keygen` makes it
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Where to write the signature; by default `RELEASE.sig`
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
        let (text, release) = read_release(&self.release)?;
        let against = Against { accept: &self.accept, release: Some(&release), ..Against::default() };
        let verdict = verify(&image, &against).map_err(|error| format!("{}: {error}", self.image.display()))?;
        if !verdict.holds() {
            let problems = format!("{}error: a release that does not verify is not signed\n", verdict.text());
            return Ok(Outcome { problems, status: Status::Refused, ..Outcome::holds("") });
        }
        let key = file::read_text(&self.key, sign::MAX_FILE)?;
        let signature =
            sign::sign(&hash_of(text.as_bytes()), &key).map_err(|error| format!("{}: {error}", self.key.display()))?;
        let path = self.out.clone().unwrap_or_else(|| beside(&self.release));
        std::fs::write(&path, &signature).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Outcome::holds(format!("signature {}\n{signature}", shown(&path))))
    }
}

/// Reads a manifest: its text, and what it says.
pub fn read_release(path: &Path) -> Result<(String, Release), String> {
    let text = file::read_text(path, MAX_RELEASE)?;
    let release = Release::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((text, release))
}

/// Returns the path of the signature beside a manifest.
pub fn beside(release: &Path) -> PathBuf {
    let mut path = release.to_owned().into_os_string();
    path.push(".sig");
    PathBuf::from(path)
}
