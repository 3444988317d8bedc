//! Neighbours that are many, forged, silent or moved (RFC 826, RFC 1122, RFC 5227).
#![forbid(unsafe_code)]

mod bench;

use cloister_interfaces::socket::Request;

use bench::{ACK, Bench, EVERYONE, Frame, GATEWAY, Host, OUR_MAC, OURS, PORT, SYN, Segment, arp, host, ping};

/// The number of neighbours that the table has room for.
const PLACES: usize = 1024;
const LINE: &str = "ip=10.0.0.2/16 gw=10.0.0.1";
/// A host beyond the gateway.
const FAR: Host = Host { address: [192, 0, 2, 7], mac: GATEWAY.mac };

/// Creates a service that knows the gateway.
fn acquainted() -> Bench {
    let mut bench = Bench::new(LINE);
    bench.frame(&arp(1, GATEWAY, OURS));
    bench
}

/// Returns the hosts that answers to pings went to, and the hosts for which requests were sent.
fn sent(frames: Vec<Frame>) -> (Vec<Host>, Vec<[u8; 4]>) {
    let (mut echoes, mut asked) = (Vec::new(), Vec::new());
    for frame in frames {
        match frame {
            Frame::Echo(host) => echoes.push(host),
            Frame::Request(address, _) => asked.push(address),
            _ => {}
        }
    }
    (echoes, asked)
}

fn pinged(bench: &mut Bench, from: Host) -> (Vec<Host>, Vec<[u8; 4]>) {
    sent(bench.frame(&ping(from.mac, from.address, OURS)))
}

/// The number of hosts that are in use at once: all places but those for hosts to be found.
const IN_USE: usize = 800;

fn numbered(number: usize) -> Host {
    host(1 + (number / 250) as u8, (number % 250) as u8)
}

#[test]
fn hundreds_of_hosts_that_send_requests_and_pings_are_all_answered() {
    let mut bench = acquainted();
    for _ in 0..2 {
        for from in (0..1000).map(numbered) {
            let frames = bench.frame(&arp(1, from, OURS));
            assert!(matches!(frames[..], [Frame::Reply(to)] if to == from), "{frames:?}");
            assert_eq!(pinged(&mut bench, from), (vec![from], vec![]));
        }
        assert_eq!(pinged(&mut bench, FAR), (vec![FAR], vec![]));
    }
}

#[test]
fn hundreds_of_hosts_that_send_no_requests_are_each_requested_at_once() {
    let mut bench = acquainted();
    for from in (0..IN_USE).map(numbered) {
        assert_eq!(pinged(&mut bench, from), (vec![], vec![from.address]));
    }
    for from in (0..IN_USE).map(numbered) {
        bench.frame(&arp(2, from, OURS));
        assert_eq!(pinged(&mut bench, from), (vec![from], vec![]));
    }
}

/// After the link was down, hosts that still know us send no requests: each is asked for at once,
/// and what it is to get waits.
#[test]
fn hosts_that_know_us_are_served_at_once_after_the_link_was_down() {
    let mut bench = acquainted();
    for from in (0..64).map(numbered) {
        bench.frame(&arp(1, from, OURS));
    }
    bench.up();
    for batch in 0..2 {
        let hosts = (batch * 32..batch * 32 + 32).map(numbered);
        for from in hosts.clone() {
            assert_eq!(pinged(&mut bench, from), (vec![], vec![from.address]));
        }
        for from in hosts {
            assert_eq!(sent(bench.frame(&arp(2, from, OURS))).0, [from], "what waited");
        }
    }
}

