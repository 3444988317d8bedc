use super::outcome::{Outcome, PolicyFile};

/// Print the canonical form of a policy: without comments, in a fixed order
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_checked(|policy| Outcome::holds(policy.canonical()))
    }
}
