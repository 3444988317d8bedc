use std::path::PathBuf;

use super::outcome::{Outcome, shown};

/// Write a commented policy to start from; to standard output, or to a file that does not exist yet
#[derive(clap::Args)]
pub struct Arguments {
    /// The file
    file: Option<PathBuf>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let Some(file) = self.file else { return Outcome::holds(cloister_policy::STARTING_POLICY) };
        let created = std::fs::OpenOptions::new().write(true).create_new(true).open(&file);
        let written = created
            .and_then(|mut open| std::io::Write::write_all(&mut open, cloister_policy::STARTING_POLICY.as_bytes()));
        match written {
            Ok(()) => Outcome::holds(format!("{}: written\n", shown(&file))),
            Err(error) => Outcome::unusable(format_args!("cannot write {}: {error}", file.display())),
        }
    }
}
