//! The slot of a capability cannot be changed.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::System;
use cloister_interfaces::capability::Grant;

fn attempt<S: System>(rule: &mut Grant<S>) {
    rule.slot = Slot(9);
}

fn main() {}
