//! What somebody who does not see a connection's segments can do to it (RFC 5961).
#![forbid(unsafe_code)]

mod bench;

use bench::{ACK, Bench, FIN, GATEWAY, OURS, PORT, RST, SYN, Segment, arp};
use cloister_interfaces::socket::Request;

const FIRST: u32 = u32::MAX - 5;
/// The next sequence number of the peer.
const NEXT: u32 = FIRST.wrapping_add(1);

/// Opens a connection from port 4000. Returns our initial sequence number, too.
fn opened() -> (Bench, u32) {
    let mut bench = Bench::new("ip=10.0.0.2/24 gw=10.0.0.1");
    bench.frame(&arp(1, GATEWAY, OURS));
    let number = bench.open(GATEWAY, 4000, FIRST).expect("an answer");
    assert_eq!(bench.accepted().len(), 1);
    (bench, number)
}

fn segment(seq: u32, ack: u32, flags: u8) -> Segment {
    Segment { from: 4000, to: PORT, seq, ack, flags, window: 1000, data: Vec::new() }
}

/// Returns `true` if the connection is open: the peer's data is taken and acknowledged.
fn works(bench: &mut Bench, next: u32, number: u32) -> bool {
    let data = Segment { data: vec![7; 3], ..segment(next, number.wrapping_add(1), ACK) };
    let mut answers = bench.segment(GATEWAY, &data);
    answers.extend(bench::segments(bench.pass(20)));
    answers.iter().any(|answer| answer.flags & RST == 0 && answer.ack == next.wrapping_add(3))
}

/// Returns the window that was announced last.
fn window(bench: &mut Bench, number: u32) -> u32 {
    let ask = segment(NEXT.wrapping_sub(1), number.wrapping_add(1), ACK);
    let answer = bench.segment(GATEWAY, &ask).pop().expect("whoever asks whether we are there is answered");
    u32::from(answer.window)
}

#[test]
fn a_reset_ends_a_connection_only_with_the_exact_number_expected() {
    let (mut bench, number) = opened();
    let window = window(&mut bench, number);
    assert!(window > 500, "{window}");
    let near = (0..200).chain([window / 2, window - 1, window, window + 1, 1 << 20, 1 << 30, 1 << 31]);
    let offsets: Vec<u32> = near.clone().chain(near.map(u32::wrapping_neg)).filter(|offset| *offset != 0).collect();
    for flags in [RST, RST | ACK] {
        for offset in &offsets {
            bench.pass(1100);
            // The peer and the gateway answer, so that the connection does not time out.
            bench.frame(&arp(2, GATEWAY, OURS));
            bench.segment(GATEWAY, &segment(NEXT, number.wrapping_add(1), ACK));
            let answers = bench.segment(GATEWAY, &segment(NEXT.wrapping_add(*offset), number.wrapping_add(1), flags));
            assert_eq!(bench.closed(), 0, "{offset}");
            if *offset < window {
                let [answer] = &answers[..] else { panic!("{offset}: {answers:?}") };
                // The challenge. A peer that has really lost the connection answers it with the
                // expected number.
                assert_eq!((answer.flags, answer.seq, answer.ack), (ACK, number.wrapping_add(1), NEXT), "{offset}");
                assert_eq!(u32::from(answer.window), window);
            } else {
                assert_eq!(answers.len(), 0, "{offset}: outside of the window it is dropped");
            }
        }
    }
    assert!(works(&mut bench, NEXT, number));
    let next = NEXT.wrapping_add(3);
    assert_eq!(bench.segment(GATEWAY, &segment(next, 0, RST)).len(), 0);
    assert_eq!(bench.closed(), 1);
}

