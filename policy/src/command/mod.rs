//! The subcommands, one module each.

mod bindings;
mod canonical;
mod check;
mod diff;
mod explain;
mod facts;
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

use std::process::ExitCode;

use clap::Subcommand;

use outcome::{Outcome, Status};

/// The subcommand.
#[derive(Subcommand)]
pub enum Command {
    Check(check::Arguments),
    Hash(hash::Arguments),
    Canonical(canonical::Arguments),
    Bindings(bindings::Arguments),
    Diff(diff::Arguments),
    Explain(explain::Arguments),
    Facts(facts::Arguments),
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
            Command::Facts(arguments) => arguments.run(),
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
        outcome.print()
    }
}

/// Prints why the arguments cannot be used, or the help that they ask for, and returns the exit
/// status.
pub fn unusable_arguments(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // The help and the version quote nothing.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let problems = error.render().to_string();
    Outcome { problems, status: Status::Unusable, ..Outcome::holds("") }.print()
}
