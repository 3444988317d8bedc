//! A slot number is no capability: making one takes a `System`, which a service does not have.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::System;
use cloister_interfaces::capability::{Console, Power};

fn attempt<S: System>(console: Console<S>) -> Power<S> {
    Power::new(console.system, Slot(3))
}

fn main() {}
