//! Tests a program's memory on the host, also under Miri. The answers of the kernel are made here;
//! everything else is the code that runs in the image.

use cloister_caps::Slot;
use cloister_caps::abi::region;
use cloister_interfaces::Memory;
use cloister_interfaces::message::MAX_MESSAGE;
use cloister_interfaces::system::ExclusiveMemory;
use proptest::prelude::*;

use crate::heap::Allocator;
use crate::memory::FoundRegion;
use crate::{OwnedRegion, SharedRegion};

/// Returns a region of `words` 8-byte words, each byte `fill`, for the rest of the run.
fn map(words: usize, fill: u8, flags: u64) -> FoundRegion {
    let memory = vec![u64::from_ne_bytes([fill; 8]); words].leak();
    map_at(memory.as_mut_ptr().expose_provenance(), memory.len() * 8, flags)
}

fn map_at(base: usize, length: usize, flags: u64) -> FoundRegion {
    // SAFETY: the callers have leaked the memory, or expect the region to be refused.
    unsafe { FoundRegion::from_answer([base as u64, length as u64 | flags]) }
}

#[test]
fn words_out_of_range_load_as_zero_and_are_not_stored() {
    let region = SharedRegion::of(map(4, 0, 0));
    assert_eq!(region.len(), 32);
    for offset in (0..32).step_by(4) {
        region.store(offset, 0x0102_0300 + offset as u32);
    }
    for offset in 0..40 {
        let expected = if offset % 4 == 0 && offset < 32 { 0x0102_0300 + offset as u32 } else { 0 };
        assert_eq!(region.load(offset), expected, "{offset}");
    }
    for offset in [29, 30, 31, 32, 33, usize::MAX - 3, usize::MAX] {
        region.store(offset, u32::MAX);
        assert_eq!(region.load(offset), 0, "{offset}");
    }
    assert_eq!(region.load(28), 0x0102_031C);
}

#[test]
fn a_message_is_moved_whole_or_not_at_all() {
    let region = SharedRegion::of(map(4, 0, 0));
    region.store_words(8, &[1, 2, 3]);
    let load = |offset| {
        let mut words = [7; 3];
        region.load_words(offset, &mut words);
        words
    };
    assert_eq!((load(0), load(8)), ([0, 1, 2], [1, 2, 3]));
    // Past the end, at an offset that is not a multiple of 8, and far away.
    for offset in [16, 9, 32, usize::MAX - 7, usize::MAX] {
        region.store_words(offset, &[4, 5, 6]);
        assert_eq!((load(offset), load(0), load(8)), ([0; 3], [0, 1, 2], [1, 2, 3]), "{offset}");
    }
    // The same holds for several messages at once.
    let each = |offset, size, count| {
        let mut all = Vec::new();
        region.load_each(offset, size, count, |words| all.extend_from_slice(&words[..size + 1]));
        all
    };
    let encode = |value: &u64| [*value; MAX_MESSAGE / 8];
    region.store_each(0, 2, &[5, 6], encode);
    assert_eq!(each(0, 2, 2), [5, 5, 0, 6, 6, 0]);
    assert_eq!(each(8, 1, 3), [5, 0, 6, 0, 6, 0]);
    for (offset, size) in [(0, 3), (16, 2), (4, 1), (usize::MAX - 7, 1), (usize::MAX, 1)] {
        region.store_each(offset, size, &[7, 8], encode);
        assert_eq!(each(offset, size, 2), [0; 0], "{offset}");
    }
    // Sizes whose product does not fit.
    for (offset, size) in [(0, 1 << 60), (8, 1 << 61), (32, 1 << 62), (32, usize::MAX)] {
        region.store_each(offset, size, &[7, 8], encode);
        assert_eq!(each(offset, size, 1 << 3), [0; 0], "{size}");
    }
    assert_eq!(each(0, 1, 4), [5, 0, 5, 0, 6, 0, 6, 0]);
    region.store_words(32, &[]);
    region.load_words(usize::MAX, &mut []);
}

#[test]
fn an_unaligned_region_has_no_bytes() {
    let aligned = vec![0_u64; 4].leak().as_mut_ptr().expose_provenance();
    assert_eq!(SharedRegion::of(map_at(aligned + 4, 16, 0)).len(), 0);
    assert_eq!(SharedRegion::of(map_at(aligned + 8, 16, 0)).len(), 16);
}

#[test]
fn a_slot_without_a_region_has_no_bytes() {
    let nothing = map_at(0, 0, 0);
    let region = SharedRegion::of(nothing);
    assert!(region.is_empty());
    region.store(0, 1);
    region.write(0, &[1]);
    let mut into = [7; 3];
    region.read(0, &mut into);
    assert_eq!((region.load(0), into), (0, [0; 3]));
    region.read(0, &mut []);
    assert_eq!(OwnedRegion::of(nothing, Slot(60)).size(), 0);
    assert!(nothing.constant_bytes().is_empty());
}

#[test]
fn a_regions_flags_decide_whether_it_is_shared_owned_or_constant() {
    let constant = map(2, 3, region::CONSTANT);
    let sizes = |region: FoundRegion, slot| {
        let (shared, owned) = (SharedRegion::of(region), OwnedRegion::of(region, slot));
        (shared.len(), owned.size(), region.constant_bytes().len())
    };
    assert_eq!(sizes(map(2, 1, 0), Slot(2)), (16, 0, 0));
    assert_eq!(sizes(map(2, 1, region::PRIVATE), Slot(2)), (16, 0, 0));
    assert_eq!(sizes(map(2, 2, region::EXCLUSIVE), Slot(3)), (0, 16, 0));
    assert_eq!(sizes(constant, Slot(4)), (16, 0, 16));
    assert_eq!(constant.constant_bytes(), [3; 16]);
    let fresh = OwnedRegion::of(map(2, 0, region::EXCLUSIVE | region::FRESH), Slot(6));
    assert_eq!((fresh.size(), fresh.is_fresh()), (16, true));
    assert!(!OwnedRegion::of(map(2, 0, region::EXCLUSIVE), Slot(7)).is_fresh());
}

