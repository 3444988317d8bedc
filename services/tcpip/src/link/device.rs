//! The link as smoltcp's device: frames in pages of two pools, descriptors over the `net` queue.
//!
//! The rx-pool is shared with another domain, which may write it at any moment: a received frame is copied out, whole and
//! once, before anything looks at it, and its pages go back. A frame to send is built in the tx-pool, which others may only
//! read.
//!
//! Where the link cuts long segments, the stack is told of a link that carries them whole: what a peer says of the segments that
//! it takes is raised before the stack sees it, what the stack says of ours is lowered, and the link is told how long to make
//! them. What is no segment is cut here.

mod arp;
mod received;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{MAX_FRAME, Net, Offloads, Reply, Request};
use cloister_interfaces::{Client, ExclusiveMemory, Memory, System};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::frame::{ETHERNET_HEADER, MAX_HEADERS, SEGMENT_HEADERS};
use super::page_runs::PageRuns;
use super::rx_part::RxPart;
use super::transmitter::Transmitter;
use crate::refusals::Refusal;
use crate::segment::{Outgoing, SendRanges};

/// The longest frame that is received: the largest IPv4 packet behind an Ethernet header with one VLAN tag.
const MAX_RX_FRAME: usize = 0xFFFF + ETHERNET_HEADER + 4;
/// Pages that are given back at once though nothing is asked of netfront: an eighth of a ring of 256.
const MAX_HELD_PAGES: usize = 32;

/// How long to wait for room in the queue to netfront.
pub const QUEUE_RETRY: Duration = Duration::from_millis(1);

/// What a peer takes that does not say how long segments may be (RFC 9293, MUST-15); and the least that is believed.
const DEFAULT_PEER_MSS: u16 = 536;
const MIN_PEER_MSS: u16 = 48;

/// What the link did, that the stack must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is up.
    Up {
        /// The interface's address.
        mac: [u8; 6],
        /// The largest IP packet in bytes.
        mtu: u16,
    },
    /// It is down.
    Down,
    /// netfront said something that cannot be.
    Refused(Refusal),
}

/// The link.
pub struct LinkDevice<S, M: Memory> {
    transmitter: Transmitter<S, M>,
    pool: M,
    /// Pages of the rx-pool that are ours: received, and not given back yet.
    owned: Vec<bool>,
    /// Parts of frames, all in pages that are ours.
    received: VecDeque<RxPart>,
    /// Frames in `received` whose parts have all come.
    complete_frames: usize,
    /// A part of the frame that comes was refused: those up to its end are thrown away.
    skipping: bool,
    /// Runs of pages to be given back: the first, and how many.
    returned: VecDeque<(u16, u16)>,
    /// How many pages that is.
    returned_pages: usize,
    /// The frame that is parsed; or one that the stack made and that is not sent as it is.
    frame: Vec<u8>,
    /// How much of `frame` the stack is to parse next; 0 is nothing.
    frame_length: usize,
    /// Parts of that frame at the head of `received`, of which all but the first bytes have yet to be copied.
    uncopied_parts: usize,
    /// What is sent of the segments that the stack makes.
    ranges: Option<SendRanges>,
    /// The longest segments that the sender of the last SYN takes, as it says.
    announced_mss: u16,
    mtu: u16,
    /// The longest frame with a segment that the link is to cut; none if it does not.
    max_offload_frame: Option<usize>,
    up: bool,
    /// What the link offers is made use of.
    use_offloads: bool,
}

