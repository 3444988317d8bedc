//! A capability is moved or lent, not copied.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::Grant;

fn attempt<S: System>(rule: &Grant<S>) -> (Grant<S>, Grant<S>) {
    (rule.clone(), rule.clone())
}

fn main() {}
