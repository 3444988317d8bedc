use cloister_interfaces::PageRun;
use cloister_sim::{ChangingMemory, SharedMemory};
use proptest::prelude::*;

use super::*;

const RX: usize = PAGE_SIZE;
const MORE: u16 = MORE_DATA;
const EXTRA: u16 = EXTRA_INFO;
const GSO: [u8; 8] = [1, 0, 0xA8, 5, 1, 0, 0, 0];

fn receive_over<M: Memory>(memory: M, pages: u16, offloads: bool) -> Receive<M> {
    let mut receive = Receive::new(memory, pages, offloads);
    receive.reset();
    receive.start(GrantRef(300));
    receive.publish();
    receive
}

fn receive(pages: u16) -> (SharedMemory, Receive<SharedMemory>) {
    let memory = SharedMemory::new(2 * PAGE_SIZE);
    (memory.clone(), receive_over(memory, pages, true))
}

fn put(memory: &SharedMemory, slot: [u8; 8]) {
    let index = memory.load(RX + 8);
    memory.write(RX + 64 + (index % SLOTS) as usize * SLOT, &slot);
    memory.store(RX + 8, index.wrapping_add(1));
}

fn respond(memory: &SharedMemory, id: u16, offset: u16, flags: u16, status: i16) {
    let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
    put(memory, fields.concat().try_into().expect("four halves"));
}

/// Responds with the right id.
fn answer(memory: &SharedMemory, flags: u16, status: i16) {
    respond(memory, (memory.load(RX + 8) % SLOTS) as u16, 0, flags, status);
}

/// Returns the page that was posted at an index.
fn posted(memory: &SharedMemory, index: u32) -> u32 {
    memory.load(RX + 64 + (index % SLOTS) as usize * SLOT + 4) - 300
}

fn part(page: u16, offset: u16, length: u16) -> Part {
    let (offset, length) = (PageOffset::new(offset), NonZeroU16::new(length));
    Part { page: RxPage(page), offset: offset.expect("in the page"), length: length.expect("bytes") }
}

/// Has tcpip give pages back.
fn take_back<M: Memory>(receive: &mut Receive<M>, page: u16, count: u16) -> Result<(), RequestViolation> {
    receive.take_back(RxRun(PageRun::new(page, count).expect("a run")))
}

/// Returns the next frame: its parts, and whether it is checked.
fn take<M: Memory>(receive: &mut Receive<M>) -> Result<Option<(Vec<Part>, bool)>, Violation> {
    Ok(receive.next_frame()?.map(|frame| (frame.parts.to_vec(), frame.checked)))
}

#[test]
fn all_pages_are_posted_at_the_start() {
    let (memory, _) = receive(128);
    assert_eq!(memory.load(RX), 128);
    assert_eq!(memory.bytes(RX + 64 + 5 * 8, 8), [5, 0, 0, 0, 0x31, 1, 0, 0]);
}

#[test]
fn a_page_goes_to_tcpip_and_back_on_the_ring_round_and_round() {
    let (memory, mut receive) = receive(3);
    for round in 0u32..if cfg!(miri) { 50 } else { 1000 } {
        answer(&memory, 0, 60);
        let page = (round % 3) as u16;
        assert_eq!(take(&mut receive), Ok(Some((vec![part(page, 0, 60)], false))));
        assert_eq!(take(&mut receive), Ok(None));
        assert_eq!(take_back(&mut receive, page, 1), Ok(()));
        receive.publish();
        assert_eq!(memory.load(RX), round + 4);
    }
}

#[test]
fn a_response_that_comes_while_arming_is_not_missed() {
    let (memory, mut receive) = receive(3);
    answer(&memory, 0, 60);
    assert_eq!(take(&mut receive), Ok(Some((vec![part(0, 0, 60)], false))));
    assert_eq!((take(&mut receive), receive.arm(), memory.load(RX + 12)), (Ok(None), Ok(false), 2));
    answer(&memory, 0, 60);
    assert_eq!(receive.arm(), Ok(true));
    memory.store(RX + 8, 4);
    assert_eq!(receive.arm(), Err(Violation::Producer));
}

/// The indices go from 2^32 - 1 to 0 within a frame, at an extra info, and between two frames.
#[test]
fn frames_come_across_the_wrap_of_the_indices() {
    for before in (240..=256u32).step_by(if cfg!(miri) { 8 } else { 1 }) {
        let (memory, mut receive) = receive(4);
        for _ in 0..before {
            answer(&memory, 0, 60);
            let (parts, _) = take(&mut receive).expect("honest").expect("a frame");
            assert_eq!(take_back(&mut receive, parts[0].page.0, 1), Ok(()));
            receive.publish();
        }
        receive.ring.advance_rounds(u32::MAX / SLOTS);
        for _ in 0..20 {
            answer(&memory, MORE | EXTRA, 4096);
            put(&memory, GSO);
            answer(&memory, 0, 100);
            let (parts, _) = take(&mut receive).expect("honest").expect("a frame");
            for page in parts.iter().flat_map(|part| part.page.0..part.page.0 + part.length.get().div_ceil(4096)) {
                assert_eq!(take_back(&mut receive, page, 1), Ok(()));
            }
            receive.publish();
        }
        assert_eq!((memory.load(RX + 8), memory.load(RX)), (before + 60 - 256, before + 64 - 256));
        memory.store(RX + 8, before + 65 - 256);
        assert_eq!(take(&mut receive), Err(Violation::Producer));
    }
}

