//! Compares two policies by what they allow, not by their text.

mod assertions;
mod change;
mod facts;
mod matching;
mod peers;
mod pins;
mod render;
mod sentence;
mod services;
mod side;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use crate::model::Named;
use crate::sound::Sound;
use facts::{Common, Fact, Key, SubjectKey};
use side::{Comparison, Side};

pub use assertions::{Asserted, Assertions, Broken, Replaced, Reworded};
pub use change::{Change, Class, Witness};
pub use pins::PinChange;

/// The difference of two policies.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// All changes together.
    pub class: Class,
    /// The class of the changes for each subject.
    pub subjects: Vec<(String, Class)>,
    /// The changed rights, widenings first.
    pub changes: Vec<Change>,
    /// The programs that are pinned otherwise.
    pub pins: Vec<PinChange>,
    /// Entries with a new name, which changes nothing: the kind of entry, the old name, the new
    /// one.
    pub renamed: Vec<(&'static str, String, String)>,
    /// The claims of `assertions.dropped`.
    pub assertions_dropped: Vec<String>,
    /// The claims of `assertions.added`.
    pub assertions_added: Vec<String>,
    /// What changed in the assertions, which are no authority.
    pub assertions: Assertions,
}

/// Compares the authority of two policies.
#[must_use]
pub fn diff(old: &Sound, new: &Sound) -> Difference {
    let common = &Common::new([old, new]);
    let compared =
        |(mine, theirs)| Comparison { old: Side::new(old, mine, common), new: Side::new(new, theirs, common) };
    let named = compared(matching::by_name(old, new));
    let moves = named.moves();
    if moves.is_empty() {
        return named.difference(moves);
    }
    if let Some(by_structure) = matching::by_structure(old, new).map(compared) {
        let moves = by_structure.moves();
        if moves.is_empty() {
            return by_structure.difference(moves);
        }
    }
    named.difference(moves)
}

/// A right of which one policy gives more, and what the other gives of it.
type Move<'c> = (&'c Key, &'c Fact<'c>, Option<&'c Fact<'c>>);

/// Everything that differs but for pinned programs.
struct Moves<'c> {
    wider: Vec<Move<'c>>,
    narrower: Vec<Move<'c>>,
    /// The changes that are none of a right, each with the number of its service.
    others: Vec<(usize, Change)>,
}

impl Moves<'_> {
    fn is_empty(&self) -> bool {
        self.wider.is_empty() && self.narrower.is_empty() && self.others.is_empty()
    }
}

impl Comparison<'_> {
    fn moves(&self) -> Moves<'_> {
        let common = self.old.common;
        Moves {
            wider: facts::beyond(&self.new.facts, &self.old.facts, common),
            narrower: facts::beyond(&self.old.facts, &self.new.facts, common),
            others: self.others(),
        }
    }

    /// Returns the changes that are none of a right, each with the number of its service: widenings
    /// first.
    fn others(&self) -> Vec<(usize, Change)> {
        let (mut found, peers) = (services::changes(self), peers::changes(self));
        found.extend(peers);
        found
    }

    fn difference(&self, moves: Moves<'_>) -> Difference {
        let (mut widened, mut narrowed) = (BTreeSet::new(), BTreeSet::new());
        let (mut changes, mut narrowing) = (Vec::new(), Vec::new());
        for (key, more, less) in moves.wider {
            widened.insert(key.0);
            changes.push(self.change(Class::Widening, key, more, less));
        }
        for (key, more, less) in moves.narrower {
            narrowed.insert(key.0);
            narrowing.push(self.change(Class::Narrowing, key, more, less));
        }
        for (service, change) in moves.others {
            let (subjects, found) = match change.class {
                Class::Widening => (&mut widened, &mut changes),
                _ => (&mut narrowed, &mut narrowing),
            };
            subjects.insert(SubjectKey::Service(service));
            found.push(change);
        }
        changes.append(&mut narrowing);
        let subjects = widened.union(&narrowed).map(|subject| {
            let name = self.new.subject(*subject).or_else(|| self.old.subject(*subject)).unwrap_or_default();
            (name, Class::of(widened.contains(subject), narrowed.contains(subject)))
        });
        let subjects = subjects.collect();
        let pins = pins::changes(&self.old, &self.new);
        let pinned = |wanted: Class| pins.iter().any(|pin| pin.class == wanted || pin.class == Class::Incomparable);
        let class =
            Class::of(!widened.is_empty() || pinned(Class::Widening), !narrowed.is_empty() || pinned(Class::Narrowing));
        let renamed = self.renamed();
        let names = renamed.iter().map(|(_, old, new)| (old.as_str(), new.as_str())).collect();
        let assertions = assertions::compare(self.old.sound, self.new.sound, &names);
        let claims = |of: &[Asserted]| of.iter().map(|asserted| asserted.claim.clone()).collect();
        let (assertions_dropped, assertions_added) = (claims(&assertions.dropped), claims(&assertions.added));
        Difference { class, subjects, changes, pins, renamed, assertions_dropped, assertions_added, assertions }
    }

    /// Describes a right that one policy gives more of than the other.
    fn change(&self, class: Class, key: &Key, more: &Fact<'_>, less: Option<&Fact<'_>>) -> Change {
        let (subject_key, object_key, op) = key;
        let side = if class == Class::Widening { &self.new } else { &self.old };
        let subject = side.subject(*subject_key).unwrap_or_default();
        let answer = |side: &Side<'_>| side.ask(&subject, *subject_key, object_key, *op);
        let (old, new) = (answer(&self.old), answer(&self.new));
        let unit = op.unit(more.right.object);
        Change {
            class,
            subject,
            sentence: sentence::of(self, class, key, more, less),
            unit,
            witness: Witness {
                old: old.says(unit),
                old_question: old.question,
                old_amount: old.amount,
                old_steps: old.steps,
                new: new.says(unit),
                new_question: new.question,
                new_amount: new.amount,
                new_steps: new.steps,
            },
            path: more.right.path.rules().map(|rule| side.sound.step(rule)).collect(),
        }
    }

    fn renamed(&self) -> Vec<(&'static str, String, String)> {
        let (one, other) = (&self.old.sound.policy, &self.new.sound.policy);
        let (old, new) = (&self.old.numbers, &self.new.numbers);
        let mut found = Vec::new();
        renames("service", (&one.services.items, &old.services), (&other.services.items, &new.services), &mut found);
        renames("region", (&one.regions.items, &old.regions), (&other.regions.items, &new.regions), &mut found);
        renames("port", (&one.ports.items, &old.ports), (&other.ports.items, &new.ports), &mut found);
        found
    }
}

/// The entries of a section, and the number of each.
type Numbered<'a, T> = (&'a [Named<T>], &'a [usize]);

/// Adds the entries of a section that have a new name.
fn renames<T>(
    kind: &'static str,
    (old, old_numbers): Numbered<'_, T>,
    (new, new_numbers): Numbered<'_, T>,
    found: &mut Vec<(&'static str, String, String)>,
) {
    let known: HashMap<usize, &str> =
        new_numbers.iter().copied().zip(new.iter().map(|item| item.name.value.as_str())).collect();
    for (item, number) in old.iter().zip(old_numbers) {
        if let Some(name) = known.get(number).filter(|name| **name != item.name.value) {
            found.push((kind, item.name.value.clone(), (*name).to_owned()));
        }
    }
}
