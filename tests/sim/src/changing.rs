//! Memory that changes under its reader, as a shared page does that a hostile peer writes all the
//! time.
//!
//! Each read may find other bytes than the one before. Logic that reads the same word twice and
//! relies on equal values fails here.

use std::cell::Cell;
use std::rc::Rc;

use cloister_interfaces::Memory;

use crate::memory::SharedMemory;

/// A view of shared memory in which some reads are wrong. Writes go through.
#[derive(Clone)]
pub struct ChangingMemory {
    memory: SharedMemory,
    state: Rc<Cell<u64>>,
    one_in: u64,
}

impl ChangingMemory {
    /// Returns a view of `memory` in which one read in `one_in` is wrong, chosen by `seed`.
    #[must_use]
    pub fn new(memory: SharedMemory, seed: u64, one_in: u64) -> Self {
        ChangingMemory { memory, state: Rc::new(Cell::new(seed | 1)), one_in: one_in.max(1) }
    }

    /// Returns the next number of a xorshift generator.
    fn draw(&self) -> u64 {
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        state
    }

    fn wrong(&self) -> bool {
        self.draw().is_multiple_of(self.one_in)
    }
}

impl Memory for ChangingMemory {
    type Exclusive = SharedMemory;
    fn len(&self) -> usize {
        self.memory.len()
    }
    fn load(&self, offset: usize) -> u32 {
        let honest = self.memory.load(offset);
        if !self.wrong() {
            return honest;
        }
        // Values near the true one pass more checks than arbitrary ones.
        let draw = self.draw();
        if draw & 1 == 0 { honest.wrapping_add((draw >> 32) as u32 % 300) } else { (draw >> 32) as u32 }
    }
    fn store(&self, offset: usize, value: u32) {
        self.memory.store(offset, value);
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.memory.read(offset, into);
        if self.wrong() {
            for byte in into {
                *byte = if self.draw() & 1 == 0 { *byte } else { self.draw() as u8 };
            }
        }
    }
    fn write(&self, offset: usize, from: &[u8]) {
        self.memory.write(offset, from);
    }
}