#[test]
fn tcpip_gives_back_only_what_it_has_and_once() {
    let (memory, mut receive) = receive(4);
    assert_eq!(take_back(&mut receive, 0, 1), Err(RequestViolation::Owner));
    for (page, count) in [(4, 1), (0, 5), (3, 2), (u16::MAX, 1), (1, u16::MAX)] {
        assert_eq!(take_back(&mut receive, page, count), Err(RequestViolation::Page), "{page} {count}");
    }
    answer(&memory, MORE, 4096);
    answer(&memory, 0, 14);
    assert_eq!(take(&mut receive), Ok(Some((vec![part(0, 0, 4110)], false))));
    assert_eq!(take_back(&mut receive, 1, 2), Err(RequestViolation::Owner), "the second is not its own");
    assert_eq!(take_back(&mut receive, 1, 1), Ok(()), "nothing was taken");
    assert_eq!(take_back(&mut receive, 0, 1), Ok(()));
    assert_eq!(take_back(&mut receive, 0, 1), Err(RequestViolation::Owner));
}

#[test]
fn responses_without_a_frame_are_posted_again() {
    let (memory, mut receive) = receive(4);
    for (id, status) in [(0, -1), (1, 0), (2, 13), (3, i16::MIN)] {
        respond(&memory, id, 0, 0, status);
    }
    assert_eq!((take(&mut receive), receive.dropped), (Ok(None), 4));
    receive.publish();
    assert_eq!(memory.load(RX), 8);
    respond(&memory, 4, 100, 0, 3996);
    assert_eq!(take(&mut receive), Ok(Some((vec![part(0, 100, 3996)], false))));
}

#[test]
fn a_long_frame_is_one_part_but_for_its_first_page_and_the_extra_infos_page_is_posted_again() {
    let (memory, mut receive) = receive(64);
    for round in 0u32..50 {
        let start = (round * 17 % 64) as u16;
        let page = |step: u16| (start + step) % 64;
        answer(&memory, MORE | EXTRA | 2, 4096);
        put(&memory, GSO);
        for _ in 0..14 {
            answer(&memory, MORE, 4096);
        }
        answer(&memory, 0, 100);
        let (parts, checked) = take(&mut receive).expect("honest").expect("a frame");
        assert!(checked);
        assert_eq!(parts.iter().map(|part| u32::from(part.length.get())).sum::<u32>(), 15 * 4096 + 100);
        let wraps = usize::from(page(2) > page(16));
        assert!(parts.len() <= 2 + wraps, "{parts:?}");
        assert_eq!(parts[0], part(page(0), 0, 4096));
        assert_eq!(parts[1].page.0, page(2));
        // All pages but the one that the extra info took.
        for step in (0..17).filter(|step| *step != 1) {
            assert_eq!(take_back(&mut receive, page(step), 1), Ok(()));
        }
        receive.publish();
        assert_eq!(memory.load(RX), 64 + 17 * (round + 1));
        assert_eq!(posted(&memory, memory.load(RX) - 16), u32::from(page(1)));
    }
}

#[test]
fn a_part_is_no_longer_than_its_length_field_can_hold() {
    let (memory, mut receive) = receive(64);
    for _ in 0..16 {
        answer(&memory, MORE, 4096);
    }
    answer(&memory, 0, 17);
    let expected = vec![part(0, 0, 61440), part(15, 0, 4096 + 17)];
    assert_eq!(take(&mut receive), Ok(Some((expected, false))), "the longest frame that there is");
    for _ in 0..16 {
        answer(&memory, MORE, 4096);
    }
    answer(&memory, 0, 18);
    assert_eq!((take(&mut receive), receive.dropped), (Ok(None), 1), "a byte longer");
}

#[test]
fn a_frame_with_holes_has_a_run_for_each_part() {
    let (memory, mut receive) = receive(8);
    respond(&memory, 0, 96, MORE, 4000);
    respond(&memory, 1, 0, MORE, 100);
    respond(&memory, 2, 8, MORE, 100);
    respond(&memory, 3, 0, 0, 1);
    let parts = vec![part(0, 96, 4100), part(2, 8, 100), part(3, 0, 1)];
    assert_eq!(take(&mut receive), Ok(Some((parts, false))));
    respond(&memory, 4, 0, MORE, 4096);
    respond(&memory, 5, 8, 0, 100);
    assert_eq!(take(&mut receive), Ok(Some((vec![part(4, 0, 4096), part(5, 8, 100)], false))));
}

