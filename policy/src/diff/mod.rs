//! Compares two policies by what they allow, not by their text.

mod facts;
mod matching;
mod pins;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use crate::authority::{Object, Right, Subject, names};
use crate::canonical;
use crate::diagnostic::Spanned;
use crate::model::{Claim, Named};
use crate::sound::{Sound, Step};
use facts::{Key, ObjectKey, SubjectKey};
use matching::Numbers;

pub use pins::PinChange;

/// The relation of one policy's authority to another's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The new policy allows the same.
    Equivalent,
    /// The new policy allows more.
    Widening,
    /// The new policy allows less.
    Narrowing,
    /// The new policy allows more of one thing and less of another.
    Incomparable,
}

impl Class {
    /// Returns the word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Class::Equivalent => "equivalent",
            Class::Widening => "widening",
            Class::Narrowing => "narrowing",
            Class::Incomparable => "incomparable",
        }
    }

    fn of(widens: bool, narrows: bool) -> Class {
        match (widens, narrows) {
            (false, false) => Class::Equivalent,
            (true, false) => Class::Widening,
            (false, true) => Class::Narrowing,
            (true, true) => Class::Incomparable,
        }
    }
}

/// A question that the two policies answer differently.
#[derive(Clone, Debug, Serialize)]
pub struct Witness {
    /// The question to the old policy, in its names; `None` if it has no such subject or object.
    pub old_question: Option<String>,
    /// The amount in its answer; 0 means no.
    pub old_amount: u64,
    /// The question to the new policy, in its names.
    pub new_question: Option<String>,
    /// The amount in its answer.
    pub new_amount: u64,
}

/// One right that one of the policies gives, or gives more of.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Widening or narrowing.
    pub class: Class,
    /// The subject; a range of domains by its first and its last.
    pub subject: String,
    /// The right as a sentence, in the policy that gives more.
    pub sentence: String,
    /// The unit of the amounts.
    pub unit: &'static str,
    /// The question that shows the change.
    pub witness: Witness,
    /// The rules that give the right, in the policy that gives more.
    pub path: Vec<Step>,
}

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
    /// Assertions that only the old policy has.
    pub assertions_dropped: Vec<String>,
    /// Assertions that only the new policy has.
    pub assertions_added: Vec<String>,
}

/// Compares the authority of two policies.
#[must_use]
pub fn diff(old: &Sound, new: &Sound) -> Difference {
    let cuts = facts::cuts([old, new]);
    let named = Comparison::new(old, new, matching::by_name(old, new), &cuts);
    if named.is_equivalent() {
        return named.difference();
    }
    let by_structure = matching::by_structure(old, new).map(|numbers| Comparison::new(old, new, numbers, &cuts));
    by_structure.filter(Comparison::is_equivalent).unwrap_or(named).difference()
}

/// One side of a comparison.
struct Side<'a> {
    sound: &'a Sound,
    numbers: Numbers,
    facts: facts::Facts,
}

struct Comparison<'a> {
    old: Side<'a>,
    new: Side<'a>,
}

impl<'a> Comparison<'a> {
    fn new(old: &'a Sound, new: &'a Sound, numbers: (Numbers, Numbers), cuts: &BTreeSet<u32>) -> Self {
        let (old_facts, new_facts) = (facts::facts(old, &numbers.0, cuts), facts::facts(new, &numbers.1, cuts));
        Comparison {
            old: Side { sound: old, numbers: numbers.0, facts: old_facts },
            new: Side { sound: new, numbers: numbers.1, facts: new_facts },
        }
    }

    fn is_equivalent(&self) -> bool {
        facts::beyond(&self.new.facts, &self.old.facts).is_empty()
            && facts::beyond(&self.old.facts, &self.new.facts).is_empty()
    }

