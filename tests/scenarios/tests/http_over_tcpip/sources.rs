//! Tests one address, or a few, with as many connections as the table has and more: a client on
//! another address is served at once. Many clients of one address are served while there is room.

use cloister_scenarios::Network;

use crate::rig::{Rig, Setup};
use crate::site;
use crate::slow::{ATTACKS, Attack, Crowd, PACE, SECOND, SENDS, waits};

/// The time within which a client on an address of its own is served, in ms. A dropped SYN would
/// take longer: it is repeated after one second.
const LIMIT: u64 = 1000;

/// What keeps the rates that http and tcpip ask for under pressure.
const BUSY: [(&str, Attack); 3] = [
    (
        "a small request every 50 ms",
        Attack {
            first: b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n",
            more: b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n",
            takes: 4096,
            every: 45,
            ..SENDS
        },
    ),
    (
        "a reader just above the rate under pressure",
        Attack { first: LARGE, takes: 1700, window: 16 * 1024, every: 100, ..SENDS },
    ),
    ("a fast reader", Attack { first: LARGE, takes: 40_000, window: 40_000, every: 1000, ..SENDS }),
];
const LARGE: &[u8] = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";

fn rig(connections: usize, hosts: u8) -> Rig {
    let ring_out = if connections < 64 { 4096 } else { 16 * 1024 };
    let mut rig = Rig::new(Setup { connections, ring_out, site: site(), ..Setup::default() });
    rig.pace = PACE;
    rig.add_hosts(hosts);
    rig
}

fn go(rig: &mut Rig, crowd: &mut Crowd, nanoseconds: u64) {
    let until = rig.nanoseconds + nanoseconds;
    while rig.nanoseconds < until {
        crowd.act(rig);
        rig.step();
    }
}

/// Returns the longest time that an honest client on an address of its own waits, in ms: one comes
/// every few seconds, beside this number of peers on `hosts` other addresses.
fn longest_wait(attack: Attack, connections: usize, hosts: u8, peers: usize) -> u64 {
    let mut rig = rig(connections, hosts);
    let mut crowd = Crowd::on(1..1 + usize::from(hosts), attack, peers);
    go(&mut rig, &mut crowd, 5 * SECOND);
    let wait = |round: u64| {
        go(&mut rig, &mut crowd, 3 * SECOND + round * 377_000_000);
        waits(&mut rig, |rig| crowd.act(rig))
    };
    (0..10).map(wait).max().unwrap_or(0)
}

#[test]
fn a_client_is_served_at_once_beside_one_address_that_holds_all() {
    for (name, attack) in ATTACKS.into_iter().chain(BUSY) {
        for (connections, peers) in [(64, 64), (64, 128), (16, 32)] {
            let longest = longest_wait(attack, connections, 1, peers);
            println!("{name}, {peers} for {connections}: {longest} ms");
            assert!(longest < LIMIT, "{name}, {peers} for {connections}: {longest} ms");
        }
    }
}

#[test]
fn a_client_is_served_at_once_beside_a_few_addresses_that_hold_all() {
    for (name, attack) in ATTACKS.into_iter().chain(BUSY) {
        for hosts in [2, 5] {
            let longest = longest_wait(attack, 64, hosts, 100);
            println!("{name} on {hosts}: {longest} ms");
            assert!(longest < LIMIT, "{name} on {hosts}: {longest} ms");
        }
    }
}
