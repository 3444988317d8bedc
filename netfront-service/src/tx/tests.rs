use core::num::NonZeroU16;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cloister_caps::xen::netif::TX_SLOTS as SLOTS;
use cloister_sim::{ChangingMemory, SharedMemory};
use proptest::prelude::*;

use super::*;

const NULL: i16 = status::NULL;

fn segments(size: u16) -> Offload {
    Offload::Segments(NonZeroU16::new(size).expect("not 0"))
}

fn transmit_over<M: Memory>(memory: M, pages: u16) -> Transmit<M> {
    let mut transmit = Transmit::new(memory, pages);
    transmit.reset();
    transmit.start(GrantRef(500), Offloads::all());
    transmit
}

fn transmit(pages: u16) -> (SharedMemory, Transmit<SharedMemory>) {
    let memory = SharedMemory::new(2 * PAGE_SIZE);
    (memory.clone(), transmit_over(memory, pages))
}

fn respond(memory: &SharedMemory, id: u16, status: i16) {
    let index = memory.load(8);
    let at = 64 + (index % SLOTS) as usize * SLOT;
    memory.write(at, &[id.to_le_bytes(), status.to_le_bytes()].concat());
    memory.store(8, index.wrapping_add(1));
}

/// Returns a request: reference, offset, flags, id, size.
fn request(memory: &SharedMemory, index: u32) -> (u32, u16, u16, u16, u16) {
    let at = 64 + (index % SLOTS) as usize * SLOT;
    let half = |at| u16::from_le_bytes(memory.bytes(at, 2).try_into().expect("two bytes"));
    (memory.load(at), half(at + 4), half(at + 6), half(at + 8), half(at + 10))
}

#[test]
fn a_request_is_laid_out_as_netif_says() {
    let (memory, mut transmit) = transmit(128);
    assert_eq!(transmit.submit(TxPage(5), 1514, Offload::None), Ok(()));
    assert!(transmit.publish());
    assert_eq!(memory.bytes(64, 12), [0xF9, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0xEA, 5]);
    assert_eq!(memory.load(0), 1);
    assert_eq!(transmit.submit(TxPage(6), 60, Offload::Checksum), Ok(()));
    assert_eq!(request(&memory, 1), (506, 0, 3, 6, 60));
}

#[test]
fn a_frame_to_cut_takes_a_slot_for_each_page_and_an_extra_info() {
    let (memory, mut transmit) = transmit(128);
    assert_eq!(transmit.submit(TxPage(10), 8193, segments(1448)), Ok(()));
    transmit.publish();
    assert_eq!(memory.load(0), 4);
    // The first slot has the whole length. Flags: csum_blank, data_validated, more_data,
    // extra_info.
    assert_eq!(request(&memory, 0), (510, 0, 15, 10, 8193));
    assert_eq!(memory.bytes(64 + 12, 8), [1, 0, 0xA8, 5, 1, 0, 0, 0]);
    assert_eq!(request(&memory, 2), (511, 0, 4, 10, 4096));
    assert_eq!(request(&memory, 3), (512, 0, 0, 10, 1));
}

#[test]
fn the_longest_frame_keeps_to_the_limits_of_netback() {
    let (memory, mut transmit) = transmit(128);
    assert_eq!(transmit.submit(TxPage(0), u16::MAX, segments(1448)), Ok(()));
    transmit.publish();
    assert_eq!(memory.load(0), 17);
    let sizes: Vec<u16> = (2..17).map(|index| request(&memory, index).4).collect();
    assert!(sizes.iter().all(|size| (1..=4096).contains(size)));
    assert_eq!(u16::MAX - sizes.iter().sum::<u16>(), 4096, "what is left for the first slot");
}

#[test]
fn whole_pages_have_no_empty_slot_after_them() {
    let (memory, mut transmit) = transmit(128);
    assert_eq!(transmit.submit(TxPage(0), 8192, segments(1448)), Ok(()));
    transmit.publish();
    assert_eq!((memory.load(0), request(&memory, 2)), (3, (501, 0, 0, 0, 4096)));
}

