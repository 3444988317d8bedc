//! Transmission: pages of the tx-pool, one frame each, granted to the back end for reading.

use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::Memory;

use crate::ring::{Front, PageSet, Refusal, SLOTS, Violation};

/// Bytes of a request (`struct netif_tx_request`) and so of a slot.
const REQUEST: usize = 12;
/// Bytes of a response (`struct netif_tx_response`).
const RESPONSE: usize = 4;
/// The shortest frame: a header (`ETH_HLEN`).
pub const SHORTEST: u16 = 14;

/// The transmit side.
pub struct Transmit<M> {
    ring: Front<M>,
    reference: GrantRef,
    pages: u16,
    in_flight: PageSet,
    batch: u32,
    /// Frames that the back end did not send (`NETIF_RSP_ERROR`, `NETIF_RSP_DROPPED`).
    pub dropped: u64,
}

impl<M: Memory> Transmit<M> {
    /// The ring in page 0 of `rings`, for a pool of `pages`.
    pub fn new(rings: M, pages: u16) -> Self {
        Transmit {
            ring: Front::new(rings, 0, REQUEST),
            reference: GrantRef(0),
            pages: pages.min(SLOTS as u16),
            in_flight: PageSet::default(),
            batch: 0,
            dropped: 0,
        }
    }

    /// Makes the ring empty. Only while no one else maps it.
    pub fn reset(&mut self) {
        self.ring.reset();
        self.in_flight = PageSet::default();
        self.batch = 0;
    }

    /// Tells under which references the pages are granted.
    pub fn start(&mut self, reference: GrantRef) {
        self.reference = reference;
    }

    /// How many pages the back end has.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    /// Puts a frame on the ring.
    ///
    /// # Errors
    /// It is no frame of tcpip's to send.
    pub fn submit(&mut self, page: u16, length: u16) -> Result<(), Refusal> {
        if page >= self.pages {
            return Err(Refusal::Page);
        }
        if self.in_flight.has(page) {
            return Err(Refusal::Owner);
        }
        if length < SHORTEST || usize::from(length) > PAGE_SIZE {
            return Err(Refusal::Length);
        }
        let reference = self.reference.0.wrapping_add(u32::from(page)).to_le_bytes();
        let ([r0, r1, r2, r3], [i0, i1], [s0, s1]) = (reference, page.to_le_bytes(), length.to_le_bytes());
        // No more pages than slots: there is room for every page.
        if !self.ring.push(&[r0, r1, r2, r3, 0, 0, 0, 0, i0, i1, s0, s1]) {
            return Err(Refusal::Page);
        }
        self.in_flight.set(page, true);
        Ok(())
    }

