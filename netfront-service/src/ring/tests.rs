//! The ring against indices that a back end may write.

use super::*;
use cloister_sim::SharedMemory;
use proptest::prelude::*;

fn ring() -> (SharedMemory, FrontRing<SharedMemory, 12>) {
    let memory = SharedMemory::new(2 * PAGE_SIZE);
    memory.write(0, &[0xFF; 2 * PAGE_SIZE]);
    let mut ring = FrontRing::new(memory.clone(), PAGE_SIZE);
    ring.reset();
    (memory, ring)
}

#[test]
fn a_fresh_ring_is_zero_but_for_its_events() {
    let (memory, _) = ring();
    let mut expected = vec![0; PAGE_SIZE];
    (expected[4], expected[12]) = (1, 1);
    assert_eq!(memory.bytes(PAGE_SIZE, PAGE_SIZE), expected);
    assert_eq!(memory.bytes(0, PAGE_SIZE), vec![0xFF; PAGE_SIZE]);
}

#[test]
fn notifications_follow_the_macro() {
    let (memory, mut ring) = ring();
    assert!(!ring.publish());
    ring.push([1; 3]);
    assert!(ring.publish(), "req_event is 1 at first");
    ring.push([1; 3]);
    assert!(!ring.publish(), "the back end is awake");
    memory.store(PAGE_SIZE + REQ_EVENT, 4);
    ring.push([1; 3]);
    assert!(!ring.publish());
    ring.push([1; 3]);
    assert!(ring.publish());
}

#[test]
fn a_slot_is_free_without_an_outstanding_request() {
    let (memory, mut ring) = ring();
    for taken in 0..SLOTS {
        assert_eq!((ring.free_slots(), ring.outstanding()), (SLOTS - taken, taken));
        ring.push([7; 3]);
    }
    assert_eq!(ring.free_slots(), 0);
    ring.publish();
    memory.store(PAGE_SIZE + RSP_PROD, 2);
    assert_eq!((ring.free_slots(), ring.pop(), ring.pop(), ring.pop()), (0, Ok(Some(7)), Ok(Some(7)), Ok(None)));
    assert_eq!(ring.free_slots(), 2);
}

/// Tries several numbers of outstanding requests at each index around the wrap, with claims
/// near the valid ones and at the boundaries of 32 bits.
#[test]
fn claims_round_the_wrap_of_the_indices() {
    let (memory, mut ring) = ring();
    let (mut possible, mut impossible) = (0, 0);
    for first in (0..600).step_by(if cfg!(miri) { 97 } else { 1 }).map(|back: u32| 300u32.wrapping_sub(back)) {
        for outstanding in [0, 1, 2, 128, 255, 256] {
            (ring.rsp_cons, ring.published) = (first, first.wrapping_add(outstanding));
            ring.req_prod = ring.published;
            let near = [0, 1, 2, 127, 128, 254, 255, 256, 257, u32::MAX, u32::MAX - 255, 1 << 31, (1 << 31) - 1];
            for claim in near.map(|by: u32| first.wrapping_add(by)).into_iter().chain([0, 1, u32::MAX, 1 << 31]) {
                memory.store(PAGE_SIZE + RSP_PROD, claim);
                let ahead = i64::from(claim) - i64::from(first);
                let ahead = if ahead < 0 { ahead + (1 << 32) } else { ahead };
                let right = ahead <= i64::from(outstanding);
                assert_eq!(ring.ready(), if right { Ok(ahead as u32) } else { Err(Violation::Producer) });
                *(if right { &mut possible } else { &mut impossible }) += 1;
            }
        }
    }
    assert_eq!((possible, impossible), if cfg!(miri) { (197, 517) } else { (17_544, 43_656) });
}

proptest! {
    #[test]
    fn a_claim_of_the_peer_is_accepted_up_to_what_was_published(pushed in 0u32..=SLOTS, hidden in 0u32..4, claim: u32) {
        let (memory, mut ring) = ring();
        for _ in 0..pushed { ring.push([0; 3]); }
        ring.publish();
        for _ in 0..hidden { ring.push([0; 3]); }
        memory.store(PAGE_SIZE + RSP_PROD, claim);
        let expected = if claim <= pushed { Ok(claim) } else { Err(Violation::Producer) };
        prop_assert_eq!(ring.ready(), expected);
    }
}
