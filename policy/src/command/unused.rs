use std::path::PathBuf;

use cloister_policy::unused::{MAX_LOG, unused};

use super::outcome::{Format, Outcome, Output, PolicyFile, Status, json};
use crate::file;

/// List the rights that were never used in a run of the image
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    /// The console's log of the run
    #[arg(long, value_name = "LOG")]
    trace: PathBuf,
    /// Write the policy without the unused rights to a file
    #[arg(long, value_name = "OUT")]
    suggest: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_checked(|policy| {
            let log = match file::read(&self.trace, MAX_LOG) {
                Ok(log) => log,
                Err(problem) => return Outcome::unusable(problem),
            };
            // Services write any bytes to the console.
            let usage = match unused(policy, &String::from_utf8_lossy(&log)) {
                Ok(usage) => usage,
                Err(error) => return Outcome::unusable(format_args!("{}: {error}", self.trace.display())),
            };
            if let Some(path) = &self.suggest {
                let text = file::read_policy(&self.policy.file);
                let narrower = text.and_then(|text| usage.suggest(&text).map_err(|error| error.to_string()));
                let written = narrower.and_then(|text| {
                    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
                });
                if let Err(problem) = written {
                    return Outcome::unusable(problem);
                }
            }
            let output = match self.output.format() {
                Format::Text => usage.text(),
                Format::Json => json("unused", &usage),
            };
            let status = if usage.unused.is_empty() { Status::Holds } else { Status::Refused };
            Outcome { status, ..Outcome::holds(output) }
        })
    }
}