#[test]
fn impossible_frames_of_tcpip_are_refused() {
    let (_, mut transmit) = transmit(128);
    let long = segments(1448);
    for (page, length, offload, violation) in [
        (128, 60, Offload::None, RequestViolation::Page),
        (u16::MAX, 60, Offload::None, RequestViolation::Page),
        (0, 13, Offload::None, RequestViolation::Length),
        (0, 0, long, RequestViolation::Length),
        (0, 4097, Offload::None, RequestViolation::Length),
        (0, 4097, Offload::Checksum, RequestViolation::Length),
        (127, 4097, long, RequestViolation::Page),
        (113, u16::MAX, long, RequestViolation::Page),
    ] {
        assert_eq!(transmit.submit(TxPage(page), length, offload), Err(violation), "{page} {length} {offload:?}");
    }
    assert_eq!(transmit.pages_in_flight(), 0);
    assert_eq!(transmit.submit(TxPage(2), 4096, Offload::None), Ok(()));
    assert_eq!(transmit.submit(TxPage(3), 14, Offload::None), Ok(()), "a header alone");
    assert_eq!(transmit.submit(TxPage(2), 60, Offload::None), Err(RequestViolation::Owner));
    assert_eq!(transmit.submit(TxPage(0), 8193, long), Err(RequestViolation::Owner), "its last page is taken");
    assert_eq!(transmit.submit(TxPage(0), 8192, long), Ok(()));
    assert_eq!(transmit.submit(TxPage(1), 60, Offload::None), Err(RequestViolation::Owner));
}

#[test]
fn work_that_was_not_offered_is_refused() {
    for (offers, checksum, split) in [
        (Offloads::empty(), Err(RequestViolation::Offload), Err(RequestViolation::Offload)),
        (Offloads::CHECKSUM, Ok(()), Err(RequestViolation::Offload)),
        (Offloads::all(), Ok(()), Ok(())),
    ] {
        let (_, mut transmit) = transmit(128);
        transmit.start(GrantRef(500), offers);
        assert_eq!(transmit.submit(TxPage(0), 60, Offload::Checksum), checksum);
        assert_eq!(transmit.submit(TxPage(1), 9000, segments(1448)), split);
    }
}

#[test]
fn frames_are_sent_across_the_wrap_of_the_indices() {
    for before in (240..=256u32).step_by(if cfg!(miri) { 8 } else { 1 }) {
        let (memory, mut transmit) = transmit(128);
        for round in 0..before + 40 {
            if round == before {
                transmit.ring.advance_rounds(u32::MAX / SLOTS);
            }
            let (page, offload) = ((round % 32) as u16 * 4, segments(1448));
            if round < before {
                assert_eq!(transmit.submit(TxPage(page), 60, Offload::None), Ok(()));
            } else {
                assert_eq!(transmit.submit(TxPage(page), 8193, offload), Ok(()));
            }
            transmit.publish();
            let slots = if round < before { 1 } else { 4 };
            for slot in 0..slots {
                respond(&memory, page, if slot == 1 { NULL } else { 0 });
            }
            assert_eq!(
                (transmit.reap(), transmit.reap(), transmit.pages_in_flight()),
                (Ok(Some(TxPage(page))), Ok(None), 0)
            );
        }
        assert_eq!((memory.load(0), memory.load(8)), (before + 160 - 256, before + 160 - 256));
    }
}

#[test]
fn completions_come_in_any_order_and_each_once() {
    let (memory, mut transmit) = transmit(128);
    for page in 0..3 {
        transmit.submit(TxPage(page), 60, Offload::None).expect("a frame");
    }
    transmit.publish();
    respond(&memory, 2, 0);
    respond(&memory, 0, -1);
    assert_eq!(transmit.reap(), Ok(Some(TxPage(2))));
    assert_eq!(transmit.reap(), Ok(Some(TxPage(0))));
    assert_eq!((transmit.reap(), transmit.dropped), (Ok(None), 1));
    respond(&memory, 2, 0);
    assert_eq!(transmit.reap(), Err(Violation::Id));
}

