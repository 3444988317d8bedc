//! Counts the instructions of pure code on this machine, with valgrind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::machine::CLOISTER;
use super::metrics::{self, Metric};
use super::record::{Reading, Run};
use crate::stages::Stages;
use crate::workspace;

/// Two numbers of repetitions: their difference leaves out what starting the program takes.
const COUNTS: [u32; 2] = [1_000, 3_000];

/// Adds a reading for each piece of code in `cloister-costs`.
pub fn measure(run: &mut Run, stages: &mut Stages) -> Result<()> {
    cloister_bed::packages::ensure_also(&["valgrind"], &mut |text| stages.begin(text))?;
    stages.begin("building the pure code");
    let target = cloister_bed::target_dir().join("bench/cargo");
    let mut cargo = workspace::cargo();
    // Compiled like the image.
    cargo.args(["build", "--quiet", "--package", "cloister-costs", "--profile", "image", "--target-dir"]).arg(&target);
    ensure!(cargo.status().context("cargo cannot be run")?.success(), "cloister-costs does not build");
    let program = target.join("image/cloister-costs");
    let list = Command::new(&program).output().with_context(|| program.display().to_string())?;
    stages.begin("counting instructions");
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let (name, units) = line.split_once(' ').context("a piece has a name and a number of units")?;
        let result = cost(&program, name, units.parse().context("a number of units")?);
        run.readings.push(Reading {
            metric: metric(name)?,
            regime: "host",
            offload: true,
            system: CLOISTER.name,
            load: None,
            repeat: 0,
            value: result.as_ref().ok().copied(),
            error: result.err().map(|error| format!("{error:#}")),
        });
    }
    Ok(())
}

fn metric(name: &str) -> Result<&'static Metric> {
    let found = metrics::PIECES.iter().find(|metric| metric.id == name);
    found.with_context(|| format!("the piece {name} is no metric"))
}

/// Returns the instructions of one unit of a piece.
fn cost(program: &Path, name: &str, units: f64) -> Result<f64> {
    let [few, many] = COUNTS.map(|count| instructions(program, name, count));
    Ok((many? - few?) / f64::from(COUNTS[1] - COUNTS[0]) / units)
}

fn instructions(program: &Path, name: &str, count: u32) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args([name, &count.to_string()]);
    let output = valgrind.output().context("valgrind cannot be run")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} failed under valgrind: {}", text.trim());
    }
    collected(&text).with_context(|| format!("valgrind counted nothing: {}", text.trim()))
}

/// Parses callgrind's line `==1234== Collected : 567`.
fn collected(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_total_is_found() {
        let text = "==7== Events    : Ir\n==7== Collected : 1234567\n==7== \n";
        assert_eq!(collected(text), Some(1_234_567.0));
        assert_eq!(collected("==7== Collected : \n"), None);
    }

    #[test]
    fn each_piece_is_a_metric_by_its_name() {
        assert_eq!(metric("hop-32").expect("known").limit, Some(15.0));
        assert!(metric("nonsense").is_err());
    }
}
