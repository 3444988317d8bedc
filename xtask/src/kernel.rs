//! `kernel`: the fast loop for kernel work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cloister_bed::direct;

use crate::image;
use crate::stages::Stages;

/// What the image prints, as a whole line, when its own checks have passed.
const PASSED: &str = "self-test: passed";
/// What lines begin with that tell of a failure.
const FAILED: [&str; 3] = ["self-test: failed", "kernel fault:", "kernel panic:"];

#[derive(Args)]
pub struct Arguments {
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = "policy/selftest.toml")]
    policy: PathBuf,
    /// The image's command line
    #[arg(long, value_name = "S", default_value = "")]
    cmdline: String,
    /// How many seconds the run may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    limit: u64,
    /// Show Xen's own messages too
    #[arg(long)]
    all: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut stages = Stages::new();
    let image = image::build(&arguments.policy, &mut stages)?;
    let limit = Duration::from_secs(arguments.limit);
    let done = |log: &str| verdict(&direct::lines(log)).is_some();
    let run = direct::run(&image.elf, &arguments.cmdline, limit, &done, &mut |text| stages.begin(text))?;
    stages.done();
    match arguments.all {
        true => print!("{}", run.log),
        false => run.lines().iter().for_each(|line| println!("{line}")),
    }
    match verdict(&run.lines()) {
        Some(true) => Ok(ExitCode::SUCCESS),
        Some(false) => Ok(ExitCode::FAILURE),
        None => {
            let how = if run.ended { "ended" } else { "did not end" };
            eprintln!("the image {how} without \"{PASSED}\"; the log is {}", run.path.display());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Whether the image's lines say that it passed; `None` while they say nothing.
fn verdict(lines: &[&str]) -> Option<bool> {
    if lines.iter().any(|line| FAILED.iter().any(|mark| line.starts_with(mark))) {
        return Some(false);
    }
    lines.contains(&PASSED).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_passes_only_by_saying_so_and_without_a_fault() {
        assert_eq!(verdict(&["starting"]), None);
        assert_eq!(verdict(&["starting", PASSED]), Some(true));
        assert_eq!(verdict(&["kernel fault: page fault rip=0x1", PASSED]), Some(false));
    }
}