#[test]
fn a_frame_is_given_back_once_when_all_its_slots_have_a_response() {
    let (memory, mut transmit) = transmit(128);
    transmit.submit(TxPage(10), 8193, segments(1448)).expect("a frame");
    transmit.publish();
    respond(&memory, 10, 0);
    respond(&memory, 10, 0);
    // The id in the response to the extra info is what the slot held before.
    respond(&memory, 11, NULL);
    assert_eq!((transmit.reap(), transmit.pages_in_flight()), (Ok(None), 3));
    assert_eq!(
        transmit.submit(TxPage(10), 60, Offload::None),
        Err(RequestViolation::Owner),
        "a page of a frame that is not done"
    );
    respond(&memory, 10, 0);
    assert_eq!((transmit.reap(), transmit.reap(), transmit.pages_in_flight()), (Ok(Some(TxPage(10))), Ok(None), 0));
    assert_eq!(transmit.submit(TxPage(12), 60, Offload::None), Ok(()));
}

#[test]
fn each_status_of_a_response_has_its_meaning() {
    for (status, anomalies, dropped) in [
        (0, 0, 0),
        (-1, Anomaly::NotSent as u8, 1),
        (i16::MIN, Anomaly::NotSent as u8, 1),
        (2, Anomaly::UnknownStatus as u8, 0),
        (i16::MAX, Anomaly::UnknownStatus as u8, 0),
    ] {
        let (memory, mut transmit) = transmit(128);
        transmit.submit(TxPage(0), 60, Offload::None).expect("a frame");
        transmit.publish();
        respond(&memory, 0, status);
        assert_eq!(transmit.reap(), Ok(Some(TxPage(0))));
        assert_eq!((transmit.anomalies, transmit.dropped), (anomalies, dropped), "{status}");
    }
}

#[test]
fn a_page_inside_a_frame_and_a_frame_that_waits_have_no_response() {
    let (memory, mut transmit) = transmit(128);
    transmit.submit(TxPage(10), 8193, segments(1448)).expect("a frame");
    transmit.publish();
    respond(&memory, 11, 0);
    assert_eq!(transmit.reap(), Err(Violation::Id));
    let (memory, mut transmit) = self::transmit(256);
    for page in 0..129 {
        transmit.submit(TxPage(page), 60, segments(100)).expect("a frame");
    }
    transmit.publish();
    respond(&memory, 128, 0);
    assert_eq!(transmit.reap(), Err(Violation::Id));
}

#[test]
fn a_response_to_no_extra_info_is_a_violation() {
    let (memory, mut transmit) = transmit(128);
    transmit.submit(TxPage(0), 60, Offload::None).expect("a frame");
    transmit.submit(TxPage(1), 60, segments(100)).expect("a frame");
    transmit.publish();
    respond(&memory, 0, NULL);
    assert_eq!(transmit.reap(), Ok(None), "it is one response for one extra info, whatever its id");
    respond(&memory, 0, NULL);
    assert_eq!(transmit.reap(), Err(Violation::Id));
}

#[test]
fn an_unknown_id_and_a_jump_are_violations() {
    for id in [1, 127, 128, 255, 256, u16::MAX] {
        let (memory, mut transmit) = transmit(128);
        transmit.submit(TxPage(0), 60, Offload::None).expect("a frame");
        transmit.publish();
        respond(&memory, id, 0);
        assert_eq!(transmit.reap(), Err(Violation::Id));
    }
    let (memory, mut transmit) = transmit(128);
    memory.store(8, 1);
    assert_eq!(transmit.reap(), Err(Violation::Producer));
}

