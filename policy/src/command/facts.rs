use std::path::PathBuf;

use clap::ValueEnum;
use cloister_policy::verify::{Against, MAX_IMAGE, verify};
use cloister_policy::{Facts, analyse, facts_of_image, facts_of_policy};

use super::outcome::{Outcome, Output, Status, json};
use crate::file;

/// How an ELF file begins.
const ELF: &[u8] = b"\x7FELF";

/// Export a policy, or an image with its policy, as relations for other programs
///
/// docs/facts.md describes the relations.
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy file or image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output<Format>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Each relation as a list of objects
    #[default]
    Json,
    /// For Soufflé
    Datalog,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let content = match file::read(&self.file, MAX_IMAGE) {
            Ok(content) => content,
            Err(problem) => return Outcome::unusable(problem),
        };
        if !content.starts_with(ELF) {
            return match analyse(&self.file) {
                Ok(policy) => self.written(&facts_of_policy(&policy), Status::Holds),
                Err(report) => Outcome::unusable_policy(&report),
            };
        }
        let verdict = match verify(&content, &Against::default()) {
            Ok(verdict) => verdict,
            Err(error) => return Outcome::unusable(format_args!("{}: {error}", self.file.display())),
        };
        let status = if verdict.holds() { Status::Holds } else { Status::Refused };
        match facts_of_image(&content, &verdict) {
            Ok(facts) => self.written(&facts, status),
            Err(report) => Outcome::unusable_policy(&report),
        }
    }

    fn written(&self, facts: &Facts, status: Status) -> Outcome {
        let output = match self.output.format() {
            Format::Json => json("facts", facts),
            Format::Datalog => facts.datalog(),
        };
        Outcome { status, ..Outcome::holds(output) }
    }
}
