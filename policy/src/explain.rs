//! Answers questions about a policy, with the rules that make the answer.

use std::collections::HashSet;

use serde::Serialize;

use crate::authority::closure::closure;
use crate::authority::search::{Derivation, Influence, reached};
use crate::authority::{Hypercall, Object, Op, Right, Subject, names, target};
use crate::printable::printable;
use crate::sound::{Sound, Step};

/// The forms of a question.
pub(crate) const FORMS: [&str; 5] = [
    "can SUBJECT reach OBJECT.OPERATION",
    "can SUBJECT OPERATION OBJECT",
    "who can reach OBJECT.OPERATION",
    "who can OPERATION OBJECT",
    "what can SUBJECT do",
];

/// An operation that a subject can do to an object, or cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The subject.
    pub subject: String,
    /// The object and the operation: `OBJECT.OPERATION`.
    pub operation: String,
    /// `true` if the closure contains the right.
    pub holds: bool,
    /// The amount, in `unit`; 0 if there is no path.
    pub amount: u64,
    /// The unit of the amount; empty if the operation has no amount.
    pub unit: &'static str,
    /// The answer as a sentence.
    pub sentence: String,
    /// The hypercalls that the kernel makes for it.
    pub hypercalls: Vec<&'static str>,
    /// The rules that give the right, in the order in which they are used.
    pub path: Vec<Step>,
    /// If there is no path: the services that would have to be taken over, in order.
    pub takeovers: Vec<String>,
    /// The rules over which each of `takeovers` is attacked, then those that give the last one the
    /// right.
    pub takeover_path: Vec<Step>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The question, as it was asked.
    pub question: String,
    /// `true` if there is a path.
    pub holds: bool,
    /// The paths; if a question about one subject and one operation has none, one answer that says
    /// so.
    pub answers: Vec<Answer>,
}

/// The reason why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The question has no known form.
    #[error("`{question}` is not a question of a known form; the forms are:\n  {}", FORMS.join("\n  "))]
    Form {
        /// The question.
        question: String,
    },
    /// The question names something that the policy does not have.
    #[error("{0}")]
    Name(String),
}

impl Sound {
    /// Returns the answer to a question.
    ///
    /// # Errors
    /// The question has no known form, or names something that the policy does not have.
    pub fn explain(&self, question: &str) -> Result<Explanation, Unclear> {
        let words: Vec<&str> = question.trim().trim_end_matches('?').split_whitespace().collect();
        let form = || Unclear::Form { question: printable(question).into_owned() };
        let answers = match *words.as_slice() {
            ["what", "can", subject, "do"] => self.everything(subject)?,
            ["can", subject, "reach" | "cause", operation] => {
                self.can(subject, &target::targets(&self.policy, operation).map_err(Unclear::Name)?)?
            }
            ["can", subject, word, object] => {
                self.can(subject, &target::operation(&self.policy, object, word).map_err(Unclear::Name)?)?
            }
            ["who", "can", "reach" | "cause", operation] => {
                self.who(&target::targets(&self.policy, operation).map_err(Unclear::Name)?)
            }
            ["who", "can", word, object] => {
                self.who(&target::operation(&self.policy, object, word).map_err(Unclear::Name)?)
            }
            _ => return Err(form()),
        };
        let holds = answers.iter().any(|answer| answer.holds);
        Ok(Explanation { question: question.trim().to_owned(), holds, answers })
    }

    fn can(&self, name: &str, targets: &[(Object, Op)]) -> Result<Vec<Answer>, Unclear> {
        let subjects = target::subjects(&self.policy, name).map_err(Unclear::Name)?;
        let search = self.search();
        let found: Vec<Answer> = subjects
            .iter()
            .flat_map(|subject| targets.iter().map(move |(object, op)| (*subject, *object, *op)))
            .filter_map(|(subject, object, op)| {
                Some(self.answer(subject, object, op, search.derive(subject, object, op)?))
            })
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        Ok(vec![self.no_path(name, &subjects, targets)])
    }

