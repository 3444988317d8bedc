//! The front end's side of a shared ring (Xen `io/ring.h`): a page with a header of 64 bytes and
//! 256 slots, as [`cloister_caps::xen::ring`] lays it out. A response overwrites a request's slot.
//!
//! The front end's own indices are private, and the page holds only copies of them. Each word that
//! the back end writes is read once and checked. The part of a slot that is used is read by one
//! access.

use cloister_caps::PAGE_SIZE;
use cloister_caps::xen::netif::TX_SLOTS as SLOTS;
use cloister_caps::xen::ring::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::Memory;

/// A violation of the protocol by the back end. It ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// There are more responses than requests.
    Producer,
    /// A response answers a request that was not made, or was answered before.
    Id,
    /// A response claims bytes outside its page.
    Bounds,
    /// A response has a flag or an extra info that was not negotiated.
    Features,
    /// A frame takes more slots than a frame can have (`XEN_NETIF_NR_SLOTS_MIN`).
    Slots,
}

impl Violation {
    /// Returns a description for the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Violation::Producer => "ring index: more responses than requests",
            Violation::Id => "response to a request that is not outstanding",
            Violation::Bounds => "response outside its page",
            Violation::Features => "response with something that was not negotiated",
            Violation::Slots => "frame of too many slots",
        }
    }
}

/// A mistake of the back end that costs a frame, and not the connection. The values are the bits of
/// a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Anomaly {
    /// The back end did not send a frame (`NETIF_RSP_ERROR`, `NETIF_RSP_DROPPED`).
    NotSent = 1,
    /// The response to a transmit request has a status that such a response cannot have. The frame
    /// counts as sent.
    UnknownStatus = 2,
    /// A slot of a received frame has an error status, or no bytes.
    BadSlot = 4,
    /// A received frame is shorter than its header, or longer than any frame can be.
    Length = 8,
}

impl Anomaly {
    /// Every anomaly.
    pub const ALL: [Anomaly; 4] = [Anomaly::NotSent, Anomaly::UnknownStatus, Anomaly::BadSlot, Anomaly::Length];

    /// Returns a description for the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Anomaly::NotSent => "the back end did not send a frame",
            Anomaly::UnknownStatus => "the back end gave a sent frame an unknown status",
            Anomaly::BadSlot => "dropped a received frame: a slot has an error status or no bytes",
            Anomaly::Length => "dropped a received frame: shorter than its header, or longer than the longest frame",
        }
    }
}

/// The front end's side of one ring, whose slots have `SLOT` bytes.
///
/// # Holding one proves
/// A response that it returns answers a request that was published, and that no earlier response
/// answered. What the response says is not checked: `rx` and `tx` do that.
pub struct FrontRing<M, const SLOT: usize> {
    memory: M,
    base: usize,
    req_prod: u32,
    published: u32,
    rsp_cons: u32,
    /// The number of responses that were found ready and have not been taken.
    batch: u32,
}

impl<M: Memory, const SLOT: usize> FrontRing<M, SLOT> {
    /// Creates the ring for the page at `base` of `memory`.
    pub fn new(memory: M, base: usize) -> Self {
        FrontRing { memory, base, req_prod: 0, published: 0, rsp_cons: 0, batch: 0 }
    }

    /// Empties the ring, and writes the page of an empty ring. Called only while nobody else maps
    /// the page.
    pub fn reset(&mut self) {
        for offset in (0..PAGE_SIZE).step_by(64) {
            self.memory.write(self.base + offset, &[0; 64]);
        }
        self.memory.store(self.base + REQ_EVENT, 1);
        self.memory.store(self.base + RSP_EVENT, 1);
        (self.req_prod, self.published, self.rsp_cons, self.batch) = (0, 0, 0, 0);
    }

    /// Returns the index of the next request to be pushed.
    pub fn next_index(&self) -> u32 {
        self.req_prod
    }

