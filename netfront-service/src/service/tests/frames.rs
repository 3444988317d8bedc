//! Frames in both directions.

use cloister_interfaces::net::Net;
use cloister_sim::channel;
use cloister_sim::netback::Frame;

use super::*;

#[test]
fn the_service_is_small() {
    let size = size_of::<Netfront<Recorder, SharedMemory>>();
    assert!(size < 5120, "{size} bytes");
}

#[test]
fn frames_go_both_ways_over_many_rounds_of_the_rings() {
    let mut world = World::connected();
    let mut free: Vec<u16> = (0..PAGES).collect();
    // Under Miri, each page of the pools once.
    for round in 0u32..if cfg!(miri) { 70 } else { 700 } {
        let frame = |way: u8| [&[way; 14], &round.to_le_bytes()[..]].concat();
        world.back.waiting.push_back(frame(1).into());
        let page = free.pop().expect("a free page: completions are reported in time");
        world.transmit(page, &frame(2));
        world.settle();
        assert_eq!(world.sent(), [frame(2)]);
        for reply in world.replies() {
            match reply {
                Reply::Received { page, offset, length, .. } => {
                    let at = usize::from(page.0) * PAGE_SIZE + usize::from(offset.get());
                    assert_eq!(world.rx_pool.bytes(at, usize::from(length.get())), frame(1));
                    world.ask(return_pages(page, 1));
                }
                Reply::Transmitted { page: TxPage(page) } => free.push(page),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(world.back.waiting.is_empty());
}

/// Returns a TCP frame of `length` bytes, each different from its neighbours, with a correct
/// checksum.
fn tcp_frame(length: usize, seed: u8) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|index| (index % 251) as u8 ^ seed).collect();
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
    (frame[23], frame[46]) = (6, 0x50);
    let unfinished = Frame::unfinished(frame, None);
    unfinished.packets().remove(0)
}

/// Returns the lengths of frames, each with its number. Under Miri each length comes once.
fn lengths(rounds: usize) -> impl Iterator<Item = (usize, usize)> {
    let lengths = [60, 4096, 4097, 8192, 40_000, 65_535].into_iter().cycle();
    lengths.take(if cfg!(miri) { 6 } else { rounds }).enumerate()
}

#[test]
fn a_long_frame_is_sent_uncut_and_comes_back_once() {
    let mut world = World::connected();
    for (round, length) in lengths(60) {
        world.back.backwards = round % 2 == 1;
        let frame = Frame::unfinished(tcp_frame(length, round as u8), Some(1448));
        let page = (round * 5) as u16 % (PAGES - 16);
        world.transmit_with(page, &frame.bytes, segments(1448));
        world.settle();
        assert_eq!(std::mem::take(&mut world.back.sent), [frame]);
        // A receive event makes the service find responses that were not announced.
        world.storm();
        world.settle();
        assert_eq!(world.replies(), [Reply::Transmitted { page: TxPage(page) }]);
    }
}

#[test]
fn a_frame_whose_checksum_was_left_out_is_sent_as_such() {
    let mut world = World::connected();
    let whole = tcp_frame(1514, 0);
    let frame = Frame::unfinished(whole.clone(), None);
    world.transmit_with(0, &frame.bytes, Offload::Checksum);
    world.settle();
    assert_eq!(world.back.sent.remove(0).packets(), [whole]);
}

#[test]
fn a_long_frame_is_received_uncut() {
    let mut world = World::connected();
    for (round, length) in lengths(120) {
        let segment = Some(1448).filter(|_| round % 3 == 0);
        let frame = Frame::unfinished(tcp_frame(length, round as u8), segment);
        world.back.waiting.push_back(frame.clone());
        world.settle();
        let replies = world.net.replies.pop().map(|reply| vec![reply.expect("well-formed")]).unwrap_or_default();
        let parts = [replies, world.replies()].concat();
        // The first page is a part of its own if its neighbour's slot was the extra info's. The
        // pool has one end.
        assert!(parts.len() <= 3, "{parts:?}");
        let mut bytes = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let Reply::Received { page, offset: PageOffset::ZERO, length, more, checked: true } = *part else {
                panic!("{part:?}")
            };
            assert_eq!(more, index + 1 < parts.len());
            bytes.extend(world.rx_pool.bytes(usize::from(page.0) * PAGE_SIZE, usize::from(length.get())));
            world.ask(return_pages(page, length.get().div_ceil(4096)));
        }
        assert_eq!(bytes, frame.bytes, "round {round}");
        world.settle();
    }
    assert!(!world.system.console().contains("violation"), "{}", world.system.console());
}

