//! The slot of a capability cannot be changed.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::System;
use cloister_interfaces::capability::GrantRule;

fn attempt<S: System>(rule: &mut GrantRule<S>) {
    rule.slot = Slot(9);
}

fn main() {}
