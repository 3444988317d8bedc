//! The numbers of tcpip that nobody may guess: initial sequence numbers, and those of DHCP
//! transactions.
#![forbid(unsafe_code)]

mod bench;

use std::hash::Hasher;

use bench::{ACK, Bench, FIN, Frame, GATEWAY, Host, OURS, PORT, SYN, Segment, arp, host};
use cloister_interfaces::socket::Request;
use proptest::prelude::*;

const LINE: &str = "ip=10.0.0.2/16 gw=10.0.0.1";

/// The random generator of smoltcp 0.14, whose state the attack recovers: the next state.
fn next(state: u64) -> u64 {
    state.wrapping_mul(0xbb2e_fcec_3c39_611d).wrapping_add(0x7590_ef39)
}

fn shown(state: u64) -> u32 {
    (state >> (29 - (state >> 61))) as u32
}

/// Returns the initial sequence number by RFC 6528, with the standard library's SipHash.
#[allow(deprecated)]
fn keyed([first, second]: [u64; 2], peer: [u8; 4], port: u16, nanoseconds: u64) -> u32 {
    let mut hasher = std::hash::SipHasher::new_with_keys(first, second);
    for bytes in [&OURS[..], &peer, &port.to_be_bytes(), &PORT.to_be_bytes()] {
        hasher.write(bytes);
    }
    (hasher.finish() as u32).wrapping_add((nanoseconds / 4000) as u32)
}

/// Returns the secrets that the service may have drawn from the simulated kernel's generator.
fn secrets() -> impl Iterator<Item = [u64; 2]> {
    (1..20u64).map(|draw| [draw, draw.wrapping_mul(0x9E37_79B9_7F4A_7C15)])
}

fn known(line: &'static str, draws: usize) -> Bench {
    let mut bench = Bench::after(line, draws);
    bench.frame(&arp(1, GATEWAY, OURS));
    bench
}

/// Returns our number for a new connection, and about when it was chosen, in ns.
fn number(bench: &mut Bench, from: Host, port: u16) -> (u32, u64) {
    let syn = Segment { from: port, to: PORT, seq: 77, flags: SYN, window: 1000, ..Segment::default() };
    let at = bench.nanoseconds + 1000;
    let answer = bench.segment(from, &syn).pop().expect("an answer");
    assert_eq!(answer.flags, SYN | ACK);
    (answer.seq, at)
}

/// Three numbers of the generator reveal its state (in 2^32 steps), and so all that follow. Here
/// the attacker need not search: it knows every state that the generator can have been seeded with.
#[test]
fn initial_sequence_numbers_are_not_those_of_smoltcps_generator() {
    let mut bench = known(LINE, 0);
    let numbers: Vec<u32> = (0..5).map(|port| number(&mut bench, GATEWAY, 4000 + port).0).collect();
    for seed in 0..1000 {
        let states = std::iter::successors(Some(seed), |state| Some(next(*state)));
        let shown: Vec<u32> = states.take(100).map(shown).collect();
        let follow = |pair: &[u32]| shown.windows(2).any(|shown| shown == pair);
        assert!(!numbers.windows(2).any(follow), "the second follows from the first: {numbers:x?}");
    }
    for pair in numbers.windows(2) {
        assert!(pair[1].wrapping_sub(pair[0]) > 1 << 16, "the numbers of other ports are near: {numbers:x?}");
    }
}

#[test]
fn initial_sequence_numbers_follow_rfc_6528_with_a_secret_of_128_random_bits() {
    for draws in 0..3 {
        let mut bench = known(LINE, draws);
        let seen: Vec<_> = (0..20u8)
            .map(|index| {
                bench.pass(u64::from(index) * 37);
                let (from, port) = (Host { address: [10, 0, index, 9], ..GATEWAY }, 1000 + 99 * u16::from(index));
                bench.frame(&arp(1, from, OURS));
                (from.address, port, number(&mut bench, from, port))
            })
            .collect();
        let fits = |secret: [u64; 2]| {
            // The clock is read once in a pass. A tick is 4 µs.
            let fits = |(peer, port, (number, at)): &([u8; 4], u16, (u32, u64))| {
                keyed(secret, *peer, *port, *at).wrapping_sub(*number).wrapping_add(1) <= 2
            };
            seen.iter().all(fits)
        };
        assert_eq!(secrets().filter(|secret| fits(*secret)).count(), 1, "{draws}: {seen:x?}");
        assert!(secrets().take(draws).all(|secret| !fits(secret)), "the secret is a draw of this service");
    }
}

