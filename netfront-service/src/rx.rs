//! Reception: pages of the rx-pool are posted, and the back end copies frames into them.
//!
//! Response *i* answers request *i* (Xen `io/netif.h`). So a private table gives the page of a
//! response, by its index. The id of a response with bytes of a frame must be that index.
//!
//! Pages are posted in the order of the pool, round and round, and the back end fills them in that
//! order. So a long frame lies in adjacent pages, except for the page whose slot its extra info
//! took.

use core::num::NonZeroU16;

use arrayvec::ArrayVec;
use cloister_caps::xen::netif::rx_flag::{CSUM_BLANK, DATA_VALIDATED, EXTRA_INFO, MORE_DATA};
use cloister_caps::xen::netif::{EXTRA_TYPE_GSO, GSO_TYPE_TCPV4, NR_SLOTS_MIN, RX_SLOTS as SLOTS, RxRequest};
use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::net::{RxPage, RxRun};
use cloister_interfaces::{Memory, PageOffset};

use crate::pages::{MAX_PAGES, PageSet};
use crate::request::RequestViolation;
use crate::ring::{Anomaly, FrontRing, Violation};
use crate::tx::MIN_LENGTH;

/// The size of a request, of a response ([`RxResponse`](cloister_caps::xen::netif::RxResponse)) and
/// of a slot, in bytes.
const SLOT: usize = size_of::<RxRequest>();
/// The largest number of slots with bytes of one frame.
pub const MAX_SLOTS: usize = NR_SLOTS_MIN;
/// The length of the longest frame, in bytes: a header with a VLAN tag, and the longest IPv4
/// packet.
const MAX_LENGTH: u32 = 18 + 0xFFFF;

/// Flags of a response: the checksum was verified, or left out.
const CHECKED: u16 = DATA_VALIDATED | CSUM_BLANK;

/// The part of a frame that lies in adjacent pages of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The first page.
    pub page: RxPage,
    /// The offset of the first byte in the first page.
    pub offset: PageOffset,
    /// The number of bytes.
    pub length: NonZeroU16,
}

impl Part {
    /// Returns the number of pages that the part touches.
    fn page_count(self) -> u16 {
        (usize::from(self.offset.get()) + usize::from(self.length.get())).div_ceil(PAGE_SIZE) as u16
    }
}

/// A received frame, or the parts of it that have been received so far.
///
/// # Holding one proves
/// If [`Receive::next_frame`] returned it: each of its parts lies in pages that were posted and are
/// tcpip's now, and its length is one that a frame can have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// The parts of the frame, in order. A complete frame has at least one.
    pub parts: ArrayVec<Part, MAX_SLOTS>,
    /// The checksum need not be verified.
    pub checked: bool,
}

/// The kind of slot that comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Expect {
    /// The first slot of a frame.
    #[default]
    Start,
    /// The extra info. If `more`, further slots with bytes follow it.
    Extra { more: bool },
    /// A further slot with bytes.
    More,
}

/// The receive side: every page of the pool is on the ring, unposted, part of the frame being
/// received, or lent to tcpip.
pub struct Receive<M> {
    ring: FrontRing<M, SLOT>,
    reference: GrantRef,
    pages: u16,
    /// Frames may take several slots, hold unsplit TCP segments, and lack their checksums.
    offloads: bool,
    /// The page posted at each index of the ring.
    posted_pages: [u8; SLOTS as usize],
    /// The pages that tcpip has.
    lent: PageSet,
    /// The pages that are not posted yet.
    unposted: PageSet,
    /// The number of pages in `unposted`.
    unposted_count: u32,
    /// The page after the one that was posted last.
    cursor: u16,
    /// The frame that is being received.
    frame: Frame,
    /// The number of its bytes so far.
    length: u32,
    /// The pages of its slots so far.
    frame_pages: ArrayVec<u8, MAX_SLOTS>,
    /// One of its slots has an error status, or no bytes.
    has_bad_slot: bool,
    next_kind: Expect,
    /// The number of frames that were dropped in this connection.
    pub dropped: u64,
    /// The anomalies of this connection, one bit each.
    pub anomalies: u8,
}

