//! A hostile service in place of the application on real Xen: every attempt is contained, and the
//! network works on.
#![forbid(unsafe_code)]

mod support;

use std::time::Duration;

use cloister_bed::{Bed, Config};
use support::{guest, ping, processor_share};

/// The time for all attempts of the prober, faults and restarts included.
const ALL: Duration = Duration::from_secs(300);

#[test]
fn every_attempt_is_contained_while_pings_are_answered() {
    let guest = guest("prober");
    let bed = Bed::with_guest(&Config::for_guest("prober", &guest), &guest, &mut |text| println!("{text}"))
        .unwrap_or_else(|error| panic!("{error}"));
    let console = || std::fs::read_to_string(bed.guest_log(&guest.name)).unwrap_or_default();
    let reachable = || ping(&bed, 1, "1") == (1, 1);
    bed.wait_for_guest(&guest, "the network was coming up", ALL, &reachable).unwrap_or_else(|error| panic!("{error}"));
    let begun = console().lines().filter(|line| line.contains("prober: attempt")).count();
    let (sent, received) = ping(&bed, 200, "0.05");
    assert_eq!((sent, received), (200, 200), "pings while the prober probes");
    let meanwhile = console().lines().filter(|line| line.contains("prober: attempt")).count();
    assert!(meanwhile > begun || console().contains("done:"), "the prober was at work during the pings");

    let done = || console().contains("prober: done:");
    bed.wait_for_guest(&guest, "the prober was at work", ALL, &done).unwrap_or_else(|error| panic!("{error}"));
    let console = console();
    assert!(!console.contains("BREACH"), "{}", breaches(&console));
    let last = console.lines().find(|line| line.contains("prober: done:")).unwrap_or_default();
    assert!(last.trim_end().ends_with(", 0 breaches"), "{last}");
    println!("{last}");
    // It spins now. Without a budget it would get the whole processor.
    let share = processor_share(&bed, &guest.name, "prober");
    println!("the spinning prober uses {:.0} %", share * 100.0);
    assert!((0.2..0.7).contains(&share), "{share}");
    // Each fault and each refusal names the service.
    assert!(console.lines().any(|line| line.contains("fault: prober ")), "no fault is attributed");
    assert!(console.lines().any(|line| line.contains("refused: service=prober ")), "no refusal is attributed");
    assert!(!console.contains("cloister: fatal"), "the image went on");
    let strangers: Vec<&str> =
        console.lines().filter(|line| line.contains("fault: ") && !line.contains("fault: prober ")).collect();
    assert!(strangers.is_empty(), "other services faulted: {strangers:?}");
    assert_eq!(ping(&bed, 20, "0.05"), (20, 20), "pings afterwards");
    bed.finish(&[&guest.name]);
}

fn breaches(console: &str) -> String {
    console.lines().filter(|line| line.contains("BREACH")).collect::<Vec<_>>().join("\n")
}
