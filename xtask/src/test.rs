//! `test`: runs all checks and tests, and prints one closing line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;
use clap::Args;

use crate::backend_domain;
use crate::compromised;
use crate::dependencies;
use crate::image::{self, DEFAULT_POLICY};
use crate::judge;
use crate::parallel;
use crate::rebuild;
use crate::stages::Stages;
use crate::verify;
use crate::workspace;

/// The package of the tests on real Xen.
const BED: &str = "cloister-bed";
/// The test program on real Xen that takes as long as all others together.
const LONGEST: &str = "hostile";

/// The domains that may be the back end in `hostile`: the honest one is 0, the hostile one is 2.
/// The image itself is 1.
const HOSTILE_BACK_END: &str = "0-2";
/// The kernel in full, which is compiled for its own target only.
const KERNEL: [&str; 4] = ["--package=cloister-kernel", "--features=back-end,profile", "--target", workspace::TARGET];
/// Debian packages that tests on the host run: the solver of `tests/proofs`, and the programs for
/// archives of `services/http/tests/archives.rs`.
const PROGRAMS: [&str; 4] = ["z3", "tar", "cpio", "libarchive-tools"];
/// The folders with the policies that images are built of: the one that ships, and those of the
/// tests' guests.
const POLICY_FOLDERS: [&str; 2] = ["policy", "tests/guests"];

#[derive(Args)]
pub struct Arguments {
    /// Only what runs on this machine: formatting, lints, unit tests, the services on the simulator
    #[arg(long, conflicts_with = "xen")]
    host: bool,
    /// Only what runs on real Xen
    #[arg(long)]
    xen: bool,
}

