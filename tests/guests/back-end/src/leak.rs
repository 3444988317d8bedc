//! What the front end's granted pages show beside the frames that are meant for us (XSA-403).

use core::fmt;

use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::{Memory, System};

use crate::link::{Answers, Link};

/// References that are tried: all of two frames of the grant table.
const REFERENCES: u32 = 1024;
/// Bytes of the header and of the slots of a ring.
const RING: [usize; 2] = [64 + 256 * 12, 64 + 256 * 8];
/// What the test has the front end's image say to others before, and what only the inside of an image holds.
const MARKS: [&[u8]; 4] = [b"CANARY", b"[services.", b"cloister", b"HTTP/1."];
/// A pointer into the kernel ends so (little endian).
const POINTER: [u8; 4] = [0xff, 0xff, 0xff, 0xff];

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Pages that could be mapped for writing, and those for reading only.
    pub written: u32,
    /// See `written`.
    pub read: u32,
    /// Bytes other than 0 in receive buffers that were never filled by us.
    pub stale_received: u32,
    /// Bytes other than 0 in pages to send from, of frames that were never sent to us.
    pub stale_sent: u32,
    /// Bytes other than 0 beside frames that were sent to us, in their pages.
    pub beyond: u32,
    /// Bytes other than 0 in the ring pages, outside of header and slots.
    pub stale_ring: u32,
    /// Marks that were found anywhere.
    pub marks: u32,
    /// What may be pointers into a kernel.
    pub pointers: u32,
}

impl fmt::Display for Found {
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

/// Tries every reference, and looks at all that it gives.
pub fn search<S: System, M: Memory>(link: &mut Link<S, M>) -> Found {
    link.serve(Answers::All);
    let mut found = Found { beyond: link.beyond, ..Found::default() };
    let mut ours = [false; REFERENCES as usize];
    for (_, reference) in link.written.mapped().chain(link.read.mapped()) {
        ours.get_mut(reference.0 as usize).into_iter().for_each(|place| *place = true);
    }
    for (reference, ours) in (1..REFERENCES).map(GrantRef).zip(ours.into_iter().skip(1)) {
        let (memory, page, stale) = if let Some(page) = link.written.at(link.peer, reference) {
            found.written += 1;
            (link.written.memory(), page, &mut found.stale_received)
        } else if let Some(page) = link.read.at(link.peer, reference) {
            found.read += 1;
            (link.read.memory(), page, &mut found.stale_sent)
        } else {
            continue;
        };
        let mut bytes = [0; PAGE_SIZE];
        memory.read(page, &mut bytes);
        let is_ring = reference == link.rings[0] || reference == link.rings[1];
        // What was sent to us is ours to see.
        if ours || is_ring {
            continue;
        }
        *stale += full(&bytes);
        found.marks +=
            MARKS.iter().map(|mark| bytes.windows(mark.len()).filter(|part| part == mark).count() as u32).sum::<u32>();
        found.pointers += bytes.chunks_exact(8).filter(|word| word[4..] == POINTER).count() as u32;
    }
    for (ring, used) in RING.into_iter().enumerate() {
        let mut page = [0; PAGE_SIZE];
        link.written.memory().read(ring * PAGE_SIZE, &mut page);
        found.stale_ring += full(&page[used..]);
    }
    found
}

/// Bytes that are not 0.
pub fn full(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|byte| **byte != 0).count() as u32
}
