use std::path::PathBuf;

use super::Outcome;

/// Print the canonical form of a policy: without comments, in a fixed order
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy file
    file: PathBuf,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        Outcome::of_policy(&self.file, |policy| Outcome::holds(policy.canonical()))
    }
}
