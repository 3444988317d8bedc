//! Reception: pages of the rx-pool, posted for the back end to copy frames into.
//!
//! Response *i* answers request *i* (Xen `io/netif.h`), so which page a response is about stands in the private
//! shadow at its index; of a response with a frame's bytes the id must be that index.
//!
//! Pages are posted in the order in which they lie in the pool, round and round: the back end fills them in that order, so
//! that a long frame lies in pages that follow each other, but for the page whose slot its extra info took.

use arrayvec::ArrayVec;
use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::Memory;

use crate::pages::{MAX_PAGES, PageSet};
use crate::ring::{Anomaly, FrontRing, Refusal, SLOTS, Violation};
use crate::tx::{EXTRA_GSO, GSO_TCPV4, MIN_LENGTH};

/// Bytes of a request (`struct netif_rx_request`), of a response and of a slot.
const SLOT: usize = 8;
/// The most slots with a frame's bytes (`XEN_NETIF_NR_SLOTS_MIN`).
pub const MAX_SLOTS: usize = 18;
/// The longest frame: a header with a VLAN tag, and the longest IPv4 packet.
const MAX_LENGTH: u32 = 18 + 0xFFFF;

/// Flags of a response (`NETRXF_*`).
mod flag {
    /// The checksum was verified, or left out.
    pub const CHECKED: u16 = 1 | 2;
    /// The frame goes on in the next slot.
    pub const MORE_DATA: u16 = 4;
    /// An extra info is in the next slot.
    pub const EXTRA_INFO: u16 = 8;
}

/// A part of a frame that lies in pages that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The first page.
    pub page: u16,
    /// Where in it the bytes start.
    pub offset: u16,
    /// How many bytes.
    pub length: u16,
}

impl Part {
    /// How many pages it touches.
    fn page_count(self) -> u16 {
        (usize::from(self.offset) + usize::from(self.length)).div_ceil(PAGE_SIZE) as u16
    }
}

/// A frame, or what has come of it so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// Its parts in order; at least one.
    pub parts: ArrayVec<Part, MAX_SLOTS>,
    /// Its checksum is not to be verified.
    pub checked: bool,
}

/// What else is known of the frame that is coming.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Expect {
    /// A frame's first slot.
    #[default]
    Start,
    /// The extra info; whether slots with bytes follow it.
    Extra { more: bool },
    /// A further slot with bytes.
    More,
}

/// The receive side.
pub struct Receive<M> {
    ring: FrontRing<M, SLOT>,
    reference: GrantRef,
    pages: u16,
    /// Frames may take several slots, be uncut, and lack their checksums.
    offloads: bool,
    /// The page posted at each index of the ring.
    posted_pages: [u8; SLOTS as usize],
    /// Pages that tcpip has.
    lent: PageSet,
    /// Pages that are to be posted, and how many.
    unposted: PageSet,
    unposted_count: u32,
    /// The page after the one posted last.
    cursor: u16,
    /// The frame that is coming, its length, the pages it took, and whether one of its slots is of no use.
    frame: Frame,
    length: u32,
    frame_pages: ArrayVec<u8, MAX_SLOTS>,
    bad: bool,
    expect: Expect,
    /// Frames of no use.
    pub dropped: u64,
    /// The oddities of this connection, a bit each.
    pub anomalies: u8,
}

impl<M: Memory> Receive<M> {
    /// The ring in page 1 of `rings`, for a pool of `pages`.
    pub fn new(rings: M, pages: u16, offloads: bool) -> Self {
        Receive {
            ring: FrontRing::new(rings, PAGE_SIZE),
            reference: GrantRef(0),
            pages: pages.min(MAX_PAGES as u16),
            offloads,
            posted_pages: [0; SLOTS as usize],
            lent: PageSet::default(),
            unposted: PageSet::default(),
            unposted_count: 0,
            cursor: 0,
            frame: Frame::default(),
            length: 0,
            frame_pages: ArrayVec::new(),
            bad: false,
            expect: Expect::Start,
            dropped: 0,
            anomalies: 0,
        }
    }

