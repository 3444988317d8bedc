//! Reception: pages of the rx-pool, posted for the back end to copy frames into.
//!
//! Response *i* answers request *i* (Xen `io/netif.h`), so which page a response is about stands in the private
//! shadow at its index, and the id in the slot must be that index.

use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::Memory;

use crate::ring::{Front, PageSet, Refusal, SLOTS, Violation};
use crate::tx::SHORTEST;

/// Bytes of a request (`struct netif_rx_request`), of a response and of a slot.
const SLOT: usize = 8;
/// `NETRXF_data_validated` and `NETRXF_csum_blank`: hints about checksums, which are verified all the same. Every
/// other flag belongs to a feature that is not negotiated.
const IGNORED_FLAGS: u16 = 1 | 2;

/// A frame that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The page, now tcpip's.
    pub page: u16,
    /// Where in the page it starts.
    pub offset: u16,
    /// Its length in bytes.
    pub length: u16,
}

/// The receive side.
pub struct Receive<M> {
    ring: Front<M>,
    reference: GrantRef,
    pages: u16,
    /// The page posted at each index of the ring.
    shadow: [Option<u8>; SLOTS as usize],
    /// Pages that tcpip has.
    away: PageSet,
    batch: u32,
    /// Responses without a usable frame.
    pub dropped: u64,
}

impl<M: Memory> Receive<M> {
    /// The ring in page 1 of `rings`, for a pool of `pages`.
    pub fn new(rings: M, pages: u16) -> Self {
        Receive {
            ring: Front::new(rings, PAGE_SIZE, SLOT),
            reference: GrantRef(0),
            pages: pages.min(SLOTS as u16),
            shadow: [None; SLOTS as usize],
            away: PageSet::default(),
            batch: 0,
            dropped: 0,
        }
    }

    /// Makes the ring empty. Only while no one else maps it.
    pub fn reset(&mut self) {
        self.ring.reset();
        self.shadow = [None; SLOTS as usize];
        self.away = PageSet::default();
        self.batch = 0;
    }

    /// Tells under which references the pages are granted, and posts all of them.
    pub fn start(&mut self, reference: GrantRef) {
        self.reference = reference;
        for page in 0..self.pages {
            self.put(page);
        }
    }

    /// Posts a page that tcpip gives back.
    ///
    /// # Errors
    /// It is not tcpip's.
    pub fn post(&mut self, page: u16) -> Result<(), Refusal> {
        if page >= self.pages {
            return Err(Refusal::Page);
        }
        if !self.away.has(page) {
            return Err(Refusal::Owner);
        }
        self.away.set(page, false);
        self.put(page);
        Ok(())
    }

    fn put(&mut self, page: u16) {
        let index = (self.ring.next_index() % SLOTS) as usize;
        let reference = self.reference.0.wrapping_add(u32::from(page)).to_le_bytes();
        let ([i0, i1], [r0, r1, r2, r3]) = ((index as u16).to_le_bytes(), reference);
        // No more pages than slots: there is room for every page.
        if self.ring.push(&[i0, i1, 0, 0, r0, r1, r2, r3])
            && let Some(place) = self.shadow.get_mut(index)
        {
            *place = u8::try_from(page).ok();
        }
    }

