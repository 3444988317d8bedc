//! Violations of the protocol by a back end, or by tcpip.

use cloister_sim::netback::{Frame, Violation};
use proptest::prelude::*;

use super::*;

#[test]
fn impossible_requests_of_tcpip_are_refused_logged_once_and_harm_nothing() {
    let mut world = World::connected();
    world.back.hold_tx = true;
    world.transmit(3, &[1; 60]);
    for request in [
        Request::Transmit { page: TxPage(3), length: 60, offload: Offload::None },
        Request::Transmit { page: TxPage(PAGES), length: 60, offload: Offload::None },
        Request::Transmit { page: TxPage(4), length: 13, offload: Offload::None },
        Request::Transmit { page: TxPage(4), length: 4097, offload: Offload::None },
        return_pages(RxPage(0), 1),
        return_pages(RxPage(u16::MAX), 1),
        Request::Transmit { page: TxPage(4), length: 5000, offload: Offload::Checksum },
        Request::Transmit { page: TxPage(PAGES - 1), length: 5000, offload: segments(1448) },
        Request::Transmit { page: TxPage(2), length: 5000, offload: segments(1448) },
    ] {
        world.ask(request);
    }
    world.settle();
    world.back.hold_tx = false;
    world.settle();
    assert_eq!(world.sent(), [[1; 60]]);
    assert_eq!(world.system.console().matches("violation by tcpip: ").count(), 1);
    world.back.waiting.push_back(vec![9; 60].into());
    world.settle();
    assert!(world.replies().iter().any(|reply| matches!(reply, Reply::Received { .. })));
}

/// The bytes of requests with a field that the type of a request excludes, and what the log says
/// of it.
const MALFORMED: [([u8; 8], &str); 5] = [
    // A frame to be split into segments of no bytes.
    ([1, 2, 4, 0, 60, 0, 0, 0], "a number out of range at byte 6"),
    // No page; pages past number 65,535.
    ([2, 0, 0, 0, 0, 0, 0, 0], "a number out of range at byte 2"),
    ([2, 0, 0xff, 0xff, 0, 0, 0, 0], "a number out of range at byte 2"),
    ([2, 0, 0xff, 0xff, 2, 0, 0, 0], "a number out of range at byte 2"),
    ([2, 0, 1, 0, 0xff, 0xff, 1, 0], "padding that is not zero at byte 6"),
];

#[test]
fn malformed_requests_of_tcpip_are_violations_logged_once_and_harm_nothing() {
    for (bytes, text) in MALFORMED {
        let mut world = World::connected();
        for _ in 0..2 {
            // Its place in the queue is taken by a well-formed request first.
            world.ask(Request::Close);
            world.net_memory.requests.rewrite_last(&bytes);
        }
        world.settle();
        let console = world.system.console();
        let line = format!("violation by tcpip: a message with {text} (logged once per connection)\n");
        assert_eq!(console.matches(&line).count(), 1, "{bytes:?}: {console}");
        world.transmit(3, &[1; 60]);
        world.back.waiting.push_back(vec![9; 60].into());
        world.settle();
        assert_eq!((world.sent(), world.received()), (vec![vec![1; 60]], vec![(vec![9; 60], false)]));
    }
}

fn expect_end(world: &mut World, text: &str) {
    world.settle();
    assert_eq!(world.replies().last(), Some(&Reply::Down), "{text}");
    let console = world.system.console();
    let lines = console.lines().filter(|line| line.starts_with("violation by the back end: ") && line.contains(text));
    assert_eq!(lines.count(), 1, "{text}: {console}");
    assert!(world.daemon.text("/local/domain/7/error/device/vif/0/error").is_some_and(|error| error.contains(text)));
    world.pass(1_100);
    assert_eq!(world.replies(), [UP], "{text}");
}

#[test]
fn a_violation_ends_the_connection_at_once_and_a_new_one_is_made() {
    for at in [8, 4096 + 8] {
        let mut world = World::connected();
        world.rings.store(at, 500);
        world.storm();
        expect_end(&mut world, "more responses than requests");
    }
    for (violation, text) in [
        (Violation::SentTwice, "not outstanding"),
        (Violation::SentUnknown, "not outstanding"),
        (Violation::SentExtra, "not outstanding"),
        (Violation::ReceivedElsewhere, "not outstanding"),
        (Violation::ReceivedBeyond, "outside its page"),
        (Violation::ReceivedEndless, "too many slots"),
        (Violation::ReceivedFlag, "not negotiated"),
        (Violation::ReceivedExtra, "not negotiated"),
        (Violation::ReceivedSegments, "not negotiated"),
        (Violation::ReceivedExtraLate, "not negotiated"),
    ] {
        let mut world = World::connected();
        world.back.violation = Some(violation);
        for page in 0..3 {
            world.transmit(page, &[1; 60]);
        }
        world.settle();
        world.back.waiting.push_back(vec![3; 5000].into());
        expect_end(&mut world, text);
    }
}

