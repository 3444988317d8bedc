//! Checks the policy as a whole. Each check reports the mistake, its position, and what to write
//! instead.

mod assertions;
mod cpu;
mod fields;
mod limits;
mod memory;
mod names;
mod pins;
mod programs;
mod wiring;

pub(crate) use fields::field;

use crate::diagnostic::Log;
use crate::model::Policy;

/// Runs every check except that of the limits.
pub(crate) fn check(policy: &Policy, log: &mut Log) {
    names::check(policy, log);
    cpu::check(policy, log);
    memory::check(policy, log);
    wiring::check(policy, log);
    pins::check(policy, log);
    programs::check(policy, log);
    fields::check(policy, log);
    assertions::check(policy, log);
}

/// Checks that an image has room for the policy.
pub(crate) fn limits(policy: &Policy, log: &mut Log) {
    limits::check(policy, log);
}