    /// Makes the ring empty, with all pages to be posted. Only while no one else maps it.
    pub fn reset(&mut self) {
        self.ring.reset();
        self.lent = PageSet::default();
        (self.unposted, self.unposted_count, self.cursor) = (PageSet::first(self.pages), u32::from(self.pages), 0);
        (self.dropped, self.anomalies) = (0, 0);
        self.begin_frame();
    }

    /// Tells under which references the pages are granted.
    pub fn start(&mut self, reference: GrantRef) {
        self.reference = reference;
    }

    /// Takes back `count` pages that tcpip has had.
    ///
    /// # Errors
    /// They are not all tcpip's. Some of those before the first that is not may have been taken.
    pub fn take_back(&mut self, page: u16, count: u16) -> Result<(), Refusal> {
        let end = page.checked_add(count).filter(|end| *end <= self.pages && count > 0).ok_or(Refusal::Page)?;
        for page in (page..end).step_by(63) {
            let count = (end - page).min(63);
            if !self.lent.contains_all(page, count) {
                return Err(Refusal::Owner);
            }
            self.lent.set_all(page, count, false);
            self.unposted.set_all(page, count, true);
            self.unposted_count += u32::from(count);
        }
        Ok(())
    }

    fn release(&mut self, page: u16) {
        self.unposted.set(page, true);
        self.unposted_count += 1;
    }

    /// Posts the pages whose turn it is, and shows the back end what was posted; whether it is to be notified.
    ///
    /// A page that tcpip still has is waited for, so that the order is kept, while at least half of the pool is posted.
    pub fn publish(&mut self) -> bool {
        while self.unposted_count > 0 {
            let mut run = self.unposted.run_length(self.cursor);
            if run == 0 {
                if self.ring.outstanding() >= u32::from(self.pages / 2) {
                    break;
                }
                let after = (self.cursor..self.pages).chain(0..self.cursor);
                let Some(next) = after.into_iter().find(|page| self.unposted.contains(*page)) else { break };
                (self.cursor, run) = (next, self.unposted.run_length(next));
            }
            let end = self.cursor + run;
            (self.cursor..end).for_each(|page| self.post(page));
            self.unposted.set_all(self.cursor, run, false);
            self.unposted_count -= u32::from(run);
            self.cursor = if end < self.pages { end } else { 0 };
        }
        self.ring.publish()
    }

    /// Puts a page on the ring. There are no more pages than slots.
    fn post(&mut self, page: u16) {
        let index = self.ring.next_index() % SLOTS;
        if let Some(posted) = self.posted_pages.get_mut(index as usize) {
            *posted = page as u8;
        }
        self.ring.push([index, self.reference.0.wrapping_add(u32::from(page))]);
    }

    fn begin_frame(&mut self) {
        self.frame.parts.clear();
        self.frame_pages.clear();
        (self.frame.checked, self.length, self.bad, self.expect) = (false, 0, false, Expect::Start);
    }

