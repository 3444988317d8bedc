//! Shared memory at the cost that it has in the image: checked bounds, and each word one access,
//! nothing in between.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cloister_interfaces::queue::SLOTS;
use cloister_interfaces::{ExclusiveMemory, Memory, message};

/// A page: indices and events before [`SLOTS`], as halves of words, and whole words after.
#[derive(Clone)]
pub struct Words {
    header: Rc<[AtomicU32]>,
    slots: Rc<[AtomicU64]>,
}

impl Words {
    /// Creates a region of `length` zero bytes.
    pub fn new(length: usize) -> Self {
        Words {
            header: (0..SLOTS / 4).map(|_| AtomicU32::new(0)).collect(),
            slots: (SLOTS / 8..length.div_ceil(8)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Returns `count` words of the slots from `offset`, or none if not all of them exist.
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let index = offset.wrapping_sub(SLOTS) / 8;
        self.slots.get(index..index.wrapping_add(count)).unwrap_or_default()
    }
}

impl Memory for Words {
    type Exclusive = Words;

    fn len(&self) -> usize {
        SLOTS + self.slots.len() * 8
    }

    fn load(&self, offset: usize) -> u32 {
        self.header.get(offset / 4).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.header.get(offset / 4) {
            word.store(value, Ordering::Release);
        }
    }

    fn load_words(&self, offset: usize, into: &mut [u64]) {
        let words = self.words(offset, into.len());
        for (index, word) in into.iter_mut().enumerate() {
            *word = words.get(index).map_or(0, |word| word.load(Ordering::Acquire));
        }
    }

    fn store_words(&self, offset: usize, from: &[u64]) {
        for (word, value) in self.words(offset, from.len()).iter().zip(from) {
            word.store(*value, Ordering::Release);
        }
    }

    fn load_each(&self, offset: usize, size: usize, count: usize, mut take: impl FnMut(message::Words)) {
        for from in self.words(offset, size * count).chunks_exact(size) {
            let mut words = message::Words::default();
            for (word, from) in words.iter_mut().zip(from) {
                *word = from.load(Ordering::Acquire);
            }
            take(words);
        }
    }

    fn store_each<T>(&self, offset: usize, size: usize, items: &[T], words: impl Fn(&T) -> message::Words) {
        for (place, item) in self.words(offset, size * items.len()).chunks_exact(size).zip(items) {
            for (word, value) in place.iter().zip(words(item)) {
                word.store(value, Ordering::Release);
            }
        }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, part) in into.chunks_mut(8).enumerate() {
            let word = self.words(offset + index * 8, 1).first().map_or(0, |word| word.load(Ordering::Relaxed));
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        for (index, part) in from.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            if let Some(word) = self.words(offset + index * 8, 1).first() {
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
        }
    }
}

impl ExclusiveMemory for Words {
    fn size(&self) -> usize {
        self.len()
    }

    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut copy = vec![0; length];
        self.read(offset, &mut copy);
        let result = edit(&mut copy);
        self.write(offset, &copy);
        Some(result)
    }
}
