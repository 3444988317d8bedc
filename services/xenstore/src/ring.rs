//! The ring page: two byte streams with free-running indices (Xen `io/xs_wire.h`,
//! `struct xenstore_domain_interface`).
//!
//! `req_prod` and `rsp_cons` belong to this side: they are kept privately, and only written to the
//! page. The daemon's two are read once a step and checked.

use cloister_caps::xen::xs_wire::{
    CONNECTION, RECONNECT, REQ, REQ_CONS, REQ_PROD, RING_SIZE, RSP, RSP_CONS, RSP_PROD, SERVER_FEATURE_RECONNECTION,
    SERVER_FEATURES,
};
use cloister_interfaces::Memory;

/// The size of each stream, in bytes.
pub const STREAM_SIZE: u32 = RING_SIZE as u32;

/// The daemon broke the protocol: an index that cannot be, or a message that is too long. It ends
/// the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation;

/// The guest's side of the ring.
pub struct Ring<M> {
    memory: M,
    req_prod: u32,
    rsp_cons: u32,
    /// The daemon must be sent an event: for a request, or for room that it may be waiting for.
    pending_event: bool,
}

impl<M: Memory> Ring<M> {
    /// Takes the ring over in whatever state it is. It need not be new or empty.
    pub fn new(memory: M) -> Self {
        let (req_prod, rsp_cons) = (memory.load(REQ_PROD), memory.load(RSP_CONS));
        Ring { memory, req_prod, rsp_cons, pending_event: false }
    }

    /// Returns `true` while the connection is being made. The rest of the page has no meaning until
    /// that is done.
    pub fn is_connecting(&self) -> bool {
        self.memory.load(CONNECTION) == RECONNECT
    }

    /// Asks the daemon for a new connection. Returns `false`, and does nothing, if the daemon does
    /// not offer that.
    pub fn reconnect(&mut self) -> bool {
        let offered = self.memory.load(SERVER_FEATURES) & SERVER_FEATURE_RECONNECTION != 0;
        if offered {
            self.memory.store(CONNECTION, RECONNECT);
        }
        offered
    }

    /// Writes all of `bytes` to the request stream, or nothing while there is no room. Returns
    /// `true` if they were written. So the daemon never sees half a request of a service that was
    /// stopped.
    ///
    /// # Errors
    /// The daemon's index cannot be.
    pub fn send(&mut self, bytes: &[u8]) -> Result<bool, Violation> {
        let used = self.req_prod.wrapping_sub(self.memory.load(REQ_CONS));
        let room = STREAM_SIZE.checked_sub(used).ok_or(Violation)?;
        let Some(length) = u32::try_from(bytes.len()).ok().filter(|length| *length <= room) else {
            return Ok(false);
        };
        let at = (self.req_prod % STREAM_SIZE) as usize;
        let (first, rest) = bytes.split_at_checked(STREAM_SIZE as usize - at).unwrap_or((bytes, &[]));
        self.memory.write(REQ + at, first);
        self.memory.write(REQ, rest);
        self.req_prod = self.req_prod.wrapping_add(length);
        self.memory.store(REQ_PROD, self.req_prod);
        self.pending_event = true;
        Ok(true)
    }

