//! `mutants`: changes the code in small ways with cargo-mutants, and lists the changes that no test
//! notices.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::fuzz::tools::{ensure_tool, target_folder};
use crate::stages::Stages;
use crate::workspace;

/// The tool and its version.
const TOOL: (&str, &str) = ("cargo-mutants", "27.1.0");

/// The packages that are changed: those that decide who may do what. Each package's own tests must
/// notice.
const PACKAGES: [&str; 4] = ["caps", "kernel-core", "grant-manager", "netfront"];

#[derive(Args)]
pub struct Arguments {
    /// Only this package, by its name with or without `cloister-`
    #[arg(long, value_name = "NAME")]
    package: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = arguments.package.as_deref().map(|name| name.trim_start_matches("cloister-"));
    let packages: Vec<_> = PACKAGES.into_iter().filter(|name| chosen.is_none_or(|chosen| chosen == *name)).collect();
    if packages.is_empty() {
        bail!("{} is not one of the packages that are changed: {}", chosen.unwrap_or_default(), PACKAGES.join(", "));
    }
    let mut stages = Stages::new();
    let tool = ensure_tool(TOOL, &mut stages)?;
    stages.done();
    let mut summary = Vec::new();
    for name in packages {
        let output = target_folder().join("mutants").join(name);
        std::fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
        let mut command = Command::new(&tool);
        command.current_dir(workspace::root()).arg("mutants").arg("--output").arg(&output);
        let package = format!("cloister-{name}");
        command.args(["--package", &package, "--test-package", &package]);
        // Fewer cases than usual, because each property runs for every change. What twenty cases do
        // not notice counts as missed.
        command.env("PROPTEST_CASES", "20").env("CARGO_PROFILE_DEV_DEBUG", "0");
        // A failing case that one change produced must not help to notice the next change.
        command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        // Dependencies are built once, not in the copy of the tree that each run makes.
        command.env("CARGO_TARGET_DIR", target_folder().join("mutants/target"));
        command.status().context("cargo-mutants cannot be run")?;
        summary.push(format!("{name}: {}", Count::read(&output.join("mutants.out"))?));
    }
    println!("\n{}", summary.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// Numbers of changes of a package, by their outcome.
#[derive(Debug, PartialEq, Eq)]
struct Count {
    noticed: usize,
    missed: usize,
}

impl Count {
    /// Reads the counts from a folder that cargo-mutants has written.
    fn read(folder: &std::path::Path) -> Result<Count> {
        let lines = |name: &str| {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            anyhow::Ok(text.lines().count())
        };
        // A change with which the tests never end is noticed: the run does not pass.
        Ok(Count { noticed: lines("caught.txt")? + lines("timeout.txt")?, missed: lines("missed.txt")? })
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.noticed + self.missed;
        let per_mille = (self.missed * 1000).checked_div(all).unwrap_or(0);
        write!(f, "{} of {all} changes missed ({}.{} %)", self.missed, per_mille / 10, per_mille % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_package_is_refused() {
        assert!(run(&Arguments { package: Some("nonsense".into()) }).is_err());
    }

    #[test]
    fn results_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("caught.txt", "a\nb\nc\n"), ("timeout.txt", "d\n"), ("missed.txt", "e\n")] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let count = Count::read(folder.path()).expect("counts");
        assert_eq!(count, Count { noticed: 4, missed: 1 });
        assert_eq!(count.to_string(), "1 of 5 changes missed (20.0 %)");
        assert!(Count::read(&folder.path().join("none")).is_err());
    }
}
