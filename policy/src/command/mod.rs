//! The subcommands, one module each.

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
mod outcome;
mod rebuild;
mod schema;
mod show;
mod sign;
mod unused;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::Subcommand;
use cloister_policy::printable_lines;

/// The subcommand.
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
    Rebuild(rebuild::Arguments),
    Unused(unused::Arguments),
}

impl Command {
    /// Runs the subcommand, prints its output, and returns the exit status.
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
            Command::Rebuild(arguments) => arguments.run(),
            Command::Unused(arguments) => arguments.run(),
        };
        // A reader that closed the pipe does not want the rest.
        let _ = std::io::stderr().write_all(outcome.problems.as_bytes());
        let _ = std::io::stdout().write_all(printable_lines(&outcome.output).as_bytes());
        ExitCode::from(outcome.status as u8)
    }
}