impl<M: Memory> Receive<M> {
    /// Creates the receive side for the ring in page 1 of `rings` and a pool of `pages` pages.
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
            has_bad_slot: false,
            next_kind: Expect::Start,
            dropped: 0,
            anomalies: 0,
        }
    }

    /// Empties the ring, and marks all pages as unposted. Called only while nobody else maps the
    /// ring.
    pub fn reset(&mut self) {
        self.ring.reset();
        self.lent = PageSet::default();
        (self.unposted, self.unposted_count, self.cursor) = (PageSet::first(self.pages), u32::from(self.pages), 0);
        (self.dropped, self.anomalies) = (0, 0);
        self.begin_frame();
    }

    /// Sets the reference under which page 0 of the pool is granted. Those of the others follow it.
    pub fn start(&mut self, reference: GrantRef) {
        self.reference = reference;
    }

    /// Takes pages back from tcpip.
    ///
    /// # Errors
    /// Not all of them are tcpip's. Pages before the first such page may have been taken back.
    pub fn take_back(&mut self, RxRun(run): RxRun) -> Result<(), RequestViolation> {
        if run.last() >= self.pages {
            return Err(RequestViolation::Page);
        }
        let end = run.last() + 1;
        for page in (run.first()..end).step_by(63) {
            let count = (end - page).min(63);
            if !self.lent.contains_all(page, count) {
                return Err(RequestViolation::Owner);
            }
            self.lent.set_all(page, count, false);
            self.unposted.set_all(page, count, true);
            self.unposted_count += u32::from(count);
        }
        Ok(())
    }

    /// Marks a page as unposted.
    fn release(&mut self, page: u16) {
        self.unposted.set(page, true);
        self.unposted_count += 1;
    }

    /// Posts the next pages, and publishes them. Returns `true` if the back end must be notified.
    ///
    /// To keep the order, posting stops at a page that is not unposted while at least half of the
    /// pool is on the ring. With less than half it skips such pages.
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

    /// Puts a page on the ring. A slot is free: there are no more pages than slots.
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
        (self.frame.checked, self.length, self.has_bad_slot, self.next_kind) = (false, 0, false, Expect::Start);
    }

    /// Returns the next complete frame, whose pages become tcpip's. The pages of a dropped frame,
    /// and the page whose slot an extra info took, become unposted.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn next_frame(&mut self) -> Result<Option<&Frame>, Violation> {
        if self.next_kind == Expect::Start {
            self.begin_frame();
        }
        while let Some((index, slot)) = self.ring.pop_with_index()? {
            let index = (index % SLOTS) as u16;
            // Every index that can be answered has a posted page.
            let page = self.posted_pages.get(usize::from(index)).copied().ok_or(Violation::Id)?;
            self.next_kind = match self.next_kind {
                Expect::Extra { more } => {
                    check_extra_info(slot)?;
                    self.release(u16::from(page));
                    if more { Expect::More } else { Expect::Start }
                }
                Expect::Start | Expect::More => self.take_data_slot(index, page, slot)?,
            };
            if self.next_kind == Expect::Start {
                if self.complete() {
                    return Ok(Some(&self.frame));
                }
                self.begin_frame();
            }
        }
        Ok(None)
    }

    /// Takes a slot with bytes of the frame. Returns the kind of slot that follows it.
    fn take_data_slot(&mut self, index: u16, page: u8, slot: u64) -> Result<Expect, Violation> {
        let (id, offset, flags, status) = (slot as u16, (slot >> 16) as u16, (slot >> 32) as u16, (slot >> 48) as i16);
        if id != index {
            return Err(Violation::Id);
        }
        let first = self.next_kind == Expect::Start;
        let allowed = match (self.offloads, first) {
            (false, _) => CHECKED,
            (true, true) => CHECKED | MORE_DATA | EXTRA_INFO,
            (true, false) => CHECKED | MORE_DATA,
        };
        if flags & !allowed != 0 {
            return Err(Violation::Features);
        }
        self.frame_pages.try_push(page).map_err(|_| Violation::Slots)?;
        match u16::try_from(status).ok().and_then(NonZeroU16::new) {
            Some(length) => {
                if usize::from(offset) + usize::from(length.get()) > PAGE_SIZE {
                    return Err(Violation::Bounds);
                }
                let offset = PageOffset::new(offset).ok_or(Violation::Bounds)?;
                self.length += u32::from(length.get());
                self.append_part(Part { page: RxPage(u16::from(page)), offset, length });
            }
            None => self.has_bad_slot = true,
        }
        if first {
            self.frame.checked = self.offloads && flags & CHECKED != 0;
        }
        let more = flags & MORE_DATA != 0;
        Ok(match (flags & EXTRA_INFO != 0, more) {
            (true, more) => Expect::Extra { more },
            (false, true) => Expect::More,
            (false, false) => Expect::Start,
        })
    }

    /// Adds bytes to the frame: to its last part, if they directly follow it in the pool.
    fn append_part(&mut self, part: Part) {
        if let Some(last) = self.frame.parts.last_mut()
            && let Some(length) = last.length.checked_add(part.length.get())
            && part.offset == PageOffset::ZERO
            && usize::from(last.page.0) * PAGE_SIZE + usize::from(last.offset.get()) + usize::from(last.length.get())
                == usize::from(part.page.0) * PAGE_SIZE
        {
            last.length = length;
        } else {
            // There are no more parts than slots.
            let _ = self.frame.parts.try_push(part);
        }
    }

    /// Ends a frame after its last slot. Lends its pages to tcpip and returns `true` if the frame
    /// is good, else drops it.
    fn complete(&mut self) -> bool {
        let good = !self.has_bad_slot && (u32::from(MIN_LENGTH)..=MAX_LENGTH).contains(&self.length);
        if good {
            // Each slot had bytes, so its page is in a part.
            for part in &self.frame.parts {
                self.lent.set_all(part.page.0, part.page_count(), true);
            }
        } else {
            for page in core::mem::take(&mut self.frame_pages) {
                self.release(u16::from(page));
            }
            let anomaly = if self.has_bad_slot { Anomaly::BadSlot } else { Anomaly::Length };
            self.anomalies |= anomaly as u8;
            self.dropped = self.dropped.saturating_add(1);
        }
        good
    }

    /// Asks for an event at the next response. Returns `true` if a response can be taken already.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn arm(&mut self) -> Result<bool, Violation> {
        Ok(self.ring.final_check(1)? > 0)
    }
}

/// Checks that an extra info (`struct netif_extra_info`) is the one that was negotiated: TCPv4
/// segmentation, and no further extra info. The segment size is not used, because tcpip takes the
/// frame unsplit.
fn check_extra_info(slot: u64) -> Result<(), Violation> {
    let [kind, flags, s0, s1, segmentation, _padding, f0, f1] = slot.to_le_bytes();
    let size = u16::from_le_bytes([s0, s1]);
    let valid =
        kind == EXTRA_TYPE_GSO && flags == 0 && size > 0 && segmentation == GSO_TYPE_TCPV4 && [f0, f1] == [0; 2];
    if valid { Ok(()) } else { Err(Violation::Features) }
}

#[cfg(test)]
mod tests;
