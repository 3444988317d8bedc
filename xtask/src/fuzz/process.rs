//! One fuzzer: a process of libFuzzer, and what it says.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::status::Status;
use super::{folder, tools};

/// The longest script in bytes, the longest time in seconds and the most memory in MB of one.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048"];

/// A fuzzer that runs.
pub struct Fuzzer {
    /// Its target.
    pub target: String,
    /// What it said last.
    pub status: Status,
    child: Child,
    lines: Receiver<String>,
    started: Instant,
    before: BTreeSet<PathBuf>,
    why: Option<String>,
}

/// One that has ended.
pub struct Ended {
    pub target: String,
    pub status: Status,
    pub time: Duration,
    /// What it has found, and why that is a crash.
    pub crashes: Vec<PathBuf>,
    pub why: Option<String>,
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

impl Fuzzer {
    /// Starts one.
    pub fn start(target: &str, program: &Path, limit: Duration) -> Result<Fuzzer> {
        let (found, crashes) = (tools::scratch("corpus").join(target), folder("crashes").join(target));
        for folder in [&found, &crashes] {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let mut command = Command::new(program);
        // What is new goes to the first folder; both are where it starts from.
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
            child,
            lines,
            started: Instant::now(),
            before: files(&crashes),
            why: None,
        })
    }

    /// How long it has run.
    pub fn time(&self) -> Duration {
        self.started.elapsed()
    }

    /// Hears what it says; answers how it ended, if it has.
    pub fn poll(&mut self) -> Result<Option<Ended>> {
        let ended = self.child.try_wait()?;
        // Its last lines may come a moment after its end.
        let patience = Duration::from_millis(if ended.is_some() { 300 } else { 0 });
        while let Ok(line) = self.lines.recv_timeout(patience) {
            self.status.hear(&line);
            let panicked = line.split_once("panicked at ").map(|(_, place)| place.trim_end_matches(':').to_owned());
            self.why = self.why.take().or(panicked);
        }
        let Some(status) = ended else { return Ok(None) };
        let crashes = folder("crashes").join(&self.target);
        let new: Vec<PathBuf> = files(&crashes).difference(&self.before).cloned().collect();
        // Empty unless something was found.
        let _ = std::fs::remove_dir(&crashes);
        if !status.success() && self.why.is_none() {
            self.why = Some(status.to_string());
        }
        Ok(Some(Ended {
            target: self.target.clone(),
            status: self.status,
            time: self.time(),
            crashes: new,
            why: self.why.take(),
        }))
    }
}

impl Drop for Fuzzer {
    fn drop(&mut self) {
        // If this program fails, it leaves none behind; one that has ended is not there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