#[test]
fn the_numbers_of_one_pair_of_ports_advance_by_250_a_millisecond_and_reveal_no_others() {
    let mut bench = known(LINE, 0);
    let mut last = None;
    for _ in 0..10 {
        let (seq, at) = number(&mut bench, GATEWAY, 4000);
        if let Some((before, then)) = last.replace((seq, at)) {
            let ticks = (at - then) / 4000;
            assert!(u64::from(seq.wrapping_sub(before)).abs_diff(ticks) <= 1);
        }
        // The attempt ends.
        let reset = Segment { from: 4000, to: PORT, seq: 78, flags: bench::RST, ..Segment::default() };
        bench.segment(GATEWAY, &reset);
        bench.pass(123);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A new connection of the same ports, in TIME-WAIT, begins beyond all numbers of the old one,
    /// however fast that one was.
    #[test]
    fn a_connection_begins_beyond_its_predecessor_in_time_wait(bytes in 0u32..4000, milliseconds in 0u64..20) {
        let mut bench = known(LINE, 0);
        let first = bench.open(GATEWAY, 4000, 77).expect("an answer");
        let connection = *bench.accepted().first().expect("it is open");
        let mut request = vec![Request::Close { connection }];
        if bytes > 0 {
            request.insert(0, Request::Send { connection, consumed: 0, length: bytes, constant: None, quiet: false });
        }
        for request in request {
            bench.application.requests.send(&request).expect("room");
        }
        let mut end = first.wrapping_add(1);
        let mut answer = Segment { from: 4000, to: PORT, seq: 78, flags: ACK, window: 8000, ..Segment::default() };
        let mut sent = bench::segments(bench.run());
        let mut turns = 0;
        while let Some(segment) = sent.pop() {
            end = segment.seq.wrapping_add(segment.data.len() as u32).wrapping_add((segment.flags & FIN).into());
            answer = Segment { ack: end, flags: ACK | (segment.flags & FIN), ..answer };
            sent = bench.segment(GATEWAY, &answer);
            sent.retain(|segment| !segment.data.is_empty() || segment.flags & FIN != 0);
            turns += 1;
            prop_assert!(turns < 20);
        }
        prop_assert_eq!(end, first.wrapping_add(bytes + 2));
        bench.pass(milliseconds);
        let again = Segment { seq: 10_000, flags: SYN, ..answer };
        let answer = bench.segment(GATEWAY, &again).pop().expect("an answer");
        prop_assert_eq!(answer.flags, SYN | ACK);
        prop_assert!((answer.seq.wrapping_sub(end) as i32) > 0, "{} after {}", answer.seq, end);
    }
}

/// All hosts on the link see the numbers of DHCP transactions. No number reveals another.
#[test]
fn the_number_of_a_dhcp_transaction_does_not_reveal_the_next() {
    let mut bench = Bench::new("");
    let mut seen = Vec::new();
    let mut frames = bench.up();
    for _ in 0..200 {
        for frame in frames {
            let Frame::Datagram(message) = frame else { continue };
            seen.push(u32::from_be_bytes(message[4..8].try_into().expect("four bytes")));
        }
        frames = bench.pass(1000);
    }
    assert!(seen.len() > 10, "{seen:x?}");
    // A number reveals the middle of the generator's state. Half of the missing bits are enough to
    // detect it here. A generator that is seeded for each number shows the first two numbers of its
    // seed.
    let first = |seed: u64| shown(next(next(seed)));
    let fresh = (1..2000u64).map(first).collect::<std::collections::HashSet<_>>();
    assert!(seen.iter().all(|number| fresh.contains(number)), "each comes of a draw of its own: {seen:x?}");
    let mut apart = seen.clone();
    apart.sort_unstable();
    apart.dedup();
    assert_eq!(apart.len(), seen.len());
}

#[test]
fn hosts_that_were_never_seen_get_such_numbers_too() {
    let mut bench = known(LINE, 0);
    bench.frame(&arp(1, host(3, 4), OURS));
    assert!(bench.open(host(3, 4), 9000, 5).is_some());
}
