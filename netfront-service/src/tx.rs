//! Transmission: frames in pages of the tx-pool, which are granted to the back end for reading.
//!
//! A frame takes a slot for each of its pages, and one more for an extra info if the back end is to cut it. The id of each
//! slot is the frame's first page; how many of a frame's slots have no response yet stands in a private table.

use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::Memory;
use cloister_interfaces::net::{Offload, Offloads};

use crate::pages::{MAX_PAGES, PageQueue, PageSet};
use crate::ring::{Anomaly, FrontRing, Refusal, Violation};

/// Bytes of a request (`struct netif_tx_request`) and so of a slot.
const SLOT: usize = 12;
/// The shortest frame: a header (`ETH_HLEN`).
pub const MIN_LENGTH: u16 = 14;

/// Flags of a request (`NETTXF_*`).
mod flag {
    /// The checksum field holds the sum of the pseudo-header, and what is sent is to be trusted to be so.
    pub const CHECKSUM: u32 = 1 | 2;
    /// The frame goes on in the next slot.
    pub const MORE_DATA: u32 = 4;
    /// An extra info follows in the next slot.
    pub const EXTRA_INFO: u32 = 8;
}

/// `XEN_NETIF_EXTRA_TYPE_GSO`.
pub const EXTRA_GSO: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `NETIF_RSP_NULL`: the response to an extra info. Its id is whatever the slot held.
const STATUS_NULL: i16 = 1;

/// A frame that the link has.
#[derive(Clone, Copy, Default)]
struct Frame {
    length: u16,
    offload: Offload,
    /// Slots on the ring that have no response yet, the extra info's not among them.
    unanswered: u8,
}

impl Frame {
    fn page_count(self) -> u16 {
        self.length.div_ceil(PAGE_SIZE as u16)
    }

    fn slot_count(self) -> u32 {
        u32::from(self.page_count()) + u32::from(matches!(self.offload, Offload::Segments(_)))
    }
}

/// The transmit side.
pub struct Transmit<M> {
    ring: FrontRing<M, SLOT>,
    reference: GrantRef,
    offloads: Offloads,
    pages: u16,
    /// Pages that are not tcpip's, and how many.
    in_flight: PageSet,
    in_flight_count: u32,
    /// The frames, at their first pages.
    frames: [Frame; MAX_PAGES],
    /// Frames for which the ring had no room, by their first pages.
    waiting: PageQueue,
    /// Extra infos without a response.
    unanswered_extras: u32,
    /// Slots that the back end did not send.
    pub dropped: u64,
    /// The oddities of this connection, a bit each.
    pub anomalies: u8,
}

impl<M: Memory> Transmit<M> {
    /// The ring in page 0 of `rings`, for a pool of `pages`.
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

    /// Makes the ring empty. Only while no one else maps it.
    pub fn reset(&mut self) {
        self.ring.reset();
        (self.in_flight, self.in_flight_count) = (PageSet::default(), 0);
        self.frames = [Frame::default(); MAX_PAGES];
        (self.waiting, self.unanswered_extras) = (PageQueue::default(), 0);
        (self.dropped, self.anomalies) = (0, 0);
    }

    /// Tells under which references the pages are granted, and what the back end does for frames.
    pub fn start(&mut self, reference: GrantRef, offloads: Offloads) {
        (self.reference, self.offloads) = (reference, offloads);
    }

    /// How many pages are not tcpip's.
    pub fn pages_in_flight(&self) -> u32 {
        self.in_flight_count
    }

