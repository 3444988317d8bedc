//! Searches the front end's granted pages for data beside the frames that it sent to us (XSA-403).

use core::fmt;

use cloister_caps::xen::netif::{RX_SLOTS, RxRequest, TX_SLOTS, TxRequest};
use cloister_caps::xen::ring::FIRST_SLOT;
use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::{Memory, System};

use crate::link::{Answers, Link};
use crate::pages::count_nonzero;

/// The number of references to map: all of two frames of the grant table.
const REFERENCES: u32 = 1024;
/// The size of header and slots of the two rings, in bytes.
const RING: [usize; 2] =
    [FIRST_SLOT + TX_SLOTS as usize * size_of::<TxRequest>(), FIRST_SLOT + RX_SLOTS as usize * size_of::<RxRequest>()];
/// Texts that the front end's image sent to others before, or that only the image holds.
const MARKS: [&[u8]; 4] = [b"CANARY", b"[services.", b"cloister", b"HTTP/1."];
/// The upper half of a pointer into the kernel.
const POINTER: [u8; 4] = [0xff, 0xff, 0xff, 0xff];

/// The result of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leaks {
    /// The number of pages that could be mapped for writing.
    pub written: u32,
    /// The number of pages that could be mapped for reading only.
    pub read: u32,
    /// Bytes other than 0 in receive buffers that we never filled.
    pub stale_received: u32,
    /// Bytes other than 0 in pages to send from, of frames that were never sent to us.
    pub stale_sent: u32,
    /// Bytes other than 0 beside frames that were sent to us, in their pages.
    pub beyond: u32,
    /// Bytes other than 0 in the ring pages, outside of header and slots.
    pub stale_ring: u32,
    /// The number of marks that were found anywhere.
    pub marks: u32,
    /// The number of words that may be pointers into a kernel.
    pub pointers: u32,
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mapped {} rw, {} ro; stale: {} received, {} sent, {} in rings; {} marks, {} pointers; {} beside frames",
            self.written,
            self.read,
            self.stale_received,
            self.stale_sent,
            self.stale_ring,
            self.marks,
            self.pointers,
            self.beyond
        )
    }
}

/// Maps the page of every reference, and searches it.
pub fn search<S: System, M: Memory>(link: &mut Link<S, M>) -> Leaks {
    link.serve(Answers::All);
    let mut leaks = Leaks { beyond: link.beyond, ..Leaks::default() };
    let mut known = [false; REFERENCES as usize];
    for (_, reference) in link.written.mapped().chain(link.read.mapped()) {
        known.get_mut(reference.0 as usize).into_iter().for_each(|entry| *entry = true);
    }
    for (reference, known) in (1..REFERENCES).map(GrantRef).zip(known.into_iter().skip(1)) {
        let (memory, page, stale) = if let Some(page) = link.written.at(link.peer, reference) {
            leaks.written += 1;
            (link.written.memory(), page, &mut leaks.stale_received)
        } else if let Some(page) = link.read.at(link.peer, reference) {
            leaks.read += 1;
            (link.read.memory(), page, &mut leaks.stale_sent)
        } else {
            continue;
        };
        let mut bytes = [0; PAGE_SIZE];
        memory.read(page, &mut bytes);
        let is_ring = reference == link.rings[0] || reference == link.rings[1];
        // Pages that were sent to us may hold anything.
        if known || is_ring {
            continue;
        }
        *stale += count_nonzero(&bytes);
        leaks.marks +=
            MARKS.iter().map(|mark| bytes.windows(mark.len()).filter(|part| part == mark).count() as u32).sum::<u32>();
        leaks.pointers += bytes.chunks_exact(8).filter(|word| word[4..] == POINTER).count() as u32;
    }
    for (ring, used) in RING.into_iter().enumerate() {
        let mut page = [0; PAGE_SIZE];
        link.written.memory().read(ring * PAGE_SIZE, &mut page);
        leaks.stale_ring += count_nonzero(&page[used..]);
    }
    leaks
}
