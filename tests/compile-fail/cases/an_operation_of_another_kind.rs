//! A capability has the operations of its kind only.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::Clock;

fn attempt<S: System>(clock: &Clock<S>) {
    clock.off();
}

fn main() {}
