//! Proves assertions over the closure, or refutes them by a path.

mod measure;
mod share;
mod vacuous;

use std::collections::HashSet;

use serde::Serialize;

use crate::authority::leak::{Leak, leak};
use crate::authority::reach::{Authority, Way};
use crate::authority::target::{self, PathScope};
use crate::authority::{Object, Op, Rule, Subject, index, names};
use crate::canonical;
use crate::diagnostic::{Diagnostic, Log, Report, Spanned};
use crate::model::{Assertion, Claim, Exclusive, Named};
use crate::sound::{Sound, Step};

pub(crate) use measure::queue_pages;

/// The verdict on an assertion.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The assertion's name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// The threat that it answers.
    pub why: String,
    /// The claim, in the words of the policy.
    pub claim: String,
    /// `true` if it holds.
    pub holds: bool,
    /// The result of the proof: the amount and its bound, or the rules that break the assertion.
    pub finding: String,
    /// The rules that break it.
    pub path: Vec<Step>,
    /// If it holds, and more takeovers would break it: the rules of the nearest breach.
    pub nearest: Vec<Step>,
}

/// The authority of a policy, computed once for all assertions.
struct Prover<'a> {
    sound: &'a Sound,
    authority: &'a Authority,
}

/// The proof that an assertion holds: a sentence, and the rules of the nearest breach, if more
/// takeovers than the assertion allows would make one.
struct Proof {
    finding: String,
    nearest: Vec<Rule>,
}

impl From<String> for Proof {
    fn from(finding: String) -> Proof {
        Proof { finding, nearest: Vec::new() }
    }
}

impl From<&str> for Proof {
    fn from(finding: &str) -> Proof {
        finding.to_owned().into()
    }
}

/// The proof that an assertion does not hold: a sentence, and rules.
struct Refutation {
    finding: String,
    path: Vec<Rule>,
}

type Outcome = Result<Proof, Refutation>;

impl Sound {
    /// Proves every assertion.
    ///
    /// # Errors
    /// The report names each assertion that does not hold, and the rules that break it.
    pub fn proved(&self) -> Result<(), Report> {
        let mut log = Log::default();
        check(self, &mut log);
        if log.is_empty() { Ok(()) } else { Err(Report::refused(&self.file, &self.text, log)) }
    }

    /// Returns the verdict on each assertion, in the order of their names.
    #[must_use]
    pub fn verdicts(&self) -> Vec<Verdict> {
        let outcome = |(item, outcome): (&Named<Assertion>, Outcome)| {
            let mut claim = String::new();
            canonical::claim(&item.body.claim, &mut claim);
            let steps = |rules: Vec<Rule>| rules.into_iter().map(|rule| self.step(rule)).collect();
            let (holds, finding, path, nearest) = match outcome {
                Ok(proof) => (true, proof.finding, Vec::new(), steps(proof.nearest)),
                Err(refutation) => (false, refutation.finding, steps(refutation.path), Vec::new()),
            };
            Verdict {
                name: item.name.value.clone(),
                line: self.lines.line(item.name.span.start),
                why: item.body.why.clone(),
                claim: claim.trim_end().replace('\n', ", "),
                holds,
                finding,
                path,
                nearest,
            }
        };
        prove(self).into_iter().map(outcome).collect()
    }
}

/// Logs each assertion that does not hold, with the rules that break it.
fn check(sound: &Sound, log: &mut Log) {
    for (item, outcome) in prove(sound) {
        let Err(refutation) = outcome else { continue };
        let mut diagnostic = Diagnostic::at(
            &item.name.span,
            format!("assertion `{}` does not hold: {}", item.name.value, refutation.finding),
        )
        .label("asserted here")
        .help(format!("the threat is: {}", item.body.why));
        for rule in refutation.path {
            if let Some(span) = index::span(&sound.policy, rule) {
                diagnostic = diagnostic.related(span, names::rule(&sound.policy, rule).1);
            }
        }
        log.push(diagnostic);
    }
}

