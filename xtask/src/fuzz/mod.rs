//! `fuzz`: runs the targets of `tests/fuzz` with libFuzzer, shows how they fare, and keeps what they find.

mod corpus;
mod coverage;
mod process;
mod status;
pub mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::stages::Stages;
use crate::workspace;
use process::{Ended, Fuzzer};
use status::Screen;

#[derive(Args)]
pub struct Arguments {
    /// Only this target (may be given several times); `--list` names them
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// How many targets run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Build with the address sanitizer, at about half the speed (our own code has no `unsafe`; some of its crates have)
    #[arg(long)]
    asan: bool,
    /// After the runs, keep the scripts that reach most in the committed corpora
    #[arg(long)]
    minimize: bool,
    /// Name the targets
    #[arg(long, conflicts_with_all = ["replay", "coverage"])]
    list: bool,
    /// Show a script step by step, and what followed from each; needs one `--target`
    #[arg(long, value_name = "FILE", conflicts_with = "coverage")]
    replay: Option<PathBuf>,
    /// Measure what the committed corpora reach, by crate: lines and branches
    #[arg(long)]
    coverage: bool,
}

/// A folder of `tests/fuzz`.
fn folder(name: &str) -> PathBuf {
    workspace::root().join("tests/fuzz").join(name)
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        return program(&["list"]);
    }
    if let Some(script) = &arguments.replay {
        let [target] = arguments.targets.as_slice() else { anyhow::bail!("--replay needs one --target") };
        let script = script.canonicalize().with_context(|| script.display().to_string())?;
        return program(&["replay", target, &script.display().to_string()]);
    }
    let mut stages = Stages::new();
    if arguments.coverage {
        coverage::measure(&mut stages)?;
        return Ok(ExitCode::SUCCESS);
    }
    let targets = chosen(&arguments.targets)?;
    tools::ensure(&mut stages)?;
    stages.begin("building");
    let programs = tools::build(&targets, arguments.asan)?;
    stages.done();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    // The fuzzers are in the terminal's process group, and end by themselves.
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed)).context("Ctrl-C cannot be caught")?;
    let mut ended = Vec::new();
    let limit = Duration::from_secs(arguments.seconds);
    let mut waiting = targets.iter().zip(&programs);
    let mut running: Vec<Fuzzer> = Vec::new();
    let mut screen = Screen::new(targets.len(), limit);
    loop {
        while running.len() < arguments.jobs.max(1) && !stop.load(Ordering::Relaxed) {
            let Some((target, program)) = waiting.next() else { break };
            running.push(Fuzzer::start(target, program, limit)?);
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        for index in (0..running.len()).rev() {
            if let Some(end) = running[index].poll(stop.load(Ordering::Relaxed))? {
                running.swap_remove(index);
                screen.ended(&end);
                ended.push(end);
            }
        }
        screen.show(&running);
    }
    screen.finish();
    if arguments.minimize && !stop.load(Ordering::Relaxed) {
        for (target, program) in targets.iter().zip(&programs) {
            let since = Instant::now();
            let (files, bytes) = corpus::minimize(target, program)?;
            println!("{target}: {files} scripts, {bytes} bytes kept ({:.0} s)", since.elapsed().as_secs_f64());
        }
    }
    Ok(report(&ended))
}

/// The targets asked for, or all.
fn chosen(asked: &[String]) -> Result<Vec<String>> {
    let all = tools::targets()?;
    if let Some(unknown) = asked.iter().find(|target| !all.contains(target)) {
        anyhow::bail!("there is no target {unknown}; `cargo xtask fuzz --list` names them");
    }
    Ok(if asked.is_empty() { all } else { asked.to_vec() })
}

/// The library's own program, on the stable compiler.
fn program(arguments: &[&str]) -> Result<ExitCode> {
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--package", "cloister-fuzz", "--"]).args(arguments);
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.code().is_some(), "the program was killed");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The closing table.
fn report(ended: &[Ended]) -> ExitCode {
    println!("{}", status::header());
    for end in ended {
        println!("{}", status::row(end));
    }
    let failed: Vec<_> = ended.iter().filter(|end| end.why.is_some()).collect();
    for end in &failed {
        println!("{}: {}", end.target, end.why.as_deref().unwrap_or_default());
        for crash in &end.crashes {
            let shown = crash.strip_prefix(workspace::root()).unwrap_or(crash).display();
            println!("  replay: cargo xtask fuzz --target {} --replay {shown}", end.target);
        }
    }
    let executions: u64 = ended.iter().map(|end| end.status.executions).sum();
    println!("{} targets, {executions} executions, {} failed", ended.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
