//! Answers questions about a policy, with the rules that make the answer.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use crate::authority::leak::leak;
use crate::authority::reach::{Authority, Way};
use crate::authority::target::{self, PathScope};
use crate::authority::{Hypercall, Object, Op, Rule, Subject, names};
use crate::nearest::did_you_mean;
use crate::printable::printable;
use crate::sound::{Sound, Step};

/// The forms of a question.
pub(crate) const FORMS: [&str; 9] = [
    "can SUBJECT [not] reach OBJECT.OPERATION",
    "can SUBJECT [not] OPERATION OBJECT",
    "can REGION leak to SUBJECT",
    "who can reach OBJECT.OPERATION",
    "who can OPERATION OBJECT",
    "what can SUBJECT do",
    "what could SUBJECT reach",
    "why does assertion NAME hold",
    "list subjects|objects|operations|assertions",
];

/// An operation that a subject can do to an object, or cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Other paths that are as short, up to 15.
    pub other_paths: Vec<Vec<Step>>,
    /// The services that have to be taken over, in order: for the path, or, if there is none, for
    /// `takeover_path`.
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
    /// `true` if there is a path; for a question with `not`, if there is none.
    pub holds: bool,
    /// `true` if the question has `not`.
    pub negated: bool,
    /// The paths; if a question about one subject and one operation has none, one answer that says
    /// so.
    pub answers: Vec<Answer>,
    /// The answer to `why` or `list`, line by line.
    pub lines: Vec<String>,
}

/// The reason why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    /// The question has no known form.
    #[error(
        "`{question}` is not a question of a known form; the forms are, all but the last two also with `with N takeovers`:\n  {}",
        FORMS.join("\n  ")
    )]
    Form {
        /// The question.
        question: String,
    },
    /// The question names something that the policy does not have.
    #[error("{0}")]
    Name(String),
}

/// A question: what is asked, and the takeovers that it allows.
struct Question<'q> {
    words: Vec<&'q str>,
    takeovers: u32,
}

impl<'q> Question<'q> {
    /// Splits `with N takeovers` off the end.
    fn parse(text: &'q str) -> Question<'q> {
        let mut words: Vec<&str> = text.trim().trim_end_matches('?').split_whitespace().collect();
        let mut takeovers = 0;
        if let [.., "with", count, "takeover" | "takeovers"] = words.as_slice()
            && let Ok(count) = count.parse::<u32>()
        {
            takeovers = count;
            words.truncate(words.len().saturating_sub(3));
        }
        Question { words, takeovers }
    }
}

impl Sound {
    /// Returns the answer to a question.
    ///
    /// # Errors
    /// The question has no known form, or names something that the policy does not have.
    pub fn explain(&self, question: &str) -> Result<Explanation, Unclear> {
        let asked = Question::parse(question);
        let targets =
            |operation: &str| target::targets(&self.policy, operation, PathScope::Covering).map_err(Unclear::Name);
        let operation = |word: &str, object: &str| {
            target::operation(&self.policy, object, word, PathScope::Covering).map_err(Unclear::Name)
        };
        let (mut negated, mut lines) = (false, Vec::new());
        let answers = match *asked.words.as_slice() {
            ["what", "can", subject, "do"] | ["what", "can" | "could", subject, "reach"] => {
                self.everything(subject, asked.takeovers)?
            }
            ["can", subject, "not", "reach" | "cause", operation] => {
                negated = true;
                self.can(subject, &targets(operation)?, asked.takeovers)?
            }
            ["can", subject, "not", word, object] => {
                negated = true;
                self.can(subject, &operation(word, object)?, asked.takeovers)?
            }
            ["can", region, "leak", "to", subject] => vec![self.leaks(region, subject, asked.takeovers)?],
            ["can", subject, "reach" | "cause", operation] => {
                self.can(subject, &targets(operation)?, asked.takeovers)?
            }
            ["can", subject, word, object] => self.can(subject, &operation(word, object)?, asked.takeovers)?,
            ["who", "can", "reach" | "cause", operation] => self.who(&targets(operation)?, asked.takeovers),
            ["who", "can", word, object] => self.who(&operation(word, object)?, asked.takeovers),
            ["why", "does", "assertion", name, "hold"] | ["why", "does", name, "hold"] => {
                return self.why(question, name);
            }
            ["list", what] => {
                lines = self.list(what)?;
                Vec::new()
            }
            _ => return Err(Unclear::Form { question: printable(question).into_owned() }),
        };
        let found = answers.iter().any(|answer| answer.holds) || !lines.is_empty();
        let holds = found != negated;
        Ok(Explanation { question: question.trim().to_owned(), holds, negated, answers, lines })
    }