/// The peer answers challenges. Whatever is in flight or was not read, the expected number ends the
/// connection, and the numbers next to it do not.
#[test]
fn the_expected_number_is_known_in_every_state() {
    type Prepare = fn(&mut Bench, u32) -> u32;
    let prepared: [Prepare; 5] = [
        // Data that the application has not read, and that was not acknowledged yet.
        |bench, number| {
            let data = Segment { data: vec![7; 50], ..segment(NEXT, number.wrapping_add(1), ACK) };
            bench.segment(GATEWAY, &data);
            50
        },
        // Data after a gap is not the next that is expected.
        |bench, number| {
            let data = Segment { data: vec![7; 50], ..segment(NEXT.wrapping_add(10), number.wrapping_add(1), ACK) };
            bench.segment(GATEWAY, &data);
            0
        },
        // The peer has sent its FIN.
        |bench, number| {
            bench.segment(GATEWAY, &segment(NEXT, number.wrapping_add(1), FIN | ACK));
            1
        },
        // We have sent ours.
        |bench, _| {
            let connection = bench.accepted()[0];
            bench.application.requests.send(&Request::Close { connection }).expect("room");
            bench.run();
            0
        },
        // And data was received that nobody reads any more.
        |bench, number| {
            let connection = bench.accepted()[0];
            bench.application.requests.send(&Request::Close { connection }).expect("room");
            bench.run();
            let data = Segment { data: vec![7; 50], ..segment(NEXT, number.wrapping_add(1), ACK) };
            bench.segment(GATEWAY, &data);
            50
        },
    ];
    for (index, prepare) in prepared.into_iter().enumerate() {
        let (mut bench, number) = opened();
        let next = NEXT.wrapping_add(prepare(&mut bench, number));
        for offset in [1, 2, 100, u32::MAX, u32::MAX - 1] {
            bench.pass(1100);
            bench.segment(GATEWAY, &segment(next.wrapping_add(offset), 0, RST));
        }
        // The connection exists: a SYN for it is challenged.
        bench.pass(1100);
        let challenge = bench.segment(GATEWAY, &segment(1, 0, SYN)).pop().expect("it is there");
        assert_eq!((challenge.flags & (ACK | SYN), challenge.ack), (ACK, next), "{index}");
        bench.segment(GATEWAY, &segment(next, 0, RST));
        let answer = bench.segment(GATEWAY, &segment(1, 0, SYN)).pop().expect("an answer");
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, 2), "{index}: the old connection is gone");
    }
}

#[test]
fn a_syn_for_an_open_connection_is_challenged_whatever_its_numbers() {
    let (mut bench, number) = opened();
    for flags in [SYN, SYN | ACK] {
        for seq in [NEXT, FIRST, NEXT.wrapping_add(10), NEXT.wrapping_add(1 << 31), 0] {
            for ack in [number.wrapping_add(1), 0] {
                bench.pass(1100);
                let answers = bench.segment(GATEWAY, &segment(seq, ack, flags));
                let [answer] = &answers[..] else { panic!("{seq}: {answers:?}") };
                assert_eq!((answer.flags, answer.seq, answer.ack), (ACK, number.wrapping_add(1), NEXT));
            }
        }
    }
    assert!(works(&mut bench, NEXT, number));
}

#[test]
fn a_peer_that_has_restarted_gets_a_new_connection_through_the_challenge() {
    let (mut bench, number) = opened();
    let challenge = bench.segment(GATEWAY, &segment(5_000_000, 0, SYN)).pop().expect("a challenge");
    assert_eq!((challenge.flags, challenge.seq), (ACK, number.wrapping_add(1)));
    // The peer knows of no connection (RFC 9293, 3.10.7.1).
    bench.segment(GATEWAY, &segment(challenge.ack, 0, RST));
    assert_eq!(bench.closed(), 1);
    let answer = bench.segment(GATEWAY, &segment(5_000_000, 0, SYN)).pop().expect("an answer");
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, 5_000_001));
}

/// The limit is each connection's own. The number of challenges for one reveals nothing about
/// another (CVE-2016-5696).
#[test]
fn challenges_are_limited_for_each_connection_by_itself() {
    let (mut bench, _) = opened();
    let other = bench.open(GATEWAY, 4001, 100).expect("an answer");
    let mut challenges = 0;
    for offset in 1..200 {
        challenges += bench.segment(GATEWAY, &segment(NEXT.wrapping_add(offset), 0, RST)).len();
    }
    assert_eq!(challenges, 1);
    let reset = Segment { from: 4001, ..segment(110, 0, RST) };
    let answer = bench.segment(GATEWAY, &reset).pop().expect("the other one's challenge");
    assert_eq!((answer.to, answer.seq, answer.ack), (4001, other.wrapping_add(1), 101));
    bench.pass(1100);
    assert_eq!(bench.segment(GATEWAY, &segment(NEXT.wrapping_add(1), 0, RST)).len(), 1);
}

/// A challenged segment changes nothing else: neither the window that the peer announced, nor what
/// it acknowledged.
#[test]
fn a_challenged_segment_changes_nothing() {
    let (mut bench, number) = opened();
    let connection = bench.accepted()[0];
    for (flags, seq) in [(RST | ACK, NEXT.wrapping_add(5)), (SYN | ACK, NEXT), (SYN, NEXT)] {
        let forged = Segment { window: 0, data: vec![9; 40], ..segment(seq, number.wrapping_add(1), flags) };
        bench.segment(GATEWAY, &forged);
        bench.pass(1100);
    }
    let send = Request::Send { connection, consumed: 0, length: 100, constant: None, quiet: false };
    bench.application.requests.send(&send).expect("room");
    let sent = bench::segments(bench.run());
    assert!(sent.iter().any(|segment| segment.data.len() == 100), "{sent:?}");
    assert!(works(&mut bench, NEXT, number));
}

