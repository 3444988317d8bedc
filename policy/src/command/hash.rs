use cloister_policy::hexadecimal;

use super::outcome::{Outcome, PolicyFile};

/// Print the SHA-256 of a policy's canonical form, as the kernel prints it at boot
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_checked(|policy| Outcome::holds(hexadecimal(&policy.hash()) + "\n"))
    }
}
