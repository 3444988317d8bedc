//! Measures the code that the committed corpora reach: replays them with LLVM's coverage counters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::tools::{self, NIGHTLY};
use crate::stages::Stages;
use crate::workspace;

/// The crates under attack; the other crates are the attack itself.
const CRATES: [&str; 11] = [
    "caps",
    "kernel/core",
    "netfront-service",
    "policy",
    "services/collections",
    "services/control",
    "services/grant-manager",
    "services/http",
    "services/interfaces",
    "services/tcpip",
    "services/xenstore",
];

/// The numbers of covered places and of all places.
#[derive(Clone, Copy, Default)]
struct Share(u64, u64);

impl Share {
    fn add(&mut self, summary: &Value) {
        let number = |name: &str| summary.get(name).and_then(Value::as_u64).unwrap_or_default();
        self.0 += number("covered");
        self.1 += number("count");
    }

    fn text(self) -> String {
        match self.1 {
            0 => "-".to_owned(),
            all => format!("{:5.1} % of {all:>5}", self.0 as f64 * 100.0 / all as f64),
        }
    }
}

/// Measures the coverage, and prints a table.
pub fn measure(stages: &mut Stages) -> Result<()> {
    // Only nightly compilers count branches.
    tools::ensure_nightly(stages)?;
    let tools = llvm_tools(stages)?;
    stages.begin("building with coverage counters");
    let (folder, raw) = (tools::scratch("coverage"), tools::scratch("coverage-raw"));
    let _ = std::fs::remove_dir_all(&raw);
    let mut build = tools::nightly("cargo");
    build.env("RUSTFLAGS", "-C instrument-coverage -Z coverage-options=branch");
    // Programs that the build runs write counts too, which are not used.
    build.env("LLVM_PROFILE_FILE", folder.join("build-%p-%m.profraw"));
    build.args(["build", "--package", "cloister-fuzz", "--bin", "cloister-fuzz", "--target-dir"]).arg(&folder);
    tools::quiet(&mut build)?;
    stages.begin("replaying the corpora");
    let program = folder.join("debug/cloister-fuzz");
    let mut replay = Command::new(&program);
    replay.arg("corpora").arg(tools::folder("corpus")).env("LLVM_PROFILE_FILE", raw.join("%m.profraw"));
    tools::quiet(replay.stdout(Stdio::null()))?;
    let profile = folder.join("merged.profdata");
    let mut merge = Command::new(tools.join("llvm-profdata"));
    merge.args(["merge", "-sparse", "-o"]).arg(&profile);
    for entry in std::fs::read_dir(&raw).with_context(|| raw.display().to_string())? {
        merge.arg(entry?.path());
    }
    tools::quiet(&mut merge)?;
    let mut export = Command::new(tools.join("llvm-cov"));
    export.args(["export", "-summary-only", "-instr-profile"]).arg(&profile).arg(&program);
    let output = export.output().context("llvm-cov cannot be run")?;
    ensure!(output.status.success(), "llvm-cov failed\n{}", String::from_utf8_lossy(&output.stderr));
    stages.done();
    print(&serde_json::from_slice(&output.stdout).context("llvm-cov's output")?);
    Ok(())
}

/// Returns the folder with the LLVM tools of the nightly compiler.
fn llvm_tools(stages: &mut Stages) -> Result<PathBuf> {
    let output = tools::nightly("rustc").args(["--print", "target-libdir"]).output().context("rustc cannot be run")?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let tools = libraries.parent().unwrap_or(&libraries).join("bin");
    if !tools.join("llvm-cov").is_file() {
        stages.begin("installing llvm-tools");
        tools::quiet(Command::new("rustup").args(["component", "add", "llvm-tools", "--toolchain", NIGHTLY]))?;
    }
    Ok(tools)
}

fn print(export: &Value) {
    let root = workspace::root();
    let mut crates: BTreeMap<&str, [Share; 2]> = BTreeMap::new();
    let files = export["data"][0]["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    for file in files {
        let path = Path::new(file["filename"].as_str().unwrap_or_default());
        let below = path.strip_prefix(&root).unwrap_or(path);
        if let Some(name) = CRATES.iter().find(|name| below.starts_with(name)) {
            let [lines, branches] = crates.entry(name).or_default();
            lines.add(&file["summary"]["lines"]);
            branches.add(&file["summary"]["branches"]);
        }
    }
    println!("{:<24} {:>16} {:>16}", "crate", "lines", "branches");
    for (name, [lines, branches]) in crates {
        println!("{name:<24} {:>16} {:>16}", lines.text(), branches.text());
    }
}
