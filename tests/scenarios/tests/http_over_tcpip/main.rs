//! Tests http and tcpip together, with a client on a simulated wire.
#![forbid(unsafe_code)]

mod application;
mod dhcp;
mod loss;
mod rig;
mod slow;
mod sources;

use cloister_interfaces::net::Offloads;
use cloister_scenarios::Network;
use cloister_scenarios::client::SERVER;
use cloister_sim::archive::cpio;
use rig::{EARLIER, Rig, Setup};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{
    IpEndpoint, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn site() -> &'static [u8] {
    let (little, middle, large) = (pattern(10_000), pattern(200_000), pattern(3_000_000));
    cpio(&[
        ("index.html", b"<p>hello"),
        ("one", b"1"),
        ("little", &little),
        ("middle", &middle),
        ("large", &large),
        ("d/index.html", b"in d"),
    ])
    .leak()
}

#[test]
fn the_built_in_page_is_served() {
    let mut rig = Rig::new(Setup::default());
    let (head, body) = rig.get("/");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("Cloister is running"));
    assert!(rig.system.console().contains("listening on port 80: http://10.0.0.2/"), "{}", rig.system.console());
    assert!(rig.get("/favicon.ico").0.starts_with("HTTP/1.1 404 "));
}

#[test]
fn files_arrive_whole_and_so_do_their_parts() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    assert_eq!(rig.get("/").1, b"<p>hello");
    assert_eq!(rig.get("/one").1, b"1");
    assert_eq!(rig.get("/d/").1, b"in d");
    assert!(rig.get("/d").0.contains("\r\nLocation: /d/\r\n"));
    assert!(rig.get("/large").1 == pattern(3_000_000));
    let handle = rig.connect();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=1000000-1999999\r\n\r\n");
    let (head, body) = rig.response(handle, false);
    assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
    assert!(body == pattern(3_000_000)[1_000_000..2_000_000]);
}

/// Downloads the large file over a link with these offloads. Returns the length of the longest
/// frame.
fn longest_of_a_download(setup: Setup) -> usize {
    let mut rig = Rig::new(Setup { site: site(), ..setup });
    assert!(rig.get("/large").1 == pattern(3_000_000));
    assert_eq!(rig.get("/one").1, b"1");
    rig.longest_frame()
}

#[test]
fn long_segments_are_left_to_a_link_that_may_cut_them() {
    let of = |offloads, command_line| {
        longest_of_a_download(Setup { offloads, command_line, ring_out: 128 * 1024, ..Setup::default() })
    };
    let (all, address) = (Offloads::all(), "ip=10.0.0.2/24");
    assert!(of(all, address) > 30_000);
    for (offloads, command_line) in [
        (Offloads::empty(), address),
        (Offloads::CHECKSUM, address),
        (Offloads::SEGMENTS, address),
        (all, "ip=10.0.0.2/24 offload=off"),
    ] {
        assert_eq!(of(offloads, command_line), 1514, "{offloads:?} {command_line}");
    }
}

#[test]
fn the_link_cuts_segments_as_short_as_the_peer_takes_them() {
    for mtu in [1500, 1000, 576, 200] {
        let offloads = Offloads::all();
        let mut rig = Rig::new(Setup { site: site(), ring_out: 128 * 1024, offloads, mtu, ..Setup::default() });
        assert!(rig.get("/large").1 == pattern(3_000_000));
        assert!(rig.longest_frame() > 30_000);
        assert_eq!(rig.longest_carried(), mtu + 14);
    }
}

#[test]
fn files_arrive_if_tcpip_does_not_map_the_site() {
    let setup = || Setup { shared: false, ..Setup::default() };
    longest_of_a_download(setup());
    let mut rig = Rig::new(Setup { site: site(), ..setup() });
    let handle = rig.connect();
    rig.send(handle, "GET /one HTTP/1.1\r\nHost: a\r\n\r\n".repeat(40).as_bytes());
    for _ in 0..40 {
        assert_eq!(rig.response(handle, false).1, b"1");
    }
}