#[test]
fn a_frame_waits_for_all_its_slots() {
    let (memory, mut receive) = receive(8);
    answer(&memory, MORE | EXTRA | 1, 4096);
    assert_eq!(take(&mut receive), Ok(None));
    put(&memory, GSO);
    assert_eq!(take(&mut receive), Ok(None));
    answer(&memory, MORE, 4096);
    assert_eq!(take(&mut receive), Ok(None));
    assert_eq!(
        take_back(&mut receive, 0, 1),
        Err(RequestViolation::Owner),
        "a page of a frame that was not sent to tcpip"
    );
    answer(&memory, 0, 7);
    assert_eq!(take(&mut receive), Ok(Some((vec![part(0, 0, 4096), part(2, 0, 4103)], true))));
}

#[test]
fn a_frame_with_one_bad_slot_is_dropped_whole() {
    for bad in 0..4 {
        for status in [-1, 0, i16::MIN] {
            let (memory, mut receive) = receive(8);
            for slot in 0..4 {
                let more = if slot < 3 { MORE } else { 0 };
                answer(&memory, more, if slot == bad { status } else { 1000 });
            }
            assert_eq!((take(&mut receive), receive.dropped), (Ok(None), 1));
            receive.publish();
            assert_eq!(memory.load(RX), 12, "its pages are posted again");
            answer(&memory, 0, 60);
            assert_eq!(take(&mut receive), Ok(Some((vec![part(4, 0, 60)], false))));
        }
    }
}

#[test]
fn the_first_slot_marks_checksums_as_checked_only_if_negotiated() {
    for flags in 0..4 {
        for offloads in [false, true] {
            let memory = SharedMemory::new(2 * PAGE_SIZE);
            let mut receive = receive_over(memory.clone(), 4, offloads);
            answer(&memory, flags, 60);
            assert_eq!(take(&mut receive), Ok(Some((vec![part(0, 0, 60)], offloads && flags != 0))));
        }
    }
    let (memory, mut receive) = receive(4);
    answer(&memory, MORE, 60);
    answer(&memory, 3, 60);
    assert!(!receive.next_frame().expect("honest").expect("a frame").checked);
}

/// Pages that come back in any order are posted in the order of the pool, so that long frames stay
/// in one piece.
#[test]
fn the_order_of_the_pool_is_kept_while_half_of_it_is_posted() {
    let (memory, mut receive) = receive(16);
    for _ in 0..10 {
        answer(&memory, 0, 60);
        take(&mut receive).expect("honest").expect("a frame");
    }
    for page in [4, 1, 2] {
        take_back(&mut receive, page, 1).expect("its own");
    }
    receive.publish();
    assert_eq!(memory.load(RX), 18, "six were posted, which is less than half: 0 is not waited for, but 3 is");
    assert_eq!([posted(&memory, 16), posted(&memory, 17)], [1, 2]);
    for page in [9, 5, 3] {
        take_back(&mut receive, page, 1).expect("its own");
    }
    receive.publish();
    assert_eq!(memory.load(RX), 21);
    assert_eq!([18, 19, 20].map(|index| posted(&memory, index)), [3, 4, 5]);
}

#[test]
fn every_impossible_response_is_a_violation() {
    let cases = [
        (1, 0, 0, 60, Violation::Id),
        (u16::MAX, 0, 0, 60, Violation::Id),
        (0, 101, 0, 3996, Violation::Bounds),
        (0, u16::MAX, 0, i16::MAX, Violation::Bounds),
        (0, 0, 0, 4097, Violation::Bounds),
        (0, 0, 16, 60, Violation::Features),
        (0, 0, 0x8000, 60, Violation::Features),
    ];
    for (id, offset, flags, status, violation) in cases {
        let (memory, mut receive) = receive(4);
        respond(&memory, id, offset, flags, status);
        assert_eq!(take(&mut receive), Err(violation));
    }
    let (memory, mut receive) = receive(4);
    memory.store(RX + 8, 5);
    assert_eq!(take(&mut receive), Err(Violation::Producer));
}

