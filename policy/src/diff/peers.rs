//! Compares how the peers of event channels and grants are chosen: by which pin.
//!
//! The rights of the closure name domains by their ids, and cannot show this: two entries with the
//! same ids are the same subject, but each has a peer of its own. No node pins two entries, so that
//! what has the same pin has the same peer.

use std::collections::BTreeMap;

use super::change::{Change, Class, Witness};
use super::side::{Comparison, Side};
use crate::authority::{Object, Rule, names};
use crate::model::Pin;

/// An event channel, or a grant by its region: by the numbers that both policies have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shared {
    Port(usize),
    Grant(usize),
}

/// What shares something with a domain.
#[derive(Clone, Copy)]
struct Sharing {
    object: Object,
    rule: Rule,
    /// The entry of `[domains]`.
    domain: usize,
    /// The service that opens the channel or issues the grant.
    service: usize,
}

/// The same channel or grant in both policies.
type Pair = (Sharing, Sharing);

/// Returns the changes, each with the number of a service, widenings first.
pub(super) fn changes(comparison: &Comparison<'_>) -> Vec<(usize, Change)> {
    let (old, new) = (sharings(&comparison.old), sharings(&comparison.new));
    let pairs: Vec<Pair> = old.iter().filter_map(|(shared, before)| Some((*before, *new.get(shared)?))).collect();
    let mut found: Vec<(usize, Change)> = Vec::new();
    for pair in pairs {
        let pins = (pin(&comparison.old, pair.0), pin(&comparison.new, pair.1));
        let classes: &[Class] = match pins {
            (None, None) => &[],
            (Some(_), None) => &[Class::Widening],
            (None, Some(_)) => &[Class::Narrowing],
            (Some(before), Some(after)) => {
                let same =
                    by(&comparison.old, before) == by(&comparison.new, after) && before.node.value == after.node.value;
                if same { &[] } else { &[Class::Widening, Class::Narrowing] }
            }
        };
        found.extend(classes.iter().map(|class| chosen(comparison, *class, pair)));
    }
    found.sort_by_key(|(_, change)| change.class != Class::Widening);
    found
}

/// Returns what shares something with a domain, by what it is in both policies.
fn sharings(side: &Side<'_>) -> BTreeMap<Shared, Sharing> {
    let index = &side.sound.index;
    let ports = index.ports.iter().enumerate().filter_map(|(port, channel)| {
        let sharing = Sharing {
            object: Object::Port(port),
            rule: Rule::Port(port),
            domain: channel.peer?,
            service: channel.service,
        };
        Some((Shared::Port(*side.numbers.ports.get(port)?), sharing))
    });
    let grants = index.grants.iter().enumerate().filter_map(|(grant, parties)| {
        let sharing = Sharing {
            object: Object::Grant(grant),
            rule: Rule::Grant(grant),
            domain: parties.peer,
            service: parties.holder,
        };
        Some((Shared::Grant(*side.numbers.regions.get(parties.region)?), sharing))
    });
    ports.chain(grants).collect()
}

fn pin<'a>(side: &Side<'a>, sharing: Sharing) -> Option<&'a Pin> {
    side.sound.policy.domains.items.get(sharing.domain)?.body.pin.as_ref()
}

/// Returns the number of the service that pins.
fn by(side: &Side<'_>, pin: &Pin) -> Option<usize> {
    side.numbers.services.get(side.sound.policy.services.index(&pin.by.value)?).copied()
}

fn name(side: &Side<'_>, sharing: Sharing) -> String {
    names::object(&side.sound.policy, sharing.object)
}

/// Says how the peer of a channel or grant is chosen.
fn says(side: &Side<'_>, sharing: Sharing) -> String {
    let name = name(side, sharing);
    match pin(side, sharing) {
        Some(pin) => format!("the peer of {name} is the domain that {} pins by {}", pin.by.value, pin.node.value),
        None => format!("the peer of {name} may be another domain each time"),
    }
}

/// Describes that a peer is chosen in another way.
fn chosen(comparison: &Comparison<'_>, class: Class, (before, after): Pair) -> (usize, Change) {
    let new = &comparison.new;
    let (before, now) = (says(&comparison.old, before), says(new, after));
    let sentence = now.replacen(" is ", " is now ", 1).replacen(" may be ", " may now be ", 1);
    let subject = new.sound.policy.services.items.get(after.service).map(|item| item.name.value.clone());
    let number = new.numbers.services.get(after.service).copied().unwrap_or(0);
    let change = Change {
        class,
        subject: subject.unwrap_or_default(),
        sentence,
        unit: "",
        witness: Witness::statement(before, now),
        path: vec![new.sound.step(after.rule)],
    };
    (number, change)
}
