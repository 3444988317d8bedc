//! The raw numbers of a run.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::metrics::Metric;
use super::stats::{self, Ratio};

/// The readings of a run, and the systems and versions that it measured.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// The command that made it.
    pub command: String,
    /// The commit of the image, with `+` if files differ from it.
    pub commit: String,
    /// Policy hash of the image.
    pub policy: String,
    /// The versions of the software that it ran on, one a line.
    pub versions: String,
    /// The duration, in seconds.
    pub seconds: u64,
    /// The measures that were left out, and why.
    pub omissions: Vec<String>,
    /// Every reading, in order.
    pub readings: Vec<Reading>,
}

/// One value, or the reason why there is none.
#[derive(Debug, Serialize)]
pub struct Reading {
    /// The metric's name.
    #[serde(serialize_with = "by_id")]
    pub metric: &'static Metric,
    /// `icount`, `wall` or `host`.
    pub regime: &'static str,
    /// `true` if guests and back end used offloads.
    pub offload: bool,
    /// The system.
    pub system: &'static str,
    /// The load.
    pub load: Option<f64>,
    /// The repetition, from 0.
    pub repeat: u32,
    /// The value.
    pub value: Option<f64>,
    /// The reason why there is no value.
    pub error: Option<String>,
}

fn by_id<S: serde::Serializer>(metric: &&'static Metric, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(metric.id)
}

/// The conditions that the readings in one row of a table have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The metric.
    pub metric: &'static Metric,
    /// The clock: `icount`, `wall` or `host`.
    pub regime: &'static str,
    /// `true` with offloads.
    pub offload: bool,
    /// The load.
    pub load: Option<f64>,
}

/// The readings of one system in a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// It was not measured.
    Nothing,
    /// The values of all repetitions.
    Values(Vec<f64>),
    /// The error of a failed repetition.
    Failed(String),
}

impl Cell {
    /// Returns the median, if there are values.
    pub fn median(&self) -> Option<f64> {
        match self {
            Self::Values(values) => Some(stats::median(values)),
            _ => None,
        }
    }
}

impl Run {
    /// Returns the rows in the order of their first readings.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for Reading { metric, regime, offload, load, .. } in &self.readings {
            let row = Row { metric, regime, offload: *offload, load: *load };
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }

    /// Returns the readings of a system in a row. One failure fails the row: the other repetitions
    /// are only survivors.
    pub fn cell(&self, row: &Row, system: &str) -> Cell {
        let readings = self.readings.iter().filter(|reading| {
            reading.system == system
                && reading.metric == row.metric
                && reading.regime == row.regime
                && reading.offload == row.offload
                && reading.load == row.load
        });
        let mut values = Vec::new();
        for reading in readings {
            match (&reading.value, &reading.error) {
                (Some(value), None) => values.push(*value),
                (_, error) => return Cell::Failed(error.clone().unwrap_or_default()),
            }
        }
        if values.is_empty() { Cell::Nothing } else { Cell::Values(values) }
    }

    /// Returns the ratio of two systems in a row.
    pub fn ratio(&self, row: &Row, ours: &str, theirs: &str) -> Option<Ratio> {
        match (self.cell(row, ours), self.cell(row, theirs)) {
            (Cell::Values(ours), Cell::Values(theirs)) => stats::ratio(&ours, &theirs),
            _ => None,
        }
    }

    /// Writes the raw numbers.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::REQUESTS;
    use super::*;

    fn reading(system: &'static str, repeat: u32, value: Result<f64, &str>) -> Reading {
        Reading {
            metric: &REQUESTS,
            regime: "icount",
            offload: true,
            system,
            load: Some(30.0),
            repeat,
            value: value.ok(),
            error: value.err().map(str::to_owned),
        }
    }

    fn run(readings: Vec<Reading>) -> Run {
        Run { readings, ..Run::default() }
    }

    #[test]
    fn repetitions_go_together_and_give_a_ratio() {
        let run = run(vec![reading("a", 0, Ok(20.0)), reading("b", 0, Ok(10.0)), reading("a", 1, Ok(22.0))]);
        let rows = run.rows();
        assert_eq!(rows.len(), 1);
        assert_eq!(run.cell(&rows[0], "a"), Cell::Values(vec![20.0, 22.0]));
        assert_eq!(run.cell(&rows[0], "c"), Cell::Nothing);
        assert!((run.ratio(&rows[0], "a", "b").expect("ratio").value - 2.1).abs() < 1e-9);
    }

    #[test]
    fn a_failure_is_never_a_number() {
        let run = run(vec![reading("a", 0, Ok(20.0)), reading("a", 1, Err("reset")), reading("b", 0, Ok(10.0))]);
        let rows = run.rows();
        assert_eq!(run.cell(&rows[0], "a"), Cell::Failed("reset".to_owned()));
        assert_eq!(run.ratio(&rows[0], "a", "b"), None);
        assert!(serde_json::to_string(&run).expect("json").contains("\"error\":\"reset\""));
    }
}
