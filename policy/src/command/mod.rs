//! The subcommands, one module each, and what they have in common: the form of the output and the exit status.

mod bindings;
mod canonical;
mod check;
mod diff;
mod explain;
mod fmt;
mod graph;
mod hash;
mod init;
mod keygen;
mod schema;
mod show;
mod sign;
mod unused;
mod verify;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use cloister_policy::{Checked, Report, load, printable, printable_json, printable_lines};

/// What the command is asked to do.
#[derive(Subcommand)]
pub enum Command {
    Check(check::Arguments),
    Hash(hash::Arguments),
    Canonical(canonical::Arguments),
    Bindings(bindings::Arguments),
    Diff(diff::Arguments),
    Explain(explain::Arguments),
    Fmt(fmt::Arguments),
    Graph(graph::Arguments),
    Init(init::Arguments),
    Schema(schema::Arguments),
    Show(show::Arguments),
    Verify(verify::Arguments),
    Keygen(keygen::Arguments),
    Sign(sign::Arguments),
    Unused(unused::Arguments),
}

impl Command {
    /// Does it, and prints what comes of it.
    pub fn run(self) -> ExitCode {
        let outcome = match self {
            Command::Check(arguments) => arguments.run(),
            Command::Hash(arguments) => arguments.run(),
            Command::Canonical(arguments) => arguments.run(),
            Command::Bindings(arguments) => arguments.run(),
            Command::Diff(arguments) => arguments.run(),
            Command::Explain(arguments) => arguments.run(),
            Command::Fmt(arguments) => arguments.run(),
            Command::Graph(arguments) => arguments.run(),
            Command::Init(arguments) => arguments.run(),
            Command::Schema(arguments) => arguments.run(),
            Command::Show(arguments) => arguments.run(),
            Command::Verify(arguments) => arguments.run(),
            Command::Keygen(arguments) => arguments.run(),
            Command::Sign(arguments) => arguments.run(),
            Command::Unused(arguments) => arguments.run(),
        };
        // A reader that closed the pipe has seen what it wanted.
        let _ = std::io::stderr().write_all(outcome.problems.as_bytes());
        let _ = std::io::stdout().write_all(printable_lines(&outcome.output).as_bytes());
        ExitCode::from(outcome.status as u8)
    }
}

/// How an outcome is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For reading
    #[default]
    Text,
    /// For programs; docs/policy.md describes it
    Json,
}

/// The option that every subcommand with two forms of output has.
#[derive(Clone, Copy, clap::Args)]
pub struct Output {
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// The exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// What was asked about holds.
    Holds = 0,
    /// It does not.
    Refused = 1,
    /// The input is not what the subcommand reads.
    Unusable = 2,
}

/// What a subcommand prints, and its exit status.
pub struct Outcome {
    /// For standard output.
    pub output: String,
    /// For standard error. A report may be in colours: what it quotes from files is escaped where it is quoted.
    pub problems: String,
    /// How it went.
    pub status: Status,
}

impl Outcome {
    /// It holds.
    pub fn holds(output: impl Into<String>) -> Self {
        Outcome { output: output.into(), problems: String::new(), status: Status::Holds }
    }

    /// The input cannot be used.
    pub fn unusable(problem: impl std::fmt::Display) -> Self {
        let problem = problem.to_string();
        let problems = format!("error: {}\n", printable(&problem));
        Outcome { problems, status: Status::Unusable, ..Outcome::holds("") }
    }

    /// A policy that does not hold, or is none.
    pub fn refused(report: &Report) -> Self {
        let status = if report.is_readable() { Status::Refused } else { Status::Unusable };
        let styled = std::io::stderr().is_terminal();
        Outcome { problems: report.render(styled) + "\n", status, ..Outcome::holds("") }
    }

    /// Loads a policy and does something with it.
    pub fn of_policy(file: &Path, work: impl FnOnce(&Checked) -> Outcome) -> Self {
        match load(file) {
            Ok(policy) => work(&policy),
            Err(report) => Outcome::refused(&report),
        }
    }
}

/// Returns the name of a file as it is printed: in one line.
pub fn shown(path: &Path) -> String {
    printable(&path.display().to_string()).into_owned()
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The version of the JSON that the subcommands print. It changes when a reader of the last one would fail.
const JSON_VERSION: u32 = 1;

/// An outcome as JSON: the version, what it is, and the outcome itself.
pub fn json(what: &'static str, outcome: &impl serde::Serialize) -> String {
    #[derive(serde::Serialize)]
    struct Envelope<'a, T> {
        version: u32,
        kind: &'static str,
        result: &'a T,
    }
    let envelope = Envelope { version: JSON_VERSION, kind: what, result: outcome };
    // Only a map with keys that are no strings, or a value that refuses, cannot be written; there is neither.
    let text = serde_json::to_string_pretty(&envelope).unwrap_or_default() + "\n";
    printable_json(&text).into_owned()
}
