//! Shares of something that holders have taken, such as the connections of each address.
//!
//! Giving a holder one more or one less, and finding the one with the most, takes constant time.

use alloc::vec::Vec;

/// One row of three tables, each of which has another index.
#[derive(Clone, Copy)]
struct Row {
    /// Of the holder with this number: the size of its share.
    share: u16,
    /// Of the holder with this number: its position in the order.
    position: u16,
    /// The holder at this position of the order. The one with the largest share is first.
    holder: u16,
    /// The number of holders whose share is larger than this number. It is also the position of the
    /// first holder whose share is this number, if there is one.
    larger: u16,
}

/// The shares of the holders below a bound, which are numbers. No share is larger than the bound.
#[derive(Default)]
pub struct Shares(Vec<Row>);

impl Shares {
    /// Creates the shares of `count` holders, at most 65,535. All are empty. Returns `None` if the
    /// heap has no room for them.
    #[must_use]
    #[inline(never)] // Called once.
    pub fn new(count: usize) -> Option<Self> {
        let mut rows = Vec::new();
        rows.try_reserve_exact(count).ok()?;
        rows.resize(count.min(usize::from(u16::MAX)), Row { share: 0, position: 0, holder: 0, larger: 0 });
        for (row, number) in rows.iter_mut().zip(0..) {
            (row.position, row.holder) = (number, number);
        }
        Some(Shares(rows))
    }

    fn row(&mut self, index: u16) -> Option<&mut Row> {
        self.0.get_mut(usize::from(index))
    }

    /// Returns the share of `holder`.
    #[must_use]
    pub fn of(&self, holder: u16) -> u16 {
        self.0.get(usize::from(holder)).map_or(0, |row| row.share)
    }

    /// Returns the largest share.
    #[must_use]
    pub fn largest(&self) -> u16 {
        self.first().map_or(0, |holder| self.of(holder))
    }

    /// Returns a holder with the largest share.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        self.0.first().map(|row| row.holder)
    }

    /// Returns a holder whose share is empty.
    #[must_use]
    pub fn unused(&self) -> Option<u16> {
        let first = self.0.first()?.larger;
        self.0.get(usize::from(first)).map(|row| row.holder)
    }

    /// Gives `holder` one more. A holder beyond the bound gets nothing, nor does one whose share is
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

    /// Exchanges `holder`, whose share becomes `share`, with the one at `position` of the order.
    /// Returns `false` if either does not exist.
    #[inline(never)] // Rarely called.
    fn put(&mut self, holder: u16, position: u16, share: u16) -> bool {
        let Some(other) = self.0.get(usize::from(position)).map(|row| row.holder) else { return false };
        let Some(row) = self.row(holder) else { return false };
        row.share = share;
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
    fn shares_of_nobody_are_empty() {
        for mut shares in [Shares::default(), Shares::new(0).unwrap()] {
            shares.grow(0);
            shares.shrink(0);
            assert_eq!((shares.of(0), shares.largest(), shares.first(), shares.unused()), (0, 0, None, None));
        }
    }

    #[test]
    fn a_share_may_be_all_there_is_and_no_more() {
        let mut shares = Shares::new(3).unwrap();
        (0..5).for_each(|_| shares.grow(1));
        assert_eq!((shares.of(1), shares.first()), (3, Some(1)));
        (0..5).for_each(|_| shares.shrink(1));
        assert_eq!(shares.largest(), 0);
    }

    /// Compares with a table that is searched for the largest.
    #[test]
    fn random_operations_match_a_table() {
        const COUNT: u16 = 20;
        let mut random = 7u64;
        let mut shares = Shares::new(usize::from(COUNT)).unwrap();
        let mut table = [0u16; COUNT as usize];
        for step in 0..if cfg!(miri) { 300 } else { 30_000 } {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // One of the holders does not exist. At times, a few of them have nearly all.
            let some = if step / 100 % 2 == 0 { 3 } else { COUNT + 1 };
            let holder = (random >> 33) as u16 % some;
            if (random >> 60) < 9 {
                if table.iter().sum::<u16>() < COUNT {
                    shares.grow(holder);
                    table.get_mut(usize::from(holder)).into_iter().for_each(|share| *share += 1);
                }
            } else {
                shares.shrink(holder);
                table.get_mut(usize::from(holder)).into_iter().for_each(|share| *share = share.saturating_sub(1));
            }
            assert!((0..COUNT).all(|holder| shares.of(holder) == table[usize::from(holder)]));
            assert_eq!(shares.largest(), *table.iter().max().unwrap());
            assert_eq!(shares.of(shares.first().unwrap()), shares.largest());
            assert_eq!(shares.unused().map(|holder| table[usize::from(holder)]), table.contains(&0).then_some(0));
        }
    }
}
