//! Tests one address, or a few, with as many connections as the table has and more: a client on
//! another address is served at once. Many clients of one address are served while there is room.

use cloister_scenarios::Network;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::rig::{Rig, Setup};
use crate::site;
use crate::slow::{ATTACKS, Attack, Crowd, PACE, SECOND, SENDS, connect, waits};

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
    (0..6).map(wait).max().unwrap_or(0)
}

#[test]
fn a_client_is_served_at_once_beside_one_address_that_holds_all() {
    for (name, attack) in ATTACKS.into_iter().chain(BUSY) {
        for (connections, peers) in [(64, 128), (16, 32)] {
            let longest = longest_wait(attack, connections, 1, peers);
            println!("{name}, {peers} for {connections}: {longest} ms");
            assert!(longest < LIMIT, "{name}, {peers} for {connections}: {longest} ms");
        }
    }
}

#[test]
fn a_client_is_served_at_once_beside_a_few_addresses_that_hold_all() {
    for ((name, attack), hosts) in ATTACKS.into_iter().chain(BUSY).zip([2, 5].into_iter().cycle()) {
        let longest = longest_wait(attack, 64, hosts, 100);
        println!("{name} on {hosts}: {longest} ms");
        assert!(longest < LIMIT, "{name} on {hosts}: {longest} ms");
    }
}

/// The client takes 2,000 bytes a second; all others are faster, and want more connections than
/// exist.
#[test]
fn a_slow_download_is_not_ended_for_an_address_that_holds_all() {
    for (name, attack) in BUSY {
        let mut rig = rig(64, 1);
        let mut crowd = Crowd::on(1..2, attack, 128);
        go(&mut rig, &mut crowd, 5 * SECOND);
        let handle = connect(&mut rig.client, 4096, 9000);
        rig.send(handle, LARGE);
        let mut came = 0;
        while came < 120_000 {
            go(&mut rig, &mut crowd, SECOND / 4);
            let part = rig.socket(handle).recv(|bytes| (bytes.len().min(500), bytes.len().min(500)));
            came += part.unwrap_or_else(|_| panic!("{name}: {came} bytes came"));
        }
    }
}

/// The client is idle for some seconds between its requests, and its requests come in two parts.
#[test]
fn a_connection_that_is_idle_or_far_away_is_not_ended_for_an_address_that_holds_all() {
    for (name, attack) in BUSY {
        let mut rig = rig(64, 1);
        let mut crowd = Crowd::on(1..2, attack, 128);
        go(&mut rig, &mut crowd, 5 * SECOND);
        let handle = rig.connect();
        for round in 0..8 {
            go(&mut rig, &mut crowd, 4 * SECOND);
            assert!(rig.socket(handle).may_send(), "{name}, round {round}");
            rig.send(handle, b"GET /one HT");
            go(&mut rig, &mut crowd, SECOND / 2);
            assert!(rig.socket(handle).may_send(), "{name}, round {round}: in the midst of a request");
            rig.send(handle, b"TP/1.1\r\nHost: a\r\n\r\n");
            go(&mut rig, &mut crowd, SECOND / 10);
            assert!(rig.take(handle).ends_with(b"\r\n\r\n1"), "{name}, round {round}");
        }
    }
}

/// A client behind the same address as many others: its connection, if any, the time of its next
/// request or connection, and the number of its answers.
#[derive(Clone, Copy, Default)]
struct Neighbour {
    connection: Option<SocketHandle>,
    due: u64,
    answers: usize,
}

/// Lets this number of clients of one address make a request each second for a minute, on
/// connections that they keep. Returns the numbers of answers of each, and of connections that
/// ended.
fn share_one_address(count: usize) -> (Vec<usize>, usize) {
    let mut rig = rig(64, 0);
    let mut clients = vec![Neighbour::default(); count];
    let (mut port, mut ended) = (10_000, 0);
    let until = rig.nanoseconds + 60 * SECOND;
    while rig.nanoseconds < until {
        let now = rig.nanoseconds;
        for client in &mut clients {
            let Some(handle) = client.connection else {
                if now >= client.due {
                    port += 1;
                    client.connection = Some(connect(&mut rig.client, 4096, port));
                }
                continue;
            };
            if !rig.socket(handle).is_open() || rig.socket(handle).state() == tcp::State::CloseWait {
                rig.client.sockets.remove(handle);
                ended += 1;
                (client.connection, client.due) = (None, now + SECOND / 2);
                continue;
            }
            client.answers += usize::from(rig.take(handle).ends_with(b"\r\n\r\n1"));
            if rig.socket(handle).may_send() && now >= client.due {
                rig.socket(handle).send_slice(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n").expect("room");
                client.due = now + SECOND;
            }
        }
        rig.step();
    }
    (clients.into_iter().map(|client| client.answers).collect(), ended)
}

#[test]
fn many_clients_of_one_address_are_served_while_there_is_room() {
    let (answers, ended) = share_one_address(44);
    println!("{answers:?}");
    assert!(answers.iter().all(|count| *count >= 55), "{answers:?}");
    assert_eq!(ended, 0);
}

#[test]
fn more_clients_of_one_address_than_there_is_room_for_share_it() {
    let (answers, ended) = share_one_address(100);
    let (least, all) = (answers.iter().min().copied().unwrap_or(0), answers.iter().sum::<usize>());
    println!("{least} at least, {all} in all, {ended} connections ended: {answers:?}");
    assert!(least * answers.len() * 3 > all, "one has less than a third of its share: {answers:?}");
}
