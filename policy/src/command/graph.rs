use clap::ValueEnum;

use super::outcome::{Outcome, Output, PolicyFile};

/// Draw a policy: services, regions, queues, and everything that crosses the image's edge
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    #[command(flatten)]
    output: Output<Format>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A picture
    #[default]
    Svg,
    /// For Graphviz
    Dot,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_sound(|policy| {
            Outcome::holds(match self.output.format() {
                Format::Svg => policy.graph().svg(),
                Format::Dot => policy.graph().dot(),
            })
        })
    }
}