fn prove(sound: &Sound) -> Vec<(&Named<Assertion>, Outcome)> {
    if sound.policy.assertions.items.is_empty() {
        return Vec::new();
    }
    let prover = Prover { sound, authority: sound.authority() };
    let prove = |item: &Named<Assertion>| {
        let outcome = prover.prove(&item.body.claim);
        match prover.vacuous(&item.body.claim) {
            // A mistyped name comes before what is true of it. Who has the access in the owner's place
            // says more.
            Some(reason)
                if !item.body.allow_vacuous
                    && (outcome.is_ok() || !matches!(item.body.claim, Claim::Exclusive { .. })) =>
            {
                Err(Refutation {
                    finding: format!("it says nothing: {reason} (`allow-vacuous = true` says so on purpose)"),
                    path: Vec::new(),
                })
            }
            _ => outcome,
        }
    };
    sound.policy.assertions.items.iter().map(|item| (item, prove(item))).collect()
}

impl Prover<'_> {
    fn prove(&self, claim: &Claim) -> Outcome {
        match claim {
            Claim::CannotCause { from, to, takeovers, unless } => {
                self.cannot_cause(&from.value, &to.value, *takeovers, unless)
            }
            Claim::NoLeak { regions, to, takeovers, unless } => self.no_leak(regions, &to.value, *takeovers, unless),
            Claim::Exclusive { owner, regions, access, besides } => {
                self.exclusive(&owner.value, regions, access.value, besides)
            }
            Claim::AtMost { what, service, limit } => {
                let service = service.as_ref().and_then(|name| self.sound.policy.services.index(&name.value));
                self.at_most(what.value, service, u64::from(*limit))
            }
            Claim::Only { who, may, takeovers, directly, unless } => {
                self.only(&Only { who, may: &may.value, takeovers: *takeovers, directly: *directly, unless })
            }
            Claim::ShareNothing { between } => self.share_nothing(between),
        }
    }

    fn targets(&self, text: &str) -> HashSet<(Object, Op)> {
        let found = target::targets(&self.sound.policy, text, PathScope::Overlapping);
        found.unwrap_or_default().into_iter().collect()
    }

    fn subjects(&self, text: &str) -> Vec<Subject> {
        target::subjects(&self.sound.policy, text).unwrap_or_default()
    }

    fn all_subjects(&self, names: &[Spanned<String>]) -> Vec<Subject> {
        names.iter().flat_map(|name| self.subjects(&name.value)).collect()
    }

    fn service_names(&self, services: &[usize]) -> String {
        let items = &self.sound.policy.services.items;
        let names = services.iter().filter_map(|service| items.get(*service)).map(|item| item.name.value.as_str());
        names.collect::<Vec<_>>().join(", then ")
    }

    /// Returns the refutation that somebody can do something, perhaps by takeovers.
    fn refuted_by(&self, who: &str, way: &Way) -> Refutation {
        let ability = names::ability(&self.sound.policy, way.object, way.op, way.amount);
        let over = self.service_names(&way.takeovers);
        let by = if over.is_empty() { String::new() } else { format!(" by taking over {over}") };
        Refutation { finding: format!("{who} can {ability}{by}"), path: way.rules.clone() }
    }

    fn cannot_cause(&self, from: &str, to: &str, takeovers: u32, unless: &[Spanned<String>]) -> Outcome {
        let (targets, unless) = (self.targets(to), self.all_subjects(unless));
        let nearest = self.subjects(from).into_iter().filter_map(|subject| {
            let reach = self.authority.reach(subject, u32::MAX, &unless);
            self.authority.ways(&reach, &|ability| targets.contains(&ability)).into_iter().next()
        });
        let Some(nearest) = nearest.min_by_key(|way| (way.takeovers.len(), way.rules.len())) else {
            return Ok("no path, even by taking over services".into());
        };
        if nearest.takeovers.len() <= takeovers as usize {
            return Err(self.refuted_by(from, &nearest));
        }
        Ok(Proof { finding: self.at_a_distance(&nearest.takeovers), nearest: nearest.rules })
    }

    /// Returns what a breach that is too far away would take.
    fn at_a_distance(&self, takeovers: &[usize]) -> String {
        let count = names::counted(takeovers.len() as u64, "takeover");
        format!("no path; it would take {count}: {}", self.service_names(takeovers))
    }

    fn no_leak(&self, regions: &[Spanned<String>], to: &str, takeovers: u32, unless: &[Spanned<String>]) -> Outcome {
        let (policy, index) = (&self.sound.policy, &self.sound.index);
        let (subjects, unless) = (self.subjects(to), self.all_subjects(unless));
        let mut far: Option<Leak> = None;
        for name in regions {
            let Some(region) = policy.regions.index(&name.value) else { continue };
            let Some(way) = leak(policy, index, region, &subjects, &unless) else { continue };
            if way.takeovers.len() <= takeovers as usize {
                let over = self.service_names(&way.takeovers);
                let by = if over.is_empty() { String::new() } else { format!(" by taking over {over}") };
                return Err(Refutation {
                    finding: format!("bytes of {} can reach {to}{by}", name.value),
                    path: way.rules,
                });
            }
            if far.as_ref().is_none_or(|far| way.takeovers.len() < far.takeovers.len()) {
                far = Some(way);
            }
        }
        Ok(match far {
            None => "no way for the bytes, even by taking over services".into(),
            Some(way) => Proof { finding: self.at_a_distance(&way.takeovers), nearest: way.rules },
        })
    }

    fn exclusive(
        &self,
        owner: &str,
        regions: &[Spanned<String>],
        access: Exclusive,
        besides: &[Spanned<String>],
    ) -> Outcome {
        let allowed = self.allowed(besides, owner);
        for region in regions.iter().filter_map(|name| self.sound.policy.regions.index(&name.value)) {
            let object = Object::Region(region);
            for subject in self.authority.subjects().iter().filter(|subject| !allowed.contains(subject)) {
                let op = if access == Exclusive::Map { Op::Read } else { Op::Write };
                let holds = self.authority.own(*subject).find(|own| own.object == object && own.op == op);
                if let Some(rule) = holds.and_then(|own| own.rules.last()) {
                    let (_, says) = names::rule(&self.sound.policy, *rule);
                    return Err(Refutation { finding: says, path: vec![*rule] });
                }
            }
        }
        let verb = if access == Exclusive::Map { "maps" } else { "writes" };
        let names: Vec<&str> = besides.iter().map(|name| name.value.as_str()).collect();
        let others = if names.is_empty() { String::new() } else { format!(" and {}", names.join(", ")) };
        Ok(format!("nobody but {owner}{others} {verb} them").into())
    }

    /// Returns the subjects that names stand for, and a service.
    fn allowed(&self, names: &[Spanned<String>], service: &str) -> HashSet<Subject> {
        let mut allowed = target::whole(&self.sound.policy, names);
        allowed.extend(self.sound.policy.services.index(service).map(Subject::Service));
        allowed
    }

    fn only(&self, claim: &Only<'_>) -> Outcome {
        let allowed = target::whole(&self.sound.policy, claim.who);
        let (targets, unless) = (self.targets(claim.may), self.all_subjects(claim.unless));
        let others = self.authority.subjects().iter().copied();
        let mut far: Option<Way> = None;
        for subject in others.filter(|subject| !allowed.contains(subject) && !unless.contains(subject)) {
            let most = if claim.directly { 0 } else { u32::MAX };
            let reach = self.authority.reach(subject, most, &unless);
            let way = if claim.directly {
                let own = self.authority.own(subject).find(|own| targets.contains(&(own.object, own.op)));
                own.map(Way::of)
            } else {
                self.authority.ways(&reach, &|ability| targets.contains(&ability)).into_iter().next()
            };
            let Some(way) = way else { continue };
            if way.takeovers.len() <= claim.takeovers as usize {
                return Err(self.refuted_by(&names::subject(&self.sound.policy, subject), &way));
            }
            if far.as_ref().is_none_or(|far| way.takeovers.len() < far.takeovers.len()) {
                far = Some(way);
            }
        }
        Ok(match far {
            None => "nobody else has a path".into(),
            Some(way) => Proof { finding: self.at_a_distance(&way.takeovers), nearest: way.rules },
        })
    }
}

/// An assertion of kind `only`.
struct Only<'a> {
    who: &'a [Spanned<String>],
    may: &'a str,
    takeovers: u32,
    directly: bool,
    unless: &'a [Spanned<String>],
}
