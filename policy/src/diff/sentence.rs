//! Puts changes into words, and asks each policy the question that shows a change.

use super::change::Class;
use super::facts::{self, Fact, Key, ObjectKey, SubjectKey};
use super::side::{Comparison, Side};
use crate::authority::closure::steps;
use crate::authority::target::PathScope;
use crate::authority::{Object, Op, Right, Subject, names, target};

/// The answer of a policy to a question, or that it has nothing to ask about.
pub(super) struct Answer {
    /// The question, if the policy has the subject and the object.
    pub question: Option<String>,
    pub amount: u64,
    pub steps: usize,
    /// The amount as part of a whole, where it is compared as such.
    fraction: Option<String>,
    /// What the policy does not have, if there is no question.
    absent: String,
}

impl Answer {
    /// Returns question and answer in words; `unit` is that of the amount.
    pub(super) fn says(&self, unit: &str) -> String {
        let Some(question) = &self.question else { return self.absent.clone() };
        let by = if self.steps == 0 { String::new() } else { format!(", {}", way(self.steps)) };
        match self.amount {
            0 => format!("{question}? no"),
            _ if unit.is_empty() => format!("{question}? yes{by}"),
            amount => {
                let of = self.fraction.as_ref().map(|fraction| format!(", which is {fraction}")).unwrap_or_default();
                format!("{question}? yes, {amount} {unit}{of}{by}")
            }
        }
    }
}

/// Returns a change as a sentence.
pub(super) fn of(
    comparison: &Comparison<'_>,
    class: Class,
    key: &Key,
    more: &Fact<'_>,
    less: Option<&Fact<'_>>,
) -> String {
    let widening = class == Class::Widening;
    let (side, other) = if widening { (&comparison.new, &comparison.old) } else { (&comparison.old, &comparison.new) };
    let subject = side.subject(key.0).unwrap_or_default();
    let can = side.can(key, more);
    let Some(less) = less.filter(|less| less.right.amount > 0) else {
        return if widening { format!("{subject} can now {can}") } else { format!("{subject} can no longer {can}") };
    };
    let [now, before] = if widening { [can, other.can(key, less)] } else { [other.can(key, less), can] };
    let only = if widening { "" } else { "only " };
    if now != before {
        return format!("{subject} can now {only}{now}; before, it could {before}");
    }
    let (new, old) = if widening { (more.steps, less.steps) } else { (less.steps, more.steps) };
    if new == old {
        // The difference is smaller than what the sentence shows.
        let word = if widening { "a little more" } else { "a little less" };
        return format!("{subject} can now {now}, which is {word} than before");
    }
    format!("{subject} can now {only}{now} {}; before, {}", way(new), way(old))
}

/// Says through how many others a right is exercised.
fn way(steps: usize) -> String {
    match steps {
        0 => "by itself".to_owned(),
        steps => format!("through {}", names::counted(steps as u64, "other")),
    }
}

