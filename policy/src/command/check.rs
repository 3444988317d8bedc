use std::path::{Path, PathBuf};

use cloister_policy::{Finding, Report, Sound, analyse, hexadecimal, load};
use serde::Serialize;

use super::outcome::{Format, Outcome, Output, Status, json, shown};

/// Check policies, and report what is wrong with them
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Do not check whether an image has room for the policy
    #[arg(long)]
    analysis_only: bool,
    #[command(flatten)]
    output: Output,
}

/// The findings in one file.
#[derive(Serialize)]
struct Checked {
    file: String,
    readable: bool,
    holds: bool,
    hash: Option<String>,
    services: usize,
    findings: Vec<Finding>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let mut all = Outcome::holds("");
        let mut list = Vec::new();
        for file in &self.files {
            let result = self.one(file);
            let one = match &result {
                Ok((services, hash)) => Outcome::holds(summary(file, *services, hash)),
                Err(report) => Outcome::refused(report),
            };
            all.status = all.status.max(one.status);
            match self.output.format() {
                Format::Text => {
                    all.output += &one.output;
                    all.problems += &one.problems;
                }
                Format::Json => list.push(entry(file, result, one.status)),
            }
        }
        if self.output.format() == Format::Json {
            all.output = json("check", &list);
        }
        all
    }

    /// Returns the number of services and the hash of a policy that holds.
    fn one(&self, file: &Path) -> Result<(usize, String), Report> {
        let facts = |policy: &Sound| (policy.services().count(), hexadecimal(&policy.hash()));
        if !self.analysis_only {
            return load(file).map(|policy| facts(&policy));
        }
        let policy = analyse(file)?;
        policy.proved()?;
        Ok(facts(&policy))
    }
}

fn entry(file: &Path, result: Result<(usize, String), Report>, status: Status) -> Checked {
    let (hash, services, findings) = match result {
        Ok((services, hash)) => (Some(hash), services, Vec::new()),
        Err(report) => (None, 0, report.findings().collect()),
    };
    let (readable, holds) = (status != Status::Unusable, status == Status::Holds);
    Checked { file: file.display().to_string(), readable, holds, hash, services, findings }
}

fn summary(file: &Path, count: usize, hash: &str) -> String {
    let services = if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    format!("{}: holds; {services}, hash {hash}\n", shown(file))
}
