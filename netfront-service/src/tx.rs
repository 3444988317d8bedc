//! Transmission: frames in pages of the tx-pool, which are granted to the back end for reading.
//!
//! A frame takes a slot for each of its pages, and one more for an extra info if the back end
//! splits it into segments. The id of each slot is the frame's first page. A private table counts
//! the slots of each frame that have no response yet.

use cloister_caps::xen::netif::{EXTRA_TYPE_GSO, GSO_TYPE_TCPV4, TxRequest, status, tx_flag};
use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::Memory;
use cloister_interfaces::net::{Offload, Offloads, TxPage};

use crate::pages::{MAX_PAGES, PageQueue, PageSet};
use crate::request::RequestViolation;
use crate::ring::{Anomaly, FrontRing, Violation};

/// The size of a request, and so of a slot, in bytes.
const SLOT: usize = size_of::<TxRequest>();
/// The length of the shortest frame, in bytes: a header (`ETH_HLEN`).
pub const MIN_LENGTH: u16 = 14;

/// Flags of a request: the checksum field holds only the sum of the pseudo-header, and the data are
/// known to be intact.
const CHECKSUM: u16 = tx_flag::CSUM_BLANK | tx_flag::DATA_VALIDATED;

/// A frame that tcpip has handed over.
#[derive(Clone, Copy, Default)]
struct Frame {
    length: u16,
    offload: Offload,
    /// The number of its slots on the ring that have no response yet, without the extra info's.
    unanswered: u8,
}

impl Frame {
    /// Returns the number of its pages.
    fn page_count(self) -> u16 {
        self.length.div_ceil(PAGE_SIZE as u16)
    }

    /// Returns the number of slots that it takes, with the extra info's.
    fn slot_count(self) -> u32 {
        u32::from(self.page_count()) + u32::from(matches!(self.offload, Offload::Segments(_)))
    }
}

/// The transmit side: every page of the pool is in flight or tcpip's.
pub struct Transmit<M> {
    ring: FrontRing<M, SLOT>,
    reference: GrantRef,
    offloads: Offloads,
    pages: u16,
    /// The pages that are not tcpip's.
    in_flight: PageSet,
    /// The number of pages in `in_flight`.
    in_flight_count: u32,
    /// The frames, each at the index of its first page.
    frames: [Frame; MAX_PAGES],
    /// The first pages of the frames for which the ring had no room.
    waiting: PageQueue,
    /// The number of extra infos without a response.
    unanswered_extras: u32,
    /// The number of slots that the back end did not send in this connection.
    pub dropped: u64,
    /// The anomalies of this connection, one bit each.
    pub anomalies: u8,
}

impl<M: Memory> Transmit<M> {
    /// Creates the transmit side for the ring in page 0 of `rings` and a pool of `pages` pages.
    pub fn new(rings: M, pages: u16) -> Self {
        Transmit {
            ring: FrontRing::new(rings, 0),
            reference: GrantRef(0),
            offloads: Offloads::empty(),
            pages: pages.min(MAX_PAGES as u16),
            in_flight: PageSet::default(),
            in_flight_count: 0,
            frames: [Frame::default(); MAX_PAGES],
            waiting: PageQueue::default(),
            unanswered_extras: 0,
            dropped: 0,
            anomalies: 0,
        }
    }

    /// Empties the ring, and gives all pages to tcpip. Called only while nobody else maps the ring.
    pub fn reset(&mut self) {
        self.ring.reset();
        (self.in_flight, self.in_flight_count) = (PageSet::default(), 0);
        self.frames = [Frame::default(); MAX_PAGES];
        (self.waiting, self.unanswered_extras) = (PageQueue::default(), 0);
        (self.dropped, self.anomalies) = (0, 0);
    }

    /// Sets the reference under which page 0 of the pool is granted, and the offloads of the back
    /// end. The references of the other pages follow the first.
    pub fn start(&mut self, reference: GrantRef, offloads: Offloads) {
        (self.reference, self.offloads) = (reference, offloads);
    }

    /// Returns the number of pages that are not tcpip's.
    pub fn pages_in_flight(&self) -> u32 {
        self.in_flight_count
    }

    /// Takes a frame to send, and puts it on the ring now or when there is room.
    ///
    /// # Errors
    /// tcpip broke the protocol: it cannot send this frame.
    pub fn submit(&mut self, TxPage(page): TxPage, length: u16, offload: Offload) -> Result<(), RequestViolation> {
        let offered = match offload {
            Offload::None => true,
            Offload::Checksum => self.offloads.contains(Offloads::CHECKSUM),
            Offload::Segments(_) => self.offloads.contains(Offloads::SEGMENTS),
        };
        if !offered {
            return Err(RequestViolation::Offload);
        }
        // Only a frame that the back end splits may be longer than a page: the link's MTU is below
        // it.
        if length < MIN_LENGTH || !matches!(offload, Offload::Segments(_)) && usize::from(length) > PAGE_SIZE {
            return Err(RequestViolation::Length);
        }
        let frame = Frame { length, offload, unanswered: 0 };
        let (pages, first) = (frame.page_count(), u8::try_from(page).map_err(|_| RequestViolation::Page)?);
        if page + pages > self.pages {
            return Err(RequestViolation::Page);
        }
        if self.in_flight.contains_any(page, pages) {
            return Err(RequestViolation::Owner);
        }
        self.in_flight.set_all(page, pages, true);
        self.in_flight_count += u32::from(pages);
        if let Some(entry) = self.frames.get_mut(usize::from(first)) {
            *entry = frame;
        }
        if self.waiting.is_empty() && self.ring.free_slots() >= frame.slot_count() {
            self.push_frame(first, frame);
        } else {
            self.waiting.push(first);
        }
        Ok(())
    }