    /// Shows the back end what was submitted; whether it is to be notified.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// The next page that the back end has given back.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn reap(&mut self) -> Result<Option<u16>, Violation> {
        if self.batch == 0 {
            self.batch = self.ring.ready()?;
        }
        let Some(rest) = self.batch.checked_sub(1) else { return Ok(None) };
        self.batch = rest;
        let mut response = [0; RESPONSE];
        self.ring.pop(&mut response);
        let [i0, i1, s0, s1] = response;
        let (page, status) = (u16::from_le_bytes([i0, i1]), i16::from_le_bytes([s0, s1]));
        if !self.in_flight.has(page) {
            return Err(Violation::Id);
        }
        self.in_flight.set(page, false);
        if status < 0 {
            self.dropped = self.dropped.saturating_add(1);
        }
        Ok(Some(page))
    }

    /// Arranges for the next event; whether responses have come meanwhile.
    ///
    /// A response only matters when tcpip runs short of pages. So an event is wanted for every quarter of the pool;
    /// for each response, when less than a quarter is left to tcpip, or when `eager`. Fewer than a quarter in
    /// flight may stay unannounced until something else happens: tcpip then has more than three quarters.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn rest(&mut self, eager: bool) -> Result<bool, Violation> {
        let (quarter, in_flight) = (u32::from(self.pages / 4), self.in_flight());
        let short = u32::from(self.pages).saturating_sub(in_flight) < quarter;
        let ahead = if eager || short { 1 } else { quarter.max(1) };
        Ok(self.ring.wait_for(ahead)? >= ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_sim::{Fickle, SharedMemory};
    use proptest::prelude::*;

    fn transmit(pages: u16) -> (SharedMemory, Transmit<SharedMemory>) {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        let mut transmit = Transmit::new(memory.clone(), pages);
        transmit.reset();
        transmit.start(GrantRef(500));
        (memory, transmit)
    }

    fn respond(memory: &SharedMemory, id: u16, status: i16) {
        let index = memory.load(8);
        let at = 64 + (index % SLOTS) as usize * REQUEST;
        memory.write(at, &[id.to_le_bytes(), status.to_le_bytes()].concat());
        memory.store(8, index.wrapping_add(1));
    }

    #[test]
    fn a_request_is_laid_out_as_netif_says() {
        let (memory, mut transmit) = transmit(128);
        assert_eq!(transmit.submit(5, 1514), Ok(()));
        assert!(transmit.publish());
        assert_eq!(memory.bytes(64, 12), [0xF9, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0xEA, 5]);
        assert_eq!(memory.load(0), 1);
    }

    #[test]
    fn what_tcpip_may_not_send() {
        let (_, mut transmit) = transmit(128);
        assert_eq!(transmit.submit(128, 60), Err(Refusal::Page));
        assert_eq!(transmit.submit(u16::MAX, 60), Err(Refusal::Page));
        assert_eq!(transmit.submit(0, 13), Err(Refusal::Length));
        assert_eq!(transmit.submit(0, 4097), Err(Refusal::Length));
        assert_eq!(transmit.submit(0, 4096), Ok(()));
        assert_eq!(transmit.submit(0, 60), Err(Refusal::Owner));
    }

    #[test]
    fn completions_in_any_order_and_each_once() {
        let (memory, mut transmit) = transmit(128);
        for page in 0..3 {
            transmit.submit(page, 60).expect("a frame");
        }
        transmit.publish();
        respond(&memory, 2, 0);
        respond(&memory, 0, -1);
        assert_eq!(transmit.reap(), Ok(Some(2)));
        assert_eq!(transmit.reap(), Ok(Some(0)));
        assert_eq!((transmit.reap(), transmit.dropped), (Ok(None), 1));
        respond(&memory, 2, 0);
        assert_eq!(transmit.reap(), Err(Violation::Id));
    }

    #[test]
    fn an_unknown_id_and_a_jump_are_violations() {
        for id in [1, 127, 128, 255, 256, u16::MAX] {
            let (memory, mut transmit) = transmit(128);
            transmit.submit(0, 60).expect("a frame");
            transmit.publish();
            respond(&memory, id, 0);
            assert_eq!(transmit.reap(), Err(Violation::Id));
        }
        let (memory, mut transmit) = transmit(128);
        memory.store(8, 1);
        assert_eq!(transmit.reap(), Err(Violation::Producer));
    }

    #[test]
    fn events_are_rare_but_never_missing_when_pages_are() {
        let (memory, mut transmit) = transmit(128);
        for page in 0..10 {
            transmit.submit(page, 60).expect("a frame");
        }
        transmit.publish();
        assert_eq!(transmit.rest(false), Ok(false));
        assert_eq!(memory.load(12), 32);
        assert_eq!(transmit.rest(true), Ok(false));
        assert_eq!(memory.load(12), 1);
        for page in 10..128 {
            transmit.submit(page, 60).expect("a frame");
        }
        transmit.publish();
        assert_eq!(transmit.rest(false), Ok(false));
        assert_eq!(memory.load(12), 1);
        respond(&memory, 9, 0);
        assert_eq!(transmit.rest(false), Ok(true));
    }

    proptest! {
        #[test]
        fn no_page_is_ever_given_back_twice(responses in prop::collection::vec((0u16..40, any::<i16>()), 0..80), jump: Option<u32>) {
            let (memory, mut transmit) = transmit(32);
            for page in 0..32 { transmit.submit(page, 60).expect("a frame"); }
            transmit.publish();
            for (id, status) in responses { respond(&memory, id, status); }
            if let Some(jump) = jump { memory.store(8, jump); }
            let mut back = PageSet::default();
            while let Ok(Some(page)) = transmit.reap() {
                prop_assert!(page < 32 && !back.has(page));
                back.set(page, true);
            }
            prop_assert_eq!(back.count() + transmit.in_flight(), 32);
        }

        #[test]
        fn memory_that_changes_under_the_reader_gives_no_page_twice(seed: u64, one_in in 1u64..40) {
            let memory = SharedMemory::new(2 * PAGE_SIZE);
            let mut transmit = Transmit::new(Fickle::new(memory.clone(), seed, one_in), 32);
            transmit.reset();
            let mut free: Vec<u16> = (0..32).collect();
            for round in 0..200u16 {
                if let Some(page) = free.pop() { prop_assert_eq!(transmit.submit(page, 60), Ok(())); }
                transmit.publish();
                respond(&memory, round % 32, 0);
                while let Ok(page) = transmit.reap() {
                    let Some(page) = page else { break };
                    prop_assert!(page < 32 && !free.contains(&page));
                    free.push(page);
                }
                if transmit.rest(false).is_err() { break; }
            }
            prop_assert_eq!(free.len() as u32 + transmit.in_flight(), 32);
        }
    }
}
