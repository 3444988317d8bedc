use std::path::PathBuf;

use super::{Outcome, hex};

/// Print the SHA-256 of a policy's canonical form, as the kernel prints it at boot
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy file
    file: PathBuf,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        Outcome::of_policy(&self.file, |policy| Outcome::holds(hex(&policy.hash()) + "\n"))
    }
}