    /// The next frame all of whose slots have come. Its pages are tcpip's; those of a frame that is of no use are to be
    /// posted again, as is the page whose slot an extra info took.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn next_frame(&mut self) -> Result<Option<&Frame>, Violation> {
        if self.expect == Expect::Start {
            self.begin_frame();
        }
        while let Some((index, slot)) = self.ring.pop_with_index()? {
            let index = (index % SLOTS) as u16;
            // Every index that can be answered has a page.
            let page = self.posted_pages.get(usize::from(index)).copied().ok_or(Violation::Id)?;
            self.expect = match self.expect {
                Expect::Extra { more } => {
                    check_extra_info(slot)?;
                    self.release(u16::from(page));
                    if more { Expect::More } else { Expect::Start }
                }
                Expect::Start | Expect::More => self.data_slot(index, page, slot)?,
            };
            if self.expect == Expect::Start {
                if self.complete() {
                    return Ok(Some(&self.frame));
                }
                self.begin_frame();
            }
        }
        Ok(None)
    }

    /// A slot with bytes of the frame; answers what follows it.
    fn data_slot(&mut self, index: u16, page: u8, slot: u64) -> Result<Expect, Violation> {
        let (id, offset, flags, status) = (slot as u16, (slot >> 16) as u16, (slot >> 32) as u16, (slot >> 48) as i16);
        if id != index {
            return Err(Violation::Id);
        }
        let first = self.expect == Expect::Start;
        let allowed = match (self.offloads, first) {
            (false, _) => flag::CHECKED,
            (true, true) => flag::CHECKED | flag::MORE_DATA | flag::EXTRA_INFO,
            (true, false) => flag::CHECKED | flag::MORE_DATA,
        };
        if flags & !allowed != 0 {
            return Err(Violation::Features);
        }
        self.frame_pages.try_push(page).map_err(|_| Violation::Slots)?;
        match u16::try_from(status) {
            Ok(length @ 1..) => {
                if usize::from(offset) + usize::from(length) > PAGE_SIZE {
                    return Err(Violation::Bounds);
                }
                self.length += u32::from(length);
                self.append_part(Part { page: u16::from(page), offset, length });
            }
            _ => self.bad = true,
        }
        if first {
            self.frame.checked = self.offloads && flags & flag::CHECKED != 0;
        }
        let more = flags & flag::MORE_DATA != 0;
        Ok(match (flags & flag::EXTRA_INFO != 0, more) {
            (true, more) => Expect::Extra { more },
            (false, true) => Expect::More,
            (false, false) => Expect::Start,
        })
    }

    /// Adds bytes to the frame: to its last run, if they go on from it.
    fn append_part(&mut self, part: Part) {
        if let Some(last) = self.frame.parts.last_mut()
            && let Some(length) = last.length.checked_add(part.length)
            && part.offset == 0
            && usize::from(last.page) * PAGE_SIZE + usize::from(last.offset) + usize::from(last.length)
                == usize::from(part.page) * PAGE_SIZE
        {
            last.length = length;
        } else {
            // No more runs than slots.
            let _ = self.frame.parts.try_push(part);
        }
    }

    /// The last slot has come: gives the pages to tcpip, if the frame is of use.
    fn complete(&mut self) -> bool {
        let good = !self.bad && (u32::from(MIN_LENGTH)..=MAX_LENGTH).contains(&self.length);
        if good {
            // Each slot had bytes, and so its page is in a run.
            for part in &self.frame.parts {
                self.lent.set_all(part.page, part.page_count(), true);
            }
        } else {
            for page in core::mem::take(&mut self.frame_pages) {
                self.release(u16::from(page));
            }
            let anomaly = if self.bad { Anomaly::BadSlot } else { Anomaly::Length };
            self.anomalies |= anomaly as u8;
            self.dropped = self.dropped.saturating_add(1);
        }
        good
    }

    /// Asks for an event at the next response; whether one has come meanwhile.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn arm(&mut self) -> Result<bool, Violation> {
        Ok(self.ring.final_check(1)? > 0)
    }
}

/// Whether an extra info (`struct netif_extra_info`) is the one that was negotiated: a frame to be cut into TCP segments,
/// with no further extra info. What it says of their size is of no interest to who takes the frame uncut.
fn check_extra_info(slot: u64) -> Result<(), Violation> {
    let [kind, flags, s0, s1, segmentation, _padding, f0, f1] = slot.to_le_bytes();
    let size = u16::from_le_bytes([s0, s1]);
    let valid = kind == EXTRA_GSO && flags == 0 && size > 0 && segmentation == GSO_TCPV4 && [f0, f1] == [0; 2];
    if valid { Ok(()) } else { Err(Violation::Features) }
}

#[cfg(test)]
mod tests;