/// No host that somebody on the link can invent replaces one in use.
#[test]
fn forged_neighbours_evict_none_in_use() {
    let mut bench = acquainted();
    let friends: Vec<Host> = (1..=20).map(|low| host(200, low)).collect();
    for friend in &friends {
        bench.frame(&arp(1, *friend, OURS));
        assert_eq!(pinged(&mut bench, *friend).0, [*friend]);
    }
    for round in 0..40 {
        for low in 0..250 {
            // A host that sends us a request, and one that never answers.
            bench.frame(&arp(1, host(100 + round, low), OURS));
            let syn = Segment { from: 7, to: PORT, seq: 1, flags: SYN, ..Segment::default() };
            let stranger = host(50 + round, low);
            bench.frame(&syn.frame(stranger.mac, stranger.address));
        }
        let all = friends.iter().chain([&FAR]);
        all.for_each(|friend| assert_eq!(pinged(&mut bench, *friend), (vec![*friend], vec![]), "round {round}"));
    }
}

#[test]
fn a_host_is_requested_once_a_second_and_others_meanwhile() {
    let mut bench = acquainted();
    let (silent, other) = (host(1, 1), host(1, 2));
    assert_eq!(pinged(&mut bench, silent).1, [silent.address]);
    for _ in 0..10 {
        assert_eq!(pinged(&mut bench, silent).1, [[0; 4]; 0]);
    }
    assert_eq!(pinged(&mut bench, other).1, [other.address], "the limit is for each by itself");
    bench.pass(1000);
    assert_eq!(pinged(&mut bench, silent).1, [silent.address]);
}

/// A stranger beyond the gateway invents `count` senders in our network, for three seconds. Returns
/// when each was requested. `now_and_then` is called twenty times a second.
fn invents(bench: &mut Bench, count: usize, mut now_and_then: impl FnMut(&mut Bench)) -> Vec<(u64, [u8; 4])> {
    let (until, mut asked) = (bench.nanoseconds + 3_000_000_000, Vec::new());
    while bench.nanoseconds < until {
        for number in 0..count {
            let invented = host(1 + (number / 250) as u8, (number % 250) as u8);
            for address in pinged(bench, Host { mac: GATEWAY.mac, ..invented }).1 {
                asked.push((bench.nanoseconds, address));
            }
        }
        now_and_then(bench);
        bench.pass(50);
    }
    asked
}

#[test]
fn requests_for_invented_hosts_are_limited_for_each_and_in_total() {
    let mut bench = acquainted();
    for count in [PLACES / 2, PLACES, 2000] {
        bench.pass(2000);
        let asked = invents(&mut bench, count, |bench| assert_eq!(pinged(bench, FAR).0, [FAR]));
        are_asked_for_once_a_second(&asked, PLACES);
        assert!(asked.len() >= count.min(PLACES - 1), "{} of {count}", asked.len());
    }
}

/// Checks that in less than a second each host was requested at most once, and all hosts at most as
/// often as there are places.
fn are_asked_for_once_a_second(asked: &[(u64, [u8; 4])], places: usize) {
    let mut last = std::collections::BTreeMap::new();
    for (at, address) in asked {
        let before = last.insert(address, at);
        assert!(before.is_none_or(|before| at - before > 990_000_000), "{address:?}");
        let within = asked.iter().filter(|(other, _)| (at - 990_000_000..=*at).contains(other)).count();
        assert!(within <= places, "{within} in a second");
    }
}

/// Hosts that send us requests take no place that the next packet takes back with another request.
#[test]
fn each_host_is_requested_once_a_second_between_forged_requests() {
    let mut bench = acquainted();
    let (until, mut asked) = (bench.nanoseconds + 3_000_000_000, Vec::new());
    let mut round = 0;
    while bench.nanoseconds < until {
        for number in 0..PLACES - 1 {
            let (high, low) = ((number / 250) as u8, (number % 250) as u8);
            for address in pinged(&mut bench, Host { mac: GATEWAY.mac, ..host(1 + high, low) }).1 {
                asked.push((bench.nanoseconds, address));
            }
            bench.frame(&arp(1, host(100 + round + high, low), OURS));
        }
        assert_eq!(pinged(&mut bench, FAR), (vec![FAR], vec![]));
        round = (round + 1) % 100;
        bench.pass(50);
    }
    are_asked_for_once_a_second(&asked, PLACES);
    assert!(asked.len() > 1600, "{}", asked.len());
}