    /// Returns the number of requests whose responses have not been taken.
    pub fn outstanding(&self) -> u32 {
        self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Returns the number of requests that can be pushed now.
    pub fn free_slots(&self) -> u32 {
        SLOTS.saturating_sub(self.outstanding())
    }

    /// Writes the first words of a request. The caller has made sure that a slot is free. The back
    /// end sees the request after [`Self::publish`].
    pub fn push<const WORDS: usize>(&mut self, words: [u32; WORDS]) {
        let slot = self.slot(self.req_prod);
        for (index, word) in words.into_iter().enumerate() {
            self.memory.store(slot + index * 4, word);
        }
        self.req_prod = self.req_prod.wrapping_add(1);
    }

    /// Publishes the pushed requests. Returns `true` if the back end must be notified
    /// (`RING_PUSH_REQUESTS_AND_CHECK_NOTIFY`).
    pub fn publish(&mut self) -> bool {
        if self.req_prod == self.published {
            return false;
        }
        let old = core::mem::replace(&mut self.published, self.req_prod);
        self.memory.store(self.base + REQ_PROD, self.req_prod);
        self.memory.barrier();
        let event = self.memory.load(self.base + REQ_EVENT);
        self.req_prod.wrapping_sub(event) < self.req_prod.wrapping_sub(old)
    }

    /// Returns the number of responses that can be taken: at most the number of published requests
    /// without a response.
    ///
    /// # Errors
    /// The back end claims more responses than requests were published.
    pub fn ready(&self) -> Result<u32, Violation> {
        let ready = self.memory.load(self.base + RSP_PROD).wrapping_sub(self.rsp_cons);
        let possible = self.published.wrapping_sub(self.rsp_cons);
        if ready <= possible { Ok(ready) } else { Err(Violation::Producer) }
    }

    /// Takes the next response, if there is one. Returns its index and the offset of its slot.
    fn next_response(&mut self) -> Result<Option<(u32, usize)>, Violation> {
        if self.batch == 0 {
            self.batch = self.ready()?;
        }
        let Some(left) = self.batch.checked_sub(1) else { return Ok(None) };
        let index = self.rsp_cons;
        (self.batch, self.rsp_cons) = (left, index.wrapping_add(1));
        Ok(Some((index, self.slot(index))))
    }

    /// Takes the next response, if there is one. Returns its first four bytes.
    ///
    /// # Errors
    /// The back end claims more responses than requests were published.
    pub fn pop(&mut self) -> Result<Option<u32>, Violation> {
        Ok(self.next_response()?.map(|(_, slot)| self.memory.load(slot)))
    }

    /// Takes the next response, if there is one. Returns its index and its first eight bytes.
    ///
    /// # Errors
    /// The back end claims more responses than requests were published.
    pub fn pop_with_index(&mut self) -> Result<Option<(u32, u64)>, Violation> {
        let Some((index, slot)) = self.next_response()? else { return Ok(None) };
        let mut pair = [0];
        self.memory.load_words(slot, &mut pair);
        Ok(Some((index, pair[0])))
    }

    /// Asks for an event at the `ahead`th response from now. Then returns the number of responses
    /// that can be taken already (`RING_FINAL_CHECK_FOR_RESPONSES`).
    ///
    /// # Errors
    /// The back end claims more responses than requests were published.
    pub fn final_check(&mut self, ahead: u32) -> Result<u32, Violation> {
        self.memory.store(self.base + RSP_EVENT, self.rsp_cons.wrapping_add(ahead));
        self.memory.barrier();
        self.ready()
    }

    /// Returns the offset of a slot.
    fn slot(&self, index: u32) -> usize {
        self.base + FIRST_SLOT + (index % SLOTS) as usize * SLOT
    }
}

#[cfg(test)]
impl<M: Memory, const SLOT: usize> FrontRing<M, SLOT> {
    /// Advances all indices as if `rounds` more rounds of the ring had been answered.
    pub fn advance_rounds(&mut self, rounds: u32) {
        let more = rounds.wrapping_mul(SLOTS);
        for index in [&mut self.req_prod, &mut self.published, &mut self.rsp_cons] {
            *index = index.wrapping_add(more);
        }
        for word in [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT] {
            self.memory.store(self.base + word, self.memory.load(self.base + word).wrapping_add(more));
        }
    }
}

#[cfg(test)]
mod tests;
