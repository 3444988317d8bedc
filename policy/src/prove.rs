//! Proves assertions over the closure, or refutes them by a path.

use std::collections::HashSet;

use serde::Serialize;

use crate::authority::closure::closure;
use crate::authority::search::{Influence, reached};
use crate::authority::{Object, Op, Right, Rule, Subject, index, names, target};
use crate::canonical;
use crate::diagnostic::{Diagnostic, Log, Report, Spanned};
use crate::model::{Assertion, Claim, Exclusive, Measure, Named, Source};
use crate::sound::{Sound, Step};

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
}

/// The closure and the possible attacks of a policy, computed once for all assertions.
struct Prover<'a> {
    sound: &'a Sound,
    rights: Vec<Right>,
    influence: Influence,
}

/// The proof that an assertion does not hold: a sentence, and rules.
struct Refutation {
    finding: String,
    path: Vec<Rule>,
}

type Outcome = Result<String, Refutation>;

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
            let (holds, finding, path) = match outcome {
                Ok(finding) => (true, finding, Vec::new()),
                Err(refutation) => (false, refutation.finding, refutation.path),
            };
            Verdict {
                name: item.name.value.clone(),
                line: self.lines.line(item.name.span.start),
                why: item.body.why.clone(),
                claim: claim.trim_end().replace('\n', ", "),
                holds,
                finding,
                path: path.into_iter().map(|rule| self.step(rule)).collect(),
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
    let rights = closure(&sound.policy, &sound.index);
    let influence = Influence::new(&sound.policy, &sound.index);
    let prover = Prover { sound, rights, influence };
    sound.policy.assertions.items.iter().map(|item| (item, prover.prove(&item.body.claim))).collect()
}

