//! The back end's side of a shared ring (Xen `io/ring.h`). It works honestly, but can also write
//! any word and slot.

use core::sync::atomic::{Ordering, fence};

use cloister_caps::xen::netif::TX_SLOTS as SLOTS;
use cloister_caps::xen::ring::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::Memory;

/// A ring in a page of `memory`.
pub struct BackRing<M> {
    memory: M,
    base: usize,
    slot: usize,
    consumed: u32,
    answered: u32,
    published: u32,
}

impl<M: Memory> BackRing<M> {
    /// Wraps the ring at `base`, whose slots have `slot` bytes.
    pub fn new(memory: M, base: usize, slot: usize) -> Self {
        BackRing { memory, base, slot, consumed: 0, answered: 0, published: 0 }
    }

    /// Starts over, for a new connection.
    pub fn reset(&mut self) {
        (self.consumed, self.answered, self.published) = (0, 0, 0);
    }

    /// Reads a word of the header.
    pub fn word(&self, offset: usize) -> u32 {
        self.memory.load(self.base + offset)
    }

    /// Writes a word of the header.
    pub fn set_word(&self, offset: usize, value: u32) {
        self.memory.store(self.base + offset, value);
    }

    /// Overwrites a slot with any bytes.
    pub fn overwrite_slot(&self, index: u32, bytes: &[u8]) {
        self.memory.write(self.at(index), bytes.get(..self.slot).unwrap_or(bytes));
    }

    fn at(&self, index: u32) -> usize {
        self.base + FIRST_SLOT + (index % SLOTS) as usize * self.slot
    }

    /// Returns the number of requests that were not consumed.
    pub fn waiting(&self) -> u32 {
        self.word(REQ_PROD).wrapping_sub(self.consumed).min(SLOTS)
    }

    /// Consumes the next request. Returns `true` if there was one; otherwise asks for an event at
    /// the next.
    pub fn take(&mut self, request: &mut [u8]) -> bool {
        if self.waiting() == 0 {
            self.set_word(REQ_EVENT, self.consumed.wrapping_add(1));
            fence(Ordering::SeqCst);
            if self.waiting() == 0 {
                return false;
            }
        }
        self.memory.read(self.at(self.consumed), request);
        self.consumed = self.consumed.wrapping_add(1);
        true
    }

    /// Returns the index of the next response.
    pub fn next(&self) -> u32 {
        self.answered
    }

    /// Adds a response, not yet published.
    pub fn answer(&mut self, response: &[u8]) {
        self.memory.write(self.at(self.answered), response);
        self.answered = self.answered.wrapping_add(1);
    }

    /// Publishes the responses. Returns `true` if the front end wants an event.
    pub fn publish(&mut self) -> bool {
        let (old, new) = (self.published, self.answered);
        self.published = new;
        self.set_word(RSP_PROD, new);
        fence(Ordering::SeqCst);
        new.wrapping_sub(self.word(RSP_EVENT)) < new.wrapping_sub(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_caps::PAGE_SIZE;
    use cloister_sim::SharedMemory;

    #[test]
    fn requests_are_taken_once_and_answered_in_order() {
        let memory = SharedMemory::new(PAGE_SIZE);
        let mut ring = BackRing::new(memory.clone(), 0, 8);
        let mut request = [0; 8];
        assert!(!ring.take(&mut request));
        assert_eq!(memory.load(REQ_EVENT), 1);
        memory.write(FIRST_SLOT, &[1, 2, 3, 4, 5, 6, 7, 8]);
        memory.store(REQ_PROD, 2);
        memory.store(RSP_EVENT, 2);
        assert!(ring.take(&mut request) && ring.take(&mut request) && !ring.take(&mut request));
        ring.answer(&[9; 8]);
        assert!(!ring.publish(), "an event is wanted at the second only");
        ring.answer(&[8; 8]);
        assert!(ring.publish());
        assert_eq!((memory.load(RSP_PROD), ring.next()), (2, 2));
        assert_eq!(memory.bytes(FIRST_SLOT, 16), [[9; 8], [8; 8]].concat());
    }
}
