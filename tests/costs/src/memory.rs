//! Shared memory at the price that it has in the image: each word one access, nothing in between.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloister_interfaces::{Memory, Own};

/// A region of whole words.
#[derive(Clone)]
pub struct Words(Rc<[AtomicU64]>);

impl Words {
    /// `length` zero bytes.
    pub fn new(length: usize) -> Self {
        Words((0..length.div_ceil(8)).map(|_| AtomicU64::new(0)).collect())
    }

    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        self.0.get(offset / 8)
    }
}

impl Memory for Words {
    type Own = Words;

    fn len(&self) -> usize {
        self.0.len() * 8
    }

    fn load(&self, offset: usize) -> u32 {
        let word = self.word(offset).map_or(0, |word| word.load(Ordering::Acquire));
        (word >> (offset % 8 * 8)) as u32
    }

    fn store(&self, offset: usize, value: u32) {
        // One writer for each word, as in the queues: no need of an atomic change of its half.
        let Some(word) = self.word(offset) else { return };
        let shift = offset % 8 * 8;
        let other = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
        word.store(other | u64::from(value) << shift, Ordering::Release);
    }

    fn load_words(&self, offset: usize, into: &mut [u64]) {
        let words = self.0.get(offset / 8..offset / 8 + into.len()).unwrap_or_default();
        for (index, word) in into.iter_mut().enumerate() {
            *word = words.get(index).map_or(0, |word| word.load(Ordering::Acquire));
        }
    }

    fn store_words(&self, offset: usize, from: &[u64]) {
        let words = self.0.get(offset / 8..offset / 8 + from.len()).unwrap_or_default();
        for (word, value) in words.iter().zip(from) {
            word.store(*value, Ordering::Release);
        }
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, part) in into.chunks_mut(8).enumerate() {
            let word = self.word(offset + index * 8).map_or(0, |word| word.load(Ordering::Relaxed));
            part.copy_from_slice(&word.to_le_bytes()[..part.len()]);
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        for (index, part) in from.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            if let Some(word) = self.word(offset + index * 8) {
                word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
            }
        }
    }
}

impl Own for Words {
    fn size(&self) -> usize {
        self.0.len() * 8
    }

    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut copy = vec![0; length];
        self.read(offset, &mut copy);
        let result = edit(&mut copy);
        self.write(offset, &copy);
        Some(result)
    }
}
