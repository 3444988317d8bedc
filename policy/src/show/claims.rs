//! Makes the part of the page about assertions: what each claims, the verdict, and what was
//! considered for it.

use std::collections::HashSet;

use serde::Serialize;

use crate::authority::leak::leak;
use crate::authority::names::counted;
use crate::authority::reach::Authority;
use crate::authority::target::{self, PathScope};
use crate::authority::{Object, Op, Right, Rule, Subject, names};
use crate::claim::or;
use crate::diagnostic::Spanned;
use crate::model::Claim;
use crate::prove::Verdict;
use crate::sound::{Sound, Step};

/// What is considered for something that the policy does not have.
const NOTHING: &str = "nothing: the policy has nothing of this name";

/// The largest number of paths that are shown for one assertion.
const MAX_PATHS: usize = 8;

/// An assertion on the page.
#[derive(Clone, Debug, Serialize)]
pub struct AssertionRow {
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The claim as a sentence, which the tool makes.
    pub sentence: String,
    /// What was considered.
    pub considered: String,
    /// The paths that were considered: with the subject of each, or what the path is.
    pub paths: Vec<Considered>,
}

/// A path that was considered.
#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    /// The subject, and what it would do.
    pub says: String,
    /// The rules.
    pub steps: Vec<Step>,
}

/// Returns the assertions of the page, in the order of their names.
pub(super) fn assertions(sound: &Sound) -> Vec<AssertionRow> {
    let items = &sound.policy.assertions.items;
    let examiner = Examiner { sound, authority: sound.authority() };
    let row = |(item, verdict): (&crate::model::Named<crate::model::Assertion>, Verdict)| {
        let (considered, paths) = examiner.considered(&item.body.claim);
        AssertionRow { verdict, sentence: item.body.sentence(), considered, paths }
    };
    items.iter().zip(sound.verdicts()).map(row).collect()
}

/// Finds what is to be considered for an assertion.
struct Examiner<'a> {
    sound: &'a Sound,
    authority: &'a Authority,
}