#[test]
fn a_frame_with_its_checksum_is_not_marked_as_checked() {
    let mut world = World::connected();
    world.back.waiting.push_back(tcp_frame(1514, 1).into());
    world.settle();
    assert_eq!(world.received(), [(tcp_frame(1514, 1), false)]);
}

/// Posted pages are notified on the channel of their ring, or on the only one.
#[test]
fn each_ring_is_announced_on_its_channel_alone() {
    for (split, of_rx) in [(true, RX_PORT), (false, TX_PORT)] {
        let mut world = World::bare(64);
        world.back.features.retain(|(name, _)| split || name != "feature-split-event-channels");
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), [UP]);
        let sends = |world: &World| -> Vec<_> {
            let calls = world.system.take_calls().into_iter();
            calls.filter(|call| call.1 == Operation::PortSend).map(|call| call.0).collect()
        };
        sends(&world);
        world.transmit(0, &[1; 60]);
        world.settle();
        assert_eq!(sends(&world), [TX_PORT], "split: {split}");
        world.back.waiting.push_back(vec![2; 60].into());
        world.settle();
        assert_eq!(world.received().len(), 1);
        // The back end asks for an event at the next posted page (`req_event`).
        world.rings.store(PAGE_SIZE + 4, world.rings.load(PAGE_SIZE) + 1);
        world.settle();
        assert_eq!(sends(&world), [of_rx], "split: {split}");
    }
}

/// The back end writes them after the service read the rings and before it asked for an event. The
/// service found none, and no event comes.
#[test]
fn responses_that_come_just_before_arming_are_taken_at_once() {
    for (frames, received) in [(0, 1), (16, 0), (16, 1)] {
        let mut world = World::connected();
        (0..frames).for_each(|page| world.transmit(page, &[1; 60]));
        world.wake();
        world.back.waiting.extend((0..received).map(|_| vec![2; 60].into()));
        let granted = &world.grants.granted;
        world.back.run(&mut world.daemon, &|reference| granted.get(&reference).cloned());
        world.script.lie(&[129, frames as u8, 129, received]);
        world.storm();
        world.wake();
        assert_eq!(world.replies().len(), usize::from(frames) + usize::from(received));
    }
}

/// Unikraft loses a part of such a burst.
#[test]
fn a_burst_of_300_frames_is_answered_to_the_last() {
    // Under Miri, just more frames than a pool has pages.
    const FRAMES: u16 = if cfg!(miri) { PAGES + 16 } else { 300 };
    let mut world = World::connected();
    world.back.waiting.extend((0..FRAMES).map(|number| number.to_le_bytes().repeat(49).into()));
    let (mut answered, mut free): (Vec<Vec<u8>>, Vec<u16>) = (Vec::new(), (0..PAGES).collect());
    let mut rounds = 0..300;
    while answered.len() < usize::from(FRAMES) {
        assert!(rounds.next().is_some(), "only {} came back", answered.len());
        world.settle();
        for reply in world.replies() {
            match reply {
                Reply::Received { page, length, .. } => {
                    let bytes = world.rx_pool.bytes(usize::from(page.0) * PAGE_SIZE, usize::from(length.get()));
                    world.ask(return_pages(page, 1));
                    world.transmit(free.pop().expect("pages come back when they run short"), &bytes);
                }
                Reply::Transmitted { page: TxPage(page) } => free.push(page),
                other => panic!("{other:?}"),
            }
        }
        world.settle();
        answered.extend(world.sent());
    }
    assert_eq!(answered, (0..FRAMES).map(|number| number.to_le_bytes().repeat(49)).collect::<Vec<_>>());
}

