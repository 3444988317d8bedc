//! The `cloister-policy` command.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cloister_policy::{Checked, Report, load};

/// Reads, checks and renders the policy of an image.
///
/// Exits with 0 if all went well, with 1 if a policy does not hold, and with 2 if the input is no policy.
#[derive(Parser)]
#[command(version, name = "cloister-policy")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check policies, and say what is wrong with them
    Check {
        /// Policy files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the SHA-256 of a policy's canonical form, as the kernel prints it at boot
    Hash {
        /// Policy file
        file: PathBuf,
    },
    /// Print the canonical form of a policy: without comments, in a fixed order
    Canonical {
        /// Policy file
        file: PathBuf,
    },
    /// Print the Rust source that gives a service's program its capabilities
    Bindings {
        /// Policy file
        file: PathBuf,
        /// Service of the policy
        service: String,
    },
}

/// Exit status for a policy that does not hold.
const REFUSED: u8 = 1;
/// Exit status for input that is no policy.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let (text, status) = match Arguments::parse().command {
        Command::Check { files } => {
            let outcomes = files.iter().map(|file| outcome(load(file), |policy| summary(file, policy)));
            outcomes.fold((String::new(), 0), |(text, worst), (more, status)| (text + &more, worst.max(status)))
        }
        Command::Hash { file } => outcome(load(&file), |policy| hash(policy) + "\n"),
        Command::Canonical { file } => outcome(load(&file), |policy| policy.canonical().to_owned()),
        Command::Bindings { file, service } => match load(&file) {
            Ok(policy) => match policy.bindings(&service) {
                Some(text) => (text, 0),
                None => (unknown_service(&policy, &service), UNUSABLE),
            },
            Err(report) => outcome(Err(report), |_| String::new()),
        },
    };
    // A reader that closed the pipe has seen what it wanted.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(status)
}

/// What to print and the exit status; errors are printed at once.
fn outcome(result: Result<Checked, Report>, print: impl Fn(&Checked) -> String) -> (String, u8) {
    match result {
        Ok(policy) => (print(&policy), 0),
        Err(report) => {
            let styled = std::io::stderr().is_terminal();
            let _ = writeln!(std::io::stderr(), "{}", report.render(styled));
            (String::new(), if report.is_readable() { REFUSED } else { UNUSABLE })
        }
    }
}

fn summary(file: &std::path::Path, policy: &Checked) -> String {
    let count = policy.services().count();
    let services = if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    format!("{}: holds; {services}, hash {}\n", file.display(), hash(policy))
}

fn hash(policy: &Checked) -> String {
    policy.hash().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown_service(policy: &Checked, service: &str) -> String {
    let names: Vec<&str> = policy.services().map(|service| service.name()).collect();
    let _ = writeln!(std::io::stderr(), "error: the policy has no service `{service}`; it has {}", names.join(", "));
    String::new()
}