#[test]
fn a_received_frame_with_a_page_that_could_not_be_filled_is_lost_and_no_more() {
    let mut world = World::connected();
    // The second page of the next frame.
    let lost = world.grants.granted.remove(&2001).expect("the second page of the rule");
    world.back.waiting.extend([vec![1; 9000], vec![2; 9000]].map(Frame::from));
    world.settle();
    world.grants.granted.insert(2001, lost);
    assert_eq!(world.received(), [(vec![2; 9000], false)]);
    world.back.waiting.extend((0..100u8).map(|number| vec![number; 5000].into()));
    let mut got = 0;
    for _ in 0..100 {
        world.settle();
        got += world.received().len();
    }
    assert_eq!(got, 100, "its pages are in use again");
}

/// Anomalies are logged too: each once a connection, and the number of lost frames when it ends.
#[test]
fn anomalies_of_a_back_end_are_logged_once() {
    let mut world = World::connected();
    let respond = |world: &World, at: usize, size: usize, bytes: &[u8]| {
        let index = world.rings.load(at + 8);
        world.rings.write(at + 64 + (index % 256) as usize * size, bytes);
        world.rings.store(at + 8, index + 1);
    };
    world.back.hold_tx = true;
    (0..6).for_each(|page| world.transmit(page, &[1; 60]));
    world.settle();
    world.back.connection = None;
    let sent = |world: &World, page: u16, status: i16| {
        respond(world, 0, 12, &[page.to_le_bytes(), status.to_le_bytes()].concat());
    };
    for (page, status) in [(0, -1), (1, -2), (2, 2), (3, i16::MAX)] {
        sent(&world, page, status);
    }
    for (id, status) in [(0u16, -1i16), (1, 0), (2, 13), (3, i16::MIN), (4, 1)] {
        let fields = [id.to_le_bytes(), [0; 2], [0; 2], status.to_le_bytes()];
        respond(&world, PAGE_SIZE, 8, &fields.concat());
    }
    world.storm();
    world.settle();
    sent(&world, 4, -1);
    sent(&world, 5, 2);
    world.storm();
    world.settle();
    for text in [
        "the back end did not send a frame",
        "gave a sent frame an unknown status",
        "a slot has an error status or no bytes",
        "shorter than its header, or longer than the longest frame",
    ] {
        assert_eq!(world.system.console().matches(text).count(), 1, "{text}: {}", world.system.console());
    }
    assert_eq!(world.replies().len(), 6, "the frames to send come back");
    world.back.set_state(&mut world.daemon, "6");
    world.settle();
    let lost = "dropped on this connection: 3 transmit slots, 5 received frames";
    assert!(world.system.console().contains(lost), "{}", world.system.console());
}

#[test]
fn a_back_end_that_falls_silent_is_left_and_connected_to_again() {
    let mut world = World::connected();
    world.transmit(0, &[1; 60]);
    world.settle();
    world.pass(120_000);
    assert_eq!(
        world.replies(),
        [Reply::Transmitted { page: TxPage(0) }],
        "what was not announced is found, and no stall"
    );
    assert_eq!(world.service.deadline(), None, "no look at a back end that has nothing");
    world.back.hold_tx = true;
    world.transmit(0, &[1; 60]);
    world.settle();
    let deadline = world.service.deadline().expect("a look at the stall").0;
    assert_eq!(deadline, world.now + 60_000_000_000);
    world.pass(59_000);
    assert_eq!(world.replies(), []);
    world.pass(1_000);
    assert_eq!(world.replies(), [Reply::Down]);
    world.back.hold_tx = false;
    world.pass(1_100);
    assert_eq!(world.replies(), [UP]);
}

/// A frame that was put on the ring just before a check does not count against the back end.
#[test]
fn a_stall_is_from_one_check_to_the_next() {
    let mut world = World::connected();
    world.transmit(0, &[1; 60]);
    world.settle();
    world.storm();
    world.settle();
    assert_eq!(world.replies(), [Reply::Transmitted { page: TxPage(0) }]);
    world.pass(59_000);
    world.back.hold_tx = true;
    world.transmit(1, &[1; 60]);
    world.settle();
    world.pass(1_500);
    assert_eq!(world.replies(), []);
    world.pass(60_000);
    assert_eq!(world.replies(), [Reply::Down]);
}

