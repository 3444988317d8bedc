//! Machines that the image cannot run on: each ends in a message on the console and a crash code.
#![forbid(unsafe_code)]

mod support;

use std::time::{Duration, Instant};

use cloister_bed::guest::State;
use cloister_bed::{Bed, Config, Guest};

use support::{READY, guest};

/// The time within which a guest must detect it.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts a guest that cannot run, and asserts that it crashes and says why.
fn assert_refuses(bed: &Bed, guest: &Guest, why: &str) {
    bed.create(guest, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    while bed.state(&guest.name).expect("list") != State::Crashed {
        assert!(began.elapsed() < LIMIT, "{} does not end", guest.name);
        std::thread::sleep(Duration::from_millis(200));
    }
    let console = std::fs::read_to_string(bed.guest_log(&guest.name)).unwrap_or_default();
    let xen = std::fs::read_to_string(bed.xen_log()).unwrap_or_default();
    // Output before the console ring is mapped goes to Xen's log alone.
    let found = console.lines().chain(xen.lines()).any(|line| line.contains("cloister: fatal:") && line.contains(why));
    assert!(found, "{}: {why:?} was not found:\n{console}", guest.name);
    bed.destroy_guest(&guest.name).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_image_names_what_the_machine_lacks() {
    let plain = Guest { mac: None, ..guest("default") };
    let bed = Bed::start(&Config::for_guest("unsupported", &guest("default")), &mut |_| {})
        .unwrap_or_else(|error| panic!("{error}"));
    let named = |name: &str| Guest { name: name.to_owned(), ..plain.clone() };
    let with = |name: &str, extra: &str| Guest { extra: extra.to_owned(), ..named(name) };
    assert_refuses(&bed, &Guest { memory: 2, ..named("small") }, "too little memory");
    assert_refuses(&bed, &with("no-nx", "cpuid = \"host,nx=0\""), "no NX");
    // Enabling the instruction would be an exception.
    assert_refuses(&bed, &with("no-syscall", "cpuid = \"host,syscall=0\""), "no `syscall`");
    // The console and XenStore take two ports, and the timer needs a third. netfront needs two more.
    let too_few = "no event channel left for this guest; the policy needs 5; set max_event_channels = 5 or more";
    assert_refuses(&bed, &with("no-ports", "max_event_channels = 2"), too_few);
    for ports in [3, 4] {
        let name = format!("ports-{ports}");
        let guest = Guest { mac: guest("default").mac, ..with(&name, &format!("max_event_channels = {ports}")) };
        assert_refuses(&bed, &guest, too_few);
    }
    let enough = Guest { extra: "max_event_channels = 5".to_owned(), ..guest("default") };
    bed.create(&enough, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.wait_for_http(&enough, READY, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.destroy_guest(&enough.name).unwrap_or_else(|error| panic!("{error}"));
    bed.finish(&[]);
}
