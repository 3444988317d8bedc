//! Tests peers that send or take next to nothing, as many as the table has connections, and that
//! reconnect when they are ended: an honest client is served beside them. Slow peers that are
//! honest are not ended.

use std::ops::Range;

use cloister_scenarios::client::SERVER;
use cloister_scenarios::{Client, Network};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::rig::{Rig, Setup};
use crate::{pattern, site};

pub const SECOND: u64 = 1_000_000_000;
/// The time of a step.
pub const PACE: u64 = 5_000_000;

/// The behaviour of each of the peers.
#[derive(Clone, Copy)]
pub struct Attack {
    /// The bytes that it sends when it is connected.
    pub first: &'static [u8],
    /// The bytes that it sends again and again, as soon as it can.
    pub more: &'static [u8],
    /// The number of bytes that it reads at a time, and the size of its buffer.
    pub takes: usize,
    pub window: usize,
    /// The interval between its actions, in ms.
    pub every: u64,
}

/// A peer that reads nothing. Its buffer has room for all that it gets.
pub const SENDS: Attack = Attack { first: b"", more: b"", takes: 0, window: 64 * 1024, every: 8000 };
const READS: Attack = Attack { takes: 3000, every: 25_000, ..SENDS };

/// Enough requests to fill the in ring of one of the first connections.
const HEADS: &[[u8; 31]] = &[*b"HEAD /one HTTP/1.1\r\nHost: a\r\n\r\n"; 60];

