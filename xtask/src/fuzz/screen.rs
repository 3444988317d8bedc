//! Shows the progress of the fuzzers as a table.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::process::{Ended, Fuzzer};
use super::status::Status;

/// Returns the head of the table.
pub fn header() -> String {
    format!(
        "{:<22} {:>6} {:>12} {:>8} {:>8} {:>9} {:>7} {:>7}",
        "target", "time", "executions", "exec/s", "coverage", "features", "corpus", "crashes"
    )
}

fn columns(target: &str, time: Duration, status: &Status, crashes: usize) -> String {
    let Status { executions, rate, coverage, features, corpus } = status;
    let seconds = time.as_secs();
    format!(
        "{target:<22} {seconds:>4} s {executions:>12} {rate:>8} {coverage:>8} {features:>9} {corpus:>7} {crashes:>7}"
    )
}

/// Returns the row of a fuzzer that has ended.
pub fn row(ended: &Ended) -> String {
    columns(&ended.target, ended.time, &ended.status, ended.crashes.len())
}

/// Shows the running fuzzers, if there is a terminal, and prints a row for each that has ended.
pub struct Screen {
    bar: ProgressBar,
    terminal: bool,
    done: usize,
    all: usize,
    limit: Duration,
}

impl Screen {
    /// Prepares the screen for `all` fuzzers, each with the time `limit`.
    pub fn new(all: usize, limit: Duration) -> Screen {
        let terminal = console::user_attended_stderr();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        let screen = Screen { bar, terminal, done: 0, all, limit };
        screen.say(&header());
        screen
    }

    fn say(&self, text: &str) {
        match self.terminal {
            true => self.bar.suspend(|| eprintln!("{text}")),
            false => eprintln!("{text}"),
        }
    }

    /// Shows the running fuzzers.
    pub fn show(&self, running: &[Fuzzer]) {
        let lines = running.iter().map(|fuzzer| columns(&fuzzer.target, fuzzer.time(), &fuzzer.status, 0));
        let rest = format!("{} of {} done, {} s each; Ctrl-C ends", self.done, self.all, self.limit.as_secs());
        self.bar.set_message(lines.chain([rest]).collect::<Vec<_>>().join("\n"));
        self.bar.tick();
    }

    /// Prints the row of a fuzzer that has ended.
    pub fn ended(&mut self, ended: &Ended) {
        self.done += 1;
        self.say(&row(ended));
    }

    /// Clears the screen after all fuzzers have ended.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
