//! A table that untrusted numbers may index, under speculation too.

/// A table whose last entry stands for every index past its end.
///
/// A bounds check is a branch, and a processor that mispredicts it loads from wherever the index
/// points. This type clamps the index with a minimum instead, which is arithmetic: no load leaves
/// the table, mispredicted or not. The kernel indexes its tables with numbers that a service or a
/// peer chooses only through this type.
#[derive(Clone, Copy, Debug)]
pub struct Clamped<T, const N: usize>([T; N]);

impl<T, const N: usize> Clamped<T, N> {
    /// Creates a table. Every index from `N - 1` on refers to the last entry.
    #[must_use]
    pub const fn new(entries: [T; N]) -> Self {
        const { assert!(N > 0, "the table has a last entry") };
        Clamped(entries)
    }

    fn clamp(number: u64) -> usize {
        number.min((N - 1) as u64) as usize
    }

    /// Returns the entry at this index, clamped to the table.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u64) -> &T {
        &self.0[Self::clamp(number)]
    }

    /// Returns a mutable reference to the entry at this index, clamped to the table.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, number: u64) -> &mut T {
        &mut self.0[Self::clamp(number)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_past_the_end_returns_the_last_entry() {
        let mut table = Clamped::new([10, 11, 12]);
        let read = |number| *Clamped::new([10, 11, 12]).get(number);
        assert_eq!([0, 1, 2, 3, 255, 1 << 32, 1 << 63 | 1, u64::MAX].map(read), [10, 11, 12, 12, 12, 12, 12, 12]);
        *table.get_mut(u64::MAX) = 7;
        *table.get_mut(1 << 32) += 1;
        assert_eq!([0, 1, 2].map(|number| *table.get(number)), [10, 11, 8]);
    }
}