pub const ATTACKS: [(&str, Attack); 20] = [
    ("silence", SENDS),
    ("half a head", Attack { first: b"GET /one HT", ..SENDS }),
    ("a head by bytes", Attack { first: b"GET /one HTTP/1.1\r\nX: ", more: b"x", ..SENDS }),
    (
        "half a second head",
        Attack { first: b"GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /one HT", takes: 4096, every: 1000, ..SENDS },
    ),
    (
        "a body of a byte, again and again",
        Attack {
            first: b"GET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            more: b"xGET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            takes: 64 * 1024,
            every: 1000,
            ..SENDS
        },
    ),
    (
        "many answers without a body, read slowly",
        Attack { first: HEADS.as_flattened(), more: HEADS.as_flattened(), takes: 600, window: 1024, every: 1000 },
    ),
    (
        "an endless body to /sink",
        Attack {
            first: b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
            more: b"x",
            ..SENDS
        },
    ),
    (
        "a body of 64 KiB to any path",
        Attack { first: b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n", more: b"x", ..SENDS },
    ),
    (
        "a body of 64 KiB with a GET",
        Attack { first: b"GET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n", more: b"x", ..SENDS },
    ),
    (
        "a body of 64 KiB with a GET of what is not read",
        Attack {
            first: b"GET /large HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n",
            more: b"x",
            every: 1000,
            ..SENDS
        },
    ),
    ("a slow reader", Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", ..READS }),
    ("a slow reader, once", Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ..READS }),
    (
        "a slow reader of a part",
        Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=5-\r\n\r\n", ..READS },
    ),
    ("reads nothing", Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", ..SENDS }),
    ("reads nothing, once", Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ..SENDS }),
    (
        "reads nothing of a short response",
        Attack { first: b"GET /little HTTP/1.1\r\nHost: a\r\n\r\n", window: 256, ..SENDS },
    ),
    (
        "reads nothing of a short response, once",
        Attack { first: b"GET /little HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", window: 256, ..SENDS },
    ),
    (
        "a little faster, of less",
        Attack { first: b"GET /middle HTTP/1.1\r\nHost: a\r\n\r\n", takes: 1200, window: 4096, every: 2000, ..SENDS },
    ),
    (
        "a little faster, of less, once",
        Attack {
            first: b"GET /middle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            takes: 1200,
            window: 4096,
            every: 2000,
            ..SENDS
        },
    ),
    (
        "a little faster",
        Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", takes: 1200, window: 4096, every: 2000, ..SENDS },
    ),
];

/// Connects a peer with a small window to the image's web server.
pub fn connect(host: &mut Client, window: usize, port: u16) -> SocketHandle {
    let buffer = |length| tcp::SocketBuffer::new(vec![0; length]);
    let mut socket = tcp::Socket::new(buffer(window), buffer(2048));
    socket.connect(host.interface.context(), (SERVER, 80), port).unwrap();
    host.sockets.add(socket)
}

/// A peer: its connection, if any, `true` if it has sent its request, and the time of its next
/// action.
#[derive(Clone, Copy, Default)]
struct Slow {
    connection: Option<SocketHandle>,
    requested: bool,
    due: u64,
}

/// The peers of an attack.
pub struct Crowd {
    attack: Attack,
    peers: Vec<Slow>,
    /// The hosts that the peers are on.
    hosts: Range<usize>,
    port: u16,
}

impl Crowd {
    fn new(attack: Attack, count: usize) -> Crowd {
        Crowd::on(0..1, attack, count)
    }

    /// Creates peers on some of the hosts.
    pub fn on(hosts: Range<usize>, attack: Attack, count: usize) -> Crowd {
        Crowd { attack, peers: vec![Slow::default(); count], hosts, port: 10_000 }
    }

    /// Lets each peer act.
    pub fn act(&mut self, rig: &mut Rig) {
        let now = rig.nanoseconds;
        for (peer, host) in self.peers.iter_mut().zip(self.hosts.clone().cycle()) {
            let host = rig.host(host);
            let Some(handle) = peer.connection else {
                if now >= peer.due {
                    self.port = if self.port > 40_000 { 10_000 } else { self.port + 1 };
                    let connection = Some(connect(host, self.attack.window, self.port));
                    *peer = Slow { connection, ..Slow::default() };
                }
                continue;
            };
            let socket = host.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if !socket.is_open() || socket.state() == tcp::State::CloseWait && peer.requested {
                // It reconnects after a second.
                host.sockets.remove(handle);
                *peer = Slow { due: now + SECOND, ..Slow::default() };
                continue;
            }
            if !socket.may_send() || now < peer.due {
                continue;
            }
            let _ = socket.send_slice(if peer.requested { self.attack.more } else { self.attack.first });
            if peer.requested {
                let _ = socket.recv(|bytes| (bytes.len().min(self.attack.takes), ()));
            }
            (peer.requested, peer.due) = (true, now + self.attack.every * 1_000_000);
        }
    }
}

/// Returns the time that an honest client waits for an answer, in ms, while `meanwhile` runs. Like
/// a browser, it tries again when it is reset.
pub fn waits(rig: &mut Rig, mut meanwhile: impl FnMut(&mut Rig)) -> u64 {
    let began = rig.nanoseconds;
    let mut handle = rig.connect();
    let (mut requested, mut answer) = (false, Vec::new());
    while !answer.ends_with(b"\r\n\r\n1") {
        assert!(rig.nanoseconds - began < 100 * SECOND, "it is not served in 100 s: {}", rig.socket(handle).state());
        meanwhile(rig);
        rig.step();
        if !rig.socket(handle).is_open() {
            rig.client.sockets.remove(handle);
            (handle, requested) = (rig.connect(), false);
        }
        if !requested && rig.socket(handle).may_send() {
            rig.socket(handle).send_slice(b"GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            requested = true;
        }
        answer.extend(rig.take(handle));
    }
    rig.socket(handle).close();
    rig.run(20);
    rig.client.sockets.remove(handle);
    (rig.nanoseconds - began) / 1_000_000
}

/// Returns the longest time that an honest client waits, in ms: one comes every ten seconds, beside
/// this number of peers.
fn longest_wait(attack: Attack, connections: usize, peers: usize) -> u64 {
    let ring_out = if connections < 64 { 4096 } else { 16 * 1024 };
    let mut rig = Rig::new(Setup { connections, ring_out, site: site(), ..Setup::default() });
    rig.pace = PACE;
    let mut crowd = Crowd::new(attack, peers);
    let mut longest = 0;
    for _ in 0..12 {
        let until = rig.nanoseconds + 10 * SECOND;
        while rig.nanoseconds < until {
            crowd.act(&mut rig);
            rig.step();
        }
        longest = longest.max(waits(&mut rig, |rig| crowd.act(rig)));
    }
    longest
}

#[test]
fn a_client_is_served_beside_as_many_slow_peers_as_connections() {
    for (name, attack) in ATTACKS {
        let longest = longest_wait(attack, 64, 64);
        println!("{name}: {longest} ms");
        // A SYN may be dropped, and tried again after one second and three.
        assert!(longest < 10_000, "{name}: {longest} ms");
    }
}

/// Twice as many slow peers as places compete for every free connection. The test leaves out peers
/// that take 600 bytes a second of data that http has left to tcpip: they win, because nothing but
/// their addresses distinguishes the honest client from them.
#[test]
fn a_client_is_served_beside_twice_as_many_slow_peers() {
    for (name, attack) in ATTACKS.into_iter().filter(|(name, _)| !name.contains("of less")) {
        let longest = longest_wait(attack, 64, 128);
        println!("{name}: {longest} ms");
        assert!(longest < 60_000, "{name}: {longest} ms");
    }
}

/// Reads `wanted` bytes at `rate` bytes a second, four times a second. Returns how many came before
/// the end.
fn reads_at(rig: &mut Rig, handle: SocketHandle, rate: usize, wanted: usize) -> usize {
    let mut came = 0;
    while came < wanted && rig.socket(handle).may_recv() {
        let until = rig.nanoseconds + SECOND / 4;
        while rig.nanoseconds < until {
            rig.step();
        }
        came += rig.socket(handle).recv(|bytes| (bytes.len().min(rate / 4), bytes.len().min(rate / 4))).unwrap_or(0);
    }
    came
}

/// Returns a client with this window that has requested this number of bytes of the large file.
fn asks_for(rig: &mut Rig, window: usize, connection: &str, length: usize) -> SocketHandle {
    let handle = connect(&mut rig.client, window, 9_000);
    let last = length - 1;
    let request =
        format!("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=0-{last}\r\nConnection: {connection}\r\n\r\n");
    rig.send(handle, request.as_bytes());
    handle
}

#[test]
fn a_slow_client_that_continues_is_not_ended() {
    // The smallest image, images with large rings, and one with the largest `stream-out`.
    let setups = [(64, 4096), (64, 16 * 1024), (64, 256 * 1024), (2048, 32 * 1024)];
    for (connections, ring_out) in setups {
        for (rate, connection, length) in [
            (2000, "keep-alive", 300_000),
            (2000, "close", 300_000),
            (800, "close", 300_000),
            (2000, "close", 200_000),
            (2000, "keep-alive", 250_000),
            (700, "keep-alive", 100_000),
            (700, "close", 100_000),
            (1000, "close", 250_000),
            (1500, "close", 250_000),
            (2000, "close", 400_000),
            (5000, "close", 600_000),
            (8000, "close", 600_000),
            (5000, "keep-alive", 600_000),
        ] {
            let mut rig = Rig::new(Setup { site: site(), connections, ring_out, ..Setup::default() });
            rig.pace = PACE;
            // The window is that of a phone's stack before it knows the link.
            let handle = asks_for(&mut rig, 4096, connection, length);
            let came = reads_at(&mut rig, handle, rate, length);
            assert!(came >= length, "{came} of {length} at {rate} bytes a second, {connection}, {ring_out}");
        }
    }
}

/// It has a minute, and the time that the bytes it takes buy.
#[test]
fn a_client_that_takes_next_to_nothing_is_ended_even_if_no_other_waits() {
    for (connection, rate) in [("close", 0), ("close", 100)] {
        let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
        rig.pace = PACE;
        let handle = asks_for(&mut rig, 4096, connection, 200_000);
        let (began, mut seconds) = (rig.nanoseconds, 0);
        while rig.socket(handle).is_open() {
            let _ = rig.socket(handle).recv(|bytes| (bytes.len().min(rate), ()));
            rig.wait(1);
            seconds = (rig.nanoseconds - began) / SECOND;
            assert!(seconds < 150, "it goes on at {rate}, {connection}");
        }
        assert!(seconds > 55, "{seconds} s at {rate}, {connection}");
    }
}

#[test]
fn a_slow_body_that_continues_is_taken_and_one_that_stops_is_ended() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    rig.pace = PACE;
    let [honest, slow] = [1, 2].map(|port| connect(&mut rig.client, 4096, 20_000 + port));
    for handle in [honest, slow] {
        rig.send(handle, b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n");
        assert!(rig.response(handle, false).0.starts_with("HTTP/1.1 405 "));
    }
    for _ in 0..60 {
        rig.send(honest, &pattern(1000));
        let _ = rig.socket(slow).send_slice(&pattern(50));
        rig.wait(1);
    }
    assert!(!rig.socket(slow).may_send() || !rig.socket(slow).may_recv(), "{}", rig.socket(slow).state());
    rig.wait(10);
    rig.send(honest, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(rig.response(honest, false).1, b"1");
}

#[test]
fn a_fast_download_is_not_ended_for_others() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let handle = rig.connect();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.pace = PACE;
    let attack = Attack { first: b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", ..READS };
    let mut crowd = Crowd::new(attack, 80);
    let mut came = 0;
    // 40,000 bytes a second, for more than a minute.
    while came < 2_900_000 {
        for _ in 0..20 {
            crowd.act(&mut rig);
            rig.step();
        }
        let part = rig.socket(handle).recv(|bytes| (bytes.len().min(4000), bytes.len().min(4000)));
        came += part.expect("it goes on");
    }
}

/// Each of its requests has a late body, and the answers are short: 150 bytes a second in all.
#[test]
fn a_request_earns_time_only_by_its_bytes() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    rig.pace = PACE;
    let handle = connect(&mut rig.client, 4096, 20_000);
    rig.send(handle, b"GET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    let began = rig.nanoseconds;
    while rig.socket(handle).may_send() && rig.socket(handle).may_recv() {
        rig.wait(2);
        rig.take(handle);
        let _ = rig.socket(handle).send_slice(b"xGET /one HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        assert!(rig.nanoseconds - began < 60 * SECOND, "it goes on");
    }
}

/// It sends for some minutes: one request at a time and many at once, some with a body a moment
/// later, all with pauses.
#[test]
fn a_connection_that_is_used_now_and_then_is_kept() {
    let get: &[u8] = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n";
    let post: &[u8] = b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";
    for (request, body, count, pause) in
        [(get, 0, 1, 3000), (get, 0, 1, 14_000), (get, 0, 16, 2000), (get, 0, 1, 50), (post, 100, 1, 3000)]
    {
        let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
        rig.pace = PACE;
        let handle = rig.connect();
        let began = rig.nanoseconds;
        while rig.nanoseconds - began < 180 * SECOND {
            rig.send(handle, &request.repeat(count));
            if body > 0 {
                // The round-trip time over a satellite.
                rig.run(120);
                rig.send(handle, &pattern(body));
            }
            rig.run(20);
            let answers = rig.take(handle);
            let answers = String::from_utf8_lossy(&answers);
            assert_eq!(answers.matches("HTTP/1.1 ").count(), count, "{answers}");
            rig.run(pause / 5);
        }
        assert!(rig.socket(handle).may_send() && rig.socket(handle).may_recv(), "{}", rig.socket(handle).state());
    }
}

/// Its request comes 150 ms after its connection, in one part or two, while another client
/// connects. The others take 1,500 bytes a second.
#[test]
fn a_client_that_is_far_away_is_served_while_places_are_free() {
    for (readers, first) in [(10, ""), (50, ""), (50, "GET /one HT"), (52, ""), (52, "GET /one HT")] {
        let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
        rig.pace = PACE;
        let first_of_all = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut crowd =
            Crowd::new(Attack { first: first_of_all, takes: 3000, window: 8192, every: 2000, ..SENDS }, readers);
        let mut go = |rig: &mut Rig, steps: usize| {
            for _ in 0..steps {
                crowd.act(rig);
                rig.step();
            }
        };
        go(&mut rig, 2000);
        for round in 0..10 {
            let far = rig.connect();
            go(&mut rig, 4);
            rig.socket(far).send_slice(first.as_bytes()).unwrap();
            go(&mut rig, 16);
            let near = rig.connect();
            go(&mut rig, 10);
            let rest = &"GET /one HTTP/1.1\r\nHost: a\r\n\r\n"[first.len()..];
            rig.socket(far).send_slice(rest.as_bytes()).unwrap_or_else(|_| panic!("round {round} beside {readers}"));
            go(&mut rig, 40);
            let answer = rig.take(far);
            assert!(answer.ends_with(b"\r\n\r\n1"), "round {round} beside {readers}, {first:?} first: {answer:?}");
            for handle in [far, near] {
                rig.socket(handle).abort();
            }
            go(&mut rig, 20);
            for handle in [far, near] {
                rig.client.sockets.remove(handle);
            }
        }
    }
}

/// All others are faster, and they want more connections than exist.
#[test]
fn a_client_just_above_the_rate_under_pressure_is_not_ended_for_others() {
    for ring_out in [16 * 1024, 256 * 1024] {
        let mut rig = Rig::new(Setup { site: site(), ring_out, ..Setup::default() });
        // A window of 4096 bytes would limit a peer that reads ten times a second to 13,700 bytes a
        // second.
        let handle = connect(&mut rig.client, 16 * 1024, 9_000);
        rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        rig.pace = PACE;
        let first = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut crowd = Crowd::new(Attack { first, takes: 40_000, window: 40_000, every: 1000, ..SENDS }, 70);
        let mut came = 0;
        while came < 600_000 {
            for _ in 0..20 {
                crowd.act(&mut rig);
                rig.step();
            }
            let part = rig.socket(handle).recv(|bytes| (bytes.len().min(1700), bytes.len().min(1700)));
            came += part.unwrap_or_else(|_| panic!("{came} bytes came"));
        }
    }
}

/// A client takes more than 16,000 bytes a second while others wait: beside slow peers, and beside
/// fast ones that have all connections.
#[test]
fn a_client_above_the_rate_under_pressure_is_served_to_the_last_byte() {
    const LARGE: &[u8] = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let busy = Attack { first: LARGE, takes: 40_000, window: 40_000, every: 1000, ..SENDS };
    let silent = Attack { every: 1000, ..SENDS };
    let once = Attack { first: b"GET /middle HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ..READS };
    for (attack, peers) in [(once, 128), (silent, 200), (Attack { first: LARGE, ..READS }, 128), (busy, 70)] {
        for (rate, connection, length, ring_out) in [
            (16_500, "close", 300_000, 256 * 1024),
            (17_000, "close", 600_000, 256 * 1024),
            (18_000, "close", 400_000, 256 * 1024),
            (18_000, "close", 400_000, 16 * 1024),
            (20_000, "keep-alive", 600_000, 16 * 1024),
        ] {
            let mut rig = Rig::new(Setup { site: site(), ring_out, ..Setup::default() });
            let handle = asks_for(&mut rig, 16 * 1024, connection, length);
            rig.pace = PACE;
            let mut crowd = Crowd::new(attack, peers);
            let mut came = 0;
            while came < length && rig.socket(handle).may_recv() {
                for _ in 0..20 {
                    crowd.act(&mut rig);
                    rig.step();
                }
                let most = rate / 10;
                came += rig.socket(handle).recv(|bytes| (bytes.len().min(most), bytes.len().min(most))).unwrap_or(0);
            }
            assert!(came >= length, "{came} of {length} at {rate} bytes a second, {connection}, {ring_out}");
        }
    }
}
