//! Makes the part of the page about assertions: what each claims, the verdict, and what was
//! considered for it.

use std::collections::HashSet;

use serde::Serialize;

use crate::authority::closure::closure;
use crate::authority::names::counted;
use crate::authority::search::{Influence, reached};
use crate::authority::{Object, Op, Right, Rule, Subject, names, target};
use crate::claim;
use crate::diagnostic::Spanned;
use crate::model::Claim;
use crate::prove::Verdict;
use crate::sound::{Sound, Step};

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

/// Closure and attacks, computed once for all assertions.
struct Examiner<'a> {
    sound: &'a Sound,
    rights: Vec<Right>,
    influence: Influence,
}

/// Returns the assertions of the page, in the order of their names.
pub(super) fn assertions(sound: &Sound) -> Vec<AssertionRow> {
    let items = &sound.policy.assertions.items;
    if items.is_empty() {
        return Vec::new();
    }
    let rights = closure(&sound.policy, &sound.index);
    let examiner = Examiner { sound, rights, influence: Influence::new(&sound.policy, &sound.index) };
    let row = |(item, verdict): (&crate::model::Named<crate::model::Assertion>, Verdict)| {
        let (considered, paths) = examiner.considered(&item.body.claim);
        AssertionRow { verdict, sentence: claim::sentence(&item.body.claim), considered, paths }
    };
    items.iter().zip(sound.verdicts()).map(row).collect()
}

impl Examiner<'_> {
    fn considered(&self, claim: &Claim) -> (String, Vec<Considered>) {
        match claim {
            Claim::NoFlow { from, to, .. } => self.flow(&from.value, &to.value),
            Claim::Only { may, .. } => self.ways(&may.value),
            Claim::Exclusive { regions, .. } => self.maps(regions),
            Claim::AtMost { .. } => ("every rule that adds to the amount".into(), Vec::new()),
            Claim::ShareNothing { between } => {
                let policy = &self.sound.policy;
                let pins = policy.domains.items.iter().filter(|domain| domain.body.pin.is_some()).count() as u64;
                let says = format!(
                    "{}, {} and {} for each pair of the {} services",
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
        target::targets(&self.sound.policy, text).unwrap_or_default().into_iter().collect()
    }

    fn steps(&self, rules: impl IntoIterator<Item = Rule>) -> Vec<Step> {
        rules.into_iter().map(|rule| self.sound.step(rule)).collect()
    }

    fn can(&self, right: &Right) -> String {
        let policy = &self.sound.policy;
        let ability = names::ability(policy, right.object, right.op, right.amount);
        format!("{} can {ability}", names::subject(policy, right.subject))
    }

    /// Returns every way to do an operation, whoever has it.
    fn ways(&self, text: &str) -> (String, Vec<Considered>) {
        let targets = self.targets(text);
        if targets.is_empty() {
            return ("nothing: the policy has nothing of this name".into(), Vec::new());
        }
        let held: Vec<&Right> =
            self.rights.iter().filter(|right| targets.contains(&(right.object, right.op))).collect();
        let shown = held.iter().take(MAX_PATHS);
        let paths = shown.map(|right| Considered { says: self.can(right), steps: self.steps(right.path.clone()) });
        let more = if held.len() > MAX_PATHS { format!(", of which {MAX_PATHS} are shown") } else { String::new() };
        (format!("every way to do it: {}{more}", counted(held.len() as u64, "path")), paths.collect())
    }

    /// Returns the ways of a subject to an operation, or else the shortest attack that leads there.
    fn flow(&self, from: &str, to: &str) -> (String, Vec<Considered>) {
        let targets = self.targets(to);
        let subjects = target::subjects(&self.sound.policy, from).unwrap_or_default();
        if targets.is_empty() || subjects.is_empty() {
            return ("nothing: the policy has nothing of this name".into(), Vec::new());
        }
        let reached = reached(&self.rights, &targets);
        let nearest = subjects.iter().filter_map(|subject| self.influence.takeover(*subject, &reached));
        let holders = counted(reached.len() as u64, "subject");
        let Some(nearest) = nearest.min_by_key(|takeover| takeover.services.len()) else {
            return (
                format!("every chain of takeovers from {from}: none leads to the {holders} that can do it"),
                Vec::new(),
            );
        };
        let services =
            nearest.services.iter().map(|(_, service)| names::subject(&self.sound.policy, Subject::Service(*service)));
        let services: Vec<String> = services.collect();
        let says = format!("{from} takes over {}, and then {}", services.join(", then "), self.can(&nearest.right));
        let rules = nearest.services.iter().map(|(rule, _)| *rule).chain(nearest.right.path.iter().copied());
        let shortest = Considered { says, steps: self.steps(rules) };
        (
            format!("every chain of takeovers from {from} to the {holders} that can do it; the shortest is"),
            vec![shortest],
        )
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
