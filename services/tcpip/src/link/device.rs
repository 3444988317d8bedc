//! The link as smoltcp's device: frames in pages of two pools, descriptors over the `net` queue.
//!
//! The rx-pool is shared with another domain, which may write it at any moment. A received frame is
//! copied out, whole and once, before anything looks at it, and its pages go back. A frame to send
//! is built in the tx-pool, which others may only read.
//!
//! Where the link splits long TCP segments, smoltcp is told of a link that carries them whole: the
//! MSS that a peer announces is raised before smoltcp sees it, the MSS that smoltcp announces is
//! lowered, and the link is told into what size to split. Packets other than TCP are split here.

mod arp;
mod received;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{MAX_FRAME, Net, Offloads, Reply, Request, RxPage};
use cloister_interfaces::{Client, ExclusiveMemory, Memory, System};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::frame::{ETHERNET_HEADER, MAX_HEADERS, SEGMENT_HEADERS};
use super::neighbours::Neighbours;
use super::page_runs::PageRuns;
use super::rx_part::RxPart;
use super::transmitter::Transmitter;
use crate::log::Violation;
use crate::segment::{BuiltSegment, SendRanges};

/// The longest frame that is received: the largest IPv4 packet, with an Ethernet header and one
/// VLAN tag.
const MAX_RX_FRAME: usize = 0xFFFF + ETHERNET_HEADER + 4;
/// The number of pages that are returned at once even if there are no requests for netfront: an
/// eighth of a ring of 256.
const MAX_HELD_PAGES: usize = 32;

/// The time to wait before looking again for room in the queue to netfront.
pub const QUEUE_RETRY: Duration = Duration::from_millis(1);

/// The MSS of a peer that announces none (RFC 9293, MUST-15).
const DEFAULT_PEER_MSS: u16 = 536;
/// The smallest announced MSS that is believed.
const MIN_PEER_MSS: u16 = 48;

/// An event of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The link is up.
    Up {
        /// The MAC address of the interface.
        mac: [u8; 6],
        /// The length in bytes of the largest IP packet.
        mtu: u16,
    },
    /// The link is down.
    Down,
    /// netfront broke the protocol.
    Violation(Violation),
}

/// The link, as smoltcp's device.
pub struct LinkDevice<S, M: Memory> {
    transmitter: Transmitter<S, M>,
    pool: M,
    /// For each page of the rx-pool, `true` if it is ours: received and not returned yet.
    owned: Vec<bool>,
    /// Parts of received frames. All their pages are ours.
    received: VecDeque<RxPart>,
    /// The number of frames in `received` of which all parts have come.
    complete_frames: usize,
    /// A part of the frame that is coming was dropped, and the rest of it is dropped.
    skipping: bool,
    /// Runs of pages to be returned: the first page, and how many.
    returned: VecDeque<(RxPage, u16)>,
    /// The number of pages in `returned`.
    returned_pages: usize,
    /// A copy of the frame that is parsed. Also where smoltcp builds a segment that is not sent as
    /// it is.
    frame: Vec<u8>,
    /// The length of the frame in `frame` that smoltcp parses next. 0 if there is none.
    frame_length: usize,
    /// The number of parts of that frame, at the front of `received`, that are not completely
    /// copied yet.
    uncopied_parts: usize,
    /// The ranges that are sent of the segments that smoltcp builds. `None` for all.
    ranges: Option<SendRanges>,
    /// The MSS that the sender of the last SYN announced.
    announced_mss: u16,
    mtu: u16,
    /// The longest frame with a segment that the link splits. `None` if the link splits none.
    max_offload_frame: Option<usize>,
    up: bool,
    /// The offloads of the link are used.
    use_offloads: bool,
}

impl<S: System, M: Memory> LinkDevice<S, M> {
    /// Creates the device. The link is down at first. Without `use_offloads`, every frame is sent
    /// complete, whatever the link offers.
    pub fn new(
        net: Client<Net, S, M>,
        rx_pool: M,
        tx_pool: M::Exclusive,
        use_offloads: bool,
        neighbours: Neighbours,
    ) -> Self {
        let rx = (rx_pool.len() / PAGE_SIZE).min(usize::from(u16::MAX));
        LinkDevice {
            transmitter: Transmitter::new(net, tx_pool, neighbours),
            pool: rx_pool,
            owned: vec![false; rx],
            received: VecDeque::with_capacity(rx),
            complete_frames: 0,
            skipping: false,
            returned: VecDeque::with_capacity(rx),
            returned_pages: 0,
            // Every byte is written before it is read.
            frame: M::buffer(MAX_RX_FRAME).unwrap_or_default(),
            frame_length: 0,
            uncopied_parts: 0,
            ranges: None,
            announced_mss: DEFAULT_PEER_MSS,
            mtu: 1500,
            max_offload_frame: None,
            up: false,
            use_offloads,
        }
    }