#[test]
fn the_response_acknowledges_the_end_of_a_body_and_our_fin_that_of_the_peer() {
    let mut rig = Rig::new(Setup { sink: true, ..Setup::default() });
    let handle = rig.connect();
    rig.socket(handle).set_nagle_enabled(false);
    // The body has two segments. With the second, the acknowledgement is no longer delayed.
    rig.send(handle, b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n");
    rig.run(200);
    let before = rig.frames();
    rig.send(handle, &pattern(2000));
    assert_eq!(rig.response(handle, false).1, b"2000\n");
    assert_eq!(rig.frames() - before, 1);
    rig.run(200);
    let before = rig.frames();
    rig.socket(handle).close();
    rig.run(20);
    assert_eq!((rig.frames() - before, rig.socket(handle).state()), (1, tcp::State::TimeWait));
}

#[test]
fn uploads_to_the_sink_are_taken_and_counted() {
    let mut rig = Rig::new(Setup { site: site(), sink: true, ..Setup::default() });
    let handle = rig.connect();
    for length in [0usize, 1, 300_000] {
        let head = format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        rig.send(handle, head.as_bytes());
        rig.send(handle, &pattern(length));
        let (head, body) = rig.response(handle, false);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert_eq!(body, format!("{length}\n").as_bytes());
    }
    rig.send(
        handle,
        b"POST /sink HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n",
    );
    assert!(rig.response(handle, false).0.starts_with("HTTP/1.1 100 "));
    rig.send(handle, b"abc");
    assert_eq!(rig.response(handle, false).1, b"3\n");
    rig.run(50);
    assert_eq!(rig.socket(handle).state(), tcp::State::CloseWait);
}

/// Linux begins an upload with a short segment, and sends long ones after it.
#[test]
fn an_upload_in_long_segments_is_acknowledged_at_once() {
    let mut rig = Rig::new(Setup { site: site(), sink: true, offloads: Offloads::all(), ..Setup::default() });
    let handle = rig.connect();
    rig.send(handle, b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    rig.run(1);
    let mut steps = 0;
    for part in pattern(300_000).chunks(5_000) {
        rig.send(handle, part);
        while rig.socket(handle).send_queue() > 0 {
            rig.step();
            steps += 1;
        }
    }
    assert!(rig.longest_received() > 4_000);
    assert!(rig.response(handle, false).0.starts_with("HTTP/1.1 200 "));
    // Each step is 100 µs: delayed acknowledgements of all 60 parts would take 6,000 steps.
    assert!(steps < 600, "{steps} steps");
}

/// Sends SYNs from many addresses, and nothing after them.
fn flood(rig: &mut Rig, count: u32) {
    for number in 0..count {
        let from = Ipv4Address::from(0x0a00_0100 | number & 0xff);
        let repr = TcpRepr {
            src_port: (number >> 8) as u16 | 1024,
            dst_port: 80,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(number as i32),
            ack_number: None,
            window_len: 1024,
            window_scale: None,
            max_seg_size: Some(1460),
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = Ipv4Repr {
            src_addr: from,
            dst_addr: Ipv4Address::new(10, 0, 0, 2),
            next_header: IpProtocol::Tcp,
            payload_len: repr.buffer_len(),
            hop_limit: 64,
        };
        let mut frame = [&rig::MAC[..], &[2, 0, 0, 0, 0, 9, 8, 0]].concat();
        frame.resize(34 + repr.buffer_len(), 0);
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
        let segment = &mut TcpPacket::new_unchecked(&mut frame[34..]);
        repr.emit(segment, &from.into(), &SERVER, &ChecksumCapabilities::default());
        rig.client.wire.to_server.push_back(frame);
    }
}

#[test]
fn a_flood_of_syns_does_not_lock_others_out() {
    for connections in [16, 64] {
        let mut rig = Rig::new(Setup { connections, ring_out: 4096, site: site(), ..Setup::default() });
        let kept = rig.connect();
        rig.send(kept, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        rig.response(kept, false);
        for round in 0..50 {
            flood(&mut rig, 100);
            rig.run(10);
            // As many as fit during a client's handshake.
            flood(&mut rig, connections as u32 / 4);
            let started = rig.nanoseconds;
            assert_eq!(rig.get("/one").1, b"1", "round {round}");
            assert!(rig.nanoseconds - started < 1_000_000_000, "it had to try again");
        }
        // Earlier connections are not ended.
        rig.send(kept, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(rig.response(kept, false).1, b"1");
    }
}

#[test]
fn an_upload_over_a_lossy_wire_is_complete() {
    let mut rig = Rig::new(Setup { site: site(), sink: true, ..Setup::default() });
    rig.client.wire.lose_every = Some(23);
    rig.pace = 5_000_000;
    let handle = rig.connect();
    rig.send(handle, b"POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n");
    rig.send(handle, &pattern(500_000));
    assert_eq!(rig.response(handle, false).1, b"500000\n");
}

#[test]
fn a_connection_is_kept_and_requests_are_pipelined() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let handle = rig.connect();
    for _ in 0..50 {
        rig.send(handle, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(rig.response(handle, false).1, b"1");
    }
    let one = "GET /one HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = "HEAD /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let none = "GET /none HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    rig.send(handle, [one, head, none].concat().repeat(40).as_bytes());
    for _ in 0..40 {
        assert_eq!(rig.response(handle, false).1, b"1");
        assert!(rig.response(handle, true).0.contains("Content-Length: 3000000\r\n"));
        assert_eq!(rig.response(handle, false).1, b"404 Not Found\n");
    }
    assert_eq!(rig.socket(handle).state(), tcp::State::Established);
}

#[test]
fn many_short_connections_with_a_small_table() {
    let mut rig = Rig::new(Setup { connections: 16, ring_out: 4096, site: site(), ..Setup::default() });
    for round in 0..1000 {
        let (head, body) = rig.get("/one");
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"1", "round {round}: {head}");
    }
}

#[test]
fn forty_at_once_with_a_small_table() {
    let mut rig = Rig::new(Setup { connections: 16, ring_out: 4096, site: site(), ..Setup::default() });
    let handles: Vec<_> = (0..40).map(|_| rig.connect()).collect();
    let mut requested = [false; 40];
    let mut answers = vec![Vec::new(); 40];
    for _ in 0..200_000 {
        rig.step();
        for (at, handle) in handles.iter().enumerate() {
            if !requested[at] && rig.socket(*handle).may_send() {
                rig.socket(*handle).send_slice(b"GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
                requested[at] = true;
            }
            let part = rig.take(*handle);
            answers[at].extend(part);
            if answers[at].ends_with(b"\r\n\r\n1") {
                rig.socket(*handle).close();
            }
        }
        if answers.iter().all(|answer| answer.ends_with(b"\r\n\r\n1")) {
            return;
        }
    }
    let states: Vec<_> = handles.iter().map(|handle| rig.socket(*handle).state()).collect();
    panic!("{} of 40 were answered: {states:?}", answers.iter().filter(|answer| !answer.is_empty()).count());
}

/// Returns the time that a client waits for an answer, in ms, after 200 connections that send
/// nothing.
fn wait_behind_silent_connections(setup: Setup) -> u64 {
    let mut rig = Rig::new(setup);
    rig.pace = 500_000;
    for _ in 0..200 {
        rig.connect();
        rig.step();
    }
    let started = rig.nanoseconds;
    assert_eq!(rig.get("/one").1, b"1");
    (rig.nanoseconds - started) / 1_000_000
}

#[test]
fn connections_that_send_nothing_do_not_block_others() {
    let took = wait_behind_silent_connections(Setup { connections: 256, site: site(), ..Setup::default() });
    assert!(took < 100, "{took} ms");
    // The first attempt may be dropped, and the second comes after a second.
    let took = wait_behind_silent_connections(Setup { site: site(), ..Setup::default() });
    assert!(took < 1500, "{took} ms");
    // With the smallest table, the client competes with many that retry.
    let setup = Setup { connections: 16, ring_out: 4096, site: site(), ..Setup::default() };
    let took = wait_behind_silent_connections(setup);
    assert!(took < 20_000, "{took} ms");
}

#[test]
fn idle_and_slow_connections_end() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let (silent, slow, kept) = (rig.connect(), rig.connect(), rig.connect());
    rig.send(slow, b"GET /one HT");
    rig.send(kept, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.response(kept, false);
    rig.wait(9);
    for handle in [silent, slow, kept] {
        assert_eq!(rig.socket(handle).state(), tcp::State::Established);
    }
    rig.wait(3);
    assert_eq!(rig.socket(silent).state(), tcp::State::CloseWait);
    assert!(rig.take(slow).starts_with(b"HTTP/1.1 408 "));
    assert_eq!(rig.socket(kept).state(), tcp::State::Established);
    rig.wait(6);
    assert_eq!(rig.socket(kept).state(), tcp::State::CloseWait);
    assert_eq!(rig.socket(slow).state(), tcp::State::CloseWait);
}

#[test]
fn bad_requests_are_answered_and_closed() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    for (request, status) in [
        ("nonsense\r\n\r\n".to_string(), "400"),
        ("GET / HTTP/3.0\r\n\r\n".to_string(), "505"),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(5000)), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "b".repeat(1_000_000)), "431"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_string() + &"c".repeat(100_000), "405"),
    ] {
        let handle = rig.connect();
        rig.send(handle, request.as_bytes());
        let (head, _) = rig.response(handle, false);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("Connection: close\r\n"));
        rig.wait(5);
        assert_eq!(rig.socket(handle).state(), tcp::State::CloseWait, "{status}");
        rig.client.sockets.remove(handle);
    }
    assert_eq!(rig.get("/one").1, b"1");
}

