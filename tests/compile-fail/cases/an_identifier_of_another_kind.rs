//! The number of a port is not that of a domain.
#![forbid(unsafe_code)]

use cloister_caps::EvtchnPort;
use cloister_interfaces::System;
use cloister_interfaces::capability::Grant;

fn attempt<S: System>(rule: &Grant<S>) {
    let _ = rule.issue(0, 1, EvtchnPort(0));
}

fn main() {}
