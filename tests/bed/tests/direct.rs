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