#[test]
fn a_lossy_wire_only_slows_things() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    rig.client.wire.lose_every = Some(23);
    rig.pace = 5_000_000;
    let handle = rig.connect();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(rig.response(handle, false).1 == pattern(3_000_000));
}

#[test]
fn a_reader_that_stops_is_reset_and_the_rest_is_served() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let handle = rig.connect();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.wait(25);
    assert_eq!(rig.get("/one").1, b"1");
    assert_eq!(rig.socket(handle).state(), tcp::State::Established);
    rig.wait(10);
    assert_eq!(rig.socket(handle).state(), tcp::State::Closed);
}

#[test]
fn a_backend_that_comes_back_finds_its_connections() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let handle = rig.connect();
    rig.send(handle, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.run(20);
    rig.reconnect();
    assert!(rig.response(handle, false).1 == pattern(3_000_000));
    rig.send(handle, b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(rig.response(handle, false).1, b"1");
}

#[test]
fn a_new_back_end_cannot_read_frames_of_the_earlier_one() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    assert!(!rig.shows(EARLIER), "of an earlier run of the service");
    assert_eq!(rig.get("/one").1, b"1");
    assert!(rig.shows(b"HTTP/1.1 200 OK"));
    rig.disconnect();
    assert!(!rig.shows(b"HTTP/1.1"));
}

