//! A capability lent for a call cannot be kept after it.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::Console;

struct Keeper<S: 'static> {
    console: Option<&'static Console<S>>,
}

fn attempt<S: System>(keeper: &mut Keeper<S>, lent: &Console<S>) {
    keeper.console = Some(lent);
}

fn main() {}