    /// Returns our MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.transmitter.mac
    }

    /// Returns `true` if the back end is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Returns `true` if a frame can be sent now. If not, a notification comes when it can.
    pub fn can_send(&self) -> bool {
        self.up && self.transmitter.can_send()
    }

    /// Returns `true` if a TCP segment with up to `data` bytes can be sent now, as long as the link
    /// allows.
    pub fn can_send_segment(&self, data: usize) -> bool {
        let pages = (MAX_HEADERS + data).min(self.max_offload_frame.unwrap_or(1)).div_ceil(PAGE_SIZE);
        self.can_send() && (pages == 1 || self.transmitter.free.has(pages))
    }

    /// Returns [`Self::max_offload_frame`] for the present link.
    fn max_segment_frame(&self) -> Option<usize> {
        let offloads = self.transmitter.offloads;
        let max = (self.transmitter.free.longest() * PAGE_SIZE).min(MAX_FRAME);
        let segment = self.link_mss();
        // A multiple of the link's MSS, so that no short segment is in the middle of a stream.
        let whole = max.saturating_sub(ETHERNET_HEADER + SEGMENT_HEADERS) / segment * segment;
        (offloads.contains(Offloads::all()) && whole > segment).then_some(ETHERNET_HEADER + SEGMENT_HEADERS + whole)
    }

    /// Returns the number of bytes of data in the longest frame, which the link may have to split.
    pub fn max_payload(&self) -> usize {
        self.max_offload_frame.map_or(self.link_mss(), |length| length - ETHERNET_HEADER - SEGMENT_HEADERS)
    }

    /// Returns the MSS of the sender of the SYN in the current frame.
    pub fn peer_mss(&self) -> NonZeroU16 {
        NonZeroU16::new(self.announced_mss.clamp(MIN_PEER_MSS, self.link_mss() as u16)).unwrap_or(NonZeroU16::MIN)
    }

    /// Returns the MSS of the link: the number of bytes of data in a segment as long as the link
    /// carries.
    pub fn link_mss(&self) -> usize {
        usize::from(self.mtu) - SEGMENT_HEADERS
    }

    /// Returns `true` if the queue to netfront is full. Only a failed push requests a notification,
    /// so the caller looks again after [`QUEUE_RETRY`].
    pub fn is_blocked(&self) -> bool {
        self.up && self.transmitter.net.requests.room() == 0
    }

    /// Returns `true` if complete frames wait to be parsed.
    pub fn has_frames(&self) -> bool {
        self.complete_frames > 0
    }

    /// Takes up to `budget` messages from netfront. Returns the first event among them, or `None`
    /// if there is none.
    pub fn next_event(&mut self, budget: &mut u32) -> Option<Event> {
        while *budget > 0 {
            *budget -= 1;
            let event = match self.transmitter.net.replies.pop()? {
                Ok(Reply::Up { mac, mtu, offloads }) => Some(self.link_up(mac, mtu, offloads)),
                Ok(Reply::Down) => {
                    self.reset();
                    Some(Event::Down)
                }
                Ok(Reply::Received { page, offset, length, more, checked }) => {
                    self.part_received(RxPart { page, offset, length, more, checked }).err().map(Event::Violation)
                }
                Ok(Reply::Transmitted { page }) => self.transmitter.transmitted(page).err().map(Event::Violation),
                Err(malformed) => {
                    self.malformed_received();
                    Some(Event::Violation(Violation::LinkMessage(malformed)))
                }
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn link_up(&mut self, mac: [u8; 6], mtu: u16, offloads: Offloads) -> Event {
        // Every IPv4 link carries 68 bytes (RFC 791). Less than 128 leave no room for TCP.
        let fits = usize::from(mtu) >= 128 && usize::from(mtu) + ETHERNET_HEADER <= PAGE_SIZE;
        if mac[0] & 1 != 0 || mac == [0; 6] || !fits {
            return Event::Violation(Violation::LinkParameters);
        }
        self.reset();
        self.up = true;
        self.mtu = mtu;
        self.transmitter.mac = mac;
        self.transmitter.max_frame = usize::from(mtu) + ETHERNET_HEADER;
        self.transmitter.offloads = if self.use_offloads { offloads } else { Offloads::empty() };
        self.max_offload_frame = self.max_segment_frame();
        Event::Up { mac, mtu }
    }

    /// Puts all pages back to where they were at the start.
    fn reset(&mut self) {
        self.up = false;
        self.owned.fill(false);
        self.received.clear();
        (self.complete_frames, self.skipping, self.frame_length, self.uncopied_parts) = (0, false, 0, 0);
        self.returned.clear();
        self.returned_pages = 0;
        self.transmitter.free = PageRuns::new(self.transmitter.in_flight.len());
        self.transmitter.in_flight.fill(0);
        self.transmitter.parked.clear();
        // The back end of the next link must not see what went over this one.
        if core::mem::replace(&mut self.transmitter.pool_dirty, true) {
            let size = self.transmitter.pool.size();
            self.transmitter.pool.edit(0, size, |pages| pages.fill(0));
        }
    }

    /// Sends a frame that smoltcp did not build. It is dropped if there is no room.
    pub fn send(&mut self, frame: &[u8]) {
        if self.can_send() {
            self.transmitter.send(frame.len(), |space| space.copy_from_slice(frame));
        }
    }

    /// Requests netfront to disconnect. Returns `false` if the queue had no room.
    pub fn close(&mut self) -> bool {
        self.transmitter.flush_due = true;
        self.transmitter.net.requests.push(&Request::Close).is_ok()
    }

    /// Publishes the requests to netfront. A few pages to return are no reason to wake netfront:
    /// usually a frame to send follows soon.
    pub fn flush(&mut self) {
        let enough = (self.owned.len() / 8).min(MAX_HELD_PAGES);
        if core::mem::take(&mut self.transmitter.flush_due) || self.returned_pages > enough {
            self.flush_returned();
            self.transmitter.net.requests.flush();
        }
        self.transmitter.net.replies.release();
    }

    /// Begins the turn of a connection whose peer's MSS is `segment`, or of other sockets. All that
    /// smoltcp builds is sent.
    pub fn begin_turn(&mut self, segment: Option<NonZeroU16>) {
        (self.ranges, self.transmitter.built, self.transmitter.segment_size) = (None, None, segment);
    }

    /// Restricts what is sent in this turn to these ranges.
    pub fn send_only(&mut self, ranges: SendRanges) {
        self.ranges = Some(ranges);
    }

    /// Ends a connection's turn. Returns the last segment that smoltcp built in it.
    pub fn take_built(&mut self) -> Option<BuiltSegment> {
        self.ranges = None;
        self.transmitter.built.take()
    }
}

/// A copy of a received frame.
pub struct RxToken<'a>(&'a [u8]);

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The permission to send one frame.
///
/// # Holding one proves
/// If [`Device::transmit`] returned it: the link is up, and a page and room in the queue are free.
/// It borrows the transmitter, so nothing else takes them.
pub struct TxToken<'a, S, M: Memory> {
    transmitter: &'a mut Transmitter<S, M>,
    /// The ranges that are sent, if not all, and where the frame is built.
    ranges: Option<(&'a mut [u8], &'a SendRanges)>,
}