#[test]
fn quiescing_ends_connections_and_then_the_link() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    let (idle, busy) = (rig.connect(), rig.connect());
    rig.send(busy, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    rig.run(50);
    rig.quiesce();
    let (_, body) = rig.response(busy, false);
    assert!(body == pattern(3_000_000), "a response under way is finished");
    for handle in [idle, busy] {
        // The client may take 10 ms to acknowledge the last bytes.
        rig.run(150);
        assert_eq!(rig.socket(handle).state(), tcp::State::CloseWait);
        rig.socket(handle).close();
    }
    assert!((0..50).any(|_| {
        rig.wait(1);
        rig.is_quiet()
    }));
}

#[test]
fn nothing_runs_while_nothing_happens() {
    let mut rig = Rig::new(Setup { site: site(), ..Setup::default() });
    rig.get("/one");
    rig.wait(30);
    assert_eq!(rig.poll_delay(), None);
}

#[test]
fn pings_are_answered_and_large_ones_in_fragments() {
    for offloads in [Offloads::empty(), Offloads::all()] {
        let mut rig = Rig::new(Setup { offloads, ..Setup::default() });
        for length in [56, 1472, 1473, 4000] {
            assert_eq!(rig.pings(1, length), 1, "{length}");
        }
        assert_eq!(rig.longest_frame(), 1514);
    }
}

#[test]
fn udp_is_echoed_where_the_command_line_says() {
    let command_line = "ip=10.0.0.2/24 udp-echo=7";
    let mut rig = Rig::new(Setup { command_line, ..Setup::default() });
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let handle = rig.client.sockets.add(udp::Socket::new(buffer(), buffer()));
    let socket = rig.client.sockets.get_mut::<udp::Socket<'_>>(handle);
    socket.bind(5000).unwrap();
    for at in 0..5u8 {
        socket.send_slice(&[at; 100], IpEndpoint::new(SERVER, 7)).unwrap();
    }
    rig.run(50);
    for at in 0..5u8 {
        let (bytes, from) = rig.client.sockets.get_mut::<udp::Socket<'_>>(handle).recv().unwrap();
        assert_eq!((bytes, from.endpoint.port), (&[at; 100][..], 7));
    }
}

#[test]
fn a_udp_port_that_nobody_has_is_unreachable() {
    let mut rig = Rig::new(Setup::default());
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    socket.send_slice(b"anyone?", IpEndpoint::new(SERVER, 9)).unwrap();
    rig.client.sockets.add(socket);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Udp(5000.into())).unwrap();
    let handle = rig.client.sockets.add(socket);
    rig.run(50);
    let (bytes, from) = rig.client.sockets.get_mut::<icmp::Socket<'_>>(handle).recv().unwrap();
    // Destination unreachable, port unreachable (RFC 792).
    assert_eq!((&bytes[..2], from), (&[3, 3][..], SERVER));
}
