//! Lists every right of every subject without takeovers.

pub(crate) use super::ability::own_amounts;
use super::reach::{Authority, Way, passes_on};
use super::{Right, Subject};

/// Returns the closure in the order of subjects, objects and operations: each right once, with its
/// largest amount.
pub(crate) fn rights(authority: &Authority) -> Vec<Right> {
    let of = |subject: &Subject| {
        let subject = *subject;
        let right =
            move |way: Way| Right { subject, object: way.object, op: way.op, amount: way.amount, path: way.rules };
        authority.rights(subject, 0).into_iter().map(right).collect::<Vec<_>>()
    };
    authority.subjects().iter().flat_map(of).collect()
}

/// Returns the number of steps to a right: of the rules, all but the one that gives it.
pub(crate) fn steps(right: &Right) -> usize {
    // What is a service's own has no steps, but may have two rules: that of the map and the region.
    if passes_on(right.op, right.object) { right.path.len().saturating_sub(1) } else { 0 }
}
