//! The compiler and the programs that fuzzing needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::folder;
use crate::stages::Stages;
use crate::workspace;

/// The version of cargo-fuzz.
const CARGO_FUZZ: &str = "0.13.2";
/// The toolchain: libFuzzer's instrumentation is a feature of nightly compilers.
pub const NIGHTLY: &str = "nightly";

/// Where tools are installed, and where the programs are built.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from)
}

/// A folder for what fuzzing makes and nobody commits.
pub fn scratch(name: &str) -> PathBuf {
    target_folder().join("fuzz").join(name)
}

/// A command of the nightly toolchain.
pub fn nightly(program: &str) -> Command {
    let mut command = Command::new(program);
    // Not the compiler by which this program was started.
    command.current_dir(workspace::root()).env("RUSTUP_TOOLCHAIN", NIGHTLY);
    for name in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// Whether a command succeeds.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command whose output matters only if it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(output.status.success(), "{command:?} failed\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Makes sure of a nightly compiler.
pub fn ensure_nightly(stages: &mut Stages) -> Result<()> {
    if succeeds(nightly("rustc").arg("--version")) {
        return Ok(());
    }
    stages.begin("installing a nightly compiler");
    quiet(Command::new("rustup").args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]))
}

/// Makes sure of cargo-fuzz and a nightly compiler.
pub fn ensure(stages: &mut Stages) -> Result<()> {
    ensure_nightly(stages)?;
    ensure_tool(("cargo-fuzz", CARGO_FUZZ), stages).map(drop)
}

/// Makes sure of this version of a tool of cargo's; answers where it is.
pub fn ensure_tool((name, version): (&str, &str), stages: &mut Stages) -> Result<PathBuf> {
    let tools = target_folder().join("tools");
    let program = tools.join("bin").join(name);
    // cargo hands the tool's own name to it.
    let command = name.trim_start_matches("cargo-");
    let outputs =
        [&["--version"][..], &[command, "--version"]].map(|arguments| Command::new(&program).args(arguments).output());
    let found = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).contains(version);
    if outputs.iter().flatten().any(found) {
        return Ok(program);
    }
    stages.begin(&format!("installing {name}"));
    let mut install = workspace::cargo();
    install.args(["install", name, "--version", &format!("={version}"), "--locked", "--root"]).arg(&tools);
    quiet(&mut install)?;
    Ok(program)
}

/// The names of all targets: those of the programs.
pub fn targets() -> Result<Vec<String>> {
    let folder = folder("fuzz/targets");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// Makes sure that the programs can be built as their lock file says: cargo-fuzz has no `--locked`, and would change the file.
fn ensure_locked() -> Result<()> {
    let mut command = nightly("cargo");
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    quiet(command.arg(folder("fuzz/Cargo.toml")))
        .context("tests/fuzz/fuzz/Cargo.lock is not what the manifests ask for")
}

/// Builds the programs of these targets; returns where they are.
pub fn build(targets: &[String], asan: bool) -> Result<Vec<PathBuf>> {
    ensure_locked()?;
    let (kind, sanitizer) = if asan { ("asan", "address") } else { ("plain", "none") };
    let target_dir = scratch(kind);
    let build = |target: Option<&str>| -> Result<()> {
        let mut command = nightly("cargo");
        let path = std::env::join_paths(
            [target_folder().join("tools/bin")]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        )?;
        command.env("PATH", path).env_remove("CARGO_TARGET_DIR");
        command.args(["fuzz", "build", "--sanitizer", sanitizer, "--fuzz-dir"]).arg(folder("fuzz"));
        command.arg("--target-dir").arg(&target_dir).args(target);
        quiet(&mut command)
    };
    // One for all of them, or one after the other.
    if targets == self::targets()? {
        build(None)?;
    } else {
        targets.iter().try_for_each(|target| build(Some(target)))?;
    }
    targets.iter().map(|target| find(&target_dir, target)).collect()
}

/// The program below `<target dir>/<triple>/release`.
fn find(target_dir: &Path, target: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(target_dir).with_context(|| target_dir.display().to_string())?;
    for entry in entries {
        let program = entry?.path().join("release").join(target);
        if program.is_file() {
            return Ok(program);
        }
    }
    bail!("cargo-fuzz has made no program {target} in {}", target_dir.display())
}
