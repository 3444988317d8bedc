//! A capability that was moved away cannot be used.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::Power;

fn give<S: System>(_: Power<S>) {}

fn attempt<S: System>(power: Power<S>) {
    give(power);
    power.off();
}

fn main() {}