#[test]
fn hosts_that_send_requests_are_learnt_beside_invented_ones() {
    let mut bench = acquainted();
    for count in [64, PLACES - 1, PLACES, 1500] {
        let mut low = 0;
        invents(&mut bench, count, |bench| {
            low = (low + 1) % 40;
            let newcomer = host(50, low);
            bench.frame(&arp(1, newcomer, OURS));
            assert_eq!(pinged(bench, newcomer).0, [newcomer], "beside {count}");
            assert_eq!(pinged(bench, FAR).0, [FAR]);
        });
    }
}

/// The same for hosts that were never known: some places are reserved for them, again each second.
#[test]
fn newcomers_are_learnt_beside_invented_hosts() {
    for count in [64, PLACES - 1, PLACES, 1500] {
        let (mut bench, mut low) = (acquainted(), 0);
        invents(&mut bench, count, |bench| {
            low += 1;
            let newcomer = host(50, low);
            bench.frame(&arp(1, newcomer, OURS));
            assert_eq!(pinged(bench, newcomer).0, [newcomer], "number {low} beside {count}");
        });
        assert!(low > 30, "{low}");
    }
}

#[test]
fn the_first_packets_are_sent_in_order_once_the_host_is_known() {
    for count in 1..=6 {
        let mut bench = acquainted();
        let from = host(1, 1);
        let echoed = |frame: Frame| if let Frame::Echo(host) = frame { Some(host) } else { None };
        (0..count).for_each(|_| assert_eq!(pinged(&mut bench, from).0, []));
        let echoes: Vec<Host> = bench.frame(&arp(2, from, OURS)).into_iter().filter_map(echoed).collect();
        assert_eq!(echoes, vec![from; count.min(4)], "{count} of which four wait");
        let (echoes, _) = sent(bench.frame(&arp(2, from, OURS)));
        assert_eq!(echoes, [], "they are sent once");
        // A packet that waited too long is not sent.
        let from = host(1, 2);
        assert_eq!(pinged(&mut bench, from).0, []);
        bench.pass(3000);
        assert_eq!(sent(bench.frame(&arp(2, from, OURS))).0, []);
        assert_eq!(pinged(&mut bench, from).0, [from]);
    }
}

/// A host for which much waits gives way to those for which little does.
#[test]
fn a_packet_for_each_of_many_waits_beside_much_for_a_few() {
    let mut bench = acquainted();
    for few in 0..20 {
        (0..4).for_each(|_| assert_eq!(pinged(&mut bench, host(7, few)).0, []));
    }
    let many: Vec<Host> = (0..16).map(|low| host(1, low)).collect();
    for from in &many {
        assert_eq!(pinged(&mut bench, *from).0, []);
    }
    for from in &many {
        assert_eq!(sent(bench.frame(&arp(2, *from, OURS))).0, [*from]);
    }
}

/// While TCP makes progress through a neighbour, it is not asked again. Segments that acknowledge
/// nothing new confirm nothing: anybody can send them.
#[test]
fn progress_of_a_connection_confirms_its_neighbour() {
    for progress in [true, false] {
        let mut bench = acquainted();
        // The second announcement is none of the requests that are counted.
        bench.pass(3000);
        let number = bench.open(FAR, 4000, 5).expect("an answer");
        let (connection, mut asked) = (bench.accepted()[0], 0);
        for second in 1..=150 {
            let send = Request::Send { connection, consumed: 0, length: 1, constant: None, quiet: true };
            bench.application.requests.send(&send).expect("room");
            asked += sent(bench.run()).1.len();
            let acked = if progress { second } else { 0 };
            let ack = number.wrapping_add(1 + acked);
            let segment = Segment { from: 4000, to: PORT, seq: 6, ack, flags: ACK, window: 1000, data: vec![] };
            asked += sent(bench.frame(&segment.frame(FAR.mac, FAR.address))).1.len();
            let (echoes, requests) = pinged(&mut bench, FAR);
            assert_eq!(echoes.len(), usize::from(progress || second < 61), "{second}");
            asked += requests.len() + sent(bench.pass(1000)).1.len();
        }
        assert_eq!(asked == 0, progress, "{asked}");
    }
}

