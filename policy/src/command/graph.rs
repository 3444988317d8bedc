use std::path::PathBuf;

use clap::ValueEnum;
use cloister_policy::analyse;

use super::Outcome;

/// Draw a policy: services, regions, queues, and what crosses the image's edge
#[derive(clap::Args)]
pub struct Arguments {
    /// Policy file
    file: PathBuf,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
        match analyse(&self.file) {
            Err(report) => Outcome::refused(&report),
            Ok(policy) => Outcome::holds(match self.format {
                Format::Svg => policy.graph().svg(),
                Format::Dot => policy.graph().dot(),
            }),
        }
    }
}
