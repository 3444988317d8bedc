//! The effective authority of a policy: who can do what to which object, directly or by asking
//! others, and by which rules. docs/policy.md, "Authority", defines it; this module implements that
//! page.
//!
//! [`ability`] says what each party can do itself, [`catalogue`] what inputs make a program do,
//! [`flow`] which party can pass data to which other, and [`reach`] searches. [`leak`] follows the
//! bytes of a region instead. policy/tests/datalog.rs computes the same from that page, without this
//! code.

pub(crate) mod ability;
pub(crate) mod catalogue;
pub(crate) mod closure;
pub(crate) mod flow;
pub(crate) mod index;
pub(crate) mod leak;
pub(crate) mod names;
pub(crate) mod operation;
pub(crate) mod paths;
pub(crate) mod reach;
pub(crate) mod target;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::sync::Arc;

#[cfg(test)]
pub(crate) use flow::Node;
pub(crate) use index::Index;
pub(crate) use operation::{Hypercall, Op};
pub(crate) use vocabulary::{Object, Rule, Subject};

/// A right of the closure.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// The subject that has it.
    pub subject: Subject,
    /// The object.
    pub object: Object,
    /// The operation that it allows.
    pub op: Op,
    /// The amount, in the unit of [`Op::unit`]; 1 if the operation has no amount.
    pub amount: u64,
    /// The rules that give it.
    pub path: RightPath,
}

/// The rules that give a right. What a subject reaches at one place has the same way there, which
/// is kept once: a closure has hundreds of thousands of rights.
#[derive(Clone, Debug)]
pub(crate) struct RightPath {
    /// The rules over which data is passed.
    way: Arc<[Rule]>,
    /// The rules that give the right there.
    given: Box<[Rule]>,
}

impl RightPath {
    /// Returns the number of rules.
    pub(crate) fn len(&self) -> usize {
        self.way.len() + self.given.len()
    }

    /// Returns the rules in the order in which they are used.
    pub(crate) fn rules(&self) -> impl Iterator<Item = Rule> {
        self.way.iter().chain(&self.given).copied()
    }
}
