//! Sets and queues of pages against simple models.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

proptest! {
    #[test]
    fn the_page_set_behaves_as_a_set(changes in prop::collection::vec((0u16..256, 1u16..19, any::<bool>()), 0..50)) {
        let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
        for (first, count, member) in changes {
            let pages = first..(first + count).min(256);
            prop_assert_eq!(set.contains_any(first, count), pages.clone().any(|page| model.contains(&page)));
            let all = first + count <= 256 && pages.clone().all(|page| model.contains(&page));
            prop_assert_eq!(set.contains_all(first, count), all);
            let run = set.run_length(first);
            prop_assert!((first..first + run).all(|page| model.contains(&page)));
            let end = first + run;
            prop_assert!(run == 63 || end % 64 == 0 && run > 0 || !model.contains(&end));
            set.set_all(first, count, member);
            for page in pages {
                if member { model.insert(page); } else { model.remove(&page); }
            }
            prop_assert!((0..300).all(|page| set.contains(page) == model.contains(&page)));
        }
    }

    #[test]
    fn the_page_queue_behaves_as_a_queue(steps in prop::collection::vec(any::<Option<u8>>(), 0..600)) {
        let (mut queue, mut model) = (PageQueue::default(), VecDeque::new());
        for step in steps {
            match step {
                Some(page) if model.len() < MAX_PAGES => { queue.push(page); model.push_back(page); }
                _ if !model.is_empty() => { queue.remove_first(); model.pop_front(); }
                _ => {}
            }
            prop_assert_eq!((queue.peek(), queue.is_empty()), (model.front().copied(), model.is_empty()));
        }
    }
}

#[test]
fn a_set_of_first_pages_contains_those_below_its_count() {
    for count in [0, 1, 64, 65, 255, 256] {
        let set = PageSet::first(count);
        assert!((0..300).all(|page| set.contains(page) == (page < count)));
    }
}
