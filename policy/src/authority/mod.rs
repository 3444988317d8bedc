//! The effective authority of a policy: who can do what to which object, directly or by asking
//! others, and by which rules. docs/policy.md, "Authority", defines it; this module implements that
//! page.
//!
//! [`closure`] lists every right, forward from the rules. [`search`] answers one question, backward
//! from the object, with the rules that give the right. The two share only [`index`], and a
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
    /// The rules that give it, in the order in which they are used.
    pub path: Vec<Rule>,
}