    fn difference(&self) -> Difference {
        let wider = facts::beyond(&self.new.facts, &self.old.facts);
        let narrower = facts::beyond(&self.old.facts, &self.new.facts);
        let mut subjects: Vec<(String, Class)> = Vec::new();
        let keys = |facts: &[(&Key, &Right, u64)]| -> BTreeSet<SubjectKey> {
            facts.iter().map(|((subject, ..), ..)| *subject).collect()
        };
        let (widened, narrowed) = (keys(&wider), keys(&narrower));
        for subject in widened.union(&narrowed) {
            let name = self.new.subject(*subject).or_else(|| self.old.subject(*subject)).unwrap_or_default();
            subjects.push((name, Class::of(widened.contains(subject), narrowed.contains(subject))));
        }
        let pins = pins::changes(&self.old, &self.new);
        let pinned = |wanted: Class| pins.iter().any(|pin| pin.class == wanted || pin.class == Class::Incomparable);
        let class =
            Class::of(!wider.is_empty() || pinned(Class::Widening), !narrower.is_empty() || pinned(Class::Narrowing));
        let widening = wider
            .into_iter()
            .map(|(key, right, less)| self.change(Class::Widening, key, right, &self.new, [less, right.amount]));
        let narrowing = narrower
            .into_iter()
            .map(|(key, right, less)| self.change(Class::Narrowing, key, right, &self.old, [right.amount, less]));
        let changes = widening.chain(narrowing).collect();
        let renamed = self.renamed();
        let (assertions_dropped, assertions_added) = self.assertions(&renamed);
        Difference { class, subjects, changes, pins, renamed, assertions_dropped, assertions_added }
    }