    fn can(&self, name: &str, targets: &[(Object, Op)], takeovers: u32) -> Result<Vec<Answer>, Unclear> {
        let subjects = target::subjects(&self.policy, name).map_err(Unclear::Name)?;
        let authority = self.authority();
        let mut found = Vec::new();
        for subject in &subjects {
            let reach = authority.reach(*subject, takeovers, &[]);
            for target in targets {
                let ways = authority.ways(&reach, &|other| other == *target);
                found.extend(self.answer(*subject, ways));
            }
        }
        if found.is_empty() {
            found.push(self.no_path(authority, name, &subjects, targets));
        }
        Ok(found)
    }

    fn no_path(&self, authority: &Authority, name: &str, subjects: &[Subject], targets: &[(Object, Op)]) -> Answer {
        let targets_of: HashSet<(Object, Op)> = targets.iter().copied().collect();
        let nearest = subjects.iter().filter_map(|subject| {
            let reach = authority.reach(*subject, u32::MAX, &[]);
            authority.ways(&reach, &|target| targets_of.contains(&target)).into_iter().next()
        });
        let nearest = nearest.min_by_key(|way| (way.takeovers.len(), way.rules.len()));
        let operation = match targets {
            [] => "such an operation".to_owned(),
            [(object, op)] => format!("{}.{}", names::object(&self.policy, *object), op.word()),
            [(_, op), ..] => format!("any of {} operations ({})", targets.len(), op.word()),
        };
        let sentence = format!("No: the closure contains no path from {name} to {operation}.");
        let mut answer = Answer { subject: name.to_owned(), sentence, operation, ..Answer::default() };
        if let Some(way) = nearest {
            answer.takeovers = self.service_names(&way.takeovers);
            answer.takeover_path = self.steps(way.rules);
        }
        answer
    }

    fn service_names(&self, services: &[usize]) -> Vec<String> {
        services.iter().map(|service| names::subject(&self.policy, Subject::Service(*service))).collect()
    }

    fn steps(&self, rules: Vec<Rule>) -> Vec<Step> {
        rules.into_iter().map(|rule| self.step(rule)).collect()
    }

    /// Returns the answer that one or more ways to the same right make.
    fn answer(&self, subject: Subject, ways: Vec<Way>) -> Option<Answer> {
        let mut ways = ways.into_iter();
        let first = ways.next()?;
        let name = names::subject(&self.policy, subject);
        let ability = names::ability(&self.policy, first.object, first.op, first.amount);
        let takeovers = self.service_names(&first.takeovers);
        let by = if takeovers.is_empty() {
            String::new()
        } else {
            format!(", by taking over {}", takeovers.join(", then "))
        };
        let itself = matches!(subject, Subject::Service(_)) || first.rules.len() > 1;
        Some(Answer {
            sentence: format!("{name} can {ability}{by}"),
            subject: name,
            operation: format!("{}.{}", names::object(&self.policy, first.object), first.op.word()),
            holds: true,
            amount: first.amount,
            unit: first.op.unit(first.object),
            hypercalls: if itself {
                Hypercall::of(first.object, first.op).iter().map(|hypercall| hypercall.name()).collect()
            } else {
                Vec::new()
            },
            path: self.steps(first.rules),
            other_paths: ways.map(|way| self.steps(way.rules)).collect(),
            takeovers,
            takeover_path: Vec::new(),
        })
    }

    fn who(&self, targets: &[(Object, Op)], takeovers: u32) -> Vec<Answer> {
        let targets: HashSet<&(Object, Op)> = targets.iter().collect();
        let authority = self.authority();
        let of = |subject: &Subject| {
            let ways = authority.rights(*subject, takeovers).into_iter();
            let ways = ways.filter(|way| targets.contains(&(way.object, way.op)));
            ways.filter_map(|way| self.answer(*subject, vec![way])).collect::<Vec<_>>()
        };
        authority.subjects().iter().flat_map(of).collect()
    }

    fn everything(&self, name: &str, takeovers: u32) -> Result<Vec<Answer>, Unclear> {
        let subjects = target::subjects(&self.policy, name).map_err(Unclear::Name)?;
        let authority = self.authority();
        let of = |subject: Subject| {
            let ways = authority.rights(subject, takeovers).into_iter();
            ways.filter_map(|way| self.answer(subject, vec![way])).collect::<Vec<_>>()
        };
        Ok(subjects.into_iter().flat_map(of).collect())
    }

