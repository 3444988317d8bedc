//! A policy's rights in terms that two policies have in common.

use std::collections::{BTreeMap, BTreeSet};

use super::matching::Numbers;
use crate::authority::closure::rights;
use crate::authority::{Object, Op, Right, Subject, paths};
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
    Path(String),
    Program(String),
    /// The choice of a peer among domains of these ids.
    Ids(u16, u16),
}

/// A right, by subject, object and operation.
pub(super) type Key = (SubjectKey, ObjectKey, Op);

/// Every right.
pub(super) type Facts = BTreeMap<Key, Right>;

/// Returns the ids at which an entry of `[domains]` of either policy starts, and those just after
/// its end.
pub(super) fn cuts(policies: [&Sound; 2]) -> BTreeSet<u32> {
    let items = policies.into_iter().flat_map(|sound| &sound.policy.domains.items);
    items.flat_map(|item| [u32::from(item.body.first), u32::from(item.body.last) + 1]).collect()
}

/// Returns the facts of a policy.
pub(super) fn facts(sound: &Sound, numbers: &Numbers, cuts: &BTreeSet<u32>) -> Facts {
    let mut facts = Facts::new();
    for right in rights(sound.authority()) {
        let objects = match right.object {
            Object::Domain(domain) => {
                intervals(sound, domain, cuts).into_iter().map(|(first, last)| ObjectKey::Ids(first, last)).collect()
            }
            _ => Vec::from_iter(object_key(sound, numbers, &right)),
        };
        let subjects = subject_keys(sound, numbers, right.subject, cuts);
        for (subject, object) in subjects.iter().flat_map(|subject| objects.iter().map(move |object| (subject, object)))
        {
            let entry = facts.entry((*subject, object.clone(), right.op)).or_insert_with(|| right.clone());
            if entry.amount < right.amount {
                *entry = right.clone();
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
fn object_key(sound: &Sound, numbers: &Numbers, right: &Right) -> Option<ObjectKey> {
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
        Object::Path(entry, path) => {
            ObjectKey::Path(paths::absolute(&sound.policy.xenstore.items.get(entry)?.body.get(path)?.path.value))
        }
        Object::Program(service) => {
            ObjectKey::Program(sound.policy.services.items.get(service)?.body.program.value.clone())
        }
        fixed => ObjectKey::Fixed(fixed),
    })
}

/// Returns the facts that `others` lack, or have with a smaller amount, each with the amount of the
/// others.
pub(super) fn beyond<'a>(facts: &'a Facts, others: &Facts) -> Vec<(&'a Key, &'a Right, u64)> {
    let mut found = Vec::new();
    for (key, right) in facts {
        let other = others.get(key).map_or(0, |right| right.amount);
        // An amount of 0, as of no restarts, is a right to nothing.
        if right.amount > other && !covered(key, others) {
            found.push((key, right, other));
        }
    }
    found
}

/// Returns `true` if a rule for a path above gives the right.
fn covered(key: &Key, facts: &Facts) -> bool {
    let (subject, ObjectKey::Path(path), op) = key else { return false };
    let start = (*subject, ObjectKey::Path(String::new()), Op::Read);
    let paths = facts
        .range(start..)
        .take_while(|((other, object, _), _)| other == subject && matches!(object, ObjectKey::Path(_)));
    let mut same = paths.filter(|((_, _, other), _)| other == op);
    same.any(|((_, object, _), _)| matches!(object, ObjectKey::Path(rule) if paths::covers(rule, path)))
}