/// Returns the announcements of our address among the frames.
fn announcements(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| matches!(frame, Frame::Request(OURS, EVERYONE))).count()
}

#[test]
fn our_address_is_announced_twice_whenever_the_link_comes_up() {
    let mut bench = Bench::new(LINE);
    for _ in 0..2 {
        assert_eq!(announcements(&bench.up()), 1);
        assert_eq!(announcements(&bench.pass(1990)), 0);
        assert_eq!(announcements(&bench.pass(10)), 1);
        assert_eq!(announcements(&bench.pass(60_000)), 0);
    }
}

#[test]
fn our_address_is_defended_once_in_ten_seconds_and_the_log_names_who_claims_it() {
    let mut bench = acquainted();
    bench.pass(3000);
    let thief = Host { address: OURS, mac: [2, 6, 6, 6, 6, 6] };
    let mut defended = 0;
    for _ in 0..200 {
        for message in [arp(1, thief, OURS), arp(2, thief, GATEWAY.address), arp(1, thief, GATEWAY.address)] {
            defended += announcements(&bench.frame(&message));
        }
        bench.pass(100);
    }
    assert_eq!(defended, 2, "in twenty seconds");
    assert_eq!(pinged(&mut bench, FAR).0, [FAR], "the address stays in use");
    let said = bench.system.console().matches("claimed by 02-06-06-06-06-06").count();
    assert_eq!(said, 2, "{}", bench.system.console());
    // What we sent ourselves, and comes back, is no claim.
    bench.pass(20_000);
    assert_eq!(bench.frame(&arp(1, Host { mac: OUR_MAC, ..thief }, OURS)).len(), 0);
}

/// Frames that wait for hosts that do not exist leave room for all others.
#[test]
fn a_thousand_silent_hosts_delay_nobody() {
    let mut bench = acquainted();
    for high in 1..5 {
        for low in 0..250 {
            pinged(&mut bench, host(high, low));
        }
    }
    for port in 0..10 {
        assert!(bench.open(GATEWAY, 4000 + port, 5).is_some());
    }
    assert_eq!(pinged(&mut bench, FAR).0, [FAR]);
}

#[test]
fn a_gateway_that_moved_is_found_at_once() {
    let mut bench = acquainted();
    assert_eq!(pinged(&mut bench, FAR).0, [FAR]);
    let moved = Host { mac: [2, 9, 9, 9, 9, 9], ..GATEWAY };
    // It announces its address.
    bench.frame(&arp(1, moved, moved.address));
    assert_eq!(pinged(&mut bench, FAR).0, [Host { mac: moved.mac, ..FAR }]);
}

#[test]
fn a_host_is_confirmed_after_a_minute_and_nothing_is_lost_meanwhile() {
    let mut bench = acquainted();
    for second in 0..300 {
        let frames = bench.frame(&ping(FAR.mac, FAR.address, OURS));
        for frame in &frames {
            if let Frame::Request(address, mac) = frame {
                assert_eq!((*address, *mac), (GATEWAY.address, GATEWAY.mac), "who was known is asked alone");
                bench.frame(&arp(2, GATEWAY, OURS));
            }
        }
        assert_eq!(sent(frames).0, [FAR], "{second}");
        bench.pass(1000);
    }
}

