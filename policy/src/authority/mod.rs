//! The effective authority of a policy: who can do what to which object, directly or by asking
//! others, and by which rules. docs/policy.md, "Authority", states the semantics; this module is
//! that page in code.
//!
//! [`closure`] lists every right by going forward from the rules; [`search`] answers one question
//! by going back from it, with the rules on the way. The two share no more than [`index`], and a
//! property test compares them.

pub(crate) mod closure;
pub(crate) mod index;
pub(crate) mod names;
pub(crate) mod operation;
pub(crate) mod paths;
pub(crate) mod search;
pub(crate) mod target;
mod vocabulary;

pub(crate) use index::Index;
pub(crate) use operation::{Hypercall, Op};
pub(crate) use vocabulary::{Object, Rule, Subject};

/// One right of the closure.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// Who has it.
    pub subject: Subject,
    /// To what.
    pub object: Object,
    /// What it allows.
    pub op: Op,
    /// How much of it, in the unit of [`Op::unit`]; 1 where there is no more or less.
    pub amount: u64,
    /// The rules that give it, in the order in which it is exercised.
    pub path: Vec<Rule>,
}