/// The ring is full while the back end leaves extra infos unanswered: Mini-OS and Unikraft spin
/// there.
#[test]
fn a_full_ring_does_not_block_and_waiting_frames_go_out_in_order() {
    let (memory, mut transmit) = transmit(256);
    for page in 0..200 {
        assert_eq!(transmit.submit(TxPage(page), 60, segments(100)), Ok(()));
    }
    transmit.publish();
    assert_eq!((memory.load(0), transmit.pages_in_flight()), (256, 200), "128 frames of two slots each");
    assert_eq!(transmit.submit(TxPage(200), 60, Offload::None), Ok(()));
    transmit.publish();
    assert_eq!(memory.load(0), 256);
    for page in 0..5 {
        respond(&memory, page, 0);
        respond(&memory, 0, NULL);
        assert_eq!((transmit.reap(), transmit.reap()), (Ok(Some(TxPage(page))), Ok(None)));
        transmit.publish();
        let next = u32::from(page) * 2 + 256;
        assert_eq!((memory.load(0), request(&memory, next).3), (next + 2, page + 128));
    }
}

#[test]
fn a_short_frame_does_not_overtake_a_long_one_that_waits() {
    let (memory, mut transmit) = transmit(256);
    for page in 0..126 {
        transmit.submit(TxPage(page), 60, segments(100)).expect("a frame");
    }
    transmit.submit(TxPage(126), 5 * 4096, segments(1448)).expect("a frame of six slots, where four are left");
    transmit.submit(TxPage(131), 60, Offload::None).expect("a frame of one");
    transmit.publish();
    assert_eq!(memory.load(0), 252);
    respond(&memory, 0, 0);
    respond(&memory, 0, NULL);
    assert_eq!((transmit.reap(), transmit.reap()), (Ok(Some(TxPage(0))), Ok(None)));
    transmit.publish();
    assert_eq!((memory.load(0), request(&memory, 252).3), (258, 126));
}

#[test]
fn events_are_rare_but_never_missing_when_pages_are() {
    let (memory, mut transmit) = transmit(128);
    for page in 0..10 {
        transmit.submit(TxPage(page), 60, Offload::None).expect("a frame");
    }
    transmit.publish();
    assert_eq!(transmit.arm(false), Ok(false));
    assert_eq!(memory.load(12), 32);
    assert_eq!(transmit.arm(true), Ok(false));
    assert_eq!(memory.load(12), 1);
    for page in 10..128 {
        transmit.submit(TxPage(page), 60, Offload::None).expect("a frame");
    }
    transmit.publish();
    assert_eq!(transmit.arm(false), Ok(false));
    assert_eq!(memory.load(12), 32);
    for page in 0..32 {
        respond(&memory, page, 0);
    }
    assert_eq!(transmit.arm(false), Ok(true));
}

/// One slot of each frame has no response: responses for a quarter of the pool would never come.
#[test]
fn an_event_is_for_no_more_than_is_missing_when_pages_are() {
    for (frames, ahead) in [(6, 32), (7, 7), (8, 8)] {
        let (memory, mut transmit) = transmit(128);
        for frame in 0..frames {
            transmit.submit(TxPage(frame * 16), u16::MAX, segments(1448)).expect("a frame");
        }
        transmit.publish();
        for frame in 0..frames {
            respond(&memory, frame * 16, NULL);
            (0..15).for_each(|_| respond(&memory, frame * 16, 0));
        }
        assert_eq!(transmit.reap(), Ok(None));
        assert_eq!(transmit.arm(false), Ok(false));
        assert_eq!(memory.load(12) - memory.load(8), ahead, "{frames} frames of 16 pages");
    }
}

