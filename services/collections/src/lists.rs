//! Linked lists of numbers, such as connection indices. Each number is in at most one list.
//!
//! Finding the front of a list, and moving or removing any number, takes constant time.

use crate::LazyVec;

/// In place of a number, or of a list: there is none.
const NONE: u16 = u16::MAX;
const UNLISTED: Node = Node { previous: NONE, next: NONE, list: NONE };

/// A number's neighbours in its list.
#[derive(Clone, Copy)]
struct Node {
    previous: u16,
    next: u16,
    list: u16,
}

/// The first and the last number of a list, and its length.
#[derive(Clone, Copy)]
struct Ends {
    first: u16,
    last: u16,
    count: u16,
}

/// Lists of the numbers below a bound: a few, or one for each of many holders.
#[derive(Default)]
pub struct Lists {
    nodes: LazyVec<Node>,
    ends: LazyVec<Ends>,
}

impl Lists {
    /// Creates `lists` empty lists for the numbers below `count`, both at most 65,535. Returns
    /// `None` if the heap has no room for them.
    #[must_use]
    pub fn new(lists: usize, count: usize) -> Option<Self> {
        Some(Lists { nodes: LazyVec::new(count)?, ends: LazyVec::new(lists)? })
    }

    /// Creates `lists` lists of which `list` holds the numbers below `count`, in order. Returns
    /// `None` as [`Self::new`] does.
    #[must_use]
    pub fn with_all(lists: usize, count: usize, list: usize) -> Option<Self> {
        let mut lists = Self::new(lists, count)?;
        let count = lists.nodes.bound() as u16;
        if let Some(last) = count.checked_sub(1)
            && let Some(ends) = lists.ends(list)
        {
            *ends = Ends { first: 0, last, count };
            let list = list as u16;
            let node = |number: u16| Node { previous: number.wrapping_sub(1), next: number + 1, list };
            if let Some(node) = lists.nodes.get_or_make(last, node) {
                node.next = NONE;
            }
        }
        Some(lists)
    }

    /// Returns the ends of `list`, which are made if they were not.
    fn ends(&mut self, list: usize) -> Option<&mut Ends> {
        self.ends.get_or_make(u16::try_from(list).ok()?, |_| Ends { first: NONE, last: NONE, count: 0 })
    }

    /// Returns the ends of `list`, if a number was ever in it.
    fn ends_of(&self, list: usize) -> Option<&Ends> {
        self.ends.get(u16::try_from(list).ok()?)
    }

    /// Returns the list that `number` is in.
    #[must_use]
    pub fn list_of(&self, number: u16) -> Option<usize> {
        self.nodes.get(number).map(|node| node.list).filter(|list| *list != NONE).map(usize::from)
    }

    /// Returns the number of elements of `list`.
    #[must_use]
    pub fn len(&self, list: usize) -> usize {
        self.ends_of(list).map_or(0, |ends| usize::from(ends.count))
    }

    /// Returns the first number of `list`: the one that has been in it for longest.
    #[must_use]
    pub fn front(&self, list: usize) -> Option<u16> {
        self.ends_of(list).map(|ends| ends.first).filter(|first| *first != NONE)
    }

    /// Returns the numbers of `list`, the one that has been in it for longest first.
    pub fn iter(&self, list: usize) -> impl Iterator<Item = u16> + '_ {
        let after = |number: &u16| self.nodes.get(*number).map(|node| node.next);
        core::iter::successors(self.front(list), move |number| after(number).filter(|next| *next != NONE))
    }

    /// Moves `number` from the list that it is in, if any, to the end of `list`.
    #[inline(never)] // Rarely called.
    pub fn move_to_back(&mut self, number: u16, list: usize) {
        self.remove(number);
        if self.nodes.get_or_make(number, |_| UNLISTED).is_none() {
            return;
        }
        let Some(ends) = self.ends(list) else { return };
        let previous = core::mem::replace(&mut ends.last, number);
        ends.count += 1;
        if previous == NONE {
            ends.first = number;
        } else if let Some(node) = self.nodes.get_mut(previous) {
            node.next = number;
        }
        if let Some(node) = self.nodes.get_mut(number) {
            *node = Node { previous, next: NONE, list: list as u16 };
        }
    }

    /// Removes `number` from the list that it is in, if any.
    pub fn remove(&mut self, number: u16) {
        let Some(node) = self.nodes.get_mut(number) else { return };
        let Node { previous, next, list } = core::mem::replace(node, UNLISTED);
        let Some(ends) = self.ends.get_mut(list) else { return };
        ends.count -= 1;
        if previous == NONE {
            ends.first = next;
        }
        if next == NONE {
            ends.last = previous;
        }
        if let Some(node) = self.nodes.get_mut(previous) {
            node.next = next;
        }
        if let Some(node) = self.nodes.get_mut(next) {
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
        for lists in [Lists::with_all(2, 0, 1), Lists::with_all(2, 5, 2), Lists::new(2, 5), Some(Lists::default())] {
            let mut lists = lists.unwrap();
            assert_eq!([lists.len(0), lists.len(1)], [0, 0]);
            assert_eq!([lists.front(0), lists.front(1)], [None, None]);
            lists.remove(0);
        }
    }

    /// Compares with queues that are searched for a number.
    #[test]
    fn random_operations_match_a_model_of_queues() {
        const COUNT: u16 = 20;
        let mut random = 7u64;
        let mut lists = Lists::with_all(3, usize::from(COUNT), 1).unwrap();
        let mut queues = [VecDeque::new(), (0..COUNT).collect(), VecDeque::new()];
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
            let of = |number| queues.iter().position(|queue| queue.contains(&number));
            assert!((0..=COUNT).all(|number| lists.list_of(number) == of(number)));
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
