//! Lists every right of every subject without takeovers.

pub(crate) use super::ability::own_amounts;
use super::reach::{Authority, passes_on};
use super::{Right, Subject};

/// Returns the closure in the order of subjects, objects and operations: each right once, with its
/// largest amount.
pub(crate) fn rights(authority: &Authority) -> Vec<Right> {
    let of = |subject: &Subject| authority.closure(*subject);
    let mut rights: Vec<Right> = authority.subjects().iter().flat_map(of).collect();
    // The closure is kept as long as the policy.
    rights.shrink_to_fit();
    rights
}

/// Returns the number of steps to a right: of the rules, all but the one that gives it.
pub(crate) fn steps(right: &Right) -> usize {
    // What is a service's own has no steps, but may have two rules: that of the map and the region.
    if passes_on(right.op, right.object) { right.path.len().saturating_sub(1) } else { 0 }
}