/// One event a page would be sixteen for 64 KB.
#[test]
fn in_bulk_there_is_one_event_for_two_of_the_longest_frames() {
    let (memory, mut transmit) = transmit(128);
    let mut slots = VecDeque::new();
    let submit = |transmit: &mut Transmit<SharedMemory>, page: u16, slots: &mut VecDeque<u16>| {
        transmit.submit(TxPage(page), u16::MAX, segments(1448)).expect("a frame");
        slots.extend(page..page + 16);
    };
    for frame in 0..8 {
        submit(&mut transmit, frame * 16, &mut slots);
    }
    let (mut events, mut frames) = (0, 0);
    for _ in 0..100 {
        transmit.publish();
        assert_eq!(transmit.arm(false), Ok(false));
        let event = memory.load(12);
        while memory.load(8) < event {
            let page = slots.pop_front().expect("enough is in flight for the event to come");
            respond(&memory, page / 16 * 16, 0);
            if page % 16 == 0 {
                respond(&memory, page, NULL);
            }
        }
        events += 1;
        while let Some(TxPage(page)) = transmit.reap().expect("honest") {
            frames += 1;
            submit(&mut transmit, page, &mut slots);
        }
    }
    assert!(frames >= events * 3 / 2, "{events} events for {frames} frames");
}

/// The frames of a random run: the pages that tcpip has, and the frames that it has sent.
#[derive(Default)]
struct Model {
    taken: BTreeSet<u16>,
    frames: BTreeMap<u16, u16>,
}

impl Model {
    fn submit<M: Memory>(&mut self, transmit: &mut Transmit<M>, page: u16, length: u16, offload: Offload) {
        let pages = page..page.saturating_add(length.div_ceil(4096));
        let free = pages.clone().all(|page| page < 32 && !self.taken.contains(&page));
        let submitted = transmit.submit(TxPage(page), length, offload).is_ok();
        assert!(!submitted || free, "{page} {length}");
        if submitted {
            self.frames.insert(page, pages.end - page);
            self.taken.extend(pages);
        }
    }

    fn gave_back(&mut self, page: u16) {
        let pages = self.frames.remove(&page).expect("a frame is given back once");
        for page in page..page + pages {
            assert!(self.taken.remove(&page));
        }
    }
}

fn offload() -> impl Strategy<Value = Offload> {
    prop_oneof![Just(Offload::None), Just(Offload::Checksum), (1..=u16::MAX).prop_map(segments)]
}

proptest! {
    #[test]
    fn no_page_is_owned_twice(
        steps in prop::collection::vec((0u16..40, 0u16..20000, offload(), prop::option::of((0u16..40, -2i16..3))), 0..200),
        jump: Option<u32>,
    ) {
        let (memory, mut transmit) = transmit(32);
        let mut model = Model::default();
        for (page, length, offload, response) in steps {
            model.submit(&mut transmit, page, length, offload);
            transmit.publish();
            if let Some((id, status)) = response { respond(&memory, id, status); }
            match transmit.reap() {
                Ok(Some(TxPage(page))) => model.gave_back(page),
                Ok(None) => {}
                Err(_) => return Ok(()),
            }
            prop_assert_eq!(transmit.pages_in_flight() as usize, model.taken.len());
        }
        if let Some(jump) = jump { memory.store(8, jump); }
        while let Ok(Some(TxPage(page))) = transmit.reap() { model.gave_back(page); }
        prop_assert_eq!(transmit.pages_in_flight() as usize, model.taken.len());
    }

    #[test]
    fn memory_that_changes_under_the_reader_gives_no_page_twice(seed: u64, one_in in 1u64..40, offload in offload()) {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        let mut transmit = transmit_over(ChangingMemory::new(memory.clone(), seed, one_in), 32);
        let mut model = Model::default();
        for round in 0..200u16 {
            model.submit(&mut transmit, round * 7 % 32, 60 + round * 40, offload);
            transmit.publish();
            respond(&memory, round % 32, i16::from(round % 3 == 0));
            while let Ok(page) = transmit.reap() {
                let Some(TxPage(page)) = page else { break };
                model.gave_back(page);
            }
            if transmit.arm(false).is_err() { break; }
        }
        prop_assert_eq!(transmit.pages_in_flight() as usize, model.taken.len());
    }
}
