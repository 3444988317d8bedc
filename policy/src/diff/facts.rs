//! A policy's rights in terms that two policies have in common.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::matching::Numbers;
use crate::authority::closure::steps;
use crate::authority::{Object, Op, Right, Subject, paths};
use crate::model::{PathRight, Source};
use crate::sound::Sound;

/// A subject.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum SubjectKey {
    Service(usize),
    /// Domains of these ids.
    Ids(u16, u16),
    Daemon,
    Toolstack,
}

/// An object.
///
/// Queues are given by the services at their ends, client first, grants by their region, paths by
/// the full path: their names in the policy do not matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum ObjectKey {
    Fixed(Object),
    Region(usize),
    Port(usize),
    Grant(usize),
    Queue(usize, usize, String),
    /// A path of [`Common::paths`].
    Path(usize),
    Program(String),
    /// The choice of a peer among domains of these ids.
    Ids(u16, u16),
}

/// A right, by subject, object and operation.
pub(super) type Key = (SubjectKey, ObjectKey, Op);

/// An amount, exactly: a number, or a part of a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    part: u64,
    /// 1 for a number; never 0.
    whole: u64,
}

impl Amount {
    fn new(part: u64, whole: u64) -> Amount {
        Amount { part, whole: whole.max(1) }
    }

    /// Returns the amount as `part of whole`, if it is a fraction.
    pub(super) fn fraction(self) -> Option<String> {
        (self.whole > 1).then(|| format!("{} of {}", self.part, self.whole))
    }

    /// Returns the amount in percent of the whole.
    pub(super) fn percent(self) -> f64 {
        self.part as f64 * 100.0 / self.whole as f64
    }

    pub(super) fn cmp(self, other: Amount) -> Ordering {
        let product = |part: u64, whole: u64| u128::from(part) * u128::from(whole);
        product(self.part, other.whole).cmp(&product(other.part, self.whole))
    }
}

/// A right of the closure, and what it is compared by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact<'a> {
    pub right: &'a Right,
    pub amount: Amount,
    /// The number of steps to it: the other parties that have to act.
    pub steps: usize,
}

impl Fact<'_> {
    /// Returns `true` if this is more than the other policy gives: a larger amount, or the same
    /// with fewer steps.
    fn exceeds(&self, other: Option<&Fact<'_>>) -> bool {
        // An amount of 0, as of no restarts, is a right to nothing.
        let Some(other) = other else { return self.amount.part > 0 };
        let larger = self.amount.cmp(other.amount) == Ordering::Greater;
        larger || self.amount.part > 0 && other.amount.part > 0 && self.steps < other.steps
    }
}

/// Every right.
pub(super) type Facts<'a> = BTreeMap<Key, Fact<'a>>;

/// Returns the sum of the weights by which regions share the remaining memory.
pub(super) fn weights(sound: &Sound) -> u64 {
    let weight = |source| match source {
        Source::Share { weight, .. } => u64::from(weight),
        _ => 0,
    };
    sound.policy.regions.items.iter().map(|item| weight(item.body.source.value)).sum()
}

/// Returns what a right is compared by: processor time as a fraction of the period, a weight as a
/// fraction of all weights.
pub(super) fn amount(sound: &Sound, right: &Right, weights: u64) -> Amount {
    match (right.subject, right.op) {
        (Subject::Service(service), Op::Run) => {
            let body = sound.policy.services.items.get(service).map(|item| &item.body);
            body.map_or(Amount::new(right.amount, 1_000_000), |body| {
                Amount::new(body.budget_us.value.into(), body.period_us.value.into())
            })
        }
        (_, Op::Weigh) => Amount::new(right.amount, weights),
        _ => Amount::new(right.amount, 1),
    }
}

/// What the facts of two policies are named by.
pub(super) struct Common {
    /// The ids at which an entry of `[domains]` of either policy starts, and those just after its
    /// end.
    cuts: BTreeSet<u32>,
    /// The full paths of both policies, in their order.
    pub paths: Vec<String>,
}

impl Common {
    pub(super) fn new(policies: [&Sound; 2]) -> Common {
        let items = policies.into_iter().flat_map(|sound| &sound.policy.domains.items);
        let cuts = items.flat_map(|item| [u32::from(item.body.first), u32::from(item.body.last) + 1]).collect();
        let clients = policies.into_iter().flat_map(|sound| &sound.policy.xenstore.items);
        let rules = clients.flat_map(|client| &client.body);
        let paths: BTreeSet<String> = rules.map(|right| paths::absolute(&right.path.value)).collect();
        Common { cuts, paths: paths.into_iter().collect() }
    }

    /// Returns the number of each path of a policy.
    fn numbers(&self, sound: &Sound) -> Vec<Vec<usize>> {
        let number = |path: &str| self.paths.binary_search(&paths::absolute(path)).unwrap_or(0);
        let client = |rules: &[PathRight]| rules.iter().map(|right| number(&right.path.value)).collect();
        sound.policy.xenstore.items.iter().map(|item| client(&item.body)).collect()
    }
}