impl<S: System, M: Memory> LinkDevice<S, M> {
    /// The link over these capabilities; down. Without `use_offloads` every frame is sent complete, whatever the link
    /// offers. `random` is a secret.
    pub fn new(net: Client<Net, S, M>, rx_pool: M, tx_pool: M::Exclusive, use_offloads: bool, random: u64) -> Self {
        let rx = (rx_pool.len() / PAGE_SIZE).min(usize::from(u16::MAX));
        LinkDevice {
            transmitter: Transmitter::new(net, tx_pool, random),
            pool: rx_pool,
            owned: vec![false; rx],
            received: VecDeque::with_capacity(rx),
            complete_frames: 0,
            skipping: false,
            returned: VecDeque::with_capacity(rx),
            returned_pages: 0,
            // What is read of it was written before.
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

    /// Returns our address on the link.
    pub fn mac(&self) -> [u8; 6] {
        self.transmitter.mac
    }

    /// Whether the backend is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a frame could be sent now. If not, a notification says when.
    pub fn can_send(&self) -> bool {
        self.up && self.transmitter.can_send()
    }

    /// Whether a TCP segment with up to `data` bytes could be sent now, and be as long as the link allows.
    pub fn can_send_segment(&self, data: usize) -> bool {
        let pages = (MAX_HEADERS + data).min(self.max_offload_frame.unwrap_or(1)).div_ceil(PAGE_SIZE);
        self.can_send() && (pages == 1 || self.transmitter.free.has(pages))
    }

    /// What [`Self::longest`] is for this link.
    fn max_segment_frame(&self) -> Option<usize> {
        let offloads = self.transmitter.offloads;
        let most = (self.transmitter.free.longest() * PAGE_SIZE).min(MAX_FRAME);
        let segment = self.link_mss();
        // Whole segments, as long as the peer takes such long ones: no short one in the middle of a stream.
        let whole = most.saturating_sub(ETHERNET_HEADER + SEGMENT_HEADERS) / segment * segment;
        (offloads.contains(Offloads::all()) && whole > segment).then_some(ETHERNET_HEADER + SEGMENT_HEADERS + whole)
    }

    /// Bytes of data in the longest frame, which the link may have to cut.
    pub fn max_payload(&self) -> usize {
        self.max_offload_frame.map_or(self.link_mss(), |length| length - ETHERNET_HEADER - SEGMENT_HEADERS)
    }

    /// Bytes of data in the longest segments that the sender of the SYN that was readied takes.
    pub fn peer_mss(&self) -> NonZeroU16 {
        NonZeroU16::new(self.announced_mss.clamp(MIN_PEER_MSS, self.link_mss() as u16)).unwrap_or(NonZeroU16::MIN)
    }

    /// Bytes of data in a segment as long as the link carries.
    pub fn link_mss(&self) -> usize {
        usize::from(self.mtu) - SEGMENT_HEADERS
    }

    /// Whether the queue to netfront is full. Only a failed push asks to be woken, so this is to be looked at again.
    pub fn is_blocked(&self) -> bool {
        self.up && self.transmitter.net.requests.room() == 0
    }

    /// Whether frames wait to be parsed.
    pub fn has_frames(&self) -> bool {
        self.complete_frames > 0
    }

    /// Takes up to `budget` messages; answers the first event among them, `None` if there is nothing more.
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
                    self.part_received(RxPart { page, offset, length, more, checked }).err().map(Event::Refused)
                }
                Ok(Reply::Transmitted { page }) => self.transmitter.transmitted(page).err().map(Event::Refused),
                Err(_) => Some(Event::Refused(Refusal::LinkMessage)),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn link_up(&mut self, mac: [u8; 6], mtu: u16, offloads: Offloads) -> Event {
        // 68: the least that every IPv4 link carries (RFC 791); less would leave no room for TCP.
        let fits = usize::from(mtu) >= 128 && usize::from(mtu) + ETHERNET_HEADER <= PAGE_SIZE;
        if mac[0] & 1 != 0 || mac == [0; 6] || !fits {
            return Event::Refused(Refusal::LinkParameters);
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

    /// All pages are where they were at the start.
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
        // What went over one link, the back end of the next must not see.
        if core::mem::replace(&mut self.transmitter.pool_dirty, true) {
            let size = self.transmitter.pool.size();
            self.transmitter.pool.edit(0, size, |pages| pages.fill(0));
        }
    }

    /// Sends a frame that the stack did not make.
    pub fn send(&mut self, frame: &[u8]) {
        if self.can_send() {
            self.transmitter.send(frame.len(), |space| space.copy_from_slice(frame));
        }
    }

    /// Asks netfront to disconnect. Answers whether the queue had room.
    pub fn close(&mut self) -> bool {
        self.transmitter.flush_due = true;
        self.transmitter.net.requests.push(&Request::Close).is_ok()
    }

    /// Publishes what was asked. A few pages to be given back are no reason to wake netfront: mostly a frame to send follows.
    pub fn flush(&mut self) {
        let enough = (self.owned.len() / 8).min(MAX_HELD_PAGES);
        if core::mem::take(&mut self.transmitter.flush_due) || self.returned_pages > enough {
            self.flush_returned();
            self.transmitter.net.requests.flush();
        }
        self.transmitter.net.replies.release();
    }

    /// The turn of a connection begins, whose peer takes segments with so many bytes; or of what is none. All is sent of what the
    /// stack makes.
    pub fn begin_turn(&mut self, segment: Option<NonZeroU16>) {
        (self.ranges, self.transmitter.built, self.transmitter.segment_size) = (None, None, segment);
    }

    /// Only this is sent of what the stack makes in this turn.
    pub fn send_only(&mut self, wanted: SendRanges) {
        self.ranges = Some(wanted);
    }

    /// A connection's turn is over; the segment that the stack made last in it.
    pub fn take_built(&mut self) -> Option<Outgoing> {
        self.ranges = None;
        self.transmitter.built.take()
    }
}

/// A received frame, copied.
pub struct RxToken<'a>(&'a [u8]);

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Leave to send one frame.
pub struct TxToken<'a, S, M: Memory> {
    transmitter: &'a mut Transmitter<S, M>,
    /// Where the frame is built if only this of it is sent.
    wanted: Option<(&'a mut [u8], &'a SendRanges)>,
}

impl<S: System, M: Memory> smoltcp::phy::TxToken for TxToken<'_, S, M> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        if let Some((space, wanted)) = self.wanted
            && let Some(frame) = space.get_mut(..length)
        {
            let result = f(frame);
            self.transmitter.send_ranges_of(frame, wanted);
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
        Some((RxToken(frame), TxToken { transmitter: &mut self.transmitter, wanted: None }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Self::TxToken<'_>> {
        if !self.can_send() {
            return None;
        }
        let wanted = self.ranges.as_ref().map(|wanted| (&mut self.frame[..], wanted));
        Some(TxToken { transmitter: &mut self.transmitter, wanted })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.max_offload_frame.unwrap_or(self.transmitter.max_frame);
        // What comes is verified before the stack sees it, if it has to be.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        let linked = self.transmitter.offloads.contains(Offloads::CHECKSUM);
        capabilities.checksum.tcp = if linked { Checksum::None } else { Checksum::Tx };
        capabilities
    }
}