#[test]
fn in_bulk_there_is_less_than_one_notification_and_one_wake_for_64_kb() {
    const FRAMES: u32 = if cfg!(miri) { 10 } else { 100 };
    let mut world = World::connected();
    let frame = Frame::unfinished(tcp_frame(65_535, 0), Some(1448));
    let mut free = vec![0, 16, 32];
    let _ = world.system.take_calls();
    world.wakes = 0;
    let mut sent = 0;
    while sent < FRAMES || free.len() < 3 {
        while let Some(page) = free.pop().filter(|_| sent < FRAMES) {
            world.transmit_with(page, &frame.bytes, segments(1448));
            sent += 1;
        }
        world.settle();
        free.extend(world.replies().into_iter().map(|reply| match reply {
            Reply::Transmitted { page: TxPage(page) } => page,
            other => panic!("{other:?}"),
        }));
        if sent == FRAMES {
            break;
        }
        assert!(!free.is_empty(), "tcpip has no room for a frame, and sent ones are not reported");
    }
    assert!(world.events_sent() <= FRAMES as usize, "{} events sent", world.events_sent());
    assert!(world.wakes <= FRAMES, "{} wakes", world.wakes);
}

#[test]
fn the_clock_is_not_read_for_frames() {
    let mut world = World::connected();
    world.transmit(0, &[1; 60]);
    world.settle();
    let reads = world.system.clock_reads();
    for round in 1..50 {
        world.transmit(round % PAGES, &[1; 60]);
        world.back.waiting.push_back(vec![2; 60].into());
        world.settle();
        for reply in world.replies() {
            if let Reply::Received { page, .. } = reply {
                world.ask(return_pages(page, 1));
            }
        }
    }
    assert_eq!(world.system.clock_reads(), reads);
}

#[test]
fn a_batch_costs_one_event_each_way() {
    let mut world = World::connected();
    world.back.waiting.extend((0..8).map(|_| vec![1; 60].into()));
    for page in 0..8 {
        world.transmit(page, &[1; 60]);
    }
    let _ = world.system.take_calls();
    world.wake();
    assert_eq!(world.events_sent(), 1);
    world.wakes = 0;
    world.settle();
    assert_eq!(world.wakes, 1);
}

#[test]
fn a_full_queue_to_tcpip_loses_no_page() {
    let mut world = World::bare(4);
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    world.back.waiting.extend((0..40u8).map(|number| vec![number; 60].into()));
    let mut got = Vec::new();
    for _ in 0..60 {
        world.settle();
        got.extend(world.received().into_iter().map(|(frame, _)| frame[0]));
    }
    assert_eq!(got, (0..40).collect::<Vec<u8>>());
}

/// The parts of a frame do not all fit into the queue, and nothing comes between them.
#[test]
fn the_parts_of_a_frame_follow_each_other_through_a_full_queue() {
    let mut world = World::bare(2);
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    let frames: Vec<_> = (0..if cfg!(miri) { 3 } else { 20 })
        .map(|seed| Frame::unfinished(tcp_frame(20_000, seed), Some(1448)))
        .collect();
    world.back.waiting.extend(frames.clone());
    let (mut got, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..if cfg!(miri) { 30 } else { 200 } {
        world.settle();
        for reply in world.replies() {
            let Reply::Received { page, length, more, .. } = reply else { panic!("{reply:?}") };
            bytes.extend(world.rx_pool.bytes(usize::from(page.0) * PAGE_SIZE, usize::from(length.get())));
            world.ask(return_pages(page, length.get().div_ceil(4096)));
            world.settle();
            if !more {
                got.push(std::mem::take(&mut bytes));
            }
        }
    }
    assert_eq!(got, frames.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>());
}

#[test]
fn a_reply_does_not_overtake_one_that_found_the_queue_full() {
    let (mut client, mut server) = channel::<Net, _>(&Recorder::new(), 0, &Recorder::new(), 1, 2);
    let mut unsent = arrayvec::ArrayVec::new();
    let mut tell = |page| {
        crate::traffic::send_or_keep(&mut server.replies, &mut unsent, Reply::Transmitted { page: TxPage(page) });
        server.replies.flush();
        unsent.len()
    };
    assert_eq!([tell(0), tell(1), tell(2)], [0, 0, 1]);
    for page in 0..2 {
        assert_eq!(client.replies.pop(), Some(Ok(Reply::Transmitted { page: TxPage(page) })));
    }
    client.replies.release();
    assert_eq!(tell(3), 2, "there is room, but not for this one");
}