#[test]
fn an_owned_region_is_given_out_once() {
    let region = map(2, 0, region::EXCLUSIVE);
    let (mut first, mut second) = (OwnedRegion::of(region, Slot(5)), OwnedRegion::of(region, Slot(5)));
    assert_eq!((first.size(), second.size()), (16, 0));
    assert_eq!(first.edit(0, 16, |bytes| bytes.fill(9)), Some(()));
    assert_eq!(second.edit(0, 1, |bytes| bytes.fill(9)), None);
    assert_eq!(first.edit(15, 1, |bytes| bytes[0]), Some(9));
    for (offset, length) in [(16, 1), (0, 17), (17, 0), (usize::MAX, 1), (1, usize::MAX)] {
        assert_eq!(first.edit(offset, length, |bytes| bytes.len()), None, "{offset} {length}");
    }
    assert_eq!(first.edit(16, 0, |bytes| bytes.len()), Some(0));
    assert_eq!(OwnedRegion::of(region, Slot(64)).size(), 0, "a slot that does not exist");
}

#[test]
fn a_region_around_the_stack_has_no_bytes() {
    let here = 0_u8;
    let base = (&raw const here).addr() & !0xFFF;
    let region = map_at(base - 0x10_0000, 0x20_0000, region::CONSTANT | region::PRIVATE);
    assert!(SharedRegion::of(region).is_empty());
    assert!(region.constant_bytes().is_empty());
    assert_eq!(region.claim_for_heap(), None);
}

#[test]
fn the_heap_is_memory_that_nobody_else_can_access() {
    let memory = vec![0_u64; 2].leak().as_mut_ptr().expose_provenance();
    for flags in [0, region::EXCLUSIVE, region::CONSTANT, region::FRESH] {
        assert_eq!(map_at(memory, 16, flags).claim_for_heap(), None, "{flags:#x}");
    }
    let (base, size) = map_at(memory, 16, region::PRIVATE).claim_for_heap().unwrap();
    assert_eq!((base.addr(), size), (memory, 16), "without the flags");
    // From then on, no region is made of it, whatever slot names it.
    let again = map_at(memory, 16, region::PRIVATE);
    assert!(SharedRegion::of(again).is_empty());
    assert_eq!(again.claim_for_heap(), None);
    assert_eq!(map(2, 0, region::PRIVATE).claim_for_heap(), None, "there is a heap");
}

#[test]
fn a_buffer_has_the_requested_length_or_is_none() {
    for length in [0, 1, 4096, 1 << 20] {
        let mut buffer = SharedRegion::buffer(length).expect("there is room");
        assert_eq!(buffer.len(), length);
        buffer.fill(7);
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
    assert_eq!(SharedRegion::buffer(isize::MAX as usize), None);
}

proptest! {
    #[test]
    fn a_shared_region_is_an_array(accesses in prop::collection::vec((0_usize..80, 0_usize..40, any::<bool>(), any::<u8>()), 0..40)) {
        let region = SharedRegion::of(map(8, 0, 0));
        let mut model = [0; 64];
        for (offset, count, write, fill) in accesses {
            let expected = model.get_mut(offset..offset + count);
            if write {
                let from: Vec<u8> = (0..count).map(|index| fill.wrapping_add(index as u8)).collect();
                region.write(offset, &from);
                if let Some(expected) = expected {
                    expected.copy_from_slice(&from);
                }
            } else {
                let mut into = vec![fill; count];
                region.read(offset, &mut into);
                prop_assert_eq!(into, expected.map_or(vec![0; count], |bytes| bytes.to_vec()));
            }
        }
    }

    #[test]
    fn blocks_of_the_heap_are_disjoint(sizes in prop::collection::vec((1_usize..200, 0_u32..5, any::<bool>()), 1..40)) {
        use core::alloc::{GlobalAlloc, Layout};
        let heap = Allocator::empty();
        let memory = vec![0_u64; 512].leak();
        let mut blocks: Vec<(*mut u8, Layout, u8)> = Vec::new();
        for (number, (size, align, free)) in sizes.into_iter().enumerate() {
            let layout = Layout::from_size_align(size, 1 << align).unwrap();
            if number == 1 {
                // SAFETY: the memory is leaked, and nothing else uses it.
                unsafe { heap.init(memory.as_mut_ptr().cast(), 4096) }
            }
            // SAFETY: the size of the layout is not 0.
            let block = unsafe { heap.alloc(layout) };
            prop_assert!(number > 0 || block.is_null(), "the heap has no memory yet");
            if !block.is_null() {
                prop_assert!(block.addr().is_multiple_of(layout.align()));
                // SAFETY: the block was just allocated and has `size` bytes.
                unsafe { block.write_bytes(number as u8, size) }
                blocks.push((block, layout, number as u8));
            }
            if free && !blocks.is_empty() {
                let (block, layout, fill) = blocks.remove(0);
                // SAFETY: the block is allocated, and all of its bytes were written.
                let found = unsafe { core::slice::from_raw_parts(block, layout.size()) };
                prop_assert!(found.iter().all(|byte| *byte == fill), "another block overlaps it");
                // SAFETY: the block was allocated with this layout and is freed once.
                unsafe { heap.dealloc(block, layout) }
            }
        }
    }
}