    /// Returns where the bytes of a region can end up.
    fn leaks(&self, name: &str, subject: &str, takeovers: u32) -> Result<Answer, Unclear> {
        let region = self.policy.regions.index(name.strip_prefix("region:").unwrap_or(name));
        let region = region.ok_or_else(|| Unclear::Name(format!("there is no region `{}`", printable(name))))?;
        let subjects = target::subjects(&self.policy, subject).map_err(Unclear::Name)?;
        let operation = format!("{}.leak", names::object(&self.policy, Object::Region(region)));
        let mut answer = Answer { subject: subject.to_owned(), operation, ..Answer::default() };
        let way = leak(&self.policy, &self.index, region, &subjects, &[]);
        let near = way.as_ref().is_some_and(|way| way.takeovers.len() <= takeovers as usize);
        answer.sentence = if near {
            format!("bytes of {name} can reach {subject}")
        } else {
            format!("No: bytes of {name} cannot reach {subject}.")
        };
        answer.holds = near;
        if let Some(way) = way {
            answer.takeovers = self.service_names(&way.takeovers);
            let steps = self.steps(way.rules);
            if near { answer.path = steps } else { answer.takeover_path = steps }
        }
        Ok(answer)
    }

    fn why(&self, question: &str, name: &str) -> Result<Explanation, Unclear> {
        let verdict = self.verdicts().into_iter().find(|verdict| verdict.name == name);
        let verdict = verdict.ok_or_else(|| {
            let known: Vec<&str> = self.policy.assertions.names.iter().map(|name| name.value.as_str()).collect();
            Unclear::Name(format!("there is no assertion `{}`;{}", printable(name), did_you_mean(name, &known)))
        })?;
        let holds = if verdict.holds { "holds" } else { "does not hold" };
        let mut lines = vec![
            format!("{name} {holds}: {}", verdict.finding),
            format!("  the claim, line {}: {}", verdict.line, verdict.claim),
        ];
        let near = if verdict.path.is_empty() { &verdict.nearest } else { &verdict.path };
        lines.extend(near.iter().map(|step| format!("    line {:>4}  {}: {}", step.line, step.rule, step.says)));
        let question = question.trim().to_owned();
        Ok(Explanation { question, holds: verdict.holds, negated: false, answers: Vec::new(), lines })
    }

    /// Returns the names that questions can have.
    fn list(&self, what: &str) -> Result<Vec<String>, Unclear> {
        let authority = self.authority();
        let mut objects: BTreeMap<Object, BTreeSet<Op>> = BTreeMap::new();
        for subject in authority.subjects() {
            for (object, op) in authority.least(*subject, 0).into_keys() {
                objects.entry(object).or_default().insert(op);
            }
        }
        match what {
            "subjects" => {
                Ok(authority.subjects().iter().map(|subject| names::subject(&self.policy, *subject)).collect())
            }
            "objects" => Ok(objects.keys().map(|object| names::object(&self.policy, *object)).collect()),
            "operations" => {
                let of = |(object, ops): (&Object, &BTreeSet<Op>)| {
                    let object = names::object(&self.policy, *object);
                    ops.iter().map(|op| format!("{object}.{}", op.word())).collect::<Vec<_>>()
                };
                let hypercalls = Hypercall::ALL.iter().map(|hypercall| hypercall.name().to_owned());
                Ok(objects.iter().flat_map(of).chain(hypercalls).collect())
            }
            "assertions" => Ok(self.policy.assertions.items.iter().map(|item| item.name.value.clone()).collect()),
            _ => Err(Unclear::Name(format!(
                "there is no list `{}`; there are subjects, objects, operations and assertions",
                printable(what)
            ))),
        }
    }
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.lines.is_empty() {
            return self.lines.iter().try_for_each(|line| writeln!(f, "{line}"));
        }
        if self.answers.is_empty() {
            return writeln!(f, "Nobody: the closure contains no path.");
        }
        if self.negated && !self.holds {
            writeln!(f, "No, it can:")?;
        }
        for answer in &self.answers {
            if !answer.holds {
                let says = answer.sentence.trim_start_matches("No: ");
                writeln!(f, "{}: {says}", if self.negated { "Yes" } else { "No" })?;
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
            for other in &answer.other_paths {
                writeln!(f, "  or:")?;
                steps(f, other)?;
            }
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
