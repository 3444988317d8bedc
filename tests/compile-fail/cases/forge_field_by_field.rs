//! A capability is not put together from its parts.
#![forbid(unsafe_code)]

use cloister_caps::Slot;
use cloister_interfaces::System;
use cloister_interfaces::capability::{Console, Port};

fn attempt<S: System>(console: &Console<S>) -> Port<S> {
    Port { system: console.system.clone(), slot: Slot(7), bit: 0 }
}

fn main() {}
