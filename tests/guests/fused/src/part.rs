//! Parts of a region: one region of the program holds the queues between its services.

use alloc::vec::Vec;

use cloister_interfaces::Memory;
use cloister_interfaces::message::Words;

/// A part of a region, or a whole one.
#[derive(Clone)]
pub struct Part<M> {
    region: M,
    start: usize,
    length: usize,
}

impl<M: Memory> Part<M> {
    /// Returns the part that is all of `region`.
    #[must_use]
    pub fn whole(region: M) -> Self {
        let length = region.len();
        Part { region, start: 0, length }
    }

    /// Returns the part of `length` bytes from `offset` on, a multiple of 8. It is empty if this
    /// part does not contain it.
    #[must_use]
    pub fn part(&self, offset: usize, length: usize) -> Self {
        let start = self.at(offset, length);
        Part { region: self.region.clone(), start, length: if start == OUTSIDE { 0 } else { length } }
    }

    /// Returns the offset in the region of `count` bytes from `offset` on, or [`OUTSIDE`] if this
    /// part does not contain them.
    fn at(&self, offset: usize, count: usize) -> usize {
        match offset.checked_add(count) {
            Some(end) if end <= self.length => self.start + offset,
            _ => OUTSIDE,
        }
    }
}

/// An offset that no region has: an access there reads zeros or writes nothing.
const OUTSIDE: usize = isize::MAX as usize & !7;

impl<M: Memory> Memory for Part<M> {
    type Exclusive = M::Exclusive;

    fn len(&self) -> usize {
        self.length
    }

    fn load(&self, offset: usize) -> u32 {
        self.region.load(self.at(offset, 4))
    }

    fn store(&self, offset: usize, value: u32) {
        self.region.store(self.at(offset, 4), value);
    }

    fn load_words(&self, offset: usize, into: &mut [u64]) {
        self.region.load_words(self.at(offset, into.len() * 8), into);
    }

    fn store_words(&self, offset: usize, from: &[u64]) {
        self.region.store_words(self.at(offset, from.len() * 8), from);
    }

    fn load_each(&self, offset: usize, size: usize, count: usize, take: impl FnMut(Words)) {
        self.region.load_each(self.at(offset, size * count * 8), size, count, take);
    }

    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> Words) {
        self.region.store_each(self.at(offset, size * items.len() * 8), size, items, words);
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        self.region.read(self.at(offset, into.len()), into);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.region.write(self.at(offset, from.len()), from);
    }

    fn copy(&self, offset: usize, count: usize, to: &Self, at: usize) {
        self.region.copy(self.at(offset, count), count, &to.region, to.at(at, count));
    }

    fn buffer(length: usize) -> Option<Vec<u8>> {
        M::buffer(length)
    }

    fn barrier(&self) {
        self.region.barrier();
    }
}

#[cfg(test)]
mod tests {
    use cloister_sim::SharedMemory;

    use super::*;

    #[test]
    fn a_part_reaches_no_further_than_it_goes() {
        let region = SharedMemory::new(64);
        let part = Part::whole(region.clone()).part(16, 32).part(8, 16);
        assert_eq!((part.len(), part.part(8, 9).len(), part.part(16, 0).len()), (16, 0, 0));
        part.write(0, &[1; 16]);
        part.store(8, 2);
        for outside in [1, 17, usize::MAX] {
            part.write(outside, &[9; 16]);
        }
        part.store(13, 9);
        part.store_words(8, &[9, 9]);
        let mut expected = [0; 64];
        expected[24..40].fill(1);
        expected[32..36].copy_from_slice(&[2, 0, 0, 0]);
        assert_eq!(region.bytes(0, 64), expected);
        let mut words = [7; 2];
        part.load_words(8, &mut words);
        assert_eq!((words, part.load(8), part.load(16)), ([0; 2], 2, 0));
    }
}
