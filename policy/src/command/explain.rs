use super::outcome::{Format, Outcome, Output, PolicyFile, Status, json};

/// Answer a question about a policy, with the rules that make the answer
///
/// The questions: `can SUBJECT [not] reach OBJECT.OPERATION`, `can SUBJECT [not] OPERATION OBJECT`,
/// `can REGION leak to SUBJECT`, `who can OPERATION OBJECT`, `who can reach OBJECT.OPERATION`, `what
/// can SUBJECT do`, `what could SUBJECT reach`, each also `with N takeovers`; `why does assertion
/// NAME hold`; `list subjects`, `objects`, `operations` or `assertions`. The status is 0 if there is
/// a path (with `not`: if there is none), and 1 otherwise.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    policy: PolicyFile,
    /// The question, in one argument or several
    #[arg(required = true)]
    question: Vec<String>,
    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub fn run(self) -> Outcome {
        self.policy.with_sound(|policy| match policy.explain(&self.question.join(" ")) {
            Err(unclear) => Outcome::unusable_lines(unclear),
            Ok(explanation) => {
                let status = if explanation.holds { Status::Holds } else { Status::Refused };
                let output = match self.output.format() {
                    Format::Text => explanation.to_string(),
                    Format::Json => json("explain", &explanation),
                };
                Outcome { status, ..Outcome::holds(output) }
            }
        })
    }
}
