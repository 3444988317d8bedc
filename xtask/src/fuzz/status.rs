//! What libFuzzer reports about itself.

/// The state of a fuzzer.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Status {
    /// Scripts that were run.
    pub executions: u64,
    /// Scripts a second.
    pub rate: u64,
    /// Places in the code that were reached.
    pub coverage: u64,
    /// Places in the code, counted once for each class of how often they were reached.
    pub features: u64,
    /// Scripts in the corpus.
    pub corpus: u64,
}

impl Status {
    /// Updates the status from a line such as
    /// `#16384 pulse  cov: 2410 ft: 9120 corp: 512/61Kb lim: 80 exec/s: 4096 rss: 60Mb`.
    pub fn update(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { return };
        if let Some(executions) = first.strip_prefix('#').and_then(|number| number.parse().ok()) {
            self.executions = executions;
            let words: Vec<&str> = words.collect();
            for pair in words.windows(2) {
                let number = pair[1].split('/').next().and_then(|number| number.parse().ok());
                let field = match pair[0] {
                    "cov:" => &mut self.coverage,
                    "ft:" => &mut self.features,
                    "corp:" => &mut self.corpus,
                    "exec/s:" => &mut self.rate,
                    _ => continue,
                };
                *field = number.unwrap_or(*field);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libfuzzer_are_parsed() {
        let mut status = Status::default();
        status.update("#16384\tpulse  cov: 2410 ft: 9120 corp: 512/61Kb lim: 80 exec/s: 4096 rss: 60Mb");
        let expected = Status { executions: 16384, rate: 4096, coverage: 2410, features: 9120, corpus: 512 };
        assert_eq!(status, expected);
        status.update(
            "#20000\tREDUCE cov: 2411 ft: 9121 corp: 513/61Kb lim: 80 exec/s: 4000 rss: 60Mb L: 9/80 MS: 1 EraseBytes-",
        );
        status.update("INFO: seed corpus: files: 3 min: 1b max: 9b total: 12b rss: 30Mb");
        status.update("stat::number_of_executed_units: 30000");
        status.update("stat::average_exec_per_sec:     3000");
        status.update("");
        let expected = Status { executions: 30000, rate: 3000, coverage: 2411, features: 9121, corpus: 513 };
        assert_eq!(status, expected);
    }
}