    /// Writes a frame's requests to the ring. The caller has made sure that there is room.
    fn push_frame(&mut self, first: u8, frame: Frame) {
        let (id, pages) = (u32::from(first), frame.page_count());
        let mut flags = match frame.offload {
            Offload::None => 0,
            Offload::Checksum => CHECKSUM,
            Offload::Segments(_) => CHECKSUM | tx_flag::EXTRA_INFO,
        };
        // The size in the first slot is the length of the whole frame, in the others that of the
        // slot.
        let (mut size, mut left) = (u32::from(frame.length), u32::from(frame.length));
        for done in 0..u32::from(pages) {
            left = left.saturating_sub(PAGE_SIZE as u32);
            if left > 0 {
                flags |= tx_flag::MORE_DATA;
            }
            // Reference; offset and flags; id and size.
            self.ring.push([self.reference.0.wrapping_add(id + done), u32::from(flags) << 16, id | size << 16]);
            if let (0, Offload::Segments(segment)) = (done, frame.offload) {
                // Type, no flags, segment size; segmentation type, padding, no features.
                let segment = u32::from(segment.get());
                self.ring.push([u32::from(EXTRA_TYPE_GSO) | segment << 16, u32::from(GSO_TYPE_TCPV4)]);
                self.unanswered_extras += 1;
            }
            (flags, size) = (0, left.min(PAGE_SIZE as u32));
        }
        if let Some(entry) = self.frames.get_mut(usize::from(first)) {
            entry.unanswered = pages as u8;
        }
    }

    /// Writes the waiting frames to the ring while there is room.
    fn push_waiting(&mut self) {
        while let Some(first) = self.waiting.peek() {
            let frame = self.frames.get(usize::from(first)).copied().unwrap_or_default();
            if self.ring.free_slots() < frame.slot_count() {
                return;
            }
            self.waiting.remove_first();
            self.push_frame(first, frame);
        }
    }

    /// Publishes the frames to send. Returns `true` if the back end must be notified.
    pub fn publish(&mut self) -> bool {
        self.push_waiting();
        self.ring.publish()
    }

    /// Takes responses until a frame is done. Returns the first page of that frame, whose pages are
    /// tcpip's again.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn reap(&mut self) -> Result<Option<TxPage>, Violation> {
        while let Some(word) = self.ring.pop()? {
            let (page, status) = (word as u16, (word >> 16) as i16);
            if status == status::NULL {
                // The response to an extra info. Its id is whatever the slot held before.
                self.unanswered_extras = self.unanswered_extras.checked_sub(1).ok_or(Violation::Id)?;
                continue;
            }
            let frame = self.frames.get_mut(usize::from(page)).ok_or(Violation::Id)?;
            frame.unanswered = frame.unanswered.checked_sub(1).ok_or(Violation::Id)?;
            match status {
                status::OKAY => {}
                ..status::OKAY => {
                    self.anomalies |= Anomaly::NotSent as u8;
                    self.dropped = self.dropped.saturating_add(1);
                }
                _ => self.anomalies |= Anomaly::UnknownStatus as u8,
            }
            if frame.unanswered == 0 {
                let pages = frame.page_count();
                self.in_flight.set_all(page, pages, false);
                self.in_flight_count -= u32::from(pages);
                return Ok(Some(TxPage(page)));
            }
        }
        Ok(None)
    }

    /// Asks for the next event. Returns `true` if the responses that it would announce can be taken
    /// already.
    ///
    /// A response only matters when tcpip runs short of pages. So the event comes after responses
    /// for a quarter of the pool. If tcpip has less than a quarter left, it comes no later than the
    /// last outstanding response. If `eager`, it comes at each response. The responses to less than
    /// a quarter in flight may stay unannounced: tcpip then has more than three quarters.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn arm(&mut self, eager: bool) -> Result<bool, Violation> {
        let quarter = u32::from(self.pages / 4).max(1);
        let short = u32::from(self.pages).saturating_sub(self.in_flight_count) < quarter;
        let ahead = match (eager, short) {
            (true, _) => 1,
            (_, true) => quarter.min(self.ring.outstanding()).max(1),
            (_, false) => quarter,
        };
        Ok(self.ring.final_check(ahead)? >= ahead)
    }
}

#[cfg(test)]
mod tests;
