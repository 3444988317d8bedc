//! `miri`: runs the tests of host crates under Miri, which finds undefined behaviour.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::fuzz::tools::{NIGHTLY, ensure_nightly, nightly, quiet, succeeds};
use crate::stages::Stages;

/// The packages that Miri interprets, and the kinds of their tests. `docs/miri.md` says what is
/// left out and why.
const PACKAGES: [(&str, &[&str]); 15] = [
    ("runtime", &["--lib"]),
    ("caps", &["--lib", "--tests"]),
    ("interfaces", &["--lib"]),
    ("collections", &["--lib"]),
    ("kernel-core", &["--lib"]),
    ("grant-manager", &["--lib"]),
    ("xenstore", &["--lib"]),
    ("netfront", &["--lib"]),
    ("tcpip", &["--lib", "--test", "hostile"]),
    ("http", &["--lib"]),
    ("control", &["--lib"]),
    ("fused", &["--lib"]),
    ("back-end", &["--lib"]),
    ("prober", &["--lib"]),
    ("sim", &["--lib"]),
];

/// Miri's options.
///
/// - `disable-isolation`: proptest uses the host's clock and environment.
/// - `ignore-leaks`: regions are leaked, as the kernel never unmaps one.
/// - `permissive-provenance`: an address that the kernel answers becomes a pointer.
const FLAGS: &str = "-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance";

#[derive(Args)]
pub struct Arguments {
    /// Only this package, by its name with or without `cloister-`
    #[arg(long, value_name = "NAME")]
    package: Option<String>,
    /// Cases of each property: Miri is a thousand times slower than the processor
    #[arg(long, default_value_t = 2)]
    cases: u32,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = arguments.package.as_deref().map(|name| name.trim_start_matches("cloister-"));
    let packages: Vec<_> = PACKAGES.iter().filter(|(name, _)| chosen.is_none_or(|chosen| chosen == *name)).collect();
    if packages.is_empty() {
        bail!(
            "{} is not one of the packages that Miri runs on: {}",
            chosen.unwrap_or_default(),
            PACKAGES.map(|(name, _)| name).join(", ")
        );
    }
    ensure()?;
    let mut failed = Vec::new();
    for (name, tests) in packages {
        println!("\n== {name}");
        if !interpret(name, tests, arguments.cases)? {
            failed.push(*name);
        }
    }
    println!("\nmiri: {}", if failed.is_empty() { "ok".to_owned() } else { format!("FAILED: {}", failed.join(", ")) });
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests of a package, and returns `true` if all passed.
fn interpret(name: &str, tests: &[&str], cases: u32) -> Result<bool> {
    let mut command = nightly("cargo");
    command.args(["miri", "test", "--no-fail-fast", "--package", &format!("cloister-{name}")]).args(tests);
    command.env("MIRIFLAGS", FLAGS).env("PROPTEST_CASES", cases.to_string());
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    Ok(command.status().context("cargo cannot be run")?.success())
}

/// Installs Miri if it is missing.
fn ensure() -> Result<()> {
    let mut stages = Stages::new();
    ensure_nightly(&mut stages)?;
    if !succeeds(nightly("cargo").args(["miri", "--version"])) {
        stages.begin("installing Miri");
        quiet(Command::new("rustup").args(["component", "add", "--toolchain", NIGHTLY, "miri", "rust-src"]))?;
    }
    stages.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn what_is_interpreted_is_there() {
        let packages = workspace::metadata().expect("metadata").packages;
        for (name, _) in PACKAGES {
            assert!(packages.iter().any(|package| *package.name == format!("cloister-{name}")), "{name}");
        }
    }

    #[test]
    fn another_package_is_refused() {
        let arguments = Arguments { package: Some("nonsense".into()), cases: 1 };
        assert!(run(&arguments).is_err());
    }
}
