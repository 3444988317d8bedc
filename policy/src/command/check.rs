use std::path::{Path, PathBuf};

use cloister_policy::{Finding, Report, Sound, Warning, analyse, hexadecimal, load, printable};
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
    /// Also warn of rules that are allowed, but may not be what is meant; the status stays the same
    #[arg(long)]
    warn: bool,
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
    warnings: Vec<Warning>,
}

/// What is said about a policy that holds.
struct Facts {
    services: usize,
    hash: String,
    warnings: Vec<Warning>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let mut all = Outcome::holds("");
        let mut list = Vec::new();
        for file in &self.files {
            let result = self.one(file);
            let one = match &result {
                Ok(facts) => Outcome::holds(summary(file, facts)),
                Err(report) => Outcome::refused(report),
            };
            all.status = all.status.max(one.status);
            all.styled |= one.styled;
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

    /// Returns the facts of a policy that holds.
    fn one(&self, file: &Path) -> Result<Facts, Report> {
        let facts = |policy: &Sound| Facts {
            services: policy.services().count(),
            hash: hexadecimal(&policy.hash()),
            warnings: if self.warn { policy.warnings() } else { Vec::new() },
        };
        if !self.analysis_only {
            return load(file).map(|policy| facts(&policy));
        }
        let policy = analyse(file)?;
        policy.proved()?;
        Ok(facts(&policy))
    }
}

fn entry(file: &Path, result: Result<Facts, Report>, status: Status) -> Checked {
    let (hash, services, findings, warnings) = match result {
        Ok(facts) => (Some(facts.hash), facts.services, Vec::new(), facts.warnings),
        Err(report) => (None, 0, report.findings().collect(), Vec::new()),
    };
    let (readable, holds) = (status != Status::Unusable, status == Status::Holds);
    Checked { file: file.display().to_string(), readable, holds, hash, services, findings, warnings }
}

fn summary(file: &Path, facts: &Facts) -> String {
    let Facts { services: count, hash, .. } = facts;
    let services = if *count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    let mut text = format!("{}: holds; {services}, hash {hash}\n", shown(file));
    for warning in &facts.warnings {
        let Warning { kind, line, message, help, rules } = warning;
        text += &format!("{}:{line}: warning: {} [{kind}]\n", shown(file), printable(message));
        for rule in rules {
            text += &format!("    line {:>4}  {}: {}\n", rule.line, rule.rule, printable(&rule.says));
        }
        text += &format!("    help: {help}\n");
    }
    text
}
