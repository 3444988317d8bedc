//! The compiler and the programs that fuzzing needs, and the folders that it uses.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::stages::Stages;
use crate::workspace;

/// The version of cargo-fuzz that is installed.
const CARGO_FUZZ: &str = "0.13.2";
/// The toolchain: libFuzzer's instrumentation is a feature of nightly compilers.
pub const NIGHTLY: &str = "nightly";

/// Returns the target folder: tools are installed and programs are built below it.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from)
}

/// Returns a folder of `tests/fuzz`.
pub fn folder(name: &str) -> PathBuf {
    workspace::root().join("tests/fuzz").join(name)
}

/// Returns a folder for files that are not committed.
pub fn scratch(name: &str) -> PathBuf {
    target_folder().join("fuzz").join(name)
}

/// Returns a command of the nightly toolchain.
pub fn nightly(program: &str) -> Command {
    let mut command = Command::new(program);
    // Not the toolchain that started this program.
    command.current_dir(workspace::root()).env("RUSTUP_TOOLCHAIN", NIGHTLY);
    for name in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    command
}

/// Returns `true` if a command succeeds.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs a command whose output matters only if it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(output.status.success(), "{command:?} failed\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Installs a nightly compiler if there is none.
pub fn ensure_nightly(stages: &mut Stages) -> Result<()> {
    if succeeds(nightly("rustc").arg("--version")) {
        return Ok(());
    }
    stages.begin("installing a nightly compiler");
    quiet(Command::new("rustup").args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]))
}

/// Installs cargo-fuzz and a nightly compiler if they are missing.
pub fn ensure(stages: &mut Stages) -> Result<()> {
    ensure_nightly(stages)?;
    ensure_tool(("cargo-fuzz", CARGO_FUZZ), stages).map(drop)
}

/// Installs this version of a cargo tool if it is missing, and returns its path.
pub fn ensure_tool((name, version): (&str, &str), stages: &mut Stages) -> Result<PathBuf> {
    let tools = target_folder().join("tools");
    let program = tools.join("bin").join(name);
    // cargo passes the tool's own name as the first argument.
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

/// Returns the names of all targets, which are those of their source files.
pub fn targets() -> Result<Vec<String>> {
    let folder = folder("fuzz/targets");
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let names = entries.map(|entry| Ok(entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// Checks that the lock file fits the manifests: cargo-fuzz has no `--locked`, and would change the
/// file.
fn ensure_locked() -> Result<()> {
    let mut command = nightly("cargo");
    command.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    quiet(command.arg(folder("fuzz/Cargo.toml")))
        .context("tests/fuzz/fuzz/Cargo.lock is not what the manifests ask for")
}

/// Builds the programs of these targets, and returns their paths.
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
    // One build for all targets, or one for each.
    if targets == self::targets()? {
        build(None)?;
    } else {
        targets.iter().try_for_each(|target| build(Some(target)))?;
    }
    targets.iter().map(|target| find(&target_dir, target)).collect()
}

/// Finds the program in `<target dir>/<triple>/release`.
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