/// Numbers of passed and failed tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    fn one(success: bool) -> Self {
        Self { passed: u64::from(success), failed: u64::from(!success) }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut count = Count::default();
    if !arguments.xen {
        count.add(host()?);
    }
    if !arguments.host {
        count.add(xen()?);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn host() -> Result<Count> {
    workspace::ensure_target(&mut |text| println!("{text}"))?;
    cloister_bed::packages::ensure_also(&PROGRAMS, &mut |text| println!("{text}"))?;
    let mut count = Count::default();
    count.add(dependencies()?);
    count.add(check("formatting", &["fmt", "--all", "--check"])?);
    count.add(check("lints", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?);
    let kernel = [&["clippy", "--quiet"], &KERNEL[..], &["--", "-D", "warnings"]].concat();
    count.add(check("lints of the kernel", &kernel)?);
    count.add(documentation()?);
    heading("tests on the host");
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    count.add(tests("", command)?);
    Ok(count)
}

fn xen() -> Result<Count> {
    heading("tests on real Xen");
    let programs = match prepare() {
        Ok(programs) => programs,
        Err(error) => {
            eprintln!("{error:#}");
            return Ok(Count::one(false));
        }
    };
    let mut count = Count::default();
    for policy in all_policies()? {
        count.add(verified(&policy));
    }
    count.add(reproducible());
    count.add(judged());
    // Each test has its own emulated machine, which keeps about one processor busy. Therefore one
    // program runs on each processor, and the tests of a program run one after the other.
    let run = |program: Program| {
        let mut command = Command::new(&program.executable);
        command.arg("--test-threads=1").current_dir(&program.folder);
        tests(&format!("{}: ", program.name), command)
    };
    for result in parallel::map(programs, run) {
        count.add(result?);
    }
    Ok(count)
}

/// A built test program.
struct Program {
    name: String,
    executable: PathBuf,
    /// The package's folder, in which its tests run.
    folder: PathBuf,
}

/// Builds the test programs for real Xen, the longest-running first.
///
/// Except for the feature they are built like the tests on the host, which shares the dependencies.
fn programs() -> Result<Vec<Program>> {
    let metadata = workspace::metadata()?;
    let package =
        metadata.packages.iter().find(|package| *package.name == BED).context("there is no package of the bed")?;
    let folder = package.manifest_path.parent().context("the bed has no folder")?;
    let mut command = workspace::cargo();
    command.args(["test", "--workspace", "--features", "cloister-bed/xen", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let names = package.targets.iter().filter(|target| target.is_test()).map(|target| &target.name);
    command.args(names.flat_map(|name| ["--test", name]));
    let mut child = command.spawn().context("cargo cannot be run")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) = message? else { continue };
        // Another package may have a test of the same name.
        if artifact.target.is_test()
            && artifact.package_id == package.id
            && let Some(executable) = artifact.executable
        {
            programs.push(Program { name: artifact.target.name, executable: executable.into(), folder: folder.into() });
        }
    }
    if !child.wait()?.success() || programs.is_empty() {
        bail!("the tests on real Xen cannot be built");
    }
    programs.sort_by_key(|program| (program.name != LONGEST, program.name.clone()));
    Ok(programs)
}

/// Checks that `cloister-policy verify` gives the expected verdict on a built image.
fn verified(policy: &Path) -> Count {
    let name = policy.file_stem().unwrap_or_default().display();
    passes(&format!("verify {name}"), &verify::check_image(policy))
}

/// Checks that the image that ships can be built again, elsewhere, with the same bytes.
fn reproducible() -> Count {
    passes("reproducible build", &rebuild::check(Path::new(DEFAULT_POLICY)))
}

/// Checks that cargo-deny judges the crates of the image that ships.
fn judged() -> Count {
    passes("cargo-deny", &judge::check())
}

/// Prints the result of a check.
fn passes(name: &str, result: &Result<()>) -> Count {
    println!("{name}: {}", if result.is_ok() { "ok" } else { "FAILED" });
    if let Err(error) = result {
        println!("{error:#}");
    }
    Count::one(result.is_ok())
}

/// Debian packages of the clients that tests use.
const CLIENTS: [&str; 1] = ["curl"];

/// Prepares the tests on Xen: installs packages, and builds the images of all policies and the test
/// programs.
fn prepare() -> Result<Vec<Program>> {
    let mut stages = Stages::new();
    cloister_bed::packages::ensure(&mut |text| stages.begin(text))?;
    cloister_bed::packages::ensure_also(&CLIENTS, &mut |text| stages.begin(text))?;
    workspace::ensure_target(&mut |text| stages.begin(text))?;
    stages.done();
    images(all_policies()?)?;
    programs()
}

/// Builds the images of policies in parallel: each has a separate target folder, and most of the
/// work on an image runs on one thread.
fn images(policies: Vec<PathBuf>) -> Result<()> {
    let build = |policy: PathBuf| {
        let mut stages = Stages::beside(&policy.file_stem().unwrap_or_default().to_string_lossy());
        image::build(&policy, &mut stages).with_context(|| policy.display().to_string())?;
        stages.done();
        Ok(())
    };
    parallel::map(policies, build).into_iter().collect()
}

/// Returns the policies of the repository, and those that tests derive from the one that ships.
fn all_policies() -> Result<Vec<PathBuf>> {
    let mut all = policies()?;
    all.extend(compromised::policies()?);
    all.push(backend_domain::policy(Path::new(DEFAULT_POLICY), HOSTILE_BACK_END)?);
    Ok(all)
}

fn policies() -> Result<Vec<PathBuf>> {
    let is_policy =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with("Cargo.toml");
    let mut policies = Vec::new();
    for folder in POLICY_FOLDERS {
        let folder = workspace::root().join(folder);
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        policies.extend(paths.into_iter().filter(is_policy));
    }
    policies.sort();
    Ok(policies)
}

/// Runs a cargo command that passes or fails as a whole.
fn check(name: &str, arguments: &[&str]) -> Result<Count> {
    heading(name);
    let status = workspace::cargo().args(arguments).status().context("cargo cannot be run")?;
    println!("{name}: {}", if status.success() { "ok" } else { "FAILED" });
    Ok(Count::one(status.success()))
}

/// Checks the licences, sources and versions of the crates of others.
fn dependencies() -> Result<Count> {
    heading("dependencies");
    let ok = dependencies::check()?;
    println!("{}", dependencies::NOT_CHECKED);
    println!("dependencies: {}", if ok { "ok" } else { "FAILED" });
    Ok(Count::one(ok))
}

/// Builds the documentation, of private items too. A dead link in it is an error.
fn documentation() -> Result<Count> {
    heading("documentation");
    let mut ok = true;
    for crates in [&["--workspace"] as &[&str], &KERNEL] {
        let mut command = workspace::cargo();
        command.args(["doc", "--quiet", "--no-deps", "--document-private-items"]).args(crates);
        ok &= command.env("RUSTDOCFLAGS", "-D warnings").status().context("cargo cannot be run")?.success();
    }
    println!("documentation: {}", if ok { "ok" } else { "FAILED" });
    Ok(Count::one(ok))
}

/// Runs tests, prints their output with `label` before each line, and returns the sum of their
/// results.
fn tests(label: &str, mut command: Command) -> Result<Count> {
    // The tests of `boot` run this very program.
    command.env("CLOISTER_XTASK", std::env::current_exe().context("this program's path")?);
    let mut child = command.stdout(Stdio::piped()).spawn().context("the tests cannot be run")?;
    let output = child.stdout.take().context("the tests have no output")?;
    let mut count = Count::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{label}{line}");
        count.add(result(&line).unwrap_or_default());
    }
    // A test program that does not build, or that is killed, prints no result line.
    if !child.wait()?.success() && count.failed == 0 {
        count.failed += 1;
    }
    Ok(count)
}

/// Parses a line `test result: ok. 3 passed; 0 failed; …`.
fn result(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let at = words.iter().position(|w| w.trim_end_matches(';') == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some(Count { passed: number("passed")?, failed: number("failed")? })
}

fn heading(text: &str) {
    println!("\n== {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.20s";
        assert_eq!(result(line), Some(Count { passed: 12, failed: 3 }));
        assert_eq!(result("test decoding::passed ... ok"), None);
        assert_eq!(result("test result: "), None);
    }

    #[test]
    fn an_image_that_does_not_exist_does_not_verify() {
        assert_eq!(verified(Path::new("/nowhere/absent.toml")), Count::one(false));
    }

    #[test]
    fn the_shipped_policy_and_those_of_the_guests_are_found_and_no_manifest() {
        let found = policies().expect("policies");
        for name in ["policy/default.toml", "tests/guests/prober.toml", "tests/guests/storm.toml"] {
            assert!(found.iter().any(|path| path.ends_with(name)), "{found:?}");
        }
        assert!(found.iter().all(|path| !path.ends_with("Cargo.toml")));
    }
}