#[test]
fn a_reset_before_the_connection_is_open_needs_the_exact_number() {
    let mut bench = Bench::new("ip=10.0.0.2/24 gw=10.0.0.1");
    bench.frame(&arp(1, GATEWAY, OURS));
    let syn = segment(FIRST, 0, SYN);
    let answer = bench.segment(GATEWAY, &syn).pop().expect("an answer");
    for offset in [1, 2, 100, u32::MAX, 1 << 31] {
        let answers = bench.segment(GATEWAY, &segment(NEXT.wrapping_add(offset), 0, RST));
        assert!(answers.iter().all(|challenge| challenge.flags == ACK && challenge.ack == NEXT), "{answers:?}");
        bench.pass(10);
    }
    bench.segment(GATEWAY, &segment(NEXT, answer.seq.wrapping_add(1), ACK));
    assert_eq!(bench.accepted().len(), 1, "the connection was not there any more");
    let mut bench = Bench::new("ip=10.0.0.2/24 gw=10.0.0.1");
    bench.frame(&arp(1, GATEWAY, OURS));
    let answer = bench.segment(GATEWAY, &syn).pop().expect("an answer");
    bench.segment(GATEWAY, &segment(NEXT, 0, RST));
    bench.segment(GATEWAY, &segment(NEXT, answer.seq.wrapping_add(1), ACK));
    assert_eq!(bench.accepted().len(), 0, "the peer took it back");
}

/// A peer that has sent a SYN sends no SYN with an ACK. Whoever sends one has not seen our SYN.
#[test]
fn a_half_open_connection_limits_its_answers_to_forged_segments() {
    let mut bench = Bench::new("ip=10.0.0.2/24 gw=10.0.0.1");
    bench.frame(&arp(1, GATEWAY, OURS));
    let first = bench.segment(GATEWAY, &segment(FIRST, 0, SYN)).pop().expect("an answer");
    let mut answers = Vec::new();
    for ack in 0..200 {
        for flags in [SYN | ACK, SYN | ACK | FIN, SYN | RST, RST, RST | ACK] {
            // A reset with exactly this number ends it.
            let offset = if flags & RST == 0 { ack % 3 } else { ack + 1 };
            answers.extend(bench.segment(GATEWAY, &segment(NEXT.wrapping_add(offset), first.seq ^ ack, flags)));
        }
    }
    assert!(answers.len() <= 1 && answers.iter().all(|answer| answer.flags & RST == 0), "{answers:?}");
    // A lost answer is sent again, and the connection opens.
    bench.segment(GATEWAY, &segment(FIRST, 0, SYN));
    bench.segment(GATEWAY, &segment(NEXT, first.seq.wrapping_add(1), ACK));
    assert_eq!(bench.accepted().len(), 1);
    assert!(works(&mut bench, NEXT, first.seq));
}

/// Returns a connection that we have closed, with our last number. Only the peer's FIN is left.
fn closed_by_us() -> (Bench, u32) {
    let (mut bench, number) = opened();
    let connection = bench.accepted()[0];
    bench.application.requests.send(&Request::Close { connection }).expect("room");
    bench.run();
    (bench, number.wrapping_add(2))
}

/// The number after the peer's FIN.
const END: u32 = NEXT.wrapping_add(1);

/// Returns segments with any flags and with numbers near the correct ones: all kinds except those
/// that open a connection, and those that acknowledge our last number exactly.
fn forged(sent: u32) -> Vec<Segment> {
    let mut forged = Vec::new();
    for flags in 0..64u8 {
        for offset in [0, 1, 50, 1 << 20, 1 << 31, u32::MAX, u32::MAX - 1, 1 << 31 | 1] {
            let renews = flags & (SYN | ACK | RST) == SYN && (offset as i32) >= 0;
            for ack in [0, sent.wrapping_sub(1), sent.wrapping_add(1)].into_iter().filter(|_| !renews) {
                for length in [0, 1, 3] {
                    forged.push(Segment { data: vec![9; length], ..segment(END.wrapping_add(offset), ack, flags) });
                }
            }
        }
    }
    forged
}

