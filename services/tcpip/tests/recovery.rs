//! Losses repaired in virtual time, between a stack that can only go back and a peer that sends
//! SACK; and a peer that sends anything.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use cloister_interfaces::Instant;
use cloister_tcpip::link::segmentation::selected_parts;
use cloister_tcpip::segment::Segment;
use cloister_tcpip::segment::{BuiltSegment, Range, TcpFlags};
use cloister_tcpip::table::Key;
use cloister_tcpip::tcp::recovery::Recovery;
use proptest::prelude::*;

const WHOLE: u32 = 1460;
/// The round-trip time of the path.
const TRIP: Duration = Duration::from_micros(400);
/// It wraps during the transfer.
const FIRST: u32 = u32::MAX - 100_000;
/// Our acknowledgement number, which never changes.
const ANSWERED: u32 = 7;

fn acknowledgement(ack: u32) -> Segment {
    let key = Key::new([10, 0, 0, 1], 4000, 80);
    Segment { key, port: 80, flags: TcpFlags::ACK, options: true, data: 0, offset: 54, seq: ANSWERED, ack, window: 99 }
}

fn outgoing(seq: u32, data: u32) -> BuiltSegment {
    BuiltSegment { flags: TcpFlags::ACK, seq, ack: ANSWERED, data }
}

/// Returns the recovery of a connection that was just opened.
fn opened() -> Recovery {
    let mut recovery = Recovery::default();
    recovery.on_sent(
        BuiltSegment { flags: TcpFlags::SYN | TcpFlags::ACK, ..outgoing(FIRST.wrapping_sub(1), 0) },
        Instant::START,
    );
    recovery.on_received(&acknowledgement(FIRST), true, &[None; 3], WHOLE, Instant::START);
    recovery.opened(Duration::from_secs(5) - TRIP, Duration::from_secs(5));
    recovery
}