    fn no_path(&self, name: &str, subjects: &[Subject], targets: &[(Object, Op)]) -> Answer {
        let influence = Influence::new(&self.policy, &self.index);
        let rights = closure(&self.policy, &self.index);
        let reached = reached(&rights, &targets.iter().copied().collect());
        let nearest = subjects.iter().filter_map(|subject| influence.takeover(*subject, &reached));
        let nearest = nearest.min_by_key(|takeover| takeover.services.len());
        let operation = match targets {
            [] => "such an operation".to_owned(),
            [(object, op)] => format!("{}.{}", names::object(&self.policy, *object), op.word()),
            [(_, op), ..] => format!("any of {} operations ({})", targets.len(), op.word()),
        };
        let mut answer = Answer {
            subject: name.to_owned(),
            sentence: format!("No: the closure contains no path from {name} to {operation}."),
            operation,
            holds: false,
            amount: 0,
            unit: "",
            hypercalls: Vec::new(),
            path: Vec::new(),
            takeovers: Vec::new(),
            takeover_path: Vec::new(),
        };
        if let Some(takeover) = nearest {
            let service = |service: usize| names::subject(&self.policy, Subject::Service(service));
            answer.takeovers = takeover.services.iter().map(|(_, over)| service(*over)).collect();
            let rules = takeover.services.iter().map(|(rule, _)| *rule).chain(takeover.right.path);
            answer.takeover_path = rules.map(|rule| self.step(rule)).collect();
        }
        answer
    }

    fn answer(&self, subject: Subject, object: Object, op: Op, derivation: Derivation) -> Answer {
        let name = names::subject(&self.policy, subject);
        let ability = names::ability(&self.policy, object, op, derivation.amount);
        Answer {
            sentence: format!("{name} can {ability}"),
            subject: name,
            operation: format!("{}.{}", names::object(&self.policy, object), op.word()),
            holds: true,
            amount: derivation.amount,
            unit: op.unit(object),
            hypercalls: match subject {
                Subject::Service(_) => Hypercall::of(object, op).iter().map(|hypercall| hypercall.name()).collect(),
                _ => Vec::new(),
            },
            path: derivation.rules.into_iter().map(|rule| self.step(rule)).collect(),
            takeovers: Vec::new(),
            takeover_path: Vec::new(),
        }
    }

    fn who(&self, targets: &[(Object, Op)]) -> Vec<Answer> {
        let targets: HashSet<&(Object, Op)> = targets.iter().collect();
        let rights = closure(&self.policy, &self.index).into_iter();
        self.answers(rights.filter(|right| targets.contains(&(right.object, right.op))))
    }

    fn answers(&self, rights: impl Iterator<Item = Right>) -> Vec<Answer> {
        rights
            .map(|right| {
                self.answer(
                    right.subject,
                    right.object,
                    right.op,
                    Derivation { amount: right.amount, rules: right.path },
                )
            })
            .collect()
    }

    fn everything(&self, name: &str) -> Result<Vec<Answer>, Unclear> {
        let subjects = target::subjects(&self.policy, name).map_err(Unclear::Name)?;
        let rights = closure(&self.policy, &self.index).into_iter();
        Ok(self.answers(rights.filter(|right| subjects.contains(&right.subject))))
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.answers.is_empty() {
            return writeln!(f, "Nobody: the closure contains no path.");
        }
        for answer in &self.answers {
            if !answer.holds {
                writeln!(f, "{}", answer.sentence)?;
                if answer.takeovers.is_empty() {
                    writeln!(f, "  Taking over other services would not open one either.")?;
                } else {
                    writeln!(
                        f,
                        "  {} would first have to take over {}:",
                        answer.subject,
                        answer.takeovers.join(", then ")
                    )?;
                    steps(f, &answer.takeover_path)?;
                }
                continue;
            }
            let hypercalls = match answer.hypercalls.as_slice() {
                [] => String::new(),
                list => format!(" [{}]", list.join(", ")),
            };
            writeln!(f, "{}: {}{hypercalls}", answer.operation, answer.sentence)?;
            steps(f, &answer.path)?;
        }
        Ok(())
    }
}

fn steps(f: &mut std::fmt::Formatter<'_>, steps: &[Step]) -> std::fmt::Result {
    for step in steps {
        writeln!(f, "    line {:>4}  {}: {}", step.line, step.rule, step.says)?;
    }
    Ok(())
}
