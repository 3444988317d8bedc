//! Tests the record of exercised rights.

use cloister_caps::{Kind, Operation};
use cloister_kernel_core::Kernel;

use crate::machine::{Bench, shipped, tables};

fn lines(kernel: &Kernel<'_>) -> Vec<String> {
    kernel.used_rights().map(|used| used.to_string()).collect()
}

/// Invokes an operation on the capability of this kind and name.
fn invoke(bench: &mut Bench, service: &str, kind: Kind, name: &str, operation: Operation, [a, b]: [u64; 2]) {
    let tables = bench.kernel.tables();
    let held = tables.capabilities().iter().find(|capability| {
        let owner = tables.service_name(capability.service) == service;
        owner && capability.kind() == kind && tables.name(capability.name) == name
    });
    let held = held.unwrap();
    let _ = bench.call(held.service, 1, [u64::from(held.slot), operation as u64, a, b, 0, 0]);
}

#[test]
fn a_use_is_recorded_and_a_refusal_is_not() {
    let mut bench = Bench::of(tables(&shipped()));
    let before = lines(&bench.kernel);
    assert!(before.len() > 30 && before.iter().all(|line| line.ends_with(" -")), "{before:?}");
    assert!(before.contains(&"use: http clock clock -".to_owned()), "{before:?}");
    assert!(!before.iter().any(|line| line.contains("region")));
    invoke(&mut bench, "http", Kind::Clock, "clock", Operation::ClockWall, [0; 2]);
    invoke(&mut bench, "http", Kind::Clock, "clock", Operation::ClockNow, [0; 2]);
    // tcpip has no right to the wall clock, and no rule has a page 999.
    invoke(&mut bench, "tcpip", Kind::Clock, "clock", Operation::ClockWall, [0; 2]);
    invoke(&mut bench, "grant-manager", Kind::Grant, "rx-pages", Operation::GrantIssue, [999, 0]);
    invoke(&mut bench, "grant-manager", Kind::Grant, "tx-pages", Operation::GrantIssue, [0, 5]);
    invoke(&mut bench, "tcpip", Kind::Sender, "net.requests", Operation::QueueNotify, [0; 2]);
    let after = lines(&bench.kernel);
    let new: Vec<&str> = after.iter().filter(|line| !before.contains(line)).map(String::as_str).collect();
    let expected = [
        "use: grant-manager tx-pages grant issue",
        "use: http clock clock now wall",
        "use: tcpip net.requests queue-sender notify",
    ];
    assert_eq!(new, expected);
}

#[test]
fn ending_a_grant_that_the_peer_still_uses_is_a_use() {
    let mut bench = Bench::of(tables(&shipped()));
    invoke(&mut bench, "grant-manager", Kind::Grant, "tx-pages", Operation::GrantIssue, [0, 5]);
    let issued: Vec<u32> = bench.machine.granted.keys().copied().collect();
    bench.machine.in_use.extend(issued);
    invoke(&mut bench, "grant-manager", Kind::Grant, "tx-pages", Operation::GrantEnd, [0; 2]);
    let found = lines(&bench.kernel);
    assert!(found.contains(&"use: grant-manager tx-pages grant issue end".to_owned()), "{found:?}");
}

#[test]
fn powering_off_is_a_use_of_its_right() {
    let mut bench = Bench::of(tables(&shipped()));
    invoke(&mut bench, "control", Kind::Power, "power", Operation::PowerOff, [0; 2]);
    assert!(lines(&bench.kernel).contains(&"use: control power power off".to_owned()));
}
