//! Shares of something that holders have taken, such as the connections of each address.
//!
//! Giving a holder one more or one less, and finding the one with the most, takes constant time.

use alloc::vec::Vec;

#[derive(Clone, Copy)]
struct Holder {
    /// The size of its share.
    share: u16,
    /// Its position in the order.
    position: u16,
}

/// The shares of the holders below a bound, which are numbers. No share is larger than the bound.
#[derive(Default)]
pub struct Shares {
    holders: Vec<Holder>,
    /// The holders, the one with the largest share first.
    order: Vec<u16>,
    /// For each size of a share: the number of holders whose share is larger. It is also the
    /// position of the first holder with a share of this size, if there is one.
    larger: Vec<u16>,
}

impl Shares {
    /// Creates the shares of `count` holders, at most 65,535. All are empty. Returns `None` if the
    /// heap has no room for them.
    #[must_use]
    pub fn new(count: usize) -> Option<Self> {
        let count = count.min(usize::from(u16::MAX));
        let mut shares = Shares::default();
        shares.holders.try_reserve_exact(count).ok()?;
        shares.order.try_reserve_exact(count).ok()?;
        shares.larger.try_reserve_exact(count).ok()?;
        shares.holders.extend((0..count as u16).map(|position| Holder { share: 0, position }));
        shares.order.extend(0..count as u16);
        shares.larger.resize(count, 0);
        Some(shares)
    }

    /// Returns the share of `holder`.
    #[must_use]
    pub fn of(&self, holder: u16) -> u16 {
        self.holders.get(usize::from(holder)).map_or(0, |holder| holder.share)
    }

    /// Returns the largest share.
    #[must_use]
    pub fn largest(&self) -> u16 {
        self.first().map_or(0, |holder| self.of(holder))
    }

    /// Returns a holder with the largest share.
    #[must_use]
    pub fn first(&self) -> Option<u16> {
        self.order.first().copied()
    }

    /// Returns a holder whose share is empty.
    #[must_use]
    pub fn unused(&self) -> Option<u16> {
        self.order.get(usize::from(*self.larger.first()?)).copied()
    }

    /// Gives `holder` one more. A holder beyond the bound gets nothing, nor does one whose share is
    /// as large as the bound.
    pub fn grow(&mut self, holder: u16) {
        let size = self.of(holder);
        let Some(first) = self.larger.get(usize::from(size)).copied() else { return };
        if !self.swap(holder, first) {
            return;
        }
        self.set(holder, size + 1);
        if let Some(larger) = self.larger.get_mut(usize::from(size)) {
            *larger += 1;
        }
    }

    /// Takes one from `holder`, if it has any.
    pub fn shrink(&mut self, holder: u16) {
        let Some(size) = self.of(holder).checked_sub(1) else { return };
        let Some(larger) = self.larger.get_mut(usize::from(size)) else { return };
        *larger -= 1;
        let last = *larger;
        self.swap(holder, last);
        self.set(holder, size);
    }

    fn set(&mut self, holder: u16, share: u16) {
        if let Some(holder) = self.holders.get_mut(usize::from(holder)) {
            holder.share = share;
        }
    }

    /// Exchanges `holder` with the one at `position` of the order. Returns `false` if either does
    /// not exist.
    fn swap(&mut self, holder: u16, position: u16) -> bool {
        let Some(other) = self.order.get(usize::from(position)).copied() else { return false };
        let Some(entry) = self.holders.get_mut(usize::from(holder)) else { return false };
        let old = core::mem::replace(&mut entry.position, position);
        for (number, position) in [(other, old), (holder, position)] {
            if let Some(at) = self.order.get_mut(usize::from(position)) {
                *at = number;
            }
            if let Some(entry) = self.holders.get_mut(usize::from(number)) {
                entry.position = position;
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