    /// Takes a frame to send. It goes on the ring at once, or when there is room.
    ///
    /// # Errors
    /// It is no frame of tcpip's to send.
    pub fn submit(&mut self, page: u16, length: u16, offload: Offload) -> Result<(), Refusal> {
        let offered = match offload {
            Offload::None => true,
            Offload::Checksum => self.offloads.contains(Offloads::CHECKSUM),
            Offload::Segments(size) => self.offloads.contains(Offloads::SEGMENTS) && size > 0,
        };
        if !offered {
            return Err(Refusal::Offload);
        }
        // What is longer than a page is longer than any packet of this link, but for those that are cut.
        if length < MIN_LENGTH || !matches!(offload, Offload::Segments(_)) && usize::from(length) > PAGE_SIZE {
            return Err(Refusal::Length);
        }
        let frame = Frame { length, offload, unanswered: 0 };
        let (pages, first) = (frame.page_count(), u8::try_from(page).map_err(|_| Refusal::Page)?);
        if page + pages > self.pages {
            return Err(Refusal::Page);
        }
        if self.in_flight.contains_any(page, pages) {
            return Err(Refusal::Owner);
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

    /// Puts a frame on the ring, which has room for it.
    fn push_frame(&mut self, first: u8, frame: Frame) {
        let (id, pages) = (u32::from(first), frame.page_count());
        let mut flags = match frame.offload {
            Offload::None => 0,
            Offload::Checksum => flag::CHECKSUM,
            Offload::Segments(_) => flag::CHECKSUM | flag::EXTRA_INFO,
        };
        // The first slot tells the length of the whole frame, the others their own.
        let (mut size, mut left) = (u32::from(frame.length), u32::from(frame.length));
        for done in 0..u32::from(pages) {
            left = left.saturating_sub(PAGE_SIZE as u32);
            if left > 0 {
                flags |= flag::MORE_DATA;
            }
            // Reference; offset and flags; id and size.
            self.ring.push([self.reference.0.wrapping_add(id + done), flags << 16, id | size << 16]);
            if let (0, Offload::Segments(segment)) = (done, frame.offload) {
                // Type, no flags, size; type of segmentation, padding, no features.
                self.ring.push([u32::from(EXTRA_GSO) | u32::from(segment) << 16, u32::from(GSO_TCPV4)]);
                self.unanswered_extras += 1;
            }
            (flags, size) = (0, left.min(PAGE_SIZE as u32));
        }
        if let Some(entry) = self.frames.get_mut(usize::from(first)) {
            entry.unanswered = pages as u8;
        }
    }

    /// Puts the frames that wait on the ring, as far as there is room.
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

    /// Shows the back end what there is to send; whether it is to be notified.
    pub fn publish(&mut self) -> bool {
        self.push_waiting();
        self.ring.publish()
    }

    /// The first page of the next frame that the back end has given back.
    ///
    /// # Errors
    /// The back end broke the protocol.
    pub fn reap(&mut self) -> Result<Option<u16>, Violation> {
        while let Some(word) = self.ring.pop()? {
            let (page, status) = (word as u16, (word >> 16) as i16);
            if status == STATUS_NULL {
                self.unanswered_extras = self.unanswered_extras.checked_sub(1).ok_or(Violation::Id)?;
                continue;
            }
            let frame = self.frames.get_mut(usize::from(page)).ok_or(Violation::Id)?;
            frame.unanswered = frame.unanswered.checked_sub(1).ok_or(Violation::Id)?;
            match status {
                0 => {}
                ..0 => {
                    self.anomalies |= Anomaly::NotSent as u8;
                    self.dropped = self.dropped.saturating_add(1);
                }
                _ => self.anomalies |= Anomaly::UnknownStatus as u8,
            }
            if frame.unanswered == 0 {
                let pages = frame.page_count();
                self.in_flight.set_all(page, pages, false);
                self.in_flight_count -= u32::from(pages);
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    /// Arranges for the next event; whether responses have come meanwhile.
    ///
    /// A response only matters when tcpip runs short of pages. So an event is wanted for every quarter of the pool, or, with
    /// less than a quarter left to tcpip, when so many responses are there or all that are missing; and for each if
    /// `eager`. Fewer than a quarter in flight may stay unannounced until something else happens: tcpip then has more
    /// than three quarters.
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
