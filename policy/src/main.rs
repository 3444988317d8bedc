//! The `cloister-policy` command.
#![forbid(unsafe_code)]

mod command;
mod deny;
mod file;

use std::process::ExitCode;

use clap::Parser;

/// Reads, checks and renders the policy of an image.
///
/// Exits with 0 if the answer is yes, with 1 if it is no, and with 2 if the input is
/// unusable. Only `check` exits with 1 for a policy that does not hold; to the others it is
/// unusable input.
#[derive(Parser)]
#[command(version, name = "cloister-policy")]
struct Arguments {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.command.run(),
        Err(error) => command::unusable_arguments(&error),
    }
}
