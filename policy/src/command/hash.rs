use super::outcome::{Outcome, PolicyFile, hex};

/// Print the SHA-256 of a policy's canonical form, as the kernel prints it at boot
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_checked(|policy| Outcome::holds(hex(&policy.hash()) + "\n"))
    }
}
