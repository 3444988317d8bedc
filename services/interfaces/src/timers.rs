//! Deadlines of many things that have a number, such as connections: the earliest is known at once, and to put one off costs
//! nothing.

use alloc::vec::Vec;

use crate::system::Instant;

const UNSET: u16 = u16::MAX;

/// A deadline for each number below a bound: a binary heap that knows where each number is.
#[derive(Default)]
pub struct Timers {
    heap: Vec<(Instant, u16)>,
    /// Where in the heap each number is.
    position: Vec<u16>,
}

impl Timers {
    /// Timers for the numbers below `count`, at most 65,535; none if the heap has no room for them. None is set.
    #[must_use]
    pub fn new(count: usize) -> Option<Timers> {
        let (mut heap, mut position) = (Vec::new(), Vec::new());
        heap.try_reserve_exact(count).ok()?;
        position.try_reserve_exact(count).ok()?;
        position.resize(count.min(usize::from(UNSET)), UNSET);
        Some(Timers { heap, position })
    }

    /// Sees to it that `number` is answered by [`Self::pop_expired`] at `at`, or earlier: a timer that is set to an earlier time is
    /// left as it is, for most are put off again and again. Who is answered too early sets it again.
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

    /// The earliest time that is set.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Takes a number whose time has come.
    pub fn pop_expired(&mut self, now: Instant) -> Option<u16> {
        let (at, number) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(number);
        Some(number)
    }

    /// Sets no time for `number` any more.
    pub fn remove(&mut self, number: u16) {
        let position = self.position.get(usize::from(number)).map_or(usize::MAX, |position| usize::from(*position));
        let (Some(removed), Some(last)) = (self.heap.get(position).copied(), self.heap.last().copied()) else { return };
        self.heap.pop();
        self.put(usize::MAX, removed);
        if position == self.heap.len() {
            return;
        }
        // The last one fills the gap, from where it may belong further up or further down.
        if last.0 < removed.0 { self.sift_up(position, last) } else { self.sift_down(position, last) }
    }

    /// Takes every number; none is set any more.
    pub fn clear(&mut self) {
        self.heap.clear();
        self.position.fill(UNSET);
    }

    /// Writes an entry, which may be nowhere.
    fn put(&mut self, position: usize, entry: (Instant, u16)) {
        if let Some(at) = self.heap.get_mut(position) {
            *at = entry;
        }
        if let Some(at) = self.position.get_mut(usize::from(entry.1)) {
            *at = position as u16;
        }
    }

    /// Puts `entry` at `place` or nearer to the top, where it belongs.
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

    /// Puts `entry` at `place` or further down, where it belongs.
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

    /// Against a table that is searched.
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