#[test]
fn what_was_not_negotiated_is_a_violation() {
    for flags in [MORE, EXTRA, MORE | EXTRA] {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        let mut receive = receive_over(memory.clone(), 4, false);
        answer(&memory, flags, 60);
        assert_eq!(take(&mut receive), Err(Violation::Features));
    }
    let (memory, mut receive) = receive(8);
    answer(&memory, MORE, 60);
    answer(&memory, EXTRA, 60);
    assert_eq!(take(&mut receive), Err(Violation::Features), "an extra info in the middle of a frame");
    let extras = [
        [0, 0, 0xA8, 5, 1, 0, 0, 0],
        [2, 0, 0xA8, 5, 1, 0, 0, 0],
        [5, 0, 0xA8, 5, 1, 0, 0, 0],
        [1, 1, 0xA8, 5, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 0, 0],
        [1, 0, 0xA8, 5, 0, 0, 0, 0],
        [1, 0, 0xA8, 5, 2, 0, 0, 0],
        [1, 0, 0xA8, 5, 1, 0, 1, 0],
    ];
    for extra in extras {
        let (memory, mut receive) = self::receive(8);
        answer(&memory, EXTRA, 60);
        put(&memory, extra);
        assert_eq!(take(&mut receive), Err(Violation::Features), "{extra:?}");
    }
}

#[test]
fn a_frame_without_an_end_is_a_violation() {
    let (memory, mut receive) = receive(64);
    for _ in 0..MAX_SLOTS {
        answer(&memory, MORE, 60);
    }
    assert_eq!(take(&mut receive), Ok(None));
    answer(&memory, MORE, 60);
    assert_eq!(take(&mut receive), Err(Violation::Slots));
}

/// Returns the number of pages on the ring, unposted, lent to tcpip, and in the frame being
/// received.
fn page_counts<M: Memory>(receive: &Receive<M>) -> [usize; 4] {
    let count = |set: &PageSet| (0..MAX_PAGES as u16).filter(|page| set.contains(*page)).count();
    assert_eq!(count(&receive.unposted), receive.unposted_count as usize);
    [receive.ring.outstanding() as usize, count(&receive.unposted), count(&receive.lent), receive.frame_pages.len()]
}

/// Takes all frames, as tcpip does. Returns `false` after a violation.
fn take_all<M: Memory>(receive: &mut Receive<M>, lent: &mut Vec<u16>) -> bool {
    loop {
        let parts = match receive.next_frame() {
            Ok(Some(frame)) => frame.parts.clone(),
            Ok(None) => return true,
            Err(_) => return false,
        };
        assert!(!parts.is_empty());
        for part in parts {
            let end = usize::from(part.offset.get()) + usize::from(part.length.get());
            for page in part.page.0..part.page.0 + end.div_ceil(PAGE_SIZE) as u16 {
                assert!(page < receive.pages && !lent.contains(&page), "page {page} is had twice");
                lent.push(page);
            }
        }
    }
}

proptest! {
    #[test]
    fn pages_are_conserved_whatever_comes(
        steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>(), 0u16..200, 0u16..16, -20i16..4200), 1..300)
    ) {
        let (memory, mut receive) = receive(24);
        let mut lent = Vec::new();
        for (kind, index, offset, flags, status) in steps {
            match kind {
                0..2 if !lent.is_empty() => {
                    let page = lent.swap_remove(index.index(lent.len()));
                    prop_assert_eq!(take_back(&mut receive, page, 1), Ok(()));
                }
                2 => put(&memory, GSO),
                3 => respond(&memory, (memory.load(RX + 8) % SLOTS) as u16, offset, flags, status),
                4 => answer(&memory, MORE | EXTRA, 4096),
                5 => answer(&memory, MORE, 4096),
                _ => answer(&memory, 0, 60),
            }
            if !take_all(&mut receive, &mut lent) { return Ok(()); }
            prop_assert_eq!(page_counts(&receive).iter().sum::<usize>(), 24);
            receive.publish();
            prop_assert_eq!(page_counts(&receive).iter().sum::<usize>(), 24);
            prop_assert_eq!(page_counts(&receive)[2], lent.len());
            let [posted, unposted_count, ..] = page_counts(&receive);
            prop_assert!(unposted_count == 0 || posted >= 12, "{} idle, {} posted", unposted_count, posted);
        }
    }

    #[test]
    fn memory_that_changes_under_the_reader_gives_no_page_twice_nor_bytes_outside(seed: u64, one_in in 1u64..40) {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        let mut receive = receive_over(ChangingMemory::new(memory.clone(), seed, one_in), 24, true);
        let mut lent = Vec::new();
        for round in 0..300 {
            if memory.load(RX + 8) != memory.load(RX) {
                match round % 5 {
                    0 => answer(&memory, MORE | EXTRA, 4096),
                    1 => put(&memory, GSO),
                    2 => answer(&memory, MORE, 4096),
                    _ => answer(&memory, 0, 60),
                }
            }
            if !take_all(&mut receive, &mut lent) { break; }
            while lent.len() > 5 { prop_assert_eq!(take_back(&mut receive, lent.remove(0), 1), Ok(())); }
            receive.publish();
            prop_assert_eq!(page_counts(&receive).iter().sum::<usize>(), 24);
        }
    }
}
