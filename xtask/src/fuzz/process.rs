//! One fuzzer: a libFuzzer process and its output.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::status::Status;
use super::tools::{self, folder};

/// The limits of one script: its length in bytes, its time in seconds, and its memory in MB.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048"];

/// A running fuzzer.
pub struct Fuzzer {
    /// Its target.
    pub target: String,
    /// Its last status.
    pub status: Status,
    limit: Duration,
    child: Child,
    lines: Receiver<String>,
    started: Instant,
    before: BTreeSet<PathBuf>,
    why: Option<String>,
}

/// A fuzzer that has ended.
pub struct Ended {
    pub target: String,
    pub status: Status,
    pub time: Duration,
    /// The scripts with which it found a failure.
    pub crashes: Vec<PathBuf>,
    /// The reason why the run failed, if it did.
    pub why: Option<String>,
    /// `true` if it was interrupted on request.
    pub interrupted: bool,
}

/// The status with which libFuzzer ends when it is interrupted (`-interrupted_exitcode`).
const INTERRUPTED: i32 = 72;

/// Returns why a run failed, if it did.
///
/// A run fails if it found something (`crashes`), with or without a reason, or did not run to its
/// end. An interruption is a regular end only if it was `requested`.
fn failure(
    ended: ExitStatus,
    executions: u64,
    crashes: usize,
    reason: Option<String>,
    requested: bool,
) -> Option<String> {
    match ended.code() {
        Some(INTERRUPTED) if requested && crashes == 0 => None,
        Some(0) if crashes > 0 => Some(reason.unwrap_or_else(|| "crashed".to_owned())),
        Some(0) if executions == 0 && !requested => Some("it ran no script".to_owned()),
        Some(0) => None,
        _ => Some(reason.unwrap_or_else(|| ended.to_string())),
    }
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

impl Fuzzer {
    /// Starts a fuzzer.
    pub fn start(target: &str, program: &Path, limit: Duration) -> Result<Fuzzer> {
        let (found, crashes) = (tools::scratch("corpus").join(target), folder("crashes").join(target));
        for folder in [&found, &crashes] {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let mut command = Command::new(program);
        // New scripts go to the first folder; it starts from the scripts in both.
        command.arg(&found).arg(folder("corpus").join(target));
        command.arg(format!("-max_total_time={}", limit.as_secs()));
        command.arg(format!("-artifact_prefix={}/", crashes.display())).args(LIMITS).arg("-print_final_stats=1");
        command.env("RUST_BACKTRACE", "0");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let output = child.stderr.take().context("a fuzzer without output")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Fuzzer {
            target: target.to_owned(),
            status: Status::default(),
            limit,
            child,
            lines,
            started: Instant::now(),
            before: files(&crashes),
            why: None,
        })
    }

    /// Returns the time since the start.
    pub fn time(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reads its output, and returns how it ended, if it has. `requested` is `true` if an
    /// interruption was requested.
    pub fn poll(&mut self, requested: bool) -> Result<Option<Ended>> {
        let ended = self.child.try_wait()?;
        // Its last lines may come a moment after its end.
        let patience = Duration::from_millis(if ended.is_some() { 300 } else { 0 });
        while let Ok(line) = self.lines.recv_timeout(patience) {
            self.status.update(&line);
            let panicked = line.split_once("panicked at ").map(|(_, place)| place.trim_end_matches(':').to_owned());
            self.why = self.why.take().or(panicked);
        }
        let Some(status) = ended else { return Ok(None) };
        let crashes = folder("crashes").join(&self.target);
        let new: Vec<PathBuf> = files(&crashes).difference(&self.before).cloned().collect();
        // Empty unless something was found.
        let _ = std::fs::remove_dir(&crashes);
        let why = failure(status, self.status.executions, new.len(), self.why.take(), requested);
        let time = self.time();
        let interrupted = requested && (status.code() == Some(INTERRUPTED) || time < self.limit);
        Ok(Some(Ended { target: self.target.clone(), status: self.status, time, crashes: new, why, interrupted }))
    }
}

impl Drop for Fuzzer {
    fn drop(&mut self) {
        // If this program fails, it leaves no fuzzer behind. Killing one that has ended does
        // nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the exit status of a shell that runs `script`.
    fn ending(script: &str) -> ExitStatus {
        Command::new("sh").args(["-c", script]).status().expect("a shell")
    }

    #[test]
    fn only_a_run_to_its_end_that_finds_nothing_succeeds() {
        assert_eq!(failure(ending("exit 0"), 1000, 0, None, false), None);
        let killed = failure(ending("kill -9 $$"), 1000, 0, None, false).expect("it was killed");
        assert!(killed.contains("signal: 9"), "{killed}");
        // libFuzzer: 77 after a crash, 70 after a time-out, 71 for want of memory; 1 if it does not
        // start.
        for code in [1, 70, 71, 77, 126, 127] {
            let status = ending(&format!("exit {code}"));
            assert!(failure(status, 1000, 0, None, false).is_some(), "{code}");
            assert!(failure(status, 1000, 0, None, true).is_some(), "{code}");
            assert_eq!(failure(status, 1000, 1, Some("x.rs:1".to_owned()), false).as_deref(), Some("x.rs:1"));
        }
        assert!(failure(ending("exit 0"), 0, 0, None, false).is_some(), "it did nothing");
        assert!(failure(ending("exit 0"), 1000, 1, None, false).is_some(), "it found something");
    }

    #[test]
    fn an_interruption_is_an_end_if_it_was_asked_for() {
        let interrupted = ending("exit 72");
        assert_eq!(failure(interrupted, 1000, 0, None, true), None);
        assert!(failure(interrupted, 1000, 1, None, true).is_some());
        assert!(failure(interrupted, 1000, 0, None, false).is_some(), "it was ended without a request");
    }
}