#[test]
fn a_host_that_is_gone_gets_three_requests_and_then_all_hosts_do() {
    let mut bench = acquainted();
    bench.pass(60_000);
    let mut asked = Vec::new();
    for _ in 0..6 {
        for frame in bench.frame(&ping(FAR.mac, FAR.address, OURS)) {
            if let Frame::Request(address, mac) = frame {
                assert_eq!(address, GATEWAY.address);
                asked.push(mac);
            }
        }
        bench.pass(1000);
    }
    assert_eq!(asked, [GATEWAY.mac, GATEWAY.mac, GATEWAY.mac, EVERYONE, EVERYONE, EVERYONE]);
}

#[test]
fn a_gateway_outside_of_our_network_is_served() {
    let mut bench = Bench::new("ip=10.0.0.2/32 gw=10.0.0.1");
    let frames = bench.frame(&arp(1, GATEWAY, OURS));
    assert!(matches!(frames[..], [Frame::Reply(to)] if to == GATEWAY), "{frames:?}");
    assert_eq!(pinged(&mut bench, FAR), (vec![FAR], vec![]));
    assert_eq!(pinged(&mut bench, GATEWAY), (vec![GATEWAY], vec![]));
}

#[test]
fn a_probe_for_our_address_is_answered_and_teaches_nothing() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    let prober = Host { address: [0; 4], mac: [2, 7, 7, 7, 7, 7] };
    for _ in 0..3 {
        let frames = bench.frame(&arp(1, prober, OURS));
        assert!(matches!(frames[..], [Frame::Reply(to)] if to == prober), "{frames:?}");
    }
    assert_eq!(bench.frame(&arp(1, host(0, 9), [10, 0, 0, 3])).len(), 0, "it asks for another");
}

#[test]
fn broadcasts_are_not_answered() {
    let mut bench = acquainted();
    let from = host(0, 9);
    bench.frame(&arp(1, from, OURS));
    for to in [[10, 0, 255, 255], [255; 4], [224, 0, 0, 1], [10, 0, 0, 3]] {
        assert_eq!(bench.frame(&ping(from.mac, from.address, to)).len(), 0, "{to:?}");
    }
    for from in [[10, 0, 255, 255], [255; 4], [224, 0, 0, 1], [127, 0, 0, 1], OURS] {
        let (echoes, asked) = sent(bench.frame(&ping([2, 1, 1, 1, 1, 1], from, OURS)));
        assert!(echoes.is_empty() && asked.is_empty(), "{from:?}: {echoes:?} {asked:?}");
    }
    assert_eq!(pinged(&mut bench, from).0, [from]);
}

#[test]
fn an_impossible_link_address_is_not_learnt() {
    let mut bench = acquainted();
    for mac in [EVERYONE, [1, 2, 3, 4, 5, 6], [0; 6]] {
        assert_eq!(bench.frame(&arp(1, Host { mac, ..GATEWAY }, OURS)).len(), 0, "{mac:?}");
    }
    assert_eq!(pinged(&mut bench, FAR).0, [FAR]);
}

#[test]
fn nothing_is_sent_without_a_route() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    let (echoes, asked) = pinged(&mut bench, FAR);
    assert!(echoes.is_empty() && asked.is_empty());
    assert_eq!(OUR_MAC[0] & 1, 0);
}

/// A download continues while others send requests and strangers appear: each segment is sent at
/// once, to the gateway.
#[test]
fn a_connection_s_segments_go_to_the_gateway_whatever_others_say() {
    let mut bench = acquainted();
    let number = bench.open(FAR, 4000, 5).expect("an answer");
    for low in 0..200 {
        bench.frame(&arp(1, host(9, low), OURS));
        bench.frame(&arp(2, host(8, low), OURS));
        let data = Segment {
            from: 4000,
            to: PORT,
            seq: 6 + u32::from(low),
            ack: number.wrapping_add(1),
            flags: ACK,
            window: 1000,
            data: vec![1],
        };
        let mut frames = bench.frame(&data.frame(FAR.mac, FAR.address));
        frames.extend(bench.pass(20));
        assert!(frames.iter().any(|frame| matches!(frame, Frame::Segment(to, _) if *to == FAR)), "{frames:?}");
    }
}
