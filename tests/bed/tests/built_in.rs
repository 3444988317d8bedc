//! The image as it ships, without a site, on real Xen.
#![forbid(unsafe_code)]

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use cloister_bed::Guest;
use cloister_bed::guest::State;
use sha2::{Digest, Sha256};

use support::{READY, assert_serves, client, connect, guest, ping, serving};

/// The page names the policy that the image enforces. The kernel has printed the same hash.
fn assert_page(bed: &cloister_bed::Bed, guest: &Guest) {
    let page = client().get(bed.url()).call().expect("an answer").body_mut().read_to_string().expect("text");
    let console = std::fs::read_to_string(bed.guest_log(&guest.name)).expect("console");
    let line = console.lines().find(|line| line.contains("policy ")).expect("the kernel prints the policy's hash");
    let hash = line.split_whitespace().last().expect("hash");
    assert_eq!(hash.len(), 64, "{line}");
    assert!(page.contains(hash), "{hash} is not in\n{page}");
}

/// Returns the SHA-256 of the capability tables in the image's file, in hexadecimal. The kernel's
/// constants begin with their address and length.
fn tables_hash(guest: &Guest) -> String {
    let file = std::fs::read(&guest.image).expect("an image");
    let number =
        |at: usize, size: usize| file[at..at + size].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    // Offset in the file, address in the guest, and size, of each segment that is loaded.
    let headers = (0..number(56, 2)).map(|index| (number(32, 8) + index * number(54, 2)) as usize);
    let segments: Vec<(u32, usize, u64, u64)> = headers
        .filter(|at| number(*at, 4) == 1)
        .map(|at| (number(at + 4, 4) as u32, number(at + 8, 8) as usize, number(at + 24, 8), number(at + 32, 8)))
        .collect();
    // The kernel's are boot code, text and constants, in this order.
    let (flags, constants, ..) = segments[2];
    assert_eq!(flags, 4, "constants");
    let (address, length) = (number(constants, 8), number(constants + 8, 8) as usize);
    let holds = |(_, _, start, size): &&(u32, usize, u64, u64)| (*start..start + size).contains(&address);
    let (_, offset, start, _) = segments.iter().find(holds).expect("the tables");
    let at = offset + (address - start) as usize;
    Sha256::digest(&file[at..at + length]).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_kernel_prints_the_hash_of_the_tables_that_are_in_the_file() {
    let guest = guest("default");
    let bed = serving("tables-hash", &guest);
    let console = || std::fs::read_to_string(bed.guest_log(&guest.name)).unwrap_or_default();
    let printed = || console().lines().find_map(|line| Some(line.split_once("tables SHA-256 ")?.1.trim().to_owned()));
    let has_it = || printed().is_some();
    bed.wait_for_guest(&guest, "the tables were being hashed", READY, &has_it)
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(printed(), Some(tables_hash(&guest)), "{}", console());
    bed.finish(&[&guest.name]);
}

#[test]
fn eight_mib_and_four_are_enough_for_the_built_in_page() {
    let eight = Guest { memory: 8, ..guest("default") };
    let bed = serving("memory", &eight);
    assert_page(&bed, &eight);
    for _ in 0..20 {
        assert_serves(&bed);
    }
    bed.destroy_guest(&eight.name).unwrap_or_else(|error| panic!("{error}"));
    let four = Guest { memory: 4, ..eight };
    bed.create(&four, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.wait_for_http(&four, READY, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_page(&bed, &four);
    for _ in 0..20 {
        assert_serves(&bed);
    }
    // The cost of isolation is measured against an image of the same services, which must serve
    // too.
    bed.destroy_guest(&four.name).unwrap_or_else(|error| panic!("{error}"));
    let fused = Guest { name: "fused".to_owned(), memory: 8, ..guest("fused") };
    bed.create(&fused, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.wait_for_http(&fused, READY, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_page(&bed, &fused);
    for _ in 0..20 {
        assert_serves(&bed);
    }
    bed.finish(&[&fused.name]);
}

#[test]
fn the_address_can_come_from_dhcp() {
    let guest = Guest { cmdline: "ip=dhcp".to_owned(), ..guest("default") };
    let bed = serving("dhcp", &guest);
    assert_page(&bed, &guest);
    bed.finish(&[&guest.name]);
}

#[test]
fn a_thousand_pings_lose_none() {
    let guest = guest("default");
    let bed = serving("pings", &guest);
    assert_eq!(ping(&bed, 1000, "0.01"), (1000, 1000));
    bed.finish(&[&guest.name]);
}

#[test]
fn shutdown_reboot_and_destroy_do_what_an_operator_expects() {
    let guest = guest("default");
    let bed = serving("lifecycle", &guest);
    let id = || bed.dom0(&format!("xl domid {}", guest.name), READY).expect("dom0 answers").stdout;
    let first = id();
    bed.reboot_guest(&guest.name).unwrap_or_else(|error| panic!("{error}"));
    let restarted = || {
        let now = id();
        now.trim().parse::<u32>().is_ok() && now != first
    };
    let began = std::time::Instant::now();
    while !restarted() {
        assert!(began.elapsed() < READY, "the guest is not restarted");
        std::thread::sleep(Duration::from_millis(200));
    }
    bed.wait_for_http(&guest, READY, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_serves(&bed);
    // A connection that is open meanwhile is closed.
    let mut open = connect(&bed, READY);
    open.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    let mut answer = [0; 1];
    open.read_exact(&mut answer).expect("an answer");
    // The toolstack's daemon removes a guest that has shut down. It is delayed, as on a loaded
    // machine.
    let late = "daemon=$(pidof xl) && kill -STOP $daemon && { (sleep 5; kill -CONT $daemon) > /dev/null 2>&1 & }";
    let late = bed.dom0(late, READY).expect("dom0 answers");
    assert!(late.success(), "{}", late.stdout);
    bed.shutdown_guest(&guest.name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(bed.state(&guest.name).expect("list"), State::Gone);
    open.read_to_end(&mut Vec::new()).expect("the connection ends in order");
    // The guest acknowledged the toolstack's request, and its console says so.
    let console = std::fs::read_to_string(bed.guest_log(&guest.name)).expect("console");
    assert!(console.contains("the toolstack asks to"), "{console}");

    bed.create(&guest, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.wait_for_http(&guest, READY, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
    bed.destroy_guest(&guest.name).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(bed.state(&guest.name).expect("list"), State::Gone);
    bed.finish(&[]);
}
