//! The changes from one policy to another, and their classes.

use serde::Serialize;

use crate::sound::Step;

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

    pub(super) fn of(widens: bool, narrows: bool) -> Class {
        match (widens, narrows) {
            (false, false) => Class::Equivalent,
            (true, false) => Class::Widening,
            (false, true) => Class::Narrowing,
            (true, true) => Class::Incomparable,
        }
    }
}

/// What shows a change: a question that the two policies answer differently, or two statements
/// about them.
#[derive(Clone, Debug, Serialize)]
pub struct Witness {
    /// The question to the old policy, in its names; `None` if it has no such subject or object, or
    /// if the change is none of a right.
    pub old_question: Option<String>,
    /// The amount in its answer, as `explain` gives it; 0 means no, or no question.
    pub old_amount: u64,
    /// The number of steps to it: the other parties that have to act.
    pub old_steps: usize,
    /// The answer of the old policy in words, or the statement about it.
    pub old: String,
    /// The question to the new policy, in its names.
    pub new_question: Option<String>,
    /// The amount in its answer.
    pub new_amount: u64,
    /// The number of steps to it.
    pub new_steps: usize,
    /// The answer of the new policy in words, or the statement about it.
    pub new: String,
}

impl Witness {
    /// Makes a witness of a statement about each policy.
    pub(super) fn statement(old: String, new: String) -> Witness {
        Witness {
            old_question: None,
            old_amount: 0,
            old_steps: 0,
            old,
            new_question: None,
            new_amount: 0,
            new_steps: 0,
            new,
        }
    }
}

/// One right that one of the policies gives, or gives more of; or one rule about a service that
/// changed.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Widening or narrowing.
    pub class: Class,
    /// The subject; a range of domains by its first and its last.
    pub subject: String,
    /// The change as a sentence.
    pub sentence: String,
    /// The unit of the amounts.
    pub unit: &'static str,
    /// The question that shows the change.
    pub witness: Witness,
    /// The rules that give the right, in the policy that gives more.
    pub path: Vec<Step>,
}
