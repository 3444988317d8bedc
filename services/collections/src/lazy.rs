//! Vectors whose elements are written when they are first used.
//!
//! A service with room for thousands of connections has few of them at first. In a guest of 384 MiB,
//! writing all of them at the start was a third of the instructions up to the first answer.

use alloc::vec::Vec;

/// The elements with the numbers below a bound. The memory of all is reserved at once. An element
/// is made when its number is first used, together with those before it.
pub struct LazyVec<T> {
    made: Vec<T>,
    bound: usize,
}

impl<T> Default for LazyVec<T> {
    /// Returns a vector that can hold nothing.
    fn default() -> Self {
        LazyVec { made: Vec::new(), bound: 0 }
    }
}

impl<T> LazyVec<T> {
    /// Reserves the memory of `bound` elements, at most 65,535. Returns `None` if the heap has no
    /// room for them.
    #[must_use]
    pub fn new(bound: usize) -> Option<Self> {
        let mut made = Vec::new();
        made.try_reserve_exact(bound).ok()?;
        Some(LazyVec { made, bound: bound.min(usize::from(u16::MAX)) })
    }

    /// Returns the number of elements that there can be.
    #[must_use]
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Returns the number of elements that have been made.
    #[must_use]
    pub fn made(&self) -> usize {
        self.made.len()
    }

    /// Returns an element that has been made.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<&T> {
        self.made.get(usize::from(number))
    }

    /// Returns an element that has been made.
    #[must_use]
    pub fn get_mut(&mut self, number: u16) -> Option<&mut T> {
        self.made.get_mut(usize::from(number))
    }

    /// Returns an element. If it was not made, `make` makes it and those before it. Returns `None`
    /// if `number` is not below the bound.
    #[inline(never)] // Rarely called.
    pub fn get_or_make(&mut self, number: u16, mut make: impl FnMut(u16) -> T) -> Option<&mut T> {
        while self.made.len() <= usize::from(number) && usize::from(number) < self.bound {
            self.made.push(make(self.made.len() as u16));
        }
        self.get_mut(number)
    }

    /// Returns the elements that have been made, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        (0..).zip(&self.made)
    }

    /// Returns the numbers of the elements that have been made.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<T> {
        0..self.made.len() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_made_up_to_the_number_that_is_used_and_no_further() {
        let mut vector = LazyVec::new(4).unwrap();
        assert_eq!((vector.get(0), vector.numbers().count()), (None, 0));
        *vector.get_or_make(2, |number| number * 10).unwrap() += 1;
        assert!(vector.iter().eq([(0, &0), (1, &10), (2, &21)]));
        assert_eq!(vector.made(), 3);
        assert_eq!(vector.get_or_make(2, |_| unreachable!("it was made")), Some(&mut 21));
        assert_eq!((vector.get(1), vector.get(3), vector.bound()), (Some(&10), None, 4));
        assert_eq!(vector.get_mut(3), None);
        assert_eq!(vector.get_or_make(4, core::convert::identity), None);
    }

    #[test]
    fn making_takes_no_memory_but_what_was_reserved() {
        let mut vector = LazyVec::new(1000).unwrap();
        let capacity = vector.made.capacity();
        assert!(capacity >= 1000);
        assert!((0..1000).all(|number| vector.get_or_make(number, u64::from) == Some(&mut number.into())));
        assert!(vector.get_or_make(1000, u64::from).is_none());
        assert_eq!((vector.made.len(), vector.made.capacity()), (1000, capacity));
        assert!(LazyVec::<u64>::new(usize::MAX).is_none(), "no heap has that much");
        assert!(LazyVec::<u64>::default().get_or_make(0, u64::from).is_none());
    }
}
