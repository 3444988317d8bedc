//! Counts of what each of many holders has, such as the connections of each address.
//!
//! Giving a holder one more or one less, and finding the one with the most, takes constant time.

use crate::LazyVec;

/// One row of three tables, each of which has another index.
#[derive(Clone, Copy)]
struct Row {
    /// Of the holder with this number: its count.
    count: u16,
    /// Of the holder with this number: its position in the order.
    position: u16,
    /// The holder at this position of the order. The one with the largest count is first.
    holder: u16,
    /// The number of holders whose count is larger than this number. It is also the position of the
    /// first holder whose count is this number, if there is one.
    larger: u16,
}

/// The counts of the holders below a bound, which are numbers. No count is larger than the bound.
#[derive(Default)]
pub struct Counts(LazyVec<Row>);

impl Row {
    /// Returns a row whose holder has nothing.
    fn new(number: u16) -> Self {
        Row { count: 0, position: number, holder: number, larger: 0 }
    }
}

impl Counts {
    /// Creates the counts of `count` holders, at most 65,535. All are 0. Returns `None` if the
    /// heap has no room for them.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        LazyVec::new(count).map(Counts)
    }

    fn row(&mut self, index: u16) -> Option<&mut Row> {
        self.0.get_or_make(index, Row::new)
    }

    /// Returns the holder at `position` of the order.
    fn holder(&self, position: u16) -> Option<u16> {
        let exists = usize::from(position) < self.0.bound();
        exists.then(|| self.0.get(position).map_or(position, |row| row.holder))
    }

    /// Returns the count of `holder`.
    #[must_use]
    pub fn of(&self, holder: u16) -> u16 {
        self.0.get(holder).map_or(0, |row| row.count)
    }

    /// Returns the largest count.
    #[must_use]
    pub fn largest(&self) -> u16 {
        self.first().map_or(0, |holder| self.of(holder))
    }

    /// Returns a holder with the largest count.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        self.holder(0)
    }

    /// Returns a holder whose count is 0.
    #[must_use]
    pub fn unused(&self) -> Option<u16> {
        self.holder(self.0.get(0).map_or(0, |row| row.larger))
    }

    /// Gives `holder` one more. A holder beyond the bound gets nothing, nor does one whose count is
    /// as large as the bound.
    #[inline(never)] // Rarely called.
    pub fn grow(&mut self, holder: u16) {
        let size = self.of(holder);
        let Some(first) = self.row(size).map(|row| row.larger) else { return };
        if self.put(holder, first, size + 1)
            && let Some(row) = self.row(size)
        {
            row.larger += 1;
        }
    }

    /// Takes one from `holder`, if it has any.
    #[inline(never)] // Rarely called.
    pub fn shrink(&mut self, holder: u16) {
        let Some(size) = self.of(holder).checked_sub(1) else { return };
        let Some(row) = self.row(size) else { return };
        row.larger -= 1;
        let last = row.larger;
        self.put(holder, last, size);
    }

    /// Exchanges `holder`, whose count becomes `count`, with the one at `position` of the order.
    /// Returns `false` if either does not exist.
    #[inline(never)] // Rarely called.
    fn put(&mut self, holder: u16, position: u16, count: u16) -> bool {
        let Some(other) = self.holder(position) else { return false };
        let Some(row) = self.row(holder) else { return false };
        row.count = count;
        let old = row.position;
        for (number, position) in [(other, old), (holder, position)] {
            if let Some(row) = self.row(position) {
                row.holder = number;
            }
            if let Some(row) = self.row(number) {
                row.position = position;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_nobody_are_empty() {
        for mut counts in [Counts::default(), Counts::new(0).unwrap()] {
            counts.grow(0);
            counts.shrink(0);
            assert_eq!((counts.of(0), counts.largest(), counts.first(), counts.unused()), (0, 0, None, None));
        }
    }

    #[test]
    fn a_share_may_be_all_there_is_and_no_more() {
        let mut counts = Counts::new(3).unwrap();
        (0..5).for_each(|_| counts.grow(1));
        assert_eq!((counts.of(1), counts.first()), (3, Some(1)));
        (0..5).for_each(|_| counts.shrink(1));
        assert_eq!(counts.largest(), 0);
    }

    /// Compares with a table that is searched for the largest.
    #[test]
    fn random_operations_match_a_table() {
        const COUNT: u16 = 20;
        let mut random = 7u64;
        let mut counts = Counts::new(usize::from(COUNT)).unwrap();
        let mut table = [0u16; COUNT as usize];
        for step in 0..if cfg!(miri) { 300 } else { 30_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // One of the holders does not exist. At times, a few of them have nearly all.
            let some = if step / 100 % 2 == 0 { 3 } else { COUNT + 1 };
            let holder = (random >> 33) as u16 % some;
            if (random >> 60) < 9 {
                if table.iter().sum::<u16>() < COUNT {
                    counts.grow(holder);
                    table.get_mut(usize::from(holder)).into_iter().for_each(|count| *count += 1);
                }
            } else {
                counts.shrink(holder);
                table.get_mut(usize::from(holder)).into_iter().for_each(|count| *count = count.saturating_sub(1));
            }
            assert!((0..COUNT).all(|holder| counts.of(holder) == table[usize::from(holder)]));
            assert_eq!(counts.largest(), *table.iter().max().unwrap());
            assert_eq!(counts.of(counts.first().unwrap()), counts.largest());
            assert_eq!(counts.unused().map(|holder| table[usize::from(holder)]), table.contains(&0).then_some(0));
        }
    }
}
