//! A service's crate contains no `unsafe`.
#![forbid(unsafe_code)]

use cloister_interfaces::System;
use cloister_interfaces::capability::{Console, Power};

fn attempt<S: System>(console: &Console<S>) -> Power<S> {
    unsafe { core::ptr::from_ref(console).cast::<Power<S>>().read() }
}

fn main() {}