    fn change(&self, class: Class, key: &Key, right: &Right, more: &Side<'_>, amounts: [u64; 2]) -> Change {
        let (subject_key, object_key, op) = key;
        let question = |side: &Side<'_>| {
            let subject = side.subject_in_question(*subject_key)?;
            Some(format!("can {subject} {} {}", op.word(), side.object(object_key)?))
        };
        let subject = more.subject(*subject_key).unwrap_or_default();
        let ability = names::ability(&more.sound.policy, right.object, right.op, right.amount);
        Change {
            class,
            sentence: format!("{subject} can {ability}"),
            subject,
            unit: op.unit(right.object),
            witness: Witness {
                old_question: question(&self.old),
                old_amount: amounts[0],
                new_question: question(&self.new),
                new_amount: amounts[1],
            },
            path: right.path.iter().map(|rule| more.sound.step(*rule)).collect(),
        }
    }

    fn renamed(&self) -> Vec<(&'static str, String, String)> {
        let (one, other) = (&self.old.sound.policy, &self.new.sound.policy);
        let mut found = Vec::new();
        renames(
            "service",
            &one.services.items,
            &self.old.numbers.services,
            &other.services.items,
            &self.new.numbers.services,
            &mut found,
        );
        renames(
            "region",
            &one.regions.items,
            &self.old.numbers.regions,
            &other.regions.items,
            &self.new.numbers.regions,
            &mut found,
        );
        renames(
            "port",
            &one.ports.items,
            &self.old.numbers.ports,
            &other.ports.items,
            &self.new.numbers.ports,
            &mut found,
        );
        found
    }

    /// Returns the assertions that only one of the policies has, in the new names.
    fn assertions(&self, renamed: &[(&'static str, String, String)]) -> (Vec<String>, Vec<String>) {
        let names: HashMap<&str, &str> = renamed.iter().map(|(_, old, new)| (old.as_str(), new.as_str())).collect();
        let claims = |sound: &Sound, names: &HashMap<&str, &str>| -> BTreeSet<String> {
            sound.policy.assertions.items.iter().map(|item| claim_text(&item.body.claim, names)).collect()
        };
        let (old, new) = (claims(self.old.sound, &names), claims(self.new.sound, &HashMap::new()));
        (old.difference(&new).cloned().collect(), new.difference(&old).cloned().collect())
    }
}

fn renames<T>(
    kind: &'static str,
    old: &[Named<T>],
    old_numbers: &[usize],
    new: &[Named<T>],
    new_numbers: &[usize],
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

/// Returns a claim in one line, with new names for renamed entries.
fn claim_text(claim: &Claim, names: &HashMap<&str, &str>) -> String {
    // A name stands alone, or before the dot of an operation.
    let rename = |word: &mut Spanned<String>| {
        let (object, rest) = word.value.split_at(word.value.find('.').unwrap_or(word.value.len()));
        if let Some(name) = names.get(object) {
            word.value = format!("{name}{rest}");
        }
    };
    let rename_all = |words: &mut Vec<Spanned<String>>| {
        words.iter_mut().for_each(rename);
        words.sort_by(|a, b| a.value.cmp(&b.value));
    };
    let mut claim = claim.clone();
    match &mut claim {
        Claim::CannotCause { from, to, unless, .. } => {
            [from, to].into_iter().for_each(rename);
            rename_all(unless);
        }
        Claim::NoLeak { regions, to, unless, .. } => {
            rename(to);
            [regions, unless].into_iter().for_each(rename_all);
        }
        Claim::Exclusive { owner, regions, besides, .. } => {
            rename(owner);
            [regions, besides].into_iter().for_each(rename_all);
        }
        Claim::AtMost { service, .. } => service.iter_mut().for_each(rename),
        Claim::Only { who, may, unless, .. } => {
            rename(may);
            [who, unless].into_iter().for_each(rename_all);
        }
        Claim::ShareNothing { between } => rename_all(between),
    }
    let mut text = String::new();
    canonical::claim(&claim, &mut text);
    text.trim_end().replace('\n', ", ")
}

impl Side<'_> {
    fn service(&self, number: usize) -> Option<usize> {
        self.numbers.services.iter().position(|own| *own == number)
    }

    /// Returns the name of a subject for people: a range of domains by its first and its last.
    fn subject(&self, key: SubjectKey) -> Option<String> {
        match key {
            SubjectKey::Ids(first, last) if first != last => Some(format!("domain:{first} to domain:{last}")),
            _ => self.subject_in_question(key),
        }
    }

    /// Returns the name of a subject as in a question to this policy: of a range of domains the
    /// first.
    fn subject_in_question(&self, key: SubjectKey) -> Option<String> {
        let policy = &self.sound.policy;
        match key {
            SubjectKey::Service(number) => Some(names::subject(policy, Subject::Service(self.service(number)?))),
            SubjectKey::Ids(first, _) => Some(format!("domain:{first}")),
            SubjectKey::Daemon => Some(names::subject(policy, Subject::XenStoreDaemon)),
            SubjectKey::Toolstack => Some(names::subject(policy, Subject::Toolstack)),
        }
    }

    /// Returns the name of an object as in a question to this policy.
    fn object(&self, object: &ObjectKey) -> Option<String> {
        let region = |number: &usize| self.numbers.regions.iter().position(|own| own == number);
        let object = match object {
            ObjectKey::Fixed(object) => *object,
            ObjectKey::Region(number) => Object::Region(region(number)?),
            ObjectKey::Port(number) => Object::Port(self.numbers.ports.iter().position(|own| own == number)?),
            ObjectKey::Grant(number) => Object::Grant(*self.sound.index.granted.get(&region(number)?)?),
            ObjectKey::Queue(from, to, interface) => {
                let (from, to) = (self.service(*from)?, self.service(*to)?);
                let ends = self.sound.index.queues.iter().zip(&self.sound.policy.queues.items);
                let queue = ends.clone().position(|(ends, item)| {
                    ends.from == from && ends.to == to && item.body.interface.value == *interface
                });
                Object::Queue(queue?)
            }
            ObjectKey::Path(path) => return Some(path.clone()),
            ObjectKey::Ids(first, _) => return Some(format!("domain:{first}")),
            ObjectKey::Program(program) => return Some(format!("program:{program}")),
        };
        Some(names::object(&self.sound.policy, object))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.class.word())?;
        for (kind, old, new) in &self.renamed {
            writeln!(f, "  equivalent: the {kind} {old} is now {new}")?;
        }
        for (subject, class) in &self.subjects {
            writeln!(f, "  {}: what {subject} can do", class.word())?;
        }
        for change in &self.changes {
            let witness = &change.witness;
            writeln!(f, "\n{}: {}", change.class.word(), change.sentence)?;
            for step in &change.path {
                writeln!(f, "    line {:>4}  {}: {}", step.line, step.rule, step.says)?;
            }
            let answer = |question: &Option<String>, amount: u64| match (question, amount) {
                (None, _) => "has nothing of this name".to_owned(),
                (Some(question), 0) => format!("{question}? no"),
                (Some(question), amount) if change.unit.is_empty() => format!("{question}? yes ({amount})"),
                (Some(question), amount) => format!("{question}? yes, {amount} {}", change.unit),
            };
            writeln!(f, "    old: {}", answer(&witness.old_question, witness.old_amount))?;
            writeln!(f, "    new: {}", answer(&witness.new_question, witness.new_amount))?;
        }
        for pin in &self.pins {
            writeln!(f, "\n{}: {}", pin.class.word(), pin.sentence())?;
        }
        for claim in &self.assertions_dropped {
            writeln!(f, "\nassertion dropped: {claim}")?;
        }
        for claim in &self.assertions_added {
            writeln!(f, "\nassertion added: {claim}")?;
        }
        Ok(())
    }
}
