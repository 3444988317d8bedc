//! A hostile service in the application's place on real Xen: every attempt is contained, and the network goes on.
#![forbid(unsafe_code)]

mod support;

use std::time::Duration;

use cloister_bed::{Bed, Config};
use support::{guest, ping};

/// How long the prober may take for all its attempts, faults and restarts included.
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

    held_to_its_budget(&bed, &guest.name, &console);

    let done = || console().contains("prober: done:");
    bed.wait_for_guest(&guest, "the prober was at work", ALL, &done).unwrap_or_else(|error| panic!("{error}"));
    let console = console();
    assert!(!console.contains("BREACH"), "{}", breaches(&console));
    let last = console.lines().find(|line| line.contains("prober: done:")).unwrap_or_default();
    assert!(last.trim_end().ends_with(", 0 breaches"), "{last}");
    println!("{last}");
    // Attributed: each fault and each refusal names the service.
    assert!(console.lines().any(|line| line.contains("fault: prober ")), "no fault is attributed");
    assert!(console.lines().any(|line| line.contains("refused: service=prober ")), "no refusal is attributed");
    assert!(!console.contains("cloister: fatal"), "the image went on");
    let strangers: Vec<&str> =
        console.lines().filter(|line| line.contains("fault: ") && !line.contains("fault: prober ")).collect();
    assert!(strangers.is_empty(), "other services faulted: {strangers:?}");
    assert_eq!(ping(&bed, 20, "0.05"), (20, 20), "pings afterwards");
    bed.finish(&[&guest.name]);
}

/// While the prober spins, the kernel's own account of it stays near the half of the processor that its policy gives it;
/// without a budget it would have all of it. Read twice from the report that an NMI makes the kernel print.
fn held_to_its_budget(bed: &Bed, name: &str, console: &dyn Fn() -> String) {
    let spinning = || console().lines().any(|line| line.contains("prober: attempt") && line.contains(": spin"));
    let began = std::time::Instant::now();
    while !spinning() {
        assert!(began.elapsed() < ALL, "the prober does not come to its last attempt");
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut reports = Vec::new();
    for _ in 0..2 {
        let before = reports_in(&console()).len();
        bed.dom0(&format!("xl trigger {name} nmi"), ALL).expect("dom0 answers");
        while reports_in(&console()).len() == before {
            assert!(began.elapsed() < ALL, "no report after an NMI");
            std::thread::sleep(Duration::from_millis(100));
        }
        reports.extend(reports_in(&console()).last().copied());
        std::thread::sleep(Duration::from_secs(1));
    }
    let [(from, used_from), (to, used_to)] = reports[..] else { panic!("{reports:?}") };
    let share = (used_to - used_from) as f64 / (to - from) as f64 / 1000.0;
    println!("the spinning prober used {:.0} % of {} ms", share * 100.0, to - from);
    // No lower bound: on a slow machine the spin may be over before the second report.
    assert!(share < 0.8, "{share}");
}

/// The kernel's reports: the time in ms, and the prober's processor time in µs.
fn reports_in(console: &str) -> Vec<(u64, u64)> {
    let number = |line: &str, prefix: &str| line.strip_prefix(prefix)?.split(' ').next()?.parse().ok();
    let mut reports = Vec::new();
    let mut at = None;
    for line in console.lines() {
        at = number(line, "cloister: at ").or(at);
        if let (Some(time), Some(used)) = (at, number(line, "cloister: prober ")) {
            reports.push((time, used));
            at = None;
        }
    }
    reports
}

fn breaches(console: &str) -> String {
    console.lines().filter(|line| line.contains("BREACH")).collect::<Vec<_>>().join("\n")
}
