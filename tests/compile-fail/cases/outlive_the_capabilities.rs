//! A service owns its capabilities: nothing in it outlives them.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::Console;

fn attempt<'a, S: System>(console: Console<S>) -> &'a Console<S> {
    &console
}

fn main() {}