impl Examiner<'_> {
    fn considered(&self, claim: &Claim) -> (String, Vec<Considered>) {
        match claim {
            Claim::CannotCause { from, to, unless, .. } => self.flow(&from.value, &to.value, unless),
            Claim::NoLeak { regions, to, unless, .. } => self.leaks(regions, &to.value, unless),
            Claim::Only { may, directly, .. } => self.ways(&may.value, *directly),
            Claim::Exclusive { regions, .. } => self.maps(regions),
            Claim::AtMost { .. } => ("every rule that adds to the amount".into(), Vec::new()),
            Claim::ShareNothing { between } => {
                let policy = &self.sound.policy;
                let pins = policy.domains.items.iter().filter(|domain| domain.body.pin.is_some()).count() as u64;
                let says = format!(
                    "{}, {}, {}, servers, clients, peers and paths for each pair of the {} services",
                    counted(policy.regions.items.len() as u64, "region"),
                    counted(policy.queues.items.len() as u64, "queue"),
                    counted(pins, "pin"),
                    between.len()
                );
                (says, Vec::new())
            }
        }
    }

    fn targets(&self, text: &str) -> HashSet<(Object, Op)> {
        let found = target::targets(&self.sound.policy, text, PathScope::Overlapping);
        found.unwrap_or_default().into_iter().collect()
    }

    fn subjects(&self, names: &[Spanned<String>]) -> Vec<Subject> {
        names.iter().flat_map(|name| target::subjects(&self.sound.policy, &name.value).unwrap_or_default()).collect()
    }

    fn steps(&self, rules: impl IntoIterator<Item = Rule>) -> Vec<Step> {
        rules.into_iter().map(|rule| self.sound.step(rule)).collect()
    }

    /// Returns every way to do an operation, whoever has it; or those `directly` alone.
    fn ways(&self, text: &str, directly: bool) -> (String, Vec<Considered>) {
        let targets = self.targets(text);
        if targets.is_empty() {
            return (NOTHING.into(), Vec::new());
        }
        let found = self.sound.closure().iter().filter(|right| targets.contains(&(right.object, right.op)));
        let held: Vec<&Right> = found.filter(|right| !directly || self.is_own(right)).collect();
        let shown = held.iter().take(MAX_PATHS);
        let paths = shown.map(|right| Considered {
            says: self.can(right.subject, right.object, right.op, right.amount),
            steps: self.steps(right.path.rules()),
        });
        let more = if held.len() > MAX_PATHS { format!(", of which {MAX_PATHS} are shown") } else { String::new() };
        let what = if directly { "every subject that can do it itself" } else { "every way to do it" };
        (format!("{what}: {}{more}", counted(held.len() as u64, "path")), paths.collect())
    }

    fn is_own(&self, right: &Right) -> bool {
        self.authority.own(right.subject).any(|own| (own.object, own.op) == (right.object, right.op))
    }

    fn can(&self, subject: Subject, object: Object, op: Op, amount: u64) -> String {
        let policy = &self.sound.policy;
        format!("{} can {}", names::subject(policy, subject), names::ability(policy, object, op, amount))
    }

    /// Says which services are taken over, in order.
    fn over(&self, takeovers: &[usize]) -> String {
        let name = |service: &usize| names::subject(&self.sound.policy, Subject::Service(*service));
        takeovers.iter().map(name).collect::<Vec<_>>().join(", then ")
    }

    /// Returns the shortest way of a subject to an operation, with any number of takeovers.
    fn flow(&self, from: &str, to: &str, unless: &[Spanned<String>]) -> (String, Vec<Considered>) {
        let (targets, without) = (self.targets(to), self.subjects(unless));
        let subjects = target::subjects(&self.sound.policy, from).unwrap_or_default();
        if targets.is_empty() || subjects.is_empty() {
            return (NOTHING.into(), Vec::new());
        }
        let ways = subjects.iter().filter_map(|subject| {
            let reach = self.authority.reach(*subject, u32::MAX, &without);
            let way = self.authority.ways(&reach, &|target| targets.contains(&target)).into_iter().next()?;
            Some((*subject, way))
        });
        let considered = format!("every way from {from}{}, with any number of takeovers", help(unless));
        let Some((subject, way)) = ways.min_by_key(|(_, way)| (way.takeovers.len(), way.rules.len())) else {
            return (format!("{considered}: none leads to it"), Vec::new());
        };
        let can = self.can(subject, way.object, way.op, way.amount);
        let says =
            if way.takeovers.is_empty() { can } else { format!("{can}, by taking over {}", self.over(&way.takeovers)) };
        (format!("{considered}; the shortest is"), vec![Considered { says, steps: self.steps(way.rules) }])
    }

    /// Returns the shortest way of the bytes of each region to a subject.
    fn leaks(&self, regions: &[Spanned<String>], to: &str, unless: &[Spanned<String>]) -> (String, Vec<Considered>) {
        let (policy, index) = (&self.sound.policy, &self.sound.index);
        let (subjects, without) = (target::subjects(policy, to).unwrap_or_default(), self.subjects(unless));
        let way = |name: &Spanned<String>| {
            let region = policy.regions.index(&name.value)?;
            let way = leak(policy, index, region, &subjects, &without)?;
            let get = format!("bytes of {} can get to {to}", name.value);
            let over = self.over(&way.takeovers);
            let says = if over.is_empty() { get } else { format!("{get}, if these are taken over: {over}") };
            Some(Considered { says, steps: self.steps(way.rules) })
        };
        let paths: Vec<Considered> = regions.iter().filter_map(way).take(MAX_PATHS).collect();
        let considered = format!("every way of the bytes to {to}{}, with any number of takeovers", help(unless));
        let found = if paths.is_empty() { ": there is none" } else { "; the shortest is" };
        (considered + found, paths)
    }

    /// Returns who maps the regions, and the grants of them.
    fn maps(&self, regions: &[Spanned<String>]) -> (String, Vec<Considered>) {
        let policy = &self.sound.policy;
        let positions = regions.iter().filter_map(|name| policy.regions.index(&name.value));
        let path = |region: usize| {
            let maps = policy.regions.items.get(region).map_or(0, |item| item.body.map.len());
            let grant = self.sound.index.granted.get(&region).map(|grant| Rule::Grant(*grant));
            let rules = (0..maps).map(|entry| Rule::Map(region, entry)).chain(grant);
            Considered { says: names::object(policy, Object::Region(region)), steps: self.steps(rules) }
        };
        (
            "every service that maps the regions, and every grant of them".into(),
            positions.take(MAX_PATHS).map(path).collect(),
        )
    }
}

/// Says whose help is not considered.
fn help(unless: &[Spanned<String>]) -> String {
    let names: Vec<&str> = unless.iter().map(|name| name.value.as_str()).collect();
    if names.is_empty() { String::new() } else { format!(" without the help of {}", or(&names)) }
}
