//! Lists every right of every subject without takeovers.

pub(crate) use super::ability::own_amounts;
use super::reach::{Authority, Way};
use super::{Index, Right, Subject};
use crate::model::Policy;

/// Returns the closure in the order of subjects, objects and operations: each right once, with its
/// largest amount.
pub(crate) fn closure(policy: &Policy, index: &Index) -> Vec<Right> {
    rights(&Authority::new(policy, index))
}

/// Returns the closure of an authority that is at hand: see [`closure`].
pub(crate) fn rights(authority: &Authority) -> Vec<Right> {
    let of = |subject: &Subject| {
        let subject = *subject;
        let right =
            move |way: Way| Right { subject, object: way.object, op: way.op, amount: way.amount, path: way.rules };
        authority.rights(subject, 0).into_iter().map(right).collect::<Vec<_>>()
    };
    authority.subjects().iter().flat_map(of).collect()
}
