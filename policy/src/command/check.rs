use std::path::{Path, PathBuf};

use cloister_policy::Checked;

use super::{Outcome, Status, hex};

/// Check policies, and say what is wrong with them
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let mut all = Outcome { output: String::new(), problems: String::new(), status: Status::Holds };
        for file in &self.files {
            let one = Outcome::of_policy(file, |policy| Outcome::holds(summary(file, policy)));
            all.output += &one.output;
            all.problems += &one.problems;
            all.status = all.status.max(one.status);
        }
        all
    }
}

fn summary(file: &Path, policy: &Checked) -> String {
    let count = policy.services().count();
    let services = if count == 1 { "1 service".to_owned() } else { format!("{count} services") };
    format!("{}: holds; {services}, hash {}\n", file.display(), hex(&policy.hash()))
}
