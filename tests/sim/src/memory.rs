//! Memory that several parties hold: a vector of cells, so that no reference into it can exist.

use std::cell::Cell;
use std::rc::Rc;

use cloister_interfaces::{Memory, Own};

/// A region shared by everyone who has a clone.
#[derive(Clone)]
pub struct SharedMemory {
    bytes: Rc<[Cell<u8>]>,
}

impl SharedMemory {
    /// `length` zero bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        SharedMemory { bytes: (0..length).map(|_| Cell::new(0)).collect() }
    }

    /// A copy of `count` bytes from `offset`.
    #[must_use]
    pub fn bytes(&self, offset: usize, count: usize) -> Vec<u8> {
        let mut copy = vec![0; count];
        self.read(offset, &mut copy);
        copy
    }
}

impl Memory for SharedMemory {
    type Own = SharedMemory;
    fn len(&self) -> usize {
        self.bytes.len()
    }
    fn load(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.read(offset, &mut word);
        u32::from_le_bytes(word)
    }
    fn store(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).map_or(0, Cell::get);
        }
    }
    fn write(&self, offset: usize, from: &[u8]) {
        for (index, byte) in from.iter().enumerate() {
            if let Some(cell) = self.bytes.get(offset + index) {
                cell.set(*byte);
            }
        }
    }
}

impl Own for SharedMemory {
    fn size(&self) -> usize {
        self.bytes.len()
    }
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let cells = self.bytes.get(offset..offset.checked_add(length)?)?;
        let mut copy: Vec<u8> = cells.iter().map(Cell::get).collect();
        let result = edit(&mut copy);
        self.write(offset, &copy);
        Some(result)
    }
}
