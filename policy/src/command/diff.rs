use std::path::PathBuf;

use clap::ValueEnum;
use cloister_policy::{Class, Difference, analyse, diff};

use super::outcome::{Format, Outcome, Output, Status, json};

/// Compare what two policies allow
///
/// Names, order and comments do not matter. With `--fail-on`, the status is 1 if there is such a
/// change.
#[derive(clap::Args)]
pub struct Arguments {
    /// The old policy file
    old: PathBuf,
    /// The new policy file
    new: PathBuf,
    /// Exit with 1 if there is such a change; may be repeated
    #[arg(long, value_enum)]
    fail_on: Vec<FailOn>,
    #[command(flatten)]
    output: Output,
}

/// A kind of change.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// An additional right
    Widening,
    /// A right less
    Narrowing,
    /// An assertion less, a weaker one, or one that the new policy fails
    Assertions,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        let (old, new) = match (analyse(&self.old), analyse(&self.new)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(report), _) | (_, Err(report)) => {
                return Outcome::unusable_policy(&report);
            }
        };
        let difference = diff(&old, &new);
        let failed = self.fail_on.iter().any(|kind| happened(*kind, &difference));
        let output = match self.output.format() {
            Format::Text => difference.to_string(),
            Format::Json => json("diff", &difference),
        };
        Outcome { status: if failed { Status::Refused } else { Status::Holds }, ..Outcome::holds(output) }
    }
}

fn happened(kind: FailOn, difference: &Difference) -> bool {
    match kind {
        FailOn::Widening => matches!(difference.class, Class::Widening | Class::Incomparable),
        FailOn::Narrowing => matches!(difference.class, Class::Narrowing | Class::Incomparable),
        FailOn::Assertions => !difference.assertions.dropped.is_empty() || !difference.assertions.broken.is_empty(),
    }
}
