//! Memory that several parties share. No reference into it leaves this module.

use std::cell::RefCell;
use std::rc::Rc;

use cloister_interfaces::{ExclusiveMemory, Memory};

/// A region that is shared by all clones of this value.
#[derive(Clone)]
pub struct SharedMemory {
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl SharedMemory {
    /// Returns a region of `length` zero bytes.
    #[must_use]
    pub fn new(length: usize) -> Self {
        SharedMemory { bytes: Rc::new(RefCell::new(vec![0; length])) }
    }

    /// Returns a copy of `count` bytes from `offset`.
    #[must_use]
    pub fn bytes(&self, offset: usize, count: usize) -> Vec<u8> {
        let mut copy = vec![0; count];
        self.read(offset, &mut copy);
        copy
    }
}

impl Memory for SharedMemory {
    type Exclusive = SharedMemory;
    fn len(&self) -> usize {
        self.bytes.borrow().len()
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
        let bytes = self.bytes.borrow();
        let there = bytes.get(offset..).unwrap_or_default();
        let count = there.len().min(into.len());
        into[..count].copy_from_slice(&there[..count]);
        into[count..].fill(0);
    }
    fn write(&self, offset: usize, from: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        let there = bytes.get_mut(offset..).unwrap_or_default();
        let count = there.len().min(from.len());
        there[..count].copy_from_slice(&from[..count]);
    }
}

impl ExclusiveMemory for SharedMemory {
    fn size(&self) -> usize {
        self.bytes.borrow().len()
    }
    fn edit<R>(&mut self, offset: usize, length: usize, edit: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let mut copy = self.bytes.borrow().get(offset..offset.checked_add(length)?)?.to_vec();
        let result = edit(&mut copy);
        self.write(offset, &copy);
        Some(result)
    }
}