impl Side<'_> {
    /// Returns a right as the part of a sentence after "can".
    fn can(&self, (subject, object, op): &Key, fact: &Fact<'_>) -> String {
        let policy = &self.sound.policy;
        let (own, amount) = (fact.right.object, fact.right.amount);
        match (object, op) {
            (_, Op::Weigh) => {
                let name = names::object(policy, own);
                format!("have {:.1} % of the remaining memory for {name}", fact.amount.percent())
            }
            (ObjectKey::Queue(from, to, interface), _) => {
                let [from, to] = [from, to].map(|end| self.service_name(*end).unwrap_or_default());
                let messages = names::counted(amount, "message");
                let (own, verb, peer) = if *op == Op::Request { (from, "send", to) } else { (to, "answer", from) };
                let says = format!("{verb} up to {messages} of the interface {interface} to {peer}");
                if self.subject(*subject).as_ref() == Some(&own) { says } else { format!("make {own} {says}") }
            }
            _ => names::ability(policy, own, *op, amount),
        }
    }

    /// Asks the policy whether the subject can do the operation.
    ///
    /// The answer is that to the text of the question, not that of the facts that were compared: a
    /// witness is what the policy says to who asks it.
    /// `name` is that of the subject in the other policy.
    pub(super) fn ask(&self, name: &str, subject: SubjectKey, object: &ObjectKey, op: Op) -> Answer {
        let absent = |absent: String| Answer { question: None, amount: 0, steps: 0, fraction: None, absent };
        let Some(who) = self.subject_in_question(subject) else {
            return absent(format!("there is no service {name}"));
        };
        let Some(what) = self.object(object) else {
            return absent(self.absence(object));
        };
        let policy = &self.sound.policy;
        let subjects = target::subjects(policy, &who).unwrap_or_default();
        let targets = target::operation(policy, &what, op.word(), PathScope::Covering).unwrap_or_default();
        let asked = subjects.iter().flat_map(|who| targets.iter().map(move |(object, op)| (*who, *object, *op)));
        let rights = asked.filter_map(|key| self.right(key));
        let best = rights.min_by_key(|right| (std::cmp::Reverse(right.amount), steps(right)));
        let weights = facts::weights(self.sound);
        Answer {
            question: Some(format!("can {who} {} {what}", op.word())),
            amount: best.map_or(0, |right| right.amount),
            steps: best.filter(|right| right.amount > 0).map_or(0, steps),
            fraction: best.and_then(|right| facts::amount(self.sound, right, weights).fraction()),
            absent: String::new(),
        }
    }

    /// Says what the policy does not have, so that it cannot be asked about it.
    fn absence(&self, object: &ObjectKey) -> String {
        match object {
            ObjectKey::Region(_) => "there is no such region".into(),
            ObjectKey::Port(_) => "there is no such port".into(),
            ObjectKey::Grant(number) => {
                let region =
                    self.region(*number).map(|region| names::object(&self.sound.policy, Object::Region(region)));
                region.map_or("there is no such region".into(), |region| format!("{region} is not granted"))
            }
            ObjectKey::Queue(from, to, interface) => {
                let [Some(from), Some(to)] = [from, to].map(|end| self.service_name(*end)) else {
                    return "there is no such service".into();
                };
                format!("there is no queue of the interface {interface} from {from} to {to}")
            }
            _ => "there is no such object".into(),
        }
    }

    /// Returns the right of the closure, which is in the order of subjects, objects and operations.
    fn right(&self, key: (Subject, Object, Op)) -> Option<&Right> {
        let closure = self.sound.closure();
        let found = closure.binary_search_by(|right| (right.subject, right.object, right.op).cmp(&key));
        closure.get(found.ok()?)
    }

    fn service_name(&self, number: usize) -> Option<String> {
        Some(names::subject(&self.sound.policy, Subject::Service(self.service(number)?)))
    }

    fn region(&self, number: usize) -> Option<usize> {
        self.positions.regions.get(&number).copied()
    }

    /// Returns the name of a subject for people: a range of domains by its first and its last.
    pub(super) fn subject(&self, key: SubjectKey) -> Option<String> {
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
        let object = match object {
            ObjectKey::Fixed(object) => *object,
            ObjectKey::Region(number) => Object::Region(self.region(*number)?),
            ObjectKey::Port(number) => Object::Port(*self.positions.ports.get(number)?),
            ObjectKey::Grant(number) => Object::Grant(*self.sound.index.granted.get(&self.region(*number)?)?),
            ObjectKey::Queue(from, to, interface) => {
                let between = self.positions.queues.get(&(self.service(*from)?, self.service(*to)?))?;
                let carries = |queue: &&usize| self.sound.index.interfaces.get(**queue) == Some(interface);
                Object::Queue(*between.iter().find(carries)?)
            }
            // A path is named as such even if it has no slash.
            ObjectKey::Path(path) => return self.common.paths.get(*path).cloned(),
            ObjectKey::Ids(first, _) => return Some(format!("domain:{first}")),
            ObjectKey::Program(program) => return Some(format!("program:{program}")),
        };
        Some(names::object(&self.sound.policy, object))
    }
}
