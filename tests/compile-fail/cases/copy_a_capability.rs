//! A capability is moved or lent, not copied.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::GrantRule;

fn attempt<S: System>(rule: &GrantRule<S>) -> (GrantRule<S>, GrantRule<S>) {
    (rule.clone(), rule.clone())
}

fn main() {}
