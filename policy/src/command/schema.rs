use super::outcome::Outcome;

/// Print the JSON Schema of policy files, with which editors complete and check them
#[derive(clap::Args)]
pub struct Arguments {}

impl Arguments {
    pub fn run(self) -> Outcome {
        Outcome::holds(cloister_policy::schema() + "\n")
    }
}
