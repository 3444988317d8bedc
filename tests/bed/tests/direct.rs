//! Runs the image without dom0: straight under Xen, and without Xen.
#![forbid(unsafe_code)]

mod support;

use std::time::Duration;

use cloister_bed::{bare, direct, image};

#[test]
fn the_self_test_passes_straight_under_xen() {
    let image = image("selftest").unwrap_or_else(|error| panic!("{error}"));
    let over =
        |log: &str| direct::lines(log).iter().any(|line| line.contains("prober: done:") || line.contains("fatal:"));
    let run =
        direct::run(&image, "", Duration::from_secs(120), &over, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let lines = run.lines().join("\n");
    assert!(lines.contains(", 0 breaches"), "{lines}");
    assert!(!lines.contains("fatal:"), "{lines}");
    // The image is built with checks: a service whose arithmetic overflows says so, and faults.
    let at = lines.find("attempt to add with overflow").unwrap_or_else(|| panic!("no overflow was noticed\n{lines}"));
    assert!(lines[at..].lines().take(4).any(|line| line.contains("invalid instruction")), "{}", &lines[at..]);
    // What QEMU's processor announces through Xen. A service reads the same from the kernel.
    let states = "meltdown=no l1tf=no mds=no taa=no mmio=no rfds=no spectre-v1=clamped spectre-v2=vulnerable bhi=no \
                  returns=vulnerable isolation=standard";
    for line in ["cloister: speculation ", "prober: speculation "].map(|begin| format!("{begin}{states}")) {
        assert_eq!(lines.lines().filter(|one| *one == line).count(), 1, "{line}\n{lines}");
    }
}

/// Runs an image that must not boot, and asserts that it says why before a service starts.
fn assert_refuses(policy: &str, why: &str) {
    let image = image(policy).unwrap_or_else(|error| panic!("{error}"));
    let over = |log: &str| direct::lines(log).iter().any(|line| line.contains("fatal:") || line.contains("started"));
    let run =
        direct::run(&image, "", Duration::from_secs(60), &over, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let lines = run.lines().join("\n");
    assert!(lines.lines().any(|line| line.starts_with("cloister: fatal:") && line.contains(why)), "{why}\n{lines}");
    assert!(!lines.contains("started"), "{lines}");
}

/// QEMU's processor has neither IBPB, which a strict policy needs, nor a protection of the kernel's
/// branches.
#[test]
fn an_image_refuses_a_processor_that_does_not_meet_its_demands() {
    assert_refuses("strict", "the policy has isolation = \"strict\", and the processor announces no IBPB");
    assert_refuses("refusing", "the policy has refuse-weakness = \"spectre-v2\", and the processor is vulnerable");
}

/// A service that waits for deadlines that pass at once leaves the service below it as much time as
/// one that spins with the same budget, and leaves nothing in its registers. The image itself
/// counts both, in rounds of work and by the guest's clock.
#[test]
fn a_storm_of_waits_takes_no_more_than_a_budget() {
    let image = image("storm").unwrap_or_else(|error| panic!("{error}"));
    let over =
        |log: &str| direct::lines(log).iter().any(|line| line.contains("storm: done:") || line.contains("fatal:"));
    let run =
        direct::run(&image, "", Duration::from_secs(600), &over, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let lines = run.lines().join("\n");
    println!("{lines}");
    assert!(lines.contains(", 0 breaches"), "{lines}");
    assert!(!lines.contains("fatal:"), "{lines}");
}

#[test]
fn without_xen_the_image_says_so_and_stops() {
    let image = image("default").unwrap_or_else(|error| panic!("{error}"));
    let run =
        bare::run("no-xen", &image, "", Duration::from_secs(10), &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let text = run.debug_port + &run.serial;
    assert!(text.contains("fatal:") && text.contains("Xen"), "{text}");
    // 0 would be a reset, as after a triple fault.
    assert_ne!(run.code, Some(0), "{text}");
}
