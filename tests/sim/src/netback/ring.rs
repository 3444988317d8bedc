//! The back end's side of a shared ring.

use cloister_caps::xen::netif::TX_SLOTS as SLOTS;
use cloister_caps::xen::ring::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::Memory;

use crate::memory::SharedMemory;

/// The back end's side of a ring.
pub struct BackRing {
    /// The region that the ring's page is in.
    pub memory: SharedMemory,
    /// The offset of the page in the region.
    pub base: usize,
    slot: usize,
    req_cons: u32,
    rsp_prod: u32,
    published: u32,
}

impl BackRing {
    pub(super) fn new((memory, base): (SharedMemory, usize), slot: usize) -> Self {
        BackRing { memory, base, slot, req_cons: 0, rsp_prod: 0, published: 0 }
    }

    fn at(&self, index: u32) -> usize {
        self.base + FIRST_SLOT + (index % SLOTS) as usize * self.slot
    }

    /// Returns the number of waiting requests, up to `wanted`. With fewer, it asks for an event at
    /// the next one.
    pub(super) fn waiting(&self, wanted: u32) -> u32 {
        loop {
            let produced = self.memory.load(self.base + REQ_PROD);
            let waiting = produced.wrapping_sub(self.req_cons);
            assert!(waiting <= SLOTS, "fatal: the front end's producer is impossible");
            if waiting >= wanted {
                return wanted;
            }
            self.memory.store(self.base + REQ_EVENT, produced.wrapping_add(1));
            if self.memory.load(self.base + REQ_PROD) == produced {
                return waiting;
            }
        }
    }

    /// Consumes the next request. [`Self::waiting`] must have returned at least 1.
    pub(super) fn request(&mut self) -> Vec<u8> {
        let request = self.memory.bytes(self.at(self.req_cons), self.slot);
        self.req_cons = self.req_cons.wrapping_add(1);
        request
    }

    /// Returns the index of the next response.
    pub(super) fn index(&self) -> u32 {
        self.rsp_prod
    }

    /// Writes `bytes` at `offset` of the next response. The rest of its slot stays unchanged.
    pub(super) fn respond(&mut self, offset: usize, bytes: &[u8]) {
        self.memory.write(self.at(self.rsp_prod) + offset, bytes);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
    }

    /// Publishes the responses. Returns `true` if the front end wants an event.
    pub(super) fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.rsp_prod);
        self.memory.store(self.base + RSP_PROD, self.rsp_prod);
        let event = self.memory.load(self.base + RSP_EVENT);
        self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old)
    }
}
