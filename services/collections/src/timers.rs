//! Deadlines of many numbered things, such as connections.
//!
//! Finding the earliest deadline and postponing one take constant time.

use alloc::vec::Vec;

use cloister_interfaces::Instant;

/// The position of a number whose timer is not set.
const UNSET: u16 = u16::MAX;

/// At most one deadline for each number below a bound: a binary heap with an index of its entries.
#[derive(Default)]
pub struct Timers {
    heap: Vec<(Instant, u16)>,
    /// The position of each number in the heap, or `UNSET`.
    position: Vec<u16>,
}

impl Timers {
    /// Creates timers for the numbers below `count`, at most 65,535. None is set. Returns `None` if
    /// the heap has no room for them.
    #[must_use]
    pub fn new(count: usize) -> Option<Timers> {
        let (mut heap, mut position) = (Vec::new(), Vec::new());
        heap.try_reserve_exact(count).ok()?;
        position.try_reserve_exact(count).ok()?;
        position.resize(count.min(usize::from(UNSET)), UNSET);
        Some(Timers { heap, position })
    }

    /// Sets the timer of `number`, so that [`Self::pop_expired`] returns it at `at` or earlier.
    ///
    /// A timer that is set to an earlier time stays as it is, because most timers are postponed
    /// again and again. A caller whose timer expires too early sets it again.
    pub fn set(&mut self, number: u16, at: Instant) {
        match self.position.get(usize::from(number)).copied() {
            None => {}
            Some(UNSET) => {
                self.heap.push((at, number));
                self.sift_up(self.heap.len() - 1, (at, number));
            }
            Some(position) => {
                let position = usize::from(position);
                if self.heap.get(position).is_some_and(|(set, _)| at < *set) {
                    self.sift_up(position, (at, number));
                }
            }
        }
    }

    /// Returns the earliest time that is set.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Returns a number whose time is the earliest.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        self.heap.first().map(|(_, number)| *number)
    }

    /// Removes and returns a number whose time is `now` or earlier, the earliest first.
    pub fn pop_expired(&mut self, now: Instant) -> Option<u16> {
        let (at, number) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(number);
        Some(number)
    }

    /// Unsets the timer of `number`.
    pub fn remove(&mut self, number: u16) {
        let position = self.position.get(usize::from(number)).map_or(usize::MAX, |position| usize::from(*position));
        let (Some(removed), Some(last)) = (self.heap.get(position).copied(), self.heap.last().copied()) else { return };
        self.heap.pop();
        self.put(usize::MAX, removed);
        if position == self.heap.len() {
            return;
        }
        // The last entry fills the gap. It may belong further up or further down.
        if last.0 < removed.0 { self.sift_up(position, last) } else { self.sift_down(position, last) }
    }

    /// Unsets all timers.
    pub fn clear(&mut self) {
        self.heap.clear();
        self.position.fill(UNSET);
    }

    /// Writes `entry` at `position` of the heap and records the position. The position `usize::MAX`
    /// only records that the timer is unset.
    fn put(&mut self, position: usize, entry: (Instant, u16)) {
        if let Some(at) = self.heap.get_mut(position) {
            *at = entry;
        }
        if let Some(at) = self.position.get_mut(usize::from(entry.1)) {
            *at = position as u16;
        }
    }

    /// Writes `entry` at `position`, or nearer to the top where it belongs.
    fn sift_up(&mut self, mut position: usize, entry: (Instant, u16)) {
        while position > 0 {
            let parent = (position - 1) / 2;
            match self.heap.get(parent).copied() {
                Some(above) if above.0 > entry.0 => self.put(position, above),
                _ => break,
            }
            position = parent;
        }
        self.put(position, entry);
    }

    /// Writes `entry` at `position`, or further down where it belongs.
    fn sift_down(&mut self, mut position: usize, entry: (Instant, u16)) {
        loop {
            let child = 2 * position + 1;
            let Some(left) = self.heap.get(child).copied() else { break };
            let (child, below) = match self.heap.get(child + 1).copied() {
                Some(right) if right.0 < left.0 => (child + 1, right),
                _ => (child, left),
            };
            if below.0 >= entry.0 {
                break;
            }
            self.put(position, below);
            position = child;
        }
        self.put(position, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_expires_first_and_a_later_set_changes_nothing() {
        let mut timers = Timers::new(4).unwrap();
        timers.set(0, Instant(30));
        timers.set(1, Instant(20));
        timers.set(1, Instant(40));
        timers.set(0, Instant(10));
        timers.set(4, Instant(1));
        assert_eq!(timers.next(), Some(Instant(10)));
        assert_eq!(timers.pop_expired(Instant(9)), None);
        assert_eq!((timers.pop_expired(Instant(25)), timers.pop_expired(Instant(25))), (Some(0), Some(1)));
        assert_eq!((timers.pop_expired(Instant(25)), timers.next()), (None, None));
    }

    /// Compares with a table that is searched for the earliest deadline.
    #[test]
    fn random_operations_match_a_table_of_deadlines() {
        const COUNT: u16 = 50;
        let (mut random, mut now) = (1u64, 0);
        let mut timers = Timers::new(usize::from(COUNT)).unwrap();
        let mut table = [None::<u64>; COUNT as usize];
        for _ in 0..if cfg!(miri) { 300 } else { 20_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (random >> 33) as u16 % COUNT;
            let at = now + (random >> 50) % 100;
            timers.set(number, Instant(at));
            let set = &mut table[usize::from(number)];
            *set = Some(set.map_or(at, |old| old.min(at)));
            assert_eq!(timers.next().map(|next| next.0), table.iter().flatten().min().copied());
            let number = (random >> 20) as u16 % (2 * COUNT);
            timers.remove(number);
            table.get_mut(usize::from(number)).into_iter().for_each(|set| *set = None);
            assert_eq!(timers.next().map(|next| next.0), table.iter().flatten().min().copied());
            now += random >> 62;
            while let Some(number) = timers.pop_expired(Instant(now)) {
                assert!(table[usize::from(number)].take().is_some_and(|at| at <= now));
            }
            assert!(table.iter().flatten().all(|at| *at > now));
        }
        timers.clear();
        assert_eq!(timers.next(), None);
    }
}
