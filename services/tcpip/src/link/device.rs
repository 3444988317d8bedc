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

use arrayvec::ArrayVec;
use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{MAX_FRAME, Net, Offload, Offloads, Reply, Request};
use cloister_interfaces::{Client, ExclusiveMemory, Memory, System};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::link::fragments::fragments;
use crate::link::frame::{self, ETHERNET_HEADER, LARGEST_REASSEMBLED, largest_segment, prepare_checksum};
use crate::link::neighbours::Neighbours;
use crate::link::page_runs::{MAX_PAGES, Runs};
use crate::link::segmentation::{outgoing, parts};
use crate::tcp::recovery::{Outgoing, Wanted};
use arp::{PARKED, Parked, Way};
use received::Part;

/// The longest frame that is received: the largest IPv4 packet behind an Ethernet header with one VLAN tag.
const LONGEST_RECEIVED: usize = 0xFFFF + ETHERNET_HEADER + 4;
/// Pages that are given back at once though nothing is asked of netfront: an eighth of a ring of 256.
const MANY_PAGES: usize = 32;

/// Bytes of the IPv4 and TCP headers of a segment without options.
const SEGMENT_HEADERS: usize = 20 + 20;
/// Bytes of all headers of a segment at most.
const LONGEST_HEADERS: usize = ETHERNET_HEADER + SEGMENT_HEADERS + 40;

/// What a peer takes that does not say how long segments may be (RFC 9293, MUST-15); and the least that is believed.
const UNANNOUNCED: u16 = 536;
const LEAST_SEGMENT: u16 = 48;

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
    Refused(Refused),
}

/// What netfront may not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A message that does not decode.
    Message,
    /// A page that it does not hold, or that is outside the pool.
    Page,
    /// A part of a frame that has no bytes, or does not start in its page.
    Length,
    /// An address that is not one station's, or an MTU that IPv4 cannot use.
    Parameters,
}

/// The sending half.
struct Outbound<S, M: Memory> {
    net: Client<Net, S, M>,
    pool: M::Exclusive,
    /// Something may have been written to the pool, by a former run of the service if by nobody else.
    written: bool,
    free: Runs,
    /// For the first page of each frame that netfront has, how many pages that frame has.
    sent: Vec<u8>,
    offloads: Offloads,
    /// The longest frame that the link carries uncut.
    whole: usize,
    /// The data of the segments that the link is to cut those of this turn's connection into; none in another's turn.
    segment: Option<NonZeroU16>,
    /// The segment that the stack made last.
    made: Option<Outgoing>,
    /// Where a packet that is longer is built, and the number of the last one.
    packet: Vec<u8>,
    number: u16,
    /// netfront was asked for something that it does not know of yet.
    asked: bool,
    /// Our address on the link.
    mac: [u8; 6],
    neighbours: Neighbours,
    /// Frames that wait for the link address of their next hop: the last for each.
    parked: ArrayVec<([u8; 4], Parked), PARKED>,
    /// The DHCP client has sent something.
    leased: bool,
}

/// The link.
pub struct Wire<S, M: Memory> {
    out: Outbound<S, M>,
    pool: M,
    /// Pages of the rx-pool that are ours: received, and not given back yet.
    held: Vec<bool>,
    /// Parts of frames, all in pages that are ours.
    received: VecDeque<Part>,
    /// Frames in `received` whose parts have all come.
    whole: usize,
    /// A part of the frame that comes was refused: those up to its end are thrown away.
    skipping: bool,
    /// Runs of pages to be given back: the first, and how many.
    returns: VecDeque<(u16, u16)>,
    /// How many pages that is.
    owed: usize,
    /// The frame that is parsed; or one that the stack made and that is not sent as it is.
    frame: Vec<u8>,
    /// How much of `frame` the stack is to parse next; 0 is nothing.
    loaded: usize,
    /// Parts of that frame at the head of `received`, of which all but the first bytes have yet to be copied.
    pending: usize,
    /// What is sent of the segments that the stack makes.
    wanted: Option<Wanted>,
    /// The longest segments that the sender of the last SYN takes, as it says.
    announced: u16,
    mtu: u16,
    /// The longest frame with a segment that the link is to cut; none if it does not.
    longest: Option<usize>,
    up: bool,
    /// What the link offers is made use of.
    offloading: bool,
}

