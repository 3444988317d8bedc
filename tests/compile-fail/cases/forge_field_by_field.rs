//! A capability cannot be built from its fields.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::System;
use cloister_interfaces::capability::{Console, Port};

fn attempt<S: System>(console: &Console<S>) -> Port<S> {
    Port { system: console.system.clone(), slot: Slot(7), bit: 0 }
}

fn main() {}