impl Prover<'_> {
    fn prove(&self, claim: &Claim) -> Outcome {
        match claim {
            Claim::NoFlow { from, to, takeovers } => self.no_flow(&from.value, &to.value, *takeovers as usize),
            Claim::Exclusive { owner, regions, access } => self.exclusive(&owner.value, regions, access.value),
            Claim::AtMost { what, service, limit } => {
                let service = service.as_ref().and_then(|name| self.sound.policy.services.index(&name.value));
                self.at_most(what.value, service, u64::from(*limit))
            }
            Claim::Only { who, may } => self.only(who, &may.value),
            Claim::ShareNothing { between } => self.share_nothing(between),
        }
    }

    fn targets(&self, text: &str) -> HashSet<(Object, Op)> {
        target::targets(&self.sound.policy, text).unwrap_or_default().into_iter().collect()
    }

    fn subjects(&self, text: &str) -> Vec<Subject> {
        target::subjects(&self.sound.policy, text).unwrap_or_default()
    }

    fn refuted_by(&self, right: &Right) -> Refutation {
        let policy = &self.sound.policy;
        let ability = names::ability(policy, right.object, right.op, right.amount);
        Refutation {
            finding: format!("{} can {ability}", names::subject(policy, right.subject)),
            path: right.path.clone(),
        }
    }

    fn no_flow(&self, from: &str, to: &str, takeovers: usize) -> Outcome {
        let (subjects, targets) = (self.subjects(from), self.targets(to));
        let flow = |right: &&Right| subjects.contains(&right.subject) && targets.contains(&(right.object, right.op));
        if let Some(right) = self.rights.iter().find(flow) {
            return Err(self.refuted_by(right));
        }
        let policy = &self.sound.policy;
        let reached = reached(&self.rights, &targets);
        let nearest = subjects.iter().filter_map(|subject| self.influence.takeover(*subject, &reached));
        let Some(nearest) = nearest.min_by_key(|takeover| takeover.services.len()) else {
            return Ok("no path, even by taking over services".into());
        };
        let services = &policy.services.items;
        let over: Vec<&str> = nearest
            .services
            .iter()
            .filter_map(|(_, service)| services.get(*service).map(|item| item.name.value.as_str()))
            .collect();
        let count = over.len();
        let noun = if count == 1 { "takeover" } else { "takeovers" };
        if count > takeovers {
            return Ok(format!("no path; it would take {count} {noun}: {}", over.join(", then ")));
        }
        let path = nearest.services.iter().map(|(rule, _)| *rule).chain(nearest.right.path.iter().copied()).collect();
        let ability = names::ability(policy, nearest.right.object, nearest.right.op, nearest.right.amount);
        Err(Refutation { finding: format!("{from} can {ability} by taking over {}", over.join(", then ")), path })
    }

    fn exclusive(&self, owner: &str, regions: &[Spanned<String>], access: Exclusive) -> Outcome {
        let policy = &self.sound.policy;
        for name in regions {
            let Some(region) = policy.regions.index(&name.value) else { continue };
            let map = policy.regions.items.get(region).map_or(&[][..], |item| &item.body.map);
            let other = map.iter().position(|entry| {
                entry.service.value != owner && (access == Exclusive::Map || entry.how.value.writes())
            });
            if let Some(entry) = other {
                let (_, says) = names::rule(policy, Rule::Map(region, entry));
                return Err(Refutation { finding: says, path: vec![Rule::Map(region, entry)] });
            }
        }
        let verb = if access == Exclusive::Map { "maps" } else { "writes" };
        Ok(format!("no service but {owner} {verb} them"))
    }

    fn only(&self, who: &[Spanned<String>], may: &str) -> Outcome {
        let allowed: HashSet<Subject> = who.iter().flat_map(|name| self.subjects(&name.value)).collect();
        let targets = self.targets(may);
        let other = self
            .rights
            .iter()
            .find(|right| targets.contains(&(right.object, right.op)) && !allowed.contains(&right.subject));
        match other {
            Some(right) => Err(self.refuted_by(right)),
            None => Ok("nobody else has a path".into()),
        }
    }

    fn share_nothing(&self, between: &[Spanned<String>]) -> Outcome {
        let policy = &self.sound.policy;
        let names: HashSet<&str> = between.iter().map(|name| name.value.as_str()).collect();
        for (region, item) in policy.regions.items.iter().enumerate() {
            let maps =
                item.body.map.iter().enumerate().filter(|(_, entry)| names.contains(entry.service.value.as_str()));
            let entries: Vec<usize> = maps.map(|(entry, _)| entry).collect();
            if let [one, two, ..] = entries.as_slice() {
                let service =
                    |entry: &usize| item.body.map.get(*entry).map_or("", |entry| entry.service.value.as_str());
                let finding = format!("{} and {} both map {}", service(one), service(two), item.name.value);
                return Err(Refutation { finding, path: vec![Rule::Map(region, *one), Rule::Map(region, *two)] });
            }
        }
        for (queue, item) in policy.queues.items.iter().enumerate() {
            let (from, to) = (item.body.from.value.as_str(), item.body.to.value.as_str());
            if names.contains(from) && names.contains(to) {
                let finding = format!("{from} and {to} share the pages of queue {}", item.name.value);
                return Err(Refutation { finding, path: vec![Rule::Queue(queue)] });
            }
        }
        for (domain, links) in self.sound.index.domains.iter().enumerate() {
            let Some(by) = links.pinned_by.and_then(|by| policy.services.items.get(by)) else { continue };
            let by = by.name.value.as_str();
            let ports = links.ports.iter().filter_map(|port| {
                Some((policy.ports.items.get(*port)?.body.service.value.as_str(), Rule::Port(*port)))
            });
            let grants = links.grants.iter().filter_map(|grant| {
                Some((policy.grants.items.get(*grant)?.body.held_by.value.as_str(), Rule::Grant(*grant)))
            });
            let mut users = ports.chain(grants).filter(|(user, _)| *user != by && names.contains(user));
            // Each sees by the kernel's answers what the other has done.
            if let (true, Some((user, rule))) = (names.contains(by), users.next()) {
                let finding = format!("{by} pins the peer of {user}");
                return Err(Refutation { finding, path: vec![Rule::Pin(domain), rule] });
            }
        }
        Ok("no region, no queue and no pin is common to two of them".into())
    }

    fn at_most(&self, what: Measure, service: Option<usize>, limit: u64) -> Outcome {
        let parts = self.measured(what, service);
        let sum: u64 = parts.iter().map(|(amount, _)| amount).sum();
        // Rounded up: rounding to the nearest percent would hide a breach.
        let (sum, shown) = if what == Measure::CpuPercent {
            (sum.div_ceil(10_000), format!("{:.1}", sum as f64 / 10_000.0))
        } else {
            (sum, sum.to_string())
        };
        let of = service.and_then(|service| self.sound.policy.services.items.get(service));
        let of = of.map_or(String::new(), |item| format!(" of {}", item.name.value));
        let finding = format!("{}{of}: {shown}, and the bound is {limit}", what.word());
        if sum <= limit {
            return Ok(finding);
        }
        let mut parts: Vec<(u64, Rule)> = parts.into_iter().filter(|(amount, _)| *amount > 0).collect();
        parts.sort_by_key(|(amount, _)| std::cmp::Reverse(*amount));
        Err(Refutation { finding, path: parts.into_iter().take(8).map(|(_, rule)| rule).collect() })
    }

    /// Returns the parts of an amount, each with the rule that gives it.
    fn measured(&self, what: Measure, service: Option<usize>) -> Vec<(u64, Rule)> {
        let (policy, index) = (&self.sound.policy, &self.sound.index);
        let chosen = |position: usize| service.is_none_or(|service| service == position);
        let services = policy.services.items.iter().enumerate().filter(|(position, _)| chosen(*position));
        match what {
            Measure::Grants | Measure::GrantedPages | Measure::WritablePages => {
                let grants = policy.grants.items.iter().zip(&index.grants).enumerate();
                let held = grants.filter(|(_, (_, granted))| chosen(granted.holder) || chosen(granted.client));
                held.map(|(position, (item, _))| {
                    let writable = item.body.access.value == cloister_caps::tables::Access::ReadWrite;
                    let amount = match what {
                        Measure::Grants => 1,
                        Measure::WritablePages if !writable => 0,
                        _ => u64::from(item.body.pages.value),
                    };
                    (amount, Rule::Grant(position))
                })
                .collect()
            }
            Measure::Ports => {
                let ports = index.ports.iter().enumerate().filter(|(_, port)| chosen(port.service));
                ports.map(|(position, _)| (1, Rule::Port(position))).collect()
            }
            Measure::CpuPercent => services
                .map(|(position, item)| {
                    let (budget, period) = (u64::from(item.body.budget_us.value), u64::from(item.body.period_us.value));
                    ((budget * 1_000_000).div_ceil(period.max(1)), Rule::Service(position))
                })
                .collect(),
            Measure::Restarts => {
                services.map(|(position, item)| (u64::from(item.body.restart_limit), Rule::Service(position))).collect()
            }
            Measure::Pages => {
                let stacks =
                    services.map(|(position, item)| (u64::from(item.body.stack_pages.value), Rule::Service(position)));
                let regions = policy.regions.items.iter().enumerate().filter(|(position, _)| {
                    let map = index.maps.get(*position);
                    map.is_some_and(|map| map.iter().any(|(mapper, _)| chosen(*mapper)))
                });
                let regions = regions.map(|(position, item)| {
                    let pages = match item.body.source.value {
                        Source::Fixed { pages } => pages,
                        Source::Share { minimum, .. } => minimum,
                        _ => 0,
                    };
                    (u64::from(pages), Rule::Region(position))
                });
                stacks.chain(regions).collect()
            }
        }
    }
}
