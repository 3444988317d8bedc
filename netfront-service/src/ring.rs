//! The front end's side of a shared ring (Xen `io/ring.h`): a page with a header of 64 bytes and 256 slots, in
//! which a response takes the place of a request.
//!
//! Both own indices are private; the page gets copies of them. Of what the back end writes, each word is read
//! once and checked; a slot is copied out whole, once.

use core::sync::atomic::{Ordering, fence};

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::Memory;

/// Slots of either ring: the largest power of two that fits (`__RING_SIZE`).
pub const SLOTS: u32 = 256;
const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;
const FIRST_SLOT: usize = 64;

/// What the back end did that no honest one does. The connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// More responses than there were requests.
    Producer,
    /// A response to a request that was not made, or was answered before.
    Id,
    /// Bytes outside the page.
    Bounds,
    /// A flag that was not negotiated.
    Flags,
}

impl Violation {
    /// What it is, for the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Violation::Producer => "ring index: more responses than requests",
            Violation::Id => "response to a request that is not outstanding",
            Violation::Bounds => "response outside its page",
            Violation::Flags => "response with a flag that was not negotiated",
        }
    }
}

/// One ring.
pub struct Front<M> {
    memory: M,
    base: usize,
    slot_size: usize,
    req_prod: u32,
    published: u32,
    rsp_cons: u32,
}

impl<M: Memory> Front<M> {
    /// The ring in the page at `base` of `memory`, with slots of `slot_size` bytes.
    pub fn new(memory: M, base: usize, slot_size: usize) -> Self {
        Front { memory, base, slot_size, req_prod: 0, published: 0, rsp_cons: 0 }
    }

    /// Makes the ring empty, and its page that of an empty ring. Only while no one else maps it.
    pub fn reset(&mut self) {
        for offset in (0..PAGE_SIZE).step_by(64) {
            self.memory.write(self.base + offset, &[0; 64]);
        }
        self.memory.store(self.base + REQ_EVENT, 1);
        self.memory.store(self.base + RSP_EVENT, 1);
        (self.req_prod, self.published, self.rsp_cons) = (0, 0, 0);
    }

    /// The index that the next request will have.
    pub fn next_index(&self) -> u32 {
        self.req_prod
    }

    /// Requests that have no response yet.
    pub fn outstanding(&self) -> u32 {
        self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Writes a request; `false` if the ring is full. The back end sees it at [`Self::publish`].
    pub fn push(&mut self, request: &[u8]) -> bool {
        if self.outstanding() >= SLOTS {
            return false;
        }
        self.memory.write(self.slot(self.req_prod), request);
        self.req_prod = self.req_prod.wrapping_add(1);
        true
    }

    /// Shows the back end what was pushed; whether it is to be notified
    /// (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`).
    pub fn publish(&mut self) -> bool {
        if self.req_prod == self.published {
            return false;
        }
        let old = core::mem::replace(&mut self.published, self.req_prod);
        self.memory.store(self.base + REQ_PROD, self.req_prod);
        fence(Ordering::SeqCst);
        let event = self.memory.load(self.base + REQ_EVENT);
        self.req_prod.wrapping_sub(event) < self.req_prod.wrapping_sub(old)
    }

    /// How many responses wait.
    ///
    /// # Errors
    /// There are more than requests were published.
    pub fn ready(&self) -> Result<u32, Violation> {
        let ready = self.memory.load(self.base + RSP_PROD).wrapping_sub(self.rsp_cons);
        let possible = self.published.wrapping_sub(self.rsp_cons);
        if ready <= possible { Ok(ready) } else { Err(Violation::Producer) }
    }

    /// Copies the next response out, of which [`Self::ready`] said that there is one; answers its index.
    pub fn pop(&mut self, into: &mut [u8]) -> u32 {
        let index = self.rsp_cons;
        self.memory.read(self.slot(index), into);
        self.rsp_cons = index.wrapping_add(1);
        index
    }

    /// Asks for an event at the `ahead`th response from now, and looks once more (`RING_FINAL_CHECK_FOR_RESPONSES`).
    ///
    /// # Errors
    /// There are more responses than requests were published.
    pub fn wait_for(&mut self, ahead: u32) -> Result<u32, Violation> {
        self.memory.store(self.base + RSP_EVENT, self.rsp_cons.wrapping_add(ahead));
        fence(Ordering::SeqCst);
        self.ready()
    }

    fn slot(&self, index: u32) -> usize {
        self.base + FIRST_SLOT + (index % SLOTS) as usize * self.slot_size
    }
}

/// A set of page indices below 256.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageSet {
    words: [u64; 4],
}

impl PageSet {
    /// Whether the page is in the set.
    pub fn has(&self, page: u16) -> bool {
        self.words.get(usize::from(page / 64)).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }
    /// Puts the page in or takes it out.
    pub fn set(&mut self, page: u16, member: bool) {
        if let Some(word) = self.words.get_mut(usize::from(page / 64)) {
            let bit = 1 << (page % 64);
            if member { *word |= bit } else { *word &= !bit }
        }
    }
    /// How many pages are in the set.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }
}

/// Why a request of tcpip's is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The pool has no such page.
    Page,
    /// The page is not tcpip's to give.
    Owner,
    /// No frame has this length.
    Length,
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_sim::SharedMemory;
    use proptest::prelude::*;

    fn ring() -> (SharedMemory, Front<SharedMemory>) {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        memory.write(0, &[0xFF; 2 * PAGE_SIZE]);
        let mut ring = Front::new(memory.clone(), PAGE_SIZE, 12);
        ring.reset();
        (memory, ring)
    }

    #[test]
    fn a_fresh_ring_is_zero_but_for_its_events() {
        let (memory, _) = ring();
        let mut expected = vec![0; PAGE_SIZE];
        (expected[4], expected[12]) = (1, 1);
        assert_eq!(memory.bytes(PAGE_SIZE, PAGE_SIZE), expected);
        assert_eq!(memory.bytes(0, PAGE_SIZE), vec![0xFF; PAGE_SIZE]);
    }

    #[test]
    fn notifications_as_the_macro_says() {
        let (memory, mut ring) = ring();
        assert!(!ring.publish());
        ring.push(&[1; 12]);
        assert!(ring.publish(), "req_event is 1 at first");
        ring.push(&[1; 12]);
        assert!(!ring.publish(), "the back end is awake");
        memory.store(PAGE_SIZE + REQ_EVENT, 4);
        ring.push(&[1; 12]);
        assert!(!ring.publish());
        ring.push(&[1; 12]);
        assert!(ring.publish());
    }

    #[test]
    fn a_full_ring_takes_no_more() {
        let (_, mut ring) = ring();
        for _ in 0..SLOTS {
            assert!(ring.push(&[0; 12]));
        }
        assert!(!ring.push(&[0; 12]));
        assert_eq!(ring.outstanding(), SLOTS);
    }

    proptest! {
        #[test]
        fn a_producer_is_believed_up_to_what_was_published(pushed in 0u32..=SLOTS, hidden in 0u32..4, claim: u32) {
            let (memory, mut ring) = ring();
            for _ in 0..pushed { ring.push(&[0; 12]); }
            ring.publish();
            for _ in 0..hidden { ring.push(&[0; 12]); }
            memory.store(PAGE_SIZE + RSP_PROD, claim);
            let expected = if claim <= pushed { Ok(claim) } else { Err(Violation::Producer) };
            prop_assert_eq!(ring.ready(), expected);
        }
    }
}