/// Returns a random number below `below`.
fn draw(state: &mut u64, below: u64) -> u64 {
    // Knuth's MMIX generator.
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// The properties of a path.
#[derive(Clone, Copy, Debug)]
struct Path {
    /// The number of lost packets in a million packets with data.
    data: u64,
    /// The number of lost ones in a million acknowledgements.
    acks: u64,
    /// The number of bytes of a packet, which is lost as a whole.
    packet: u32,
    /// The largest number of bytes that the stack has in flight.
    window: u32,
    /// The number of packets in a million that arrive later than the next few.
    late: u64,
    /// The peer sends SACK.
    selective: bool,
    seed: u64,
}

enum Event {
    Data(Range),
    Ack(u32, [Option<Range>; 3]),
}

/// A transfer. Positions count from 0, sequence numbers from [`FIRST`].
struct Transfer {
    path: Path,
    random: u64,
    total: u32,
    oldest: u32,
    next: u32,
    recovery: Recovery,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    /// The ranges that the peer has, not adjacent: start and end.
    has: BTreeMap<u32, u32>,
    /// The number of bytes that went over the link.
    sent: u64,
}

impl Transfer {
    fn new(path: Path, total: u32) -> Self {
        let recovery = opened();
        Transfer {
            path,
            random: path.seed,
            total,
            oldest: 0,
            next: 0,
            recovery,
            now: 1_000_000,
            events: BTreeMap::new(),
            count: 0,
            has: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Sends a packet, which arrives after half a round trip, if it is not lost.
    fn leave(&mut self, event: Event, lost: u64) {
        if draw(&mut self.random, 1_000_000) < lost {
            return;
        }
        let late = if draw(&mut self.random, 1_000_000) < self.path.late { 30_000 } else { 0 };
        self.count += 1;
        self.events.insert((self.now + TRIP.as_nanos() as u64 / 2 + late, self.count), event);
    }

    /// Lets the stack send what it can.
    fn send(&mut self) {
        let now = Instant(self.now);
        if self.recovery.begin_round(WHOLE, now) {
            self.next = self.oldest;
        }
        let limit = self.total.min(self.oldest + self.path.window);
        while self.next < limit && !self.recovery.is_full() {
            let data = self.path.packet.max(WHOLE).min(limit - self.next);
            let made = outgoing(FIRST.wrapping_add(self.next), data);
            let whole = vec![(self.next, self.next + data)];
            let ranges = self.recovery.send_ranges().map_or(whole, |wanted| {
                let of = |part: &cloister_tcpip::link::segmentation::SegmentPart| {
                    let from = self.next + part.start() as u32;
                    (from, from + part.data() as u32)
                };
                selected_parts(made, &wanted).iter().map(of).collect()
            });
            self.recovery.on_sent(made, now);
            self.next += data;
            for (from, to) in ranges {
                for start in (from..to).step_by(self.path.packet as usize) {
                    let end = to.min(start + self.path.packet);
                    self.sent += u64::from(end - start);
                    // 400 MB/s.
                    self.now += u64::from(end - start) * 5 / 2;
                    self.leave(Event::Data((start, end)), self.path.data);
                }
            }
        }
    }

    /// Lets the peer receive bytes and send SACK: first the range that it has just received, then
    /// the next ones.
    fn receive(&mut self, (from, to): Range) {
        let (mut start, mut end) = (from, to);
        let touching: Vec<Range> =
            self.has.iter().filter(|(left, right)| **left <= to && **right >= from).map(|(l, r)| (*l, *r)).collect();
        for (left, right) in touching {
            self.has.remove(&left);
            (start, end) = (start.min(left), end.max(right));
        }
        self.has.insert(start, end);
        let ack = self.has.get(&0).copied().unwrap_or(0);
        let number = |(left, right): Range| (FIRST.wrapping_add(left), FIRST.wrapping_add(right));
        let others = self.has.iter().map(|(left, right)| (*left, *right)).filter(|block| block.0 != start);
        let mut blocks = [(start, end)].into_iter().chain(others).filter(|block| block.0 > ack).map(number);
        let blocks = if self.path.selective { [blocks.next(), blocks.next(), blocks.next()] } else { [None; 3] };
        self.leave(Event::Ack(ack, blocks), self.path.acks);
    }

    fn acknowledged(&mut self, ack: u32, blocks: [Option<Range>; 3]) {
        let now = Instant(self.now);
        let segment = acknowledgement(FIRST.wrapping_add(ack));
        if self.recovery.is_duplicate_ack(&segment) {
            return self.recovery.on_duplicate_ack(&blocks, now);
        }
        let advanced = ack > self.oldest;
        if advanced {
            self.oldest = ack;
            self.next = self.next.max(ack);
        }
        self.recovery.on_received(&segment, advanced, &blocks, WHOLE, now);
    }

    /// Runs until everything is acknowledged. Returns how long that took, and the number of bytes
    /// sent for each byte that arrived.
    fn run(mut self) -> (Duration, f64) {
        let began = self.now;
        for _ in 0..3_000_000 {
            self.send();
            if self.oldest == self.total {
                assert_eq!(self.recovery.deadline(WHOLE), None, "nothing is on its way");
                return (Duration::from_nanos(self.now - began), self.sent as f64 / f64::from(self.total));
            }
            let timer = self.recovery.deadline(WHOLE).expect("what is on its way has a timer").0;
            match self.events.first_key_value().map(|(at, _)| *at) {
                Some(at) if at.0 <= timer => {
                    self.now = self.now.max(at.0);
                    match self.events.remove(&at) {
                        Some(Event::Data(range)) => self.receive(range),
                        Some(Event::Ack(ack, blocks)) => self.acknowledged(ack, blocks),
                        None => unreachable!(),
                    }
                }
                _ => self.now = self.now.max(timer),
            }
        }
        panic!("{:?} is without an end: {} of {} bytes, {:?}", self.path, self.oldest, self.total, self.recovery);
    }
}

const LAN: Path = Path { data: 0, acks: 0, packet: 44 * WHOLE, window: 256 * 1024, late: 0, selective: true, seed: 1 };
const TOTAL: u32 = 10_000_000;

/// Returns the median of nine runs in megabytes a second, and the largest number of bytes sent for
/// each byte.
fn goodput(path: Path) -> (f64, f64) {
    let runs = (0..9).map(|seed| Transfer::new(Path { seed, ..path }, TOTAL).run());
    let (mut speeds, mut most) = (Vec::new(), 0.0_f64);
    for (time, effort) in runs {
        speeds.push(f64::from(TOTAL) / 1e6 / time.as_secs_f64());
        most = most.max(effort);
    }
    speeds.sort_by(f64::total_cmp);
    (speeds[4], most)
}

#[test]
fn a_lossy_path_carries_nearly_as_much_as_a_good_one() {
    let (whole, _) = goodput(LAN);
    for (packet, data, least, most) in [
        (44 * WHOLE, 10_000, 0.85, 1.1),
        (44 * WHOLE, 50_000, 0.5, 1.3),
        (WHOLE, 1_000, 0.7, 1.01),
        (WHOLE, 10_000, 0.25, 1.1),
        (WHOLE, 50_000, 0.15, 1.2),
    ] {
        let (speed, effort) = goodput(Path { packet, data, ..LAN });
        println!("{packet} {data}: {speed:.0} of {whole:.0} MB/s, {effort:.3} bytes for a byte");
        assert!(speed >= least * whole, "{packet}, {data} of a million lost: {speed:.0} of {whole:.0} MB/s");
        assert!(effort <= most, "{packet}, {data} of a million lost: {effort:.3} bytes for a byte");
    }
}

#[test]
fn lost_acknowledgements_cost_almost_nothing() {
    let (whole, _) = goodput(LAN);
    let (speed, effort) = goodput(Path { acks: 50_000, ..LAN });
    assert!(speed >= 0.85 * whole && effort < 1.02, "{speed:.0} of {whole:.0} MB/s, {effort:.3} bytes for a byte");
}

#[test]
fn the_last_segment_is_not_waited_for_a_second() {
    // Of two packets, the second is lost once.
    let mut transfer = Transfer::new(Path { packet: WHOLE, ..LAN }, 2 * WHOLE);
    transfer.send();
    let last = *transfer.events.last_key_value().expect("two packets").0;
    transfer.events.remove(&last);
    let (time, _) = transfer.run();
    assert!(time < Duration::from_millis(210), "{time:?}");
}

/// Sends four segments from `seq` on. Returns how long their acknowledgement is waited for.
fn wait_for_four(recovery: &mut Recovery, seq: u32, now: Instant) -> Duration {
    (0..4).for_each(|segment| recovery.on_sent(outgoing(seq.wrapping_add(segment * WHOLE), WHOLE), now));
    recovery.deadline(WHOLE).expect("data on their way").since(now)
}

#[test]
fn a_path_without_recent_losses_is_probed_late_and_others_early() {
    let (early, late) = (2 * TRIP + Duration::from_millis(2), 2 * TRIP + Duration::from_millis(20));
    let (mut recovery, mut seq, mut now) = (opened(), FIRST, Instant(1_000_000_000));
    let mut begin = seq;
    for lost in 0..3 {
        for round in 0..1000 {
            let wait = wait_for_four(&mut recovery, seq, now);
            let calm = seq.wrapping_sub(begin) >= 4 << 20;
            assert_eq!(wait, if calm { late } else { early }, "{lost} lost, round {round}");
            seq = seq.wrapping_add(4 * WHOLE);
            now = now + TRIP;
            recovery.on_received(&acknowledgement(seq), true, &[None; 3], WHOLE, now);
        }
        wait_for_four(&mut recovery, seq, now);
        now = now + TRIP;
        recovery.on_received(&acknowledgement(seq.wrapping_add(2 * WHOLE)), true, &[None; 3], WHOLE, now);
        now = now + late;
        begin = seq.wrapping_add(2 * WHOLE);
        assert!(recovery.begin_round(WHOLE, now), "the last of them is sent again");
        seq = seq.wrapping_add(4 * WHOLE);
        recovery.on_sent(outgoing(seq.wrapping_sub(WHOLE), WHOLE), now);
        now = now + TRIP;
        recovery.on_received(&acknowledgement(seq), true, &[None; 3], WHOLE, now);
    }
}

#[test]
fn too_few_bytes_for_a_frame_wait_for_the_next_acknowledgement() {
    let (mut recovery, now) = (opened(), Instant(1_000_000_000));
    let enough = 2 * WHOLE;
    assert!(!recovery.holds_back(100, enough), "no acknowledgement is to come");
    wait_for_four(&mut recovery, FIRST, now);
    assert!(recovery.holds_back(4 * WHOLE + 1, enough) && recovery.holds_back(6 * WHOLE - 1, enough));
    assert!(!recovery.holds_back(6 * WHOLE, enough), "it is a whole frame");
    assert!(!recovery.holds_back(4 * WHOLE, enough), "there is nothing, so that an acknowledgement of ours may go");
    assert!(!recovery.holds_back(4 * WHOLE + 1, 0), "nothing follows it");
    // What is lost is sent again in any case.
    let mut silent = now + recovery.deadline(WHOLE).expect("data on their way").since(now);
    assert!(recovery.begin_round(WHOLE, silent) && !recovery.holds_back(4 * WHOLE + 1, enough));
    recovery.on_sent(outgoing(FIRST.wrapping_add(3 * WHOLE), WHOLE), silent);
    silent = silent + TRIP;
    // A peer with a closed window sends no acknowledgement until it is asked.
    let shut = Segment { window: 0, ..acknowledgement(FIRST.wrapping_add(WHOLE)) };
    recovery.on_received(&shut, true, &[None; 3], WHOLE, silent);
    assert!(!recovery.holds_back(3 * WHOLE + 1, enough));
}

#[test]
fn segments_without_data_are_not_waited_for() {
    let now = Instant(1 << 30);
    let mut recovery = opened();
    // A keep-alive probe, and a window probe.
    recovery.on_sent(outgoing(FIRST.wrapping_sub(1), 1), now);
    assert_eq!(recovery.deadline(WHOLE), None);
    recovery.on_received(&Segment { window: 0, ..acknowledgement(FIRST) }, false, &[None; 3], WHOLE, now);
    recovery.on_sent(outgoing(FIRST, 1), now);
    assert_eq!(recovery.deadline(WHOLE), None);
    assert!(
        !recovery.is_duplicate_ack(&Segment { window: 0, ..acknowledgement(FIRST) }),
        "the stack is to see the answers"
    );
    recovery.on_received(&acknowledgement(FIRST), false, &[None; 3], WHOLE, now);
    recovery.on_sent(outgoing(FIRST, 1), now);
    assert!(recovery.deadline(WHOLE).is_some());
}

#[test]
fn segments_with_wrong_numbers_change_nothing() {
    let now = Instant(1 << 30);
    let right = acknowledgement(FIRST);
    let block = [Some((FIRST.wrapping_add(10 * WHOLE), FIRST.wrapping_add(20 * WHOLE))), None, None];
    for (wrong, blocks) in [
        (Segment { window: 0, seq: ANSWERED.wrapping_sub(1), ..right }, [None; 3]),
        (Segment { window: 0, seq: ANSWERED.wrapping_add(1 << 20), ..right }, [None; 3]),
        (Segment { window: 0, ack: FIRST.wrapping_sub(1), ..right }, [None; 3]),
        (Segment { window: 0, ack: FIRST.wrapping_add(20 * WHOLE + 1), ..right }, [None; 3]),
        (Segment { ack: FIRST.wrapping_add(1), ..right }, block),
        (Segment { ack: FIRST.wrapping_sub(1), ..right }, block),
        (right, [Some((FIRST, FIRST.wrapping_add(WHOLE))), None, None]),
        (right, [Some((FIRST.wrapping_add(1), FIRST.wrapping_add(20 * WHOLE + 1))), None, None]),
        (right, [Some((FIRST.wrapping_add(9 * WHOLE), FIRST.wrapping_add(8 * WHOLE))), None, None]),
    ] {
        let mut recovery = opened();
        recovery.on_sent(outgoing(FIRST, 20 * WHOLE), now);
        recovery.on_received(&wrong, false, &blocks, WHOLE, now);
        assert!(recovery.is_duplicate_ack(&right) && !recovery.begin_round(WHOLE, now), "{wrong:?} {blocks:?}");
        recovery.on_received(&right, false, &block, WHOLE, now);
        assert!(recovery.begin_round(WHOLE, now), "{wrong:?} {blocks:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_arrives(
        data in 0u64..300_000, acks in 0u64..300_000, late in 0u64..200_000, packet in prop::sample::select(vec![536, WHOLE, 44 * WHOLE]),
        window in 3000u32..300_000, selective: bool, seed: u64,
    ) {
        let (time, effort) = Transfer::new(Path { data, acks, packet, window, late, selective, seed }, 300_000).run();
        prop_assert!(time < Duration::from_secs(2000), "{:?}", time);
        prop_assert!(effort < 40.0, "{effort}");
    }

    /// Whatever a peer sends without acknowledging anything, it draws at most a window of bytes in
    /// a round trip.
    #[test]
    fn a_lying_peer_draws_no_more_than_an_honest_one(
        claims in prop::collection::vec((0u64..300_000, prop::array::uniform3(prop::option::of((any::<i32>(), 0u32..70_000))), 0u32..4), 1..400),
    ) {
        let mut recovery = opened();
        let mut now = Instant(1 << 30);
        let (began, high) = (now, 200_000);
        recovery.on_sent(outgoing(FIRST, high), now);
        let mut drawn = 0_u64;
        for (pause, blocks, kind) in claims {
            now = now + Duration::from_nanos(pause);
            let number = |(from, length): (i32, u32)| {
                let from = FIRST.wrapping_add((from % 220_000) as u32);
                (from, from.wrapping_add(length))
            };
            let blocks = blocks.map(|block| block.map(number));
            let ack = if kind == 0 { FIRST.wrapping_add(high + 5) } else { FIRST };
            match kind {
                1 if ack == FIRST => recovery.on_duplicate_ack(&blocks, now),
                _ => recovery.on_received(&acknowledgement(ack), kind == 2, &blocks, WHOLE, now),
            }
            if recovery.begin_round(WHOLE, now) {
                let wanted = recovery.send_ranges().expect("a round");
                let ranges = &wanted.ranges;
                prop_assert!(ranges.iter().all(|range| range.0 < range.1), "{ranges:?}");
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
                let length = |range: &Range| u64::from(range.1.min(high).saturating_sub(range.0));
                drawn += ranges.iter().map(length).sum::<u64>();
                recovery.on_sent(outgoing(FIRST, high), now);
            }
            prop_assert!(recovery.deadline(WHOLE).is_some());
        }
        let windows = 1.0 + now.since(began).as_secs_f64() / TRIP.as_secs_f64();
        prop_assert!(drawn as f64 <= windows * f64::from(high), "{drawn} bytes in {windows:.1} round trips");
    }
}
