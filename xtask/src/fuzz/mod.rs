//! `fuzz`: runs the targets of `tests/fuzz` with libFuzzer, shows their progress, and keeps what
//! they find.

mod corpus;
mod coverage;
mod process;
mod screen;
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
use screen::Screen;

#[derive(Args)]
pub struct Arguments {
    /// Only this target (may be given several times); `--list` names them
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<String>,
    /// The time that each target runs, at least 1 s
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = seconds)]
    seconds: u64,
    /// The number of targets that run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Build with the address sanitizer, at about half the speed (our own code has no `unsafe`;
    /// some of its crates have)
    #[arg(long)]
    asan: bool,
    /// After the runs, keep in the committed corpora the scripts that reach the most code
    #[arg(long)]
    minimize: bool,
    /// Name the targets
    #[arg(long, conflicts_with_all = ["replay", "coverage"])]
    list: bool,
    /// Show a script step by step, with the effect of each step; needs one `--target`
    #[arg(long, value_name = "FILE", conflicts_with = "coverage")]
    replay: Option<PathBuf>,
    /// Measure the lines and branches that the committed corpora reach, by crate
    #[arg(long)]
    coverage: bool,
}

/// Parses a time limit. To libFuzzer 0 means no limit, so it is refused.
fn seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        // libFuzzer stores the limit as an `int`.
        Ok(seconds) if (1..=u64::from(i32::MAX.unsigned_abs())).contains(&seconds) => Ok(seconds),
        Ok(_) => Err(format!("from 1 to {} seconds are possible", i32::MAX)),
        Err(error) => Err(error.to_string()),
    }
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
    let requested = stop.clone();
    // The fuzzers are in the terminal's process group, so Ctrl-C ends them too.
    ctrlc::set_handler(move || requested.store(true, Ordering::Relaxed)).context("Ctrl-C cannot be caught")?;
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
    let left: Vec<&str> = waiting.map(|(target, _)| target.as_str()).collect();
    Ok(report(&ended, &left))
}

/// Returns the chosen targets, or all.
fn chosen(names: &[String]) -> Result<Vec<String>> {
    let all = tools::targets()?;
    if let Some(unknown) = names.iter().find(|target| !all.contains(target)) {
        anyhow::bail!("there is no target {unknown}; `cargo xtask fuzz --list` names them");
    }
    Ok(if names.is_empty() { all } else { names.to_vec() })
}

/// Runs the fuzz library's own program, with the stable compiler.
fn program(arguments: &[&str]) -> Result<ExitCode> {
    let mut command = workspace::cargo();
    command.args(["run", "--quiet", "--package", "cloister-fuzz", "--"]).args(arguments);
    let status = command.status().context("cargo cannot be run")?;
    ensure!(status.code().is_some(), "the program was killed");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The exit status of an interrupted run, by the convention of shells for SIGINT.
const INTERRUPTED: u8 = 130;

/// Returns the exit status of a run: 1 if a target failed, [`INTERRUPTED`] if one was interrupted
/// or `left` out, or 0.
fn verdict(ended: &[Ended], left: &[&str]) -> u8 {
    if ended.iter().any(|end| end.why.is_some()) {
        1
    } else if ended.iter().any(|end| end.interrupted) || !left.is_empty() {
        INTERRUPTED
    } else {
        0
    }
}

/// Prints the closing table and the targets that were not run, and returns the exit status.
fn report(ended: &[Ended], left: &[&str]) -> ExitCode {
    println!("{}", screen::header());
    for end in ended {
        println!("{}", screen::row(end));
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
    let cut: Vec<&str> = ended.iter().filter(|end| end.interrupted).map(|end| end.target.as_str()).collect();
    for (what, targets) in [("interrupted", cut.as_slice()), ("not run", left)] {
        if !targets.is_empty() {
            println!("{what}: {}", targets.join(", "));
        }
    }
    ExitCode::from(verdict(ended, left))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use status::Status;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_time_of_zero_is_refused_because_it_means_no_limit() {
        for (text, taken) in
            [("0", false), ("-1", false), ("x", false), ("1", true), ("3600", true), ("2147483648", false)]
        {
            let line = Line::try_parse_from(["fuzz".to_owned(), format!("--seconds={text}")]);
            assert_eq!(line.map(|line| line.arguments.seconds.to_string()).ok(), taken.then(|| text.to_owned()));
        }
    }

    #[test]
    fn the_status_is_0_only_if_every_target_ran_to_its_end() {
        let end = |why: Option<&str>, interrupted| Ended {
            target: "a".to_owned(),
            status: Status::default(),
            time: Duration::ZERO,
            crashes: Vec::new(),
            why: why.map(str::to_owned),
            interrupted,
        };
        assert_eq!(verdict(&[end(None, false), end(None, false)], &[]), 0);
        assert_eq!(verdict(&[end(None, false), end(None, true)], &[]), 130);
        assert_eq!(verdict(&[end(None, false)], &["b"]), 130);
        assert_eq!(verdict(&[], &["a", "b"]), 130);
        assert_eq!(verdict(&[end(Some("crashed"), false), end(None, true)], &["b"]), 1);
    }
}