impl<S: System, M: Memory> Wire<S, M> {
    /// The link over these capabilities; down. Without `offloading` every frame is sent complete, whatever the link
    /// offers. `random` is a secret.
    pub fn new(net: Client<Net, S, M>, rx_pool: M, tx_pool: M::Exclusive, offloading: bool, random: u64) -> Self {
        let rx = (rx_pool.len() / PAGE_SIZE).min(usize::from(u16::MAX));
        let tx = (tx_pool.size() / PAGE_SIZE).min(MAX_PAGES);
        Wire {
            out: Outbound {
                net,
                written: !tx_pool.is_fresh(),
                pool: tx_pool,
                free: Runs::new(tx),
                sent: vec![0; tx],
                offloads: Offloads::empty(),
                whole: 1500 + ETHERNET_HEADER,
                segment: None,
                made: None,
                packet: vec![0; LONGEST_HEADERS + LARGEST_REASSEMBLED],
                number: 0,
                asked: false,
                mac: [0; 6],
                neighbours: Neighbours::new(random),
                parked: ArrayVec::new(),
                leased: false,
            },
            pool: rx_pool,
            held: vec![false; rx],
            received: VecDeque::with_capacity(rx),
            whole: 0,
            skipping: false,
            returns: VecDeque::with_capacity(rx),
            owed: 0,
            // What is read of it was written before.
            frame: M::buffer(LONGEST_RECEIVED).unwrap_or_default(),
            loaded: 0,
            pending: 0,
            wanted: None,
            announced: UNANNOUNCED,
            mtu: 1500,
            longest: None,
            up: false,
            offloading,
        }
    }

    /// Returns our address on the link.
    pub fn mac(&self) -> [u8; 6] {
        self.out.mac
    }

    /// Whether the backend is connected.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Whether a frame could be sent now. If not, a notification says when.
    pub fn can_send(&self) -> bool {
        self.up && self.out.can_send()
    }

    /// Whether a TCP segment with up to `data` bytes could be sent now, and be as long as the link allows.
    pub fn can_send_segment(&self, data: usize) -> bool {
        let pages = (LONGEST_HEADERS + data).min(self.longest.unwrap_or(1)).div_ceil(PAGE_SIZE);
        self.can_send() && (pages == 1 || self.out.free.has(pages))
    }

    /// What [`Self::longest`] is for this link.
    fn longest_segment(&self) -> Option<usize> {
        let offloads = self.out.offloads;
        let most = (self.out.free.longest() * PAGE_SIZE).min(MAX_FRAME);
        let segment = self.largest_segment();
        // Whole segments, as long as the peer takes such long ones: no short one in the middle of a stream.
        let whole = most.saturating_sub(ETHERNET_HEADER + SEGMENT_HEADERS) / segment * segment;
        (offloads.contains(Offloads::all()) && whole > segment).then_some(ETHERNET_HEADER + SEGMENT_HEADERS + whole)
    }

    /// Bytes of data in the longest frame, which the link may have to cut.
    pub fn longest_data(&self) -> usize {
        self.longest.map_or(self.largest_segment(), |length| length - ETHERNET_HEADER - SEGMENT_HEADERS)
    }

    /// Bytes of data in the longest segments that the sender of the SYN that was readied takes.
    pub fn announced(&self) -> NonZeroU16 {
        NonZeroU16::new(self.announced.clamp(LEAST_SEGMENT, self.largest_segment() as u16)).unwrap_or(NonZeroU16::MIN)
    }

    /// Bytes of data in a segment as long as the link carries.
    pub fn largest_segment(&self) -> usize {
        usize::from(self.mtu) - SEGMENT_HEADERS
    }

    /// Whether the queue to netfront is full. Only a failed push asks to be woken, so this is to be looked at again.
    pub fn is_blocked(&self) -> bool {
        self.up && self.out.net.requests.room() == 0
    }

    /// Whether frames wait to be parsed.
    pub fn has_frames(&self) -> bool {
        self.whole > 0
    }