    /// Shows the back end what was posted; whether it is to be notified.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// The next frame; pages that came back without one are posted again.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn take(&mut self) -> Result<Option<Frame>, Violation> {
        loop {
            if self.batch == 0 {
                self.batch = self.ring.ready()?;
            }
            let Some(rest) = self.batch.checked_sub(1) else { return Ok(None) };
            self.batch = rest;
            let mut response = [0; SLOT];
            let index = (self.ring.pop(&mut response) % SLOTS) as usize;
            let [i0, i1, o0, o1, f0, f1, s0, s1] = response;
            let (id, offset) = (u16::from_le_bytes([i0, i1]), u16::from_le_bytes([o0, o1]));
            let (flags, status) = (u16::from_le_bytes([f0, f1]), i16::from_le_bytes([s0, s1]));
            let page = self.shadow.get_mut(index).and_then(Option::take).ok_or(Violation::Id)?;
            if usize::from(id) != index {
                return Err(Violation::Id);
            }
            if flags & !IGNORED_FLAGS != 0 {
                return Err(Violation::Flags);
            }
            let page = u16::from(page);
            match u16::try_from(status) {
                Ok(length) if length >= SHORTEST => {
                    if usize::from(offset) + usize::from(length) > PAGE_SIZE {
                        return Err(Violation::Bounds);
                    }
                    self.away.set(page, true);
                    return Ok(Some(Frame { page, offset, length }));
                }
                _ => {
                    self.dropped = self.dropped.saturating_add(1);
                    self.put(page);
                }
            }
        }
    }

    /// Asks for an event at the next response; whether one has come meanwhile.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn rest(&mut self) -> Result<bool, Violation> {
        Ok(self.ring.wait_for(1)? > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_sim::{Fickle, SharedMemory};
    use proptest::prelude::*;

    const RX: usize = PAGE_SIZE;

    fn receive(pages: u16) -> (SharedMemory, Receive<SharedMemory>) {
        let memory = SharedMemory::new(2 * PAGE_SIZE);
        let mut receive = Receive::new(memory.clone(), pages);
        receive.reset();
        receive.start(GrantRef(300));
        receive.publish();
        (memory, receive)
    }

    fn respond(memory: &SharedMemory, id: u16, offset: u16, flags: u16, status: i16) {
        let index = memory.load(RX + 8);
        let at = RX + 64 + (index % SLOTS) as usize * SLOT;
        let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
        memory.write(at, &fields.concat());
        memory.store(RX + 8, index.wrapping_add(1));
    }

    #[test]
    fn all_pages_are_posted_at_the_start() {
        let (memory, _) = receive(128);
        assert_eq!(memory.load(RX), 128);
        assert_eq!(memory.bytes(RX + 64 + 5 * 8, 8), [5, 0, 0, 0, 0x31, 1, 0, 0]);
    }

    #[test]
    fn a_page_goes_to_tcpip_and_back_on_the_ring_round_and_round() {
        let (memory, mut receive) = receive(3);
        for round in 0u32..1000 {
            respond(&memory, (round % SLOTS) as u16, 0, 3, 60);
            let page = (round % 3) as u16;
            assert_eq!(receive.take(), Ok(Some(Frame { page, offset: 0, length: 60 })));
            assert_eq!(receive.take(), Ok(None));
            assert_eq!(receive.post(page), Ok(()));
            receive.publish();
            assert_eq!(memory.load(RX), round + 4);
        }
    }

    #[test]
    fn tcpip_gives_back_only_what_it_has_and_once() {
        let (memory, mut receive) = receive(3);
        assert_eq!(receive.post(0), Err(Refusal::Owner));
        assert_eq!(receive.post(3), Err(Refusal::Page));
        respond(&memory, 0, 0, 0, 14);
        receive.take().expect("honest").expect("a frame");
        assert_eq!(receive.post(0), Ok(()));
        assert_eq!(receive.post(0), Err(Refusal::Owner));
    }

    #[test]
    fn responses_without_a_frame_are_posted_again() {
        let (memory, mut receive) = receive(4);
        for (id, status) in [(0, -1), (1, 0), (2, 13), (3, i16::MIN)] {
            respond(&memory, id, 0, 0, status);
        }
        assert_eq!((receive.take(), receive.dropped), (Ok(None), 4));
        receive.publish();
        assert_eq!(memory.load(RX), 8);
        respond(&memory, 4, 100, 0, 3996);
        assert_eq!(receive.take(), Ok(Some(Frame { page: 0, offset: 100, length: 3996 })));
    }

    #[test]
    fn violations() {
        let cases = [
            (1, 0, 0, 60, Violation::Id),
            (u16::MAX, 0, 0, 60, Violation::Id),
            (0, 101, 0, 3996, Violation::Bounds),
            (0, u16::MAX, 0, i16::MAX, Violation::Bounds),
            (0, 0, 0, 4097, Violation::Bounds),
            (0, 0, 4, 60, Violation::Flags),
            (0, 0, 8, 60, Violation::Flags),
            (0, 0, 16, 60, Violation::Flags),
            (0, 0, 0x8000, 60, Violation::Flags),
        ];
        for (id, offset, flags, status, violation) in cases {
            let (memory, mut receive) = receive(4);
            respond(&memory, id, offset, flags, status);
            assert_eq!(receive.take(), Err(violation));
        }
        let (memory, mut receive) = receive(4);
        memory.store(RX + 8, 5);
        assert_eq!(receive.take(), Err(Violation::Producer));
    }

    proptest! {
        #[test]
        fn no_page_is_had_twice(
            steps in prop::collection::vec((0u8..4, 0u16..6, 0u16..200, 0u16..5, -20i16..4200), 1..200)
        ) {
            let (memory, mut receive) = receive(4);
            let mut away = PageSet::default();
            for (kind, page, offset, flags, status) in steps {
                if kind == 0 {
                    let mine = away.has(page);
                    prop_assert_eq!(receive.post(page).is_ok(), mine);
                    away.set(page, false);
                    receive.publish();
                } else {
                    let id = (memory.load(RX + 8) % SLOTS) as u16;
                    respond(&memory, id, offset, flags & 3, status);
                    match receive.take() {
                        Ok(Some(frame)) => {
                            prop_assert!(frame.page < 4 && !away.has(frame.page));
                            prop_assert!(frame.offset + frame.length <= 4096);
                            away.set(frame.page, true);
                        }
                        Ok(None) => {}
                        Err(_) => return Ok(()),
                    }
                    receive.publish();
                }
            }
        }

        #[test]
        fn memory_that_changes_under_the_reader_gives_no_page_twice_nor_bytes_outside(seed: u64, one_in in 1u64..40) {
            let memory = SharedMemory::new(2 * PAGE_SIZE);
            let mut receive = Receive::new(Fickle::new(memory.clone(), seed, one_in), 8);
            receive.reset();
            receive.start(GrantRef(300));
            receive.publish();
            let mut away = Vec::new();
            for _ in 0..300 {
                let index = memory.load(RX + 8);
                if index != memory.load(RX) { respond(&memory, (index % SLOTS) as u16, 0, 0, 60); }
                match receive.take() {
                    Ok(Some(frame)) => {
                        prop_assert!(usize::from(frame.offset) + usize::from(frame.length) <= PAGE_SIZE);
                        prop_assert!(frame.page < 8 && !away.contains(&frame.page));
                        away.push(frame.page);
                    }
                    Ok(None) => {}
                    Err(_) => break,
                }
                if away.len() > 5 { prop_assert_eq!(receive.post(away.remove(0)), Ok(())); }
                receive.publish();
            }
        }
    }
}
