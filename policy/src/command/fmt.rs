use std::path::PathBuf;

use cloister_policy::format_file;

use super::outcome::{Outcome, Status, shown};

/// Format policies in place; comments stay
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Change nothing; say which files would change, with status 1
    #[arg(long)]
    check: bool,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let mut all = Outcome::holds("");
        for file in &self.files {
            let one = match format_file(file) {
                Err(report) => Outcome::unusable_policy(&report),
                Ok((text, formatted)) if text == formatted => continue,
                Ok(_) if self.check => {
                    Outcome { status: Status::Refused, ..Outcome::holds(format!("{}: not formatted\n", shown(file))) }
                }
                Ok((_, formatted)) => match std::fs::write(file, formatted) {
                    Ok(()) => Outcome::holds(format!("{}: formatted\n", shown(file))),
                    Err(error) => Outcome::unusable(format_args!("cannot write {}: {error}", file.display())),
                },
            };
            all.output += &one.output;
            all.problems += &one.problems;
            all.styled |= one.styled;
            all.status = all.status.max(one.status);
        }
        all
    }
}
