use super::outcome::{Outcome, PolicyFile};

/// Print the Rust source that gives a service's program its capabilities
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    /// Service of the policy
    service: String,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let service = &self.service;
        self.policy.with_checked(|policy| match policy.bindings(service) {
            Some(text) => Outcome::holds(text),
            None => {
                let names: Vec<&str> = policy.services().map(|service| service.name()).collect();
                Outcome::unusable(format_args!("the policy has no service `{service}`; it has {}", names.join(", ")))
            }
        })
    }
}
