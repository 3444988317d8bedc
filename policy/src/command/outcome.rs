//! The common parts of the subcommands: arguments, the form of the output, and the exit status.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use cloister_policy::{Checked, Report, Sound, analyse, load, printable, printable_json, printable_lines};

/// The form of the output of most subcommands.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For reading
    #[default]
    Text,
    /// For programs; docs/policy.md describes it
    Json,
}

/// The option that chooses the form of the output.
///
/// The default is not clap's `default_value_t`, whose text all forms of a generic type would share.
#[derive(Clone, Copy, clap::Args)]
pub struct Output<F = Format>
where
    F: ValueEnum + Copy + Default + Send + Sync + 'static,
{
    /// Form of the output; by default the first of the possible values
    #[arg(long, value_enum)]
    format: Option<F>,
}

impl<F> Output<F>
where
    F: ValueEnum + Copy + Default + Send + Sync + 'static,
{
    /// Returns the chosen form, or the default.
    pub fn format(self) -> F {
        self.format.unwrap_or_default()
    }
}

/// The argument that names the policy file of a subcommand.
///
/// Only `check` says whether a policy holds. To every other subcommand a policy that does not hold
/// is unusable input.
#[derive(Clone, clap::Args)]
pub struct PolicyFile {
    /// Policy file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

impl PolicyFile {
    /// Loads the policy, which must hold, and does something with it.
    pub fn with_checked(&self, work: impl FnOnce(&Checked) -> Outcome) -> Outcome {
        load(&self.file).map_or_else(|report| Outcome::unusable_policy(&report), |policy| work(&policy))
    }

    /// Loads the policy, which must be sound, and does something with it.
    pub fn with_sound(&self, work: impl FnOnce(&Sound) -> Outcome) -> Outcome {
        analyse(&self.file).map_or_else(|report| Outcome::unusable_policy(&report), |policy| work(&policy))
    }
}

/// The exit status of a subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// The answer is yes, or the policy holds.
    Holds = 0,
    /// The answer is no.
    Refused = 1,
    /// The input is unusable.
    Unusable = 2,
}

/// The output of a subcommand, and its exit status.
pub struct Outcome {
    /// For standard output.
    pub output: String,
    /// For standard error.
    pub problems: String,
    /// `true` if `problems` has colours: then what it quotes is escaped already, and it is printed
    /// as it is. Otherwise it is escaped when it is printed.
    pub styled: bool,
    /// The exit status.
    pub status: Status,
}

impl Outcome {
    /// Prints the outcome, and returns the exit status. This is the only place that prints.
    pub fn print(&self) -> ExitCode {
        let problems =
            if self.styled { Cow::Borrowed(self.problems.as_str()) } else { printable_lines(&self.problems) };
        // A reader that closed the pipe does not want the rest.
        let _ = std::io::stderr().write_all(problems.as_bytes());
        let _ = std::io::stdout().write_all(printable_lines(&self.output).as_bytes());
        ExitCode::from(self.status as u8)
    }

    /// Makes the outcome of a question whose answer is yes.
    pub fn holds(output: impl Into<String>) -> Self {
        Outcome { output: output.into(), problems: String::new(), styled: false, status: Status::Holds }
    }

    /// Makes the outcome for unusable input.
    pub fn unusable(problem: impl std::fmt::Display) -> Self {
        let problem = problem.to_string();
        let problems = format!("error: {}\n", printable(&problem));
        Outcome { problems, status: Status::Unusable, ..Outcome::holds("") }
    }

    /// Makes the outcome of `check` for a policy that does not hold, or is not a policy.
    pub fn refused(report: &Report) -> Self {
        let status = if report.is_readable() { Status::Refused } else { Status::Unusable };
        let styled = std::io::stderr().is_terminal();
        Outcome { problems: report.render(styled) + "\n", styled, status, ..Outcome::holds("") }
    }

    /// Makes the outcome for unusable input, with a reason of several lines.
    pub fn unusable_lines(problem: impl std::fmt::Display) -> Self {
        let problem = problem.to_string();
        let problems = format!("error: {}\n", printable_lines(&problem));
        Outcome { problems, status: Status::Unusable, ..Outcome::holds("") }
    }

    /// Makes the outcome for a policy that does not hold, where one that holds is needed.
    pub fn unusable_policy(report: &Report) -> Self {
        Outcome { status: Status::Unusable, ..Outcome::refused(report) }
    }
}

/// Returns the name of a file as it is printed: in one line.
pub fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// The version of the JSON output. It changes when a reader of the previous version would fail.
const JSON_VERSION: u32 = 1;

/// Returns an outcome as JSON: the version, the kind, and the outcome itself.
pub fn json(what: &'static str, outcome: &impl serde::Serialize) -> String {
    #[derive(serde::Serialize)]
    struct Envelope<'a, T> {
        version: u32,
        kind: &'static str,
        result: &'a T,
    }
    let envelope = Envelope { version: JSON_VERSION, kind: what, result: outcome };
    // Writing fails only for maps with keys that are not strings, and for values that refuse; there
    // are neither.
    let text = serde_json::to_string_pretty(&envelope).unwrap_or_default() + "\n";
    printable_json(&text).into_owned()
}
