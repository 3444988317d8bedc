//! A capability cannot be converted to another kind.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::{Console, Power};

fn attempt<S: System>(console: Console<S>) -> Power<S> {
    Power { ..console }
}

fn main() {}