    /// Takes up to `budget` messages; answers the first event among them, `None` if there is nothing more.
    pub fn next_event(&mut self, budget: &mut u32) -> Option<Event> {
        while *budget > 0 {
            *budget -= 1;
            let event = match self.out.net.replies.pop()? {
                Ok(Reply::Up { mac, mtu, offloads }) => Some(self.raised(mac, mtu, offloads)),
                Ok(Reply::Down) => {
                    self.reset();
                    Some(Event::Down)
                }
                Ok(Reply::Received { page, offset, length, more, checked }) => {
                    self.came(Part { page, offset, length, more, checked }).err().map(Event::Refused)
                }
                Ok(Reply::Transmitted { page }) => self.out.left(page).err().map(Event::Refused),
                Err(_) => Some(Event::Refused(Refused::Message)),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn raised(&mut self, mac: [u8; 6], mtu: u16, offloads: Offloads) -> Event {
        // 68: the least that every IPv4 link carries (RFC 791); less would leave no room for TCP.
        let fits = usize::from(mtu) >= 128 && usize::from(mtu) + ETHERNET_HEADER <= PAGE_SIZE;
        if mac[0] & 1 != 0 || mac == [0; 6] || !fits {
            return Event::Refused(Refused::Parameters);
        }
        self.reset();
        self.up = true;
        self.mtu = mtu;
        self.out.mac = mac;
        self.out.whole = usize::from(mtu) + ETHERNET_HEADER;
        self.out.offloads = if self.offloading { offloads } else { Offloads::empty() };
        self.longest = self.longest_segment();
        Event::Up { mac, mtu }
    }

    /// All pages are where they were at the start.
    fn reset(&mut self) {
        self.up = false;
        self.held.fill(false);
        self.received.clear();
        (self.whole, self.skipping, self.loaded, self.pending) = (0, false, 0, 0);
        self.returns.clear();
        self.owed = 0;
        self.out.free = Runs::new(self.out.sent.len());
        self.out.sent.fill(0);
        self.out.parked.clear();
        // What went over one link, the back end of the next must not see.
        if core::mem::replace(&mut self.out.written, true) {
            let size = self.out.pool.size();
            self.out.pool.edit(0, size, |pages| pages.fill(0));
        }
    }

    /// Sends a frame that the stack did not make.
    pub fn send(&mut self, frame: &[u8]) {
        if self.can_send() {
            self.out.send(frame.len(), |space| space.copy_from_slice(frame));
        }
    }

    /// Asks netfront to disconnect. Answers whether the queue had room.
    pub fn close(&mut self) -> bool {
        self.out.asked = true;
        self.out.net.requests.push(&Request::Close).is_ok()
    }

    /// Publishes what was asked. A few pages to be given back are no reason to wake netfront: mostly a frame to send follows.
    pub fn flush(&mut self) {
        let enough = (self.held.len() / 8).min(MANY_PAGES);
        if core::mem::take(&mut self.out.asked) || self.owed > enough {
            self.give_back_all();
            self.out.net.requests.flush();
        }
        self.out.net.replies.release();
    }

    /// The turn of a connection begins, whose peer takes segments with so many bytes; or of what is none. All is sent of what the
    /// stack makes.
    pub fn begin(&mut self, segment: Option<NonZeroU16>) {
        (self.wanted, self.out.made, self.out.segment) = (None, None, segment);
    }

    /// Only this is sent of what the stack makes in this turn.
    pub fn want(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
    }

    /// A connection's turn is over; the segment that the stack made last in it.
    pub fn made(&mut self) -> Option<Outgoing> {
        self.wanted = None;
        self.out.made.take()
    }
}

impl<S: System, M: Memory> Outbound<S, M> {
    fn can_send(&self) -> bool {
        self.free.has(1) && self.net.requests.room() > 0
    }

    fn left(&mut self, page: u16) -> Result<(), Refused> {
        let count = self.sent.get_mut(usize::from(page)).map_or(0, core::mem::take);
        if count == 0 {
            return Err(Refused::Page);
        }
        self.free.put(page, usize::from(count));
        Ok(())
    }

    /// Has `fill` build a frame of `length` bytes in the pool, and sends it. Without room it is lost, as on any link; its sender
    /// looked first.
    fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let count = length.div_ceil(PAGE_SIZE);
        let page = if length <= MAX_FRAME { self.free.take(count) } else { None };
        let offset = page.map_or(usize::MAX, |page| usize::from(page) * PAGE_SIZE);
        let (offloads, segment, whole) = (self.offloads, self.segment, self.whole);
        let (neighbours, leased) = (&mut self.neighbours, &mut self.leased);
        let mut fill = Some(fill);
        let placed = self.pool.edit(offset, length, |space| {
            let result = fill.take().map(|fill| fill(space));
            let made = outgoing(space);
            let way = arp::direct(space, neighbours);
            *leased |= made.is_none() && frame::is_from_dhcp_client(space);
            if made.is_some_and(|made| made.start)
                && let Some(largest) = largest_segment(space)
            {
                *largest = ((whole - ETHERNET_HEADER - SEGMENT_HEADERS) as u16).to_be_bytes();
            }
            let data = made.map_or(0, |made| made.data);
            let offload = match segment {
                _ if made.is_none() || !offloads.contains(Offloads::CHECKSUM) || !prepare_checksum(space) => {
                    Offload::None
                }
                Some(size) if data > u32::from(size.get()) => Offload::Segments(size.get()),
                _ => Offload::Checksum,
            };
            (result, offload, made, way)
        });
        if let (Some(page), Some((_, offload, made, way))) = (page, &placed) {
            self.made = *made;
            let request = Request::Transmit { page, length: length as u16, offload: *offload };
            match way {
                Way::Direct => self.submit(page, count, &request),
                way => self.detour(*way, page, count, &request),
            }
        }
        match (placed, fill) {
            (Some((Some(result), ..)), _) => result,
            (_, Some(fill)) => self.lose(length, fill),
            _ => unreachable!("what was filled has a result"),
        }
    }

    /// Has `fill` build a frame for which there is no room, as if it had been lost on its way.
    #[cold]
    fn lose<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut packet = core::mem::take(&mut self.packet);
        let mut longer = vec![0; if length > packet.len() { length } else { 0 }];
        let frame = packet.get_mut(..length).unwrap_or(&mut longer);
        let result = fill(frame);
        self.made = outgoing(frame);
        self.packet = packet;
        result
    }

    /// Sends what is wanted of the segment in `frame`.
    fn send_wanted(&mut self, frame: &[u8], wanted: &Wanted) {
        let Some(made) = outgoing(frame) else {
            return self.send(frame.len(), |space| space.copy_from_slice(frame));
        };
        let headers = frame.len().saturating_sub(made.data as usize);
        let summed = !self.offloads.contains(Offloads::CHECKSUM);
        for part in parts(made, wanted) {
            let length = headers + part.data();
            if self.free.has(length.div_ceil(PAGE_SIZE)) {
                self.send(length, |space| part.write(frame, headers, space, summed));
            }
        }
        self.made = Some(made);
    }

    /// Has `fill` build a packet that is longer than the link carries, and sends it in fragments; none of them without room for all.
    fn send_long<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut packet = core::mem::take(&mut self.packet);
        let Some(frame) = packet.get_mut(..length) else {
            self.packet = packet;
            return fill(&mut vec![0; length]);
        };
        let result = fill(frame);
        let number = self.number.wrapping_add(1);
        self.number = number;
        let count = fragments(length, self.whole).count();
        if self.free.count() >= count && self.net.requests.room() as usize >= count {
            for fragment in fragments(length, self.whole) {
                self.send(fragment.length(), |space| fragment.write(frame, number, space));
            }
        }
        self.packet = packet;
        result
    }

