//! What libFuzzer says of itself, and how that is shown.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::process::{Ended, Fuzzer};

/// The state of a fuzzer.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Status {
    /// Scripts that were run.
    pub executions: u64,
    /// Scripts a second.
    pub rate: u64,
    /// Places in the code that were reached.
    pub coverage: u64,
    /// Those, and how often each.
    pub features: u64,
    /// Scripts that are kept.
    pub corpus: u64,
}

impl Status {
    /// Takes in a line such as
    /// `#16384 pulse  cov: 2410 ft: 9120 corp: 512/61Kb lim: 80 exec/s: 4096 rss: 60Mb`.
    pub fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { return };
        if let Some(executions) = first.strip_prefix('#').and_then(|number| number.parse().ok()) {
            self.executions = executions;
            let words: Vec<&str> = words.collect();
            for pair in words.windows(2) {
                let number = pair[1].split('/').next().and_then(|number| number.parse().ok());
                let place = match pair[0] {
                    "cov:" => &mut self.coverage,
                    "ft:" => &mut self.features,
                    "corp:" => &mut self.corpus,
                    "exec/s:" => &mut self.rate,
                    _ => continue,
                };
                *place = number.unwrap_or(*place);
            }
        } else if let Some(number) = words.next().and_then(|number| number.parse().ok()) {
            match first {
                "stat::number_of_executed_units:" => self.executions = number,
                "stat::average_exec_per_sec:" => self.rate = number,
                _ => {}
            }
        }
    }
}

/// The head of the table.
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

/// A row of the table.
pub fn row(ended: &Ended) -> String {
    columns(&ended.target, ended.time, &ended.status, ended.crashes.len())
}

/// Shows the fuzzers that run, on a terminal; and a row for each that has ended, anywhere.
pub struct Screen {
    bar: ProgressBar,
    terminal: bool,
    done: usize,
    all: usize,
    limit: Duration,
}

impl Screen {
    /// For so many fuzzers, each of which runs so long.
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

    /// Shows how those that run fare.
    pub fn show(&self, running: &[Fuzzer]) {
        let lines = running.iter().map(|fuzzer| columns(&fuzzer.target, fuzzer.time(), &fuzzer.status, 0));
        let rest = format!("{} of {} done, {} s each; Ctrl-C ends", self.done, self.all, self.limit.as_secs());
        self.bar.set_message(lines.chain([rest]).collect::<Vec<_>>().join("\n"));
        self.bar.tick();
    }

    /// One has ended.
    pub fn ended(&mut self, ended: &Ended) {
        self.done += 1;
        self.say(&row(ended));
    }

    /// All have.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libfuzzer_are_understood() {
        let mut status = Status::default();
        status.hear("#16384\tpulse  cov: 2410 ft: 9120 corp: 512/61Kb lim: 80 exec/s: 4096 rss: 60Mb");
        let expected = Status { executions: 16384, rate: 4096, coverage: 2410, features: 9120, corpus: 512 };
        assert_eq!(status, expected);
        status.hear(
            "#20000\tREDUCE cov: 2411 ft: 9121 corp: 513/61Kb lim: 80 exec/s: 4000 rss: 60Mb L: 9/80 MS: 1 EraseBytes-",
        );
        status.hear("INFO: seed corpus: files: 3 min: 1b max: 9b total: 12b rss: 30Mb");
        status.hear("stat::number_of_executed_units: 30000");
        status.hear("stat::average_exec_per_sec:     3000");
        status.hear("");
        let expected = Status { executions: 30000, rate: 3000, coverage: 2411, features: 9121, corpus: 513 };
        assert_eq!(status, expected);
    }
}
