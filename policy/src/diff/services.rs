//! Compares the rules about services that are no rights: the order in which services run, and what
//! happens when one has used up its restarts.

use std::cmp::Ordering;

use cloister_caps::tables::AfterLimit;

use super::change::{Change, Class, Witness};
use super::side::{Comparison, Side};
use crate::authority::Rule;
use crate::claim::and;
use crate::model::{Named, Service};

/// A service of both policies.
#[derive(Clone, Copy)]
struct Pair<'a> {
    old: &'a Named<Service>,
    new: &'a Named<Service>,
    new_position: usize,
    old_position: usize,
}

impl Pair<'_> {
    /// Returns how much better this service stands to another in the new policy than in the old
    /// one.
    fn gain(&self, other: &Pair<'_>) -> Ordering {
        standing(self.new, other.new).cmp(&standing(self.old, other.old))
    }

    fn name(&self) -> &str {
        &self.new.name.value
    }
}

/// Compares who goes before the other: `Greater` if the first does. Of equal priorities, the first
/// name goes before.
fn standing(one: &Named<Service>, other: &Named<Service>) -> Ordering {
    let by_name = || other.name.value.cmp(&one.name.value);
    one.body.priority.cmp(&other.body.priority).then_with(by_name)
}

/// Returns the changes, widenings first.
///
/// Only the order counts, not the numbers of priorities. Each change of it is a gain of one
/// service and a loss of another, and so never a narrowing.
pub(super) fn changes(comparison: &Comparison<'_>) -> Vec<(usize, Change)> {
    let pairs = pairs(comparison);
    let (mut wider, mut narrower) = (Vec::new(), Vec::new());
    for pair in &pairs {
        let number = comparison.new.numbers.services.get(pair.new_position).copied().unwrap_or(0);
        for (gain, found) in [(Ordering::Greater, &mut wider), (Ordering::Less, &mut narrower)] {
            let others: Vec<&Pair<'_>> = pairs.iter().filter(|other| pair.gain(other) == gain).collect();
            if !others.is_empty() {
                found.push((number, order(comparison, pair, &others, gain)));
            }
        }
        match (pair.old.body.after_limit, pair.new.body.after_limit) {
            (AfterLimit::StopImage, AfterLimit::StopService) => {
                wider.push((number, survival(&comparison.new, pair, Class::Widening)));
            }
            (AfterLimit::StopService, AfterLimit::StopImage) => {
                narrower.push((number, survival(&comparison.old, pair, Class::Narrowing)));
            }
            _ => {}
        }
    }
    wider.append(&mut narrower);
    wider
}

fn pairs<'a>(comparison: &Comparison<'a>) -> Vec<Pair<'a>> {
    let (old, new) = (&comparison.old, &comparison.new);
    let services = new.sound.policy.services.items.iter().zip(&new.numbers.services).enumerate();
    let known: std::collections::HashMap<usize, usize> =
        old.numbers.services.iter().enumerate().map(|(position, number)| (*number, position)).collect();
    let pair = services.filter_map(|(new_position, (item, number))| {
        let old_position = *known.get(number)?;
        Some(Pair { old: old.sound.policy.services.items.get(old_position)?, new: item, new_position, old_position })
    });
    pair.collect()
}

/// Describes that a service stands better or worse to others in the order than before.
fn order(comparison: &Comparison<'_>, pair: &Pair<'_>, others: &[&Pair<'_>], gain: Ordering) -> Change {
    let says = if gain == Ordering::Greater { "goes before" } else { "comes after" };
    let names: Vec<&str> = others.iter().map(|other| other.name()).collect();
    let name = pair.name();
    let first = others.first().copied().unwrap_or(pair);
    let answer = |one: &Named<Service>, other: &Named<Service>| {
        let (first, second) = if standing(one, other) == Ordering::Greater { (one, other) } else { (other, one) };
        let shown = |of: &Named<Service>| format!("{} of priority {}", of.name.value, of.body.priority);
        format!("{} goes before {}", shown(first), shown(second))
    };
    Change {
        class: if gain == Ordering::Greater { Class::Widening } else { Class::Narrowing },
        subject: name.to_owned(),
        sentence: format!("{name} now {says} {}", and(&names)),
        unit: "",
        witness: Witness::statement(answer(pair.old, first.old), answer(pair.new, first.new)),
        path: [pair, first].map(|of| comparison.new.sound.step(Rule::Service(of.new_position))).into_iter().collect(),
    }
}

/// Describes that the image can run on without a service in one of the policies, and stops with it
/// in the other.
fn survival(more: &Side<'_>, pair: &Pair<'_>, class: Class) -> Change {
    let name = pair.name();
    let says = |of: &Named<Service>| {
        let then = match of.body.after_limit {
            AfterLimit::StopImage => "the image stops",
            AfterLimit::StopService => "it stays stopped and the image runs on",
        };
        format!("when {} faults after {} restarts, {then}", of.name.value, of.body.restart_limit)
    };
    let (sentence, position) = match class {
        Class::Narrowing => (
            format!("the image no longer runs on without {name} when {name} has used up its restarts"),
            pair.old_position,
        ),
        _ => (format!("the image now runs on without {name} when {name} has used up its restarts"), pair.new_position),
    };
    Change {
        class,
        subject: name.to_owned(),
        sentence,
        unit: "",
        witness: Witness::statement(says(pair.old), says(pair.new)),
        path: vec![more.sound.step(Rule::Service(position))],
    }
}