#[test]
fn a_storm_of_events_is_held_back_and_frames_come_through_it() {
    let mut world = World::connected();
    let _ = world.system.take_calls();
    let storm = |world: &mut World, times: u32| {
        let before = world.wakes;
        for _ in 0..times {
            world.storm();
            world.settle();
        }
        world.wakes - before
    };
    assert_eq!(storm(&mut world, 31), 31);
    assert_eq!((world.system.take_calls(), world.replies()), (vec![], vec![]), "each costs a wake, and nothing else");
    assert_eq!(storm(&mut world, 1_000), 1, "then they are not let in");
    assert!(world.system.console().contains("the back end sends events for nothing"), "{}", world.system.console());
    for round in 0..if cfg!(miri) { 5 } else { 300_u32 } {
        let frame = round.to_le_bytes().repeat(50);
        world.back.waiting.push_back(frame.clone().into());
        assert!(storm(&mut world, 100) <= 5, "round {round}");
        (0..8).for_each(|_| world.pass(1));
        assert_eq!(world.received(), [(frame, false)], "round {round}");
    }
    assert_eq!(world.system.console().matches("for nothing").count(), 1, "logged once");
    // When the storm is over, a frame's event wakes the service again.
    world.pass(2_000);
    world.pending.set(0);
    let frame = vec![7; 200];
    world.back.waiting.push_back(frame.clone().into());
    world.settle();
    assert_eq!(world.received(), [(frame, false)]);
}

/// The same on one channel as on both.
#[test]
fn a_storm_on_one_channel_is_held_back_too() {
    for bit in [TX_BIT, RX_BIT] {
        let mut world = World::connected();
        let before = world.wakes;
        for _ in 0..if cfg!(miri) { 100 } else { 1_000 } {
            world.pending.set(1 << bit);
            world.settle();
        }
        assert_eq!(world.wakes - before, 32, "channel {bit}");
    }
}

/// Frames are not moved yet, so nothing holds the events back, and the service is never woken by
/// the time alone.
#[test]
fn a_storm_while_connecting_hides_no_timeout() {
    let mut world = World::bare(64);
    world.back.ignores_states = true;
    world.back.create(&mut world.daemon);
    world.settle();
    for _ in 0..70 {
        world.now += 1_000_000_000;
        world.system.set_now(world.now);
        for _ in 0..4 {
            world.storm();
            world.turn(false);
        }
    }
    assert!(world.system.console().contains("the back end does not connect"), "{}", world.system.console());
}

/// The owner of each page, as tcpip sees it.
struct Ledger {
    rx_away: Vec<bool>,
    tx_sent: Vec<u16>,
}

impl Ledger {
    fn new() -> Self {
        Ledger { rx_away: vec![false; usize::from(PAGES)], tx_sent: vec![0; usize::from(PAGES)] }
    }

    fn is_free(&self, page: u16, pages: u16) -> bool {
        let covered = |(first, count): (usize, &u16)| {
            (page..page + pages).any(|page| (first..first + usize::from(*count)).contains(&usize::from(page)))
        };
        page + pages <= PAGES && !self.tx_sent.iter().enumerate().any(covered)
    }

    fn handle_reply(&mut self, reply: Reply) {
        match reply {
            Reply::Up { .. } | Reply::Down => *self = Ledger::new(),
            Reply::Received { page, offset, length, .. } => {
                let pages = (usize::from(offset.get()) + usize::from(length.get())).div_ceil(PAGE_SIZE);
                for away in &mut self.rx_away[usize::from(page.0)..][..pages] {
                    assert!(!std::mem::replace(away, true));
                }
            }
            Reply::Transmitted { page } => assert_ne!(std::mem::take(&mut self.tx_sent[usize::from(page.0)]), 0),
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_back_end_writes_pages_are_conserved(
        steps in prop::collection::vec((0u8..11, any::<u32>(), any::<u16>(), any::<u16>(), any::<i16>()), 1..60)
    ) {
        let mut world = World::connected();
        let mut ledger = Ledger::new();
        for (kind, word, id, offset, status) in steps {
            let index = world.rings.load(4096 + 8);
            let slot = 4096 + 64 + (index % 256) as usize * 8;
            let respond = |fields: [u16; 4]| {
                world.rings.write(slot, &fields.map(u16::to_le_bytes).concat());
                world.rings.store(4096 + 8, index.wrapping_add(1));
            };
            match kind {
                0 => world.rings.store(4096 + 8, word % 40),
                1 => world.rings.store(8, word % 40),
                2 => world.rings.write((word % 8192) as usize, &id.to_le_bytes()),
                3 => respond([(index % 256) as u16, offset % 5000, id % 16, status as u16]),
                4 => respond([(index % 256) as u16, 0, [4, 8, 12][usize::from(id % 3)], 4096]),
                5 => respond([1, 1448, 1, 0]),
                6 => world.back.set_state(&mut world.daemon, &(word % 10).to_string()),
                7 => { world.now += u64::from(word); world.system.set_now(world.now); }
                _ => {
                    let (page, length) = (id % PAGES, 14 + offset % 20_000);
                    if ledger.is_free(page, length.div_ceil(4096)) && world.net.requests.room() > 0 {
                        ledger.tx_sent[usize::from(page)] = length.div_ceil(4096);
                        world.ask(Request::Transmit { page: TxPage(page), length, offload: segments(1448) });
                    }
                }
            }
            world.storm();
            world.settle_with(false);
            for reply in world.replies() { ledger.handle_reply(reply); }
        }
    }
}