impl<S: System, M: Memory> smoltcp::phy::TxToken for TxToken<'_, S, M> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        if let Some((space, ranges)) = self.ranges
            && let Some(frame) = space.get_mut(..length)
        {
            let result = f(frame);
            self.transmitter.send_ranges_of(frame, ranges);
            return result;
        }
        if length > self.transmitter.max_frame && self.transmitter.segment_size.is_none() {
            return self.transmitter.send_in_fragments(length, f);
        }
        self.transmitter.send(length, f)
    }
}

impl<S: System, M: Memory> Device for LinkDevice<S, M> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, S, M>
    where
        Self: 'a;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let length = core::mem::take(&mut self.frame_length);
        if self.has_uncopied() {
            self.copy_remaining();
        }
        let frame = self.frame.get(..length).filter(|frame| !frame.is_empty())?;
        Some((RxToken(frame), TxToken { transmitter: &mut self.transmitter, ranges: None }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Self::TxToken<'_>> {
        if !self.can_send() {
            return None;
        }
        let ranges = self.ranges.as_ref().map(|ranges| (&mut self.frame[..], ranges));
        Some(TxToken { transmitter: &mut self.transmitter, ranges })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.max_offload_frame.unwrap_or(self.transmitter.max_frame);
        // Received checksums are verified before smoltcp sees the frame, where that is needed.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        let linked = self.transmitter.offloads.contains(Offloads::CHECKSUM);
        capabilities.checksum.tcp = if linked { Checksum::None } else { Checksum::Tx };
        capabilities
    }
}