    /// Takes bytes from the response stream, as many as there are and `into` holds. Returns their
    /// number.
    ///
    /// # Errors
    /// The daemon's index cannot be.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<usize, Violation> {
        let waiting = self.memory.load(RSP_PROD).wrapping_sub(self.rsp_cons);
        if waiting > STREAM_SIZE {
            return Err(Violation);
        }
        let count = into.len().min(waiting as usize);
        let at = (self.rsp_cons % STREAM_SIZE) as usize;
        let before_end = count.min(STREAM_SIZE as usize - at);
        let (first, rest) = into.split_at_mut(before_end);
        self.memory.read(RSP + at, first);
        if let Some(rest) = rest.get_mut(..count - before_end) {
            self.memory.read(RSP, rest);
        }
        if count > 0 {
            let before = self.rsp_cons;
            self.rsp_cons = self.rsp_cons.wrapping_add(count as u32);
            self.memory.store(RSP_CONS, self.rsp_cons);
            // The daemon waits only for room in a stream that it found full. It may have filled the
            // stream meanwhile without seeing the new index. So its index is read after the
            // barrier.
            self.memory.barrier();
            self.pending_event |= self.memory.load(RSP_PROD).wrapping_sub(before) >= STREAM_SIZE;
        }
        Ok(count)
    }

    /// Returns `true` if the daemon must be sent an event, and resets that: the caller sends it.
    pub fn take_pending_event(&mut self) -> bool {
        core::mem::take(&mut self.pending_event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_sim::SharedMemory;
    use proptest::prelude::*;

    fn at(start: u32) -> (SharedMemory, Ring<SharedMemory>) {
        let memory = SharedMemory::new(4096);
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            memory.store(index, start);
        }
        let ring = Ring::new(memory.clone());
        (memory, ring)
    }

    #[test]
    fn a_request_is_sent_whole_or_not_at_all() {
        let (memory, mut ring) = at(7);
        assert_eq!(ring.send(&[1; 1000]), Ok(true));
        assert_eq!(ring.send(&[2; 25]), Ok(false));
        assert_eq!(memory.load(REQ_PROD), 1007);
        memory.store(REQ_CONS, 8);
        assert_eq!(ring.send(&[2; 25]), Ok(true));
        assert_eq!(memory.bytes(1007, 17), [2; 17]);
        assert_eq!(memory.bytes(0, 9), [2, 2, 2, 2, 2, 2, 2, 2, 1]);
    }

    #[test]
    fn impossible_indices_are_refused() {
        let (memory, mut ring) = at(100);
        memory.store(REQ_CONS, 101);
        assert_eq!(ring.send(&[1]), Err(Violation));
        memory.store(RSP_PROD, 99);
        assert_eq!(ring.receive(&mut [0; 8]), Err(Violation));
        memory.store(RSP_PROD, 100 + STREAM_SIZE + 1);
        assert_eq!(ring.receive(&mut [0; 8]), Err(Violation));
    }

    #[test]
    fn the_own_indices_are_never_read_back() {
        let (memory, mut ring) = at(0);
        memory.store(REQ_PROD, 555);
        memory.store(RSP_CONS, 555);
        assert_eq!(ring.send(&[9]), Ok(true));
        assert_eq!(memory.load(REQ_PROD), 1);
        memory.store(RSP_PROD, 3);
        assert_eq!(ring.receive(&mut [0; 8]), Ok(3));
        assert_eq!(memory.load(RSP_CONS), 3);
    }

    #[test]
    fn the_daemon_is_notified_of_requests_and_of_room_that_it_waits_for() {
        let (memory, mut ring) = at(40);
        assert!(!ring.take_pending_event());
        assert_eq!(ring.send(&[1; 30]), Ok(true));
        assert_eq!((ring.take_pending_event(), ring.take_pending_event()), (true, false));
        memory.store(REQ_CONS, 70u32.wrapping_sub(1000));
        assert_eq!((ring.send(&[1; 30]), ring.take_pending_event()), (Ok(false), false), "nothing was sent");
        // A byte of room was left: the daemon has put all that it had.
        memory.store(RSP_PROD, 40 + STREAM_SIZE - 1);
        assert_eq!((ring.receive(&mut [0; 8]), ring.take_pending_event()), (Ok(8), false));
        memory.store(RSP_PROD, 48 + STREAM_SIZE);
        assert_eq!((ring.receive(&mut [0; 8]), ring.take_pending_event()), (Ok(8), true));
        assert_eq!((ring.receive(&mut [0; 8]), ring.take_pending_event()), (Ok(8), false), "there is room already");
        assert_eq!((ring.receive(&mut []), ring.take_pending_event()), (Ok(0), false));
    }

    #[test]
    fn reconnection_only_where_it_is_offered() {
        let (memory, mut ring) = at(0);
        assert!(!ring.reconnect());
        assert_eq!(memory.load(CONNECTION), 0);
        memory.store(SERVER_FEATURES, 1);
        assert!(ring.reconnect());
        assert!(ring.is_connecting());
    }

    proptest! {
        #[test]
        fn both_streams_carry_bytes_over_any_wrap(start: u32, chunks in prop::collection::vec(1usize..400, 1..20)) {
            let (memory, mut ring) = at(start);
            let mut next = 0u8;
            for length in chunks {
                let bytes: Vec<u8> = (0..length).map(|_| { next = next.wrapping_add(1); next }).collect();
                let from = memory.load(REQ_CONS);
                prop_assert_eq!(ring.send(&bytes), Ok(true));
                for (offset, byte) in bytes.iter().enumerate() {
                    let place = (from.wrapping_add(offset as u32) % STREAM_SIZE) as usize;
                    prop_assert_eq!(memory.bytes(place, 1)[0], *byte);
                    memory.write(RSP + place, &[*byte]);
                }
                memory.store(REQ_CONS, from.wrapping_add(length as u32));
                memory.store(RSP_PROD, from.wrapping_add(length as u32));
                let mut back = [0; 512];
                prop_assert_eq!(ring.receive(&mut back), Ok(length));
                prop_assert_eq!(&back[..length], &bytes[..]);
            }
        }

        #[test]
        fn hostile_indices_never_panic(indices: [u32; 4], length in 0usize..1100) {
            let memory = SharedMemory::new(4096);
            for (offset, index) in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD].into_iter().zip(indices) {
                memory.store(offset, index);
            }
            let mut ring = Ring::new(memory);
            let _ = ring.send(&vec![1; length]);
            let _ = ring.receive(&mut vec![0; length]);
        }
    }
}
