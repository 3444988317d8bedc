//! Linked lists of numbers, such as connection indices. Each number is in at most one list.
//!
//! Finding the front of a list, and moving or removing any number, takes constant time.

use crate::LazyVec;

/// In place of a number: there is none.
const NONE: u16 = u16::MAX;
/// In place of a list: the number is in none.
const UNLISTED: u8 = u8::MAX;

#[derive(Clone, Copy)]
struct Node {
    previous: u16,
    next: u16,
    list: u8,
}

/// The node of a number that is in no list.
const UNLINKED: Node = Node { previous: NONE, next: NONE, list: UNLISTED };

/// `N` lists of the numbers below a bound.
pub struct Lists<const N: usize> {
    /// A number whose node is not made is in no list.
    nodes: LazyVec<Node>,
    /// The first and the last number of each list, and its length.
    ends: [(u16, u16, u16); N],
}

impl<const N: usize> Default for Lists<N> {
    /// Returns lists that can hold no number.
    fn default() -> Self {
        Lists { nodes: LazyVec::default(), ends: [(NONE, NONE, 0); N] }
    }
}

impl<const N: usize> Lists<N> {
    /// Creates empty lists for the numbers below `count`, at most 65,535. Returns `None` if the
    /// heap has no room for them.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        Some(Lists { nodes: LazyVec::new(count)?, ends: [(NONE, NONE, 0); N] })
    }

    /// Creates lists of which `list` holds the numbers below `count`, in order. Returns `None` as
    /// [`Self::new`] does.
    #[must_use]
    pub fn with_all(count: usize, list: usize) -> Option<Self> {
        let mut lists = Self::new(count)?;
        let count = lists.nodes.bound() as u16;
        let Some(ends) = lists.ends.get_mut(list).filter(|_| count > 0) else { return Some(lists) };
        let node = |number: u16| Node { previous: number.wrapping_sub(1), next: number + 1, list: list as u8 };
        if let Some(last) = lists.nodes.get_or_make(count - 1, node) {
            last.next = NONE;
        }
        *ends = (0, count - 1, count);
        Some(lists)
    }

    fn node(&mut self, number: u16) -> Option<&mut Node> {
        self.nodes.get_mut(number)
    }

    /// Returns the number of elements of `list`.
    #[must_use]
    pub fn len(&self, list: usize) -> usize {
        self.ends.get(list).map_or(0, |(_, _, count)| usize::from(*count))
    }

    /// Returns the first number of `list`: the one that has been in it for longest.
    #[must_use]
    pub fn front(&self, list: usize) -> Option<u16> {
        self.ends.get(list).map(|(first, _, _)| *first).filter(|first| *first != NONE)
    }

    /// Returns the numbers of `list`, the one that has been in it for longest first.
    pub fn iter(&self, list: usize) -> impl Iterator<Item = u16> + '_ {
        let after = |number: &u16| self.nodes.get(*number).map(|node| node.next);
        core::iter::successors(self.front(list), move |number| after(number).filter(|next| *next != NONE))
    }

    /// Moves `number` from the list that it is in, if any, to the end of `list`.
    pub fn move_to_back(&mut self, number: u16, list: usize) {
        if self.nodes.get(number).is_none() {
            self.nodes.get_or_make(number, |_| UNLINKED);
        }
        self.remove(number);
        let Some((first, last, count)) = self.ends.get_mut(list) else { return };
        let Some(node) = self.nodes.get_mut(number) else { return };
        *node = Node { previous: *last, next: NONE, list: list as u8 };
        let old = core::mem::replace(last, number);
        *count += 1;
        if old == NONE {
            *first = number;
        } else if let Some(node) = self.node(old) {
            node.next = number;
        }
    }

    /// Removes `number` from the list that it is in, if any.
    pub fn remove(&mut self, number: u16) {
        let Some(node) = self.node(number) else { return };
        let Node { previous, next, list } = core::mem::replace(node, UNLINKED);
        let Some((first, last, count)) = self.ends.get_mut(usize::from(list)) else { return };
        *count -= 1;
        if previous == NONE {
            *first = next;
        }
        if next == NONE {
            *last = previous;
        }
        if let Some(node) = self.node(previous) {
            node.next = next;
        }
        if let Some(node) = self.node(next) {
            node.previous = previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn lists_of_no_number_or_of_no_list_are_empty() {
        for lists in [Lists::<2>::with_all(0, 1), Lists::<2>::with_all(5, 2), Lists::<2>::new(5)] {
            let mut lists = lists.unwrap();
            assert_eq!([lists.len(0), lists.len(1)], [0, 0]);
            assert_eq!([lists.front(0), lists.front(1)], [None, None]);
            lists.remove(0);
        }
    }

    const COUNT: u16 = 20;

    #[test]
    fn random_operations_match_a_model_of_queues() {
        let all = (0..COUNT).collect();
        match_a_model(Lists::with_all(usize::from(COUNT), 1).unwrap(), [VecDeque::new(), all, VecDeque::new()]);
        match_a_model(Lists::new(usize::from(COUNT)).unwrap(), [const { VecDeque::new() }; 3]);
    }

    /// Making lists for a large guest must not write a node for each number.
    #[test]
    fn nodes_are_made_when_their_numbers_are_used() {
        let mut lists = Lists::<1>::new(60_000).unwrap();
        assert_eq!(lists.nodes.numbers().count(), 0);
        lists.remove(9);
        assert_eq!(lists.nodes.numbers().count(), 0);
        lists.move_to_back(4, 0);
        lists.move_to_back(60_000, 0);
        assert_eq!((lists.nodes.numbers().count(), lists.len(0)), (5, 1));
    }

    /// Compares with queues that are searched for a number.
    fn match_a_model(mut lists: Lists<3>, mut queues: [VecDeque<u16>; 3]) {
        let mut random = 7u64;
        for _ in 0..if cfg!(miri) { 200 } else { 20_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Some of the numbers and lists do not exist.
            let (number, list) = ((random >> 33) as u16 % (COUNT + 1), (random >> 50) as usize % 5);
            if number < COUNT {
                queues.iter_mut().for_each(|queue| queue.retain(|other| *other != number));
            }
            if list < 4 {
                lists.move_to_back(number, list);
                if let Some(queue) = queues.get_mut(list).filter(|_| number < COUNT) {
                    queue.push_back(number);
                }
            } else {
                lists.remove(number);
            }
            for (list, queue) in queues.iter().enumerate() {
                assert_eq!((lists.front(list), lists.len(list)), (queue.front().copied(), queue.len()));
                assert!(lists.iter(list).eq(queue.iter().copied()));
            }
        }
        for (list, queue) in queues.iter_mut().enumerate() {
            while let Some(first) = queue.pop_front() {
                assert_eq!(lists.front(list), Some(first));
                lists.remove(first);
            }
            assert_eq!(lists.front(list), None);
        }
    }
}