    fn submit(&mut self, page: u16, count: usize, request: &Request) {
        match self.sent.get_mut(usize::from(page)) {
            Some(sent) if self.net.requests.push(request).is_ok() => {
                *sent = count as u8;
                self.asked = true;
            }
            _ => self.free.put(page, count),
        }
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
    out: &'a mut Outbound<S, M>,
    /// Where the frame is built if only this of it is sent.
    wanted: Option<(&'a mut [u8], &'a Wanted)>,
}

impl<S: System, M: Memory> smoltcp::phy::TxToken for TxToken<'_, S, M> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        if let Some((space, wanted)) = self.wanted
            && let Some(frame) = space.get_mut(..length)
        {
            let result = f(frame);
            self.out.send_wanted(frame, wanted);
            return result;
        }
        if length > self.out.whole && self.out.segment.is_none() {
            return self.out.send_long(length, f);
        }
        self.out.send(length, f)
    }
}

impl<S: System, M: Memory> Device for Wire<S, M> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, S, M>
    where
        Self: 'a;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let length = core::mem::take(&mut self.loaded);
        if self.is_pending() {
            self.copy_rest();
        }
        let frame = self.frame.get(..length).filter(|frame| !frame.is_empty())?;
        Some((RxToken(frame), TxToken { out: &mut self.out, wanted: None }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Self::TxToken<'_>> {
        if !self.can_send() {
            return None;
        }
        let wanted = self.wanted.as_ref().map(|wanted| (&mut self.frame[..], wanted));
        Some(TxToken { out: &mut self.out, wanted })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.longest.unwrap_or(self.out.whole);
        // What comes is verified before the stack sees it, if it has to be.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        let linked = self.out.offloads.contains(Offloads::CHECKSUM);
        capabilities.checksum.tcp = if linked { Checksum::None } else { Checksum::Tx };
        capabilities
    }
}

/// A link that takes nothing.
pub struct Nowhere;

/// No leave to do anything.
pub enum NoToken {}

impl smoltcp::phy::RxToken for NoToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _: F) -> R {
        match self {}
    }
}

impl smoltcp::phy::TxToken for NoToken {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _: usize, _: F) -> R {
        match self {}
    }
}

impl Device for Nowhere {
    type RxToken<'a> = NoToken;
    type TxToken<'a> = NoToken;

    fn receive(&mut self, _timestamp: Instant) -> Option<(NoToken, NoToken)> {
        None
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<NoToken> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::default()
    }
}
