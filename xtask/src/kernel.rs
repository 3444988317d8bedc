//! `kernel`: builds an image and runs it directly under Xen, the fast loop for kernel work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use cloister_bed::direct;

use crate::image;
use crate::stages::Stages;

/// The service that says when a run is over.
const PROBER: &str = "prober";
/// Marks of a failed run: the prober's word for an attempt that succeeded and must not, and the
/// kernel's fatal error.
const FAILED: [&str; 2] = ["BREACH", "cloister: fatal:"];
/// The mark of the prober's last line.
const LAST_LINE_MARK: &str = "done: ";
/// The end of the prober's last line if no attempt was a breach.
const NO_BREACHES: &str = ", 0 breaches";

#[derive(Args)]
pub struct Arguments {
    /// The policy to build
    #[arg(long, value_name = "FILE", default_value = "tests/guests/selftest.toml")]
    policy: PathBuf,
    /// The image's command line
    #[arg(long, value_name = "S", default_value = "")]
    cmdline: String,
    /// The longest time that the run may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
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
        // Without the prober no line marks the end of the run: it ends with the image or at the
        // limit.
        None if !image.services.iter().any(|service| service == PROBER) => Ok(ExitCode::SUCCESS),
        None => {
            let how = if run.ended { "ended" } else { "did not end" };
            eprintln!("the image {how} before the prober was done; the log is {}", run.path.display());
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Returns `true` if the log says that the run passed, `false` if it failed, `None` while it says
/// neither.
fn verdict(lines: &[&str]) -> Option<bool> {
    if lines.iter().any(|line| FAILED.iter().any(|mark| line.contains(mark))) {
        return Some(false);
    }
    let last = lines.iter().find(|line| line.contains(LAST_LINE_MARK));
    last.map(|line| line.trim_end().ends_with(NO_BREACHES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_passes_only_when_the_prober_ends_without_a_breach() {
        let done = "prober: done: 90 attempts, 40 faulted, 30 refused, 5 taken in, 15 without effect; 3 operations allowed, 0 breaches";
        assert_eq!(verdict(&["starting"]), None);
        assert_eq!(verdict(&["starting", done]), Some(true));
        assert_eq!(verdict(&["starting", &done.replace(", 0 b", ", 10 b")]), Some(false));
        assert_eq!(verdict(&["cloister: fatal: kernel fault: vector 14 rip=0x1", done]), Some(false));
        assert_eq!(verdict(&["prober: BREACH by attempt 3: it was read", done]), Some(false));
    }
}