/// Returns the number of answers, and checks that each acknowledges what was received, and no more.
fn answers(made: &[Segment], sent: u32) -> usize {
    assert!(made.iter().all(|answer| (answer.flags, answer.seq, answer.ack) == (ACK, sent, END)), "{made:?}");
    made.len()
}

#[test]
fn a_connection_in_time_wait_answers_possible_forgeries_once_a_second() {
    let (mut bench, sent) = closed_by_us();
    answers(&bench.segment(GATEWAY, &segment(NEXT, sent, FIN | ACK)), sent);
    bench.pass(200);
    for _ in 0..3 {
        let start = bench.nanoseconds;
        let count: usize = forged(sent).iter().map(|forged| answers(&bench.segment(GATEWAY, forged), sent)).sum();
        assert_eq!(count, 1);
        assert!(bench.nanoseconds - start < 1_000_000_000);
        bench.pass(1000);
    }
    // It was there all the time.
    assert_eq!(answers(&bench.segment(GATEWAY, &segment(NEXT, sent, FIN | ACK)), sent), 1);
}

/// Segments together with the peer's FIN find the socket, later ones only the numbers. Both share
/// one limit.
#[test]
fn a_connection_that_has_its_socket_still_in_time_wait_answers_once_a_second() {
    /// The number of frames that the service handles in one pass here.
    const TURN: usize = 24;
    let (_, sent) = closed_by_us();
    for forged in forged(sent).chunks(TURN) {
        let (mut bench, sent) = closed_by_us();
        for segment in [&segment(NEXT, sent, FIN | ACK)].into_iter().chain(forged) {
            bench.deliver(&segment.frame(GATEWAY.mac, GATEWAY.address));
        }
        let first = answers(&bench::segments(bench.run()), sent);
        // The answer to the FIN, and one more.
        assert!(first <= 2, "{first}");
        let syn = segment(NEXT, 0, SYN);
        let later: usize = (0..10).map(|_| answers(&bench.segment(GATEWAY, &syn), sent)).sum();
        assert!(later <= 1 && first + later <= 2, "{first} and {later}");
        bench.pass(1000);
        assert_eq!(answers(&bench.segment(GATEWAY, &syn), sent), 1);
    }
}

/// The limit of one connection reveals nothing about the next one with its index.
#[test]
fn the_next_connection_in_time_wait_has_a_limit_of_its_own() {
    let (mut bench, mut sent) = closed_by_us();
    for round in 0..2 {
        for segment in [segment(NEXT, sent, FIN | ACK), segment(NEXT, 0, SYN)] {
            let segment = Segment { from: 4000 + round, ..segment };
            bench.deliver(&segment.frame(GATEWAY.mac, GATEWAY.address));
        }
        assert_eq!(answers(&bench::segments(bench.run()), sent), 2);
        sent = bench.open(GATEWAY, 4001 + round, FIRST).expect("an answer").wrapping_add(2);
        let connection = *bench.accepted().last().expect("it is there");
        assert_eq!(connection, bench.accepted()[0], "the same index");
        bench.application.requests.send(&Request::Close { connection }).expect("room");
        bench.run();
    }
}

/// Whatever others forge, a peer whose acknowledgement was lost gets it again.
#[test]
fn repeats_of_the_peer_in_time_wait_are_acknowledged_each_time() {
    let fin = |sent| segment(NEXT, sent, FIN | ACK);
    let (mut bench, sent) = closed_by_us();
    for _ in 0..3 {
        bench.deliver(&fin(sent).frame(GATEWAY.mac, GATEWAY.address));
        bench.deliver(&segment(NEXT, 0, SYN).frame(GATEWAY.mac, GATEWAY.address));
    }
    assert!(answers(&bench::segments(bench.run()), sent) >= 3, "with its socket");
    for _ in 0..10 {
        bench.segment(GATEWAY, &segment(NEXT, 0, SYN));
        assert_eq!(answers(&bench.segment(GATEWAY, &fin(sent)), sent), 1);
    }
    // Data before the FIN, as the oldest that was not acknowledged.
    let (mut bench, sent) = closed_by_us();
    let data = Segment { data: vec![7], ..segment(NEXT, sent, ACK) };
    bench.segment(GATEWAY, &data);
    bench.segment(GATEWAY, &segment(NEXT.wrapping_add(1), sent, FIN | ACK));
    bench.pass(200);
    for _ in 0..10 {
        bench.segment(GATEWAY, &segment(NEXT, 0, SYN));
        let made = bench.segment(GATEWAY, &data);
        assert!(matches!(&made[..], [answer] if answer.flags == ACK && answer.ack == END.wrapping_add(1)), "{made:?}");
    }
}
