use clap::ValueEnum;
use cloister_policy::ShowFormat;

use super::outcome::{Outcome, Output, PolicyFile, Status, json};

/// Print the page to sign: everything that a policy allows, and the verdicts on its assertions
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    #[command(flatten)]
    output: Output<Format>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal
    #[default]
    Text,
    /// For programs
    Json,
    /// For a review
    Markdown,
    /// One file that needs no other, with the graph
    Html,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_sound(|policy| {
            let holds = policy.verdicts().iter().all(|verdict| verdict.holds);
            let output = match self.output.format() {
                Format::Text => policy.show(ShowFormat::Text),
                Format::Markdown => policy.show(ShowFormat::Markdown),
                Format::Html => policy.show(ShowFormat::Html),
                Format::Json => json("show", &policy.page()),
            };
            Outcome { status: if holds { Status::Holds } else { Status::Refused }, ..Outcome::holds(output) }
        })
    }
}
