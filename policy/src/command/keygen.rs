use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use cloister_policy::sign;

use super::outcome::{Outcome, shown};

/// Make a new pair of keys for signing images (Ed25519)
#[derive(clap::Args)]
pub struct Arguments {
    /// The file to make for the secret key; that of the public key gets `.pub` after its name
    #[arg(value_name = "KEY")]
    key: PathBuf,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        match self.make() {
            Ok(text) => Outcome::holds(text),
            Err(problem) => Outcome::unusable(problem),
        }
    }

    fn make(&self) -> Result<String, String> {
        let (secret, public) = sign::generate().map_err(|error| error.to_string())?;
        let mut public_path = self.key.clone().into_os_string();
        public_path.push(".pub");
        let public_path = PathBuf::from(public_path);
        if public_path.exists() {
            return Err(format!("{} is there already", public_path.display()));
        }
        write_new(&self.key, &secret, true)?;
        write_new(&public_path, &public, false)?;
        Ok(format!("secret key {}\npublic key {}\n", shown(&self.key), shown(&public_path)))
    }
}

/// Writes a new file: a key is never overwritten. Only its owner can read a secret one.
fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), String> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if secret { 0o600 } else { 0o644 });
    let file = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    file.map_err(|error| format!("cannot make {}: {error}", path.display()))
}