/// Returns the facts of a policy.
///
/// The order of services is no fact: [`super::services`] compares it.
pub(super) fn facts<'a>(sound: &'a Sound, numbers: &Numbers, common: &Common) -> Facts<'a> {
    let mut facts = Facts::new();
    let (cuts, paths) = (&common.cuts, common.numbers(sound));
    let weights = weights(sound);
    for right in sound.closure().iter().filter(|right| right.op != Op::Precede) {
        let objects = match right.object {
            Object::Domain(domain) => {
                intervals(sound, domain, cuts).into_iter().map(|(first, last)| ObjectKey::Ids(first, last)).collect()
            }
            _ => Vec::from_iter(object_key(sound, numbers, &paths, right)),
        };
        let fact = Fact { right, amount: amount(sound, right, weights), steps: steps(right) };
        let subjects = subject_keys(sound, numbers, right.subject, cuts);
        for (subject, object) in subjects.iter().flat_map(|subject| objects.iter().map(move |object| (subject, object)))
        {
            let entry = facts.entry((*subject, object.clone(), right.op)).or_insert(fact);
            let order = entry.amount.cmp(fact.amount).then(fact.steps.cmp(&entry.steps));
            if order == Ordering::Less {
                *entry = fact;
            }
        }
    }
    facts
}

/// Returns the keys of a subject: for a domain, one for each interval of its ids between cuts.
fn subject_keys(sound: &Sound, numbers: &Numbers, subject: Subject, cuts: &BTreeSet<u32>) -> Vec<SubjectKey> {
    match subject {
        Subject::Service(service) => {
            numbers.services.get(service).map(|number| SubjectKey::Service(*number)).into_iter().collect()
        }
        Subject::XenStoreDaemon => vec![SubjectKey::Daemon],
        Subject::Toolstack => vec![SubjectKey::Toolstack],
        Subject::Domain(domain) => {
            intervals(sound, domain, cuts).into_iter().map(|(first, last)| SubjectKey::Ids(first, last)).collect()
        }
    }
}

/// Returns the first and the last id of each interval between cuts of an entry of `[domains]`.
fn intervals(sound: &Sound, domain: usize, cuts: &BTreeSet<u32>) -> Vec<(u16, u16)> {
    let Some(item) = sound.policy.domains.items.get(domain) else { return Vec::new() };
    let inside: Vec<u32> = cuts.range(u32::from(item.body.first)..=u32::from(item.body.last) + 1).copied().collect();
    let interval = |pair: &[u32]| {
        let [first, end] = pair else { return None };
        Some((u16::try_from(*first).ok()?, u16::try_from(end.checked_sub(1)?).ok()?))
    };
    inside.windows(2).filter_map(interval).collect()
}

/// Returns the key of a right's object.
fn object_key(sound: &Sound, numbers: &Numbers, paths: &[Vec<usize>], right: &Right) -> Option<ObjectKey> {
    let region = |region: usize| numbers.regions.get(region).copied();
    Some(match right.object {
        Object::Region(position) => ObjectKey::Region(region(position)?),
        Object::Port(port) => ObjectKey::Port(*numbers.ports.get(port)?),
        Object::Grant(grant) => ObjectKey::Grant(region(sound.index.grants.get(grant)?.region)?),
        Object::Queue(queue) => {
            let ends = sound.index.queues.get(queue)?;
            let number = |service: usize| numbers.services.get(service).copied();
            let interface = &sound.policy.queues.items.get(queue)?.body.interface.value;
            ObjectKey::Queue(number(ends.from)?, number(ends.to)?, interface.clone())
        }
        Object::Path(entry, path) => ObjectKey::Path(*paths.get(entry)?.get(path)?),
        Object::Program(service) => {
            ObjectKey::Program(sound.policy.services.items.get(service)?.body.program.value.clone())
        }
        fixed => ObjectKey::Fixed(fixed),
    })
}

/// Returns the facts that exceed those of `others`, each with the other's.
pub(super) fn beyond<'a>(
    facts: &'a Facts<'a>,
    others: &'a Facts<'a>,
    common: &Common,
) -> Vec<(&'a Key, &'a Fact<'a>, Option<&'a Fact<'a>>)> {
    let found = facts.iter().filter_map(|(key, fact)| {
        let other = others.get(key);
        (fact.exceeds(other) && !covered(key, fact, others, common)).then_some((key, fact, other))
    });
    found.collect()
}

/// Returns `true` if a rule for a path above gives the right, or the right to every path.
fn covered(key: &Key, fact: &Fact<'_>, facts: &Facts<'_>, common: &Common) -> bool {
    let (subject, ObjectKey::Path(path), op) = key else { return false };
    let any = facts.get(&(*subject, ObjectKey::Fixed(Object::AnyPath), *op));
    if any.is_some_and(|any| any.steps <= fact.steps) {
        return true;
    }
    let start = (*subject, ObjectKey::Path(0), Op::Read);
    let paths = facts
        .range(start..)
        .take_while(|((other, object, _), _)| other == subject && matches!(object, ObjectKey::Path(_)));
    let mut same = paths.filter(|((_, _, other), above)| other == op && above.steps <= fact.steps);
    let name = |path: usize| common.paths.get(path).map_or("", String::as_str);
    same.any(|((_, object, _), _)| matches!(object, ObjectKey::Path(rule) if paths::covers(name(*rule), name(*path))))
}
