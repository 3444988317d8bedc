//! The sending half of the device.

mod arp;

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use arrayvec::ArrayVec;
use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{MAX_FRAME, Net, Offload, Offloads, Request, TxPage};
use cloister_interfaces::{Client, ExclusiveMemory, Memory, System};

use super::fragments::fragments;
use super::frame::{
    self, ETHERNET_HEADER, MAX_HEADERS, MAX_REASSEMBLED, SEGMENT_HEADERS, mss_option, write_partial_checksum,
};
use super::neighbours::Neighbours;
use super::next_hop::{self, MAX_PARKED, ParkedFrame, Resolution};
use super::page_runs::{MAX_PAGES, PageRuns};
use super::segmentation::{outgoing, selected_parts};
use crate::log::Violation;
use crate::segment::{BuiltSegment, SendRanges};

/// The sending half of the device.
pub struct Transmitter<S, M: Memory> {
    pub(super) net: Client<Net, S, M>,
    pub(super) pool: M::Exclusive,
    /// The pool may hold bytes of an earlier link, or of an earlier run of the service.
    pub(super) pool_dirty: bool,
    pub(super) free: PageRuns,
    /// For the first page of each frame that netfront has, the number of its pages.
    pub(super) in_flight: Vec<u8>,
    pub(super) offloads: Offloads,
    /// The longest frame that the link carries without splitting it.
    pub(super) max_frame: usize,
    /// The size into which the link splits the segments of this turn's connection. `None` in the
    /// turn of other sockets.
    pub(super) segment_size: Option<NonZeroU16>,
    /// The last segment that smoltcp built.
    pub(super) built: Option<BuiltSegment>,
    /// Where a packet that is longer than the link carries is built.
    pub(super) long_packet: Vec<u8>,
    /// The IPv4 identification of the last packet that was fragmented.
    pub(super) identification: u16,
    /// netfront has requests that it was not notified of.
    pub(super) flush_due: bool,
    /// Our MAC address.
    pub(super) mac: [u8; 6],
    pub(super) neighbours: Neighbours,
    /// Frames that wait for the link address of their next hop, the oldest first.
    pub(super) parked: ArrayVec<([u8; 4], ParkedFrame), MAX_PARKED>,
    /// The DHCP client has sent a message.
    pub(super) dhcp_sent: bool,
}

impl<S: System, M: Memory> Transmitter<S, M> {
    pub(super) fn new(net: Client<Net, S, M>, tx_pool: M::Exclusive, neighbours: Neighbours) -> Self {
        let tx = (tx_pool.size() / PAGE_SIZE).min(MAX_PAGES);
        Transmitter {
            net,
            pool_dirty: !tx_pool.is_fresh(),
            pool: tx_pool,
            free: PageRuns::new(tx),
            in_flight: vec![0; tx],
            offloads: Offloads::empty(),
            max_frame: 1500 + ETHERNET_HEADER,
            segment_size: None,
            built: None,
            long_packet: vec![0; MAX_HEADERS + MAX_REASSEMBLED],
            identification: 0,
            flush_due: false,
            mac: [0; 6],
            neighbours,
            parked: ArrayVec::new(),
            dhcp_sent: false,
        }
    }

    pub(super) fn can_send(&self) -> bool {
        self.free.has(1) && self.net.requests.room() > 0
    }

    pub(super) fn transmitted(&mut self, page: TxPage) -> Result<(), Violation> {
        let count = self.in_flight.get_mut(usize::from(page.0)).map_or(0, core::mem::take);
        if count == 0 {
            return Err(Violation::LinkPage);
        }
        self.free.give_back(page, usize::from(count));
        Ok(())
    }

    /// Builds a frame of `length` bytes with `fill` in the pool, and sends it. Without room it is
    /// lost, as on any link. Callers check for room first.
    pub(super) fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let count = length.div_ceil(PAGE_SIZE);
        let page = if length <= MAX_FRAME { self.free.take(count) } else { None };
        let offset = page.map_or(usize::MAX, |page| usize::from(page.0) * PAGE_SIZE);
        let (offloads, segment, max_frame) = (self.offloads, self.segment_size, self.max_frame);
        let (neighbours, dhcp_sent) = (&mut self.neighbours, &mut self.dhcp_sent);
        let mut fill = Some(fill);
        let placed = self.pool.edit(offset, length, |space| {
            let result = fill.take().map(|fill| fill(space));
            let built = outgoing(space);
            let resolution = next_hop::resolve(space, neighbours);
            *dhcp_sent |= built.is_none() && frame::is_from_dhcp_client(space);
            if built.is_some_and(|built| built.flags.has_syn())
                && let Some(mss) = mss_option(space)
            {
                *mss = ((max_frame - ETHERNET_HEADER - SEGMENT_HEADERS) as u16).to_be_bytes();
            }
            let data = built.map_or(0, |built| built.data);
            let offload = match segment {
                _ if built.is_none() || !offloads.contains(Offloads::CHECKSUM) || !write_partial_checksum(space) => {
                    Offload::None
                }
                Some(size) if data > u32::from(size.get()) => Offload::Segments(size),
                _ => Offload::Checksum,
            };
            (result, offload, built, resolution)
        });
        if let (Some(page), Some((_, offload, built, resolution))) = (page, &placed) {
            self.built = *built;
            let request = Request::Transmit { page, length: length as u16, offload: *offload };
            match resolution {
                Resolution::Resolved => self.submit(page, count, &request),
                resolution => self.send_unresolved(*resolution, page, count, &request),
            }
        }
        match (placed, fill) {
            (Some((Some(result), ..)), _) => result,
            (_, Some(fill)) => self.build_lost(length, fill),
            _ => unreachable!("what was filled has a result"),
        }
    }

    /// Lets `fill` build a frame for which there is no room, as if the frame had been lost on its
    /// way.
    #[cold]
    fn build_lost<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut spare = self.take_spare(length);
        let result = fill(spare.get_mut(..length).unwrap_or_default());
        self.note_lost(spare, length);
        result
    }

    /// Returns memory for a frame that is lost.
    #[inline(never)]
    fn take_spare(&mut self, length: usize) -> Vec<u8> {
        if length > self.long_packet.len() { vec![0; length] } else { core::mem::take(&mut self.long_packet) }
    }

    /// Notes the frame in `spare`, which is lost.
    #[inline(never)]
    fn note_lost(&mut self, spare: Vec<u8>, length: usize) {
        self.built = outgoing(spare.get(..length).unwrap_or_default());
        if self.long_packet.is_empty() {
            self.long_packet = spare;
        }
    }

    /// Sends the ranges `ranges` of the segment in `frame`.
    pub(super) fn send_ranges_of(&mut self, frame: &[u8], ranges: &SendRanges) {
        let Some(built) = outgoing(frame) else {
            return self.send(frame.len(), |space| space.copy_from_slice(frame));
        };
        let headers = frame.len().saturating_sub(built.data as usize);
        let with_checksum = !self.offloads.contains(Offloads::CHECKSUM);
        for part in selected_parts(built, ranges) {
            let length = headers + part.data();
            if self.free.has(length.div_ceil(PAGE_SIZE)) {
                self.send(length, |space| part.write(frame, headers, space, with_checksum));
            }
        }
        self.built = Some(built);
    }

    /// Builds a packet that is longer than the link carries with `fill`, and sends it in fragments.
    /// Sends none if there is no room for all.
    pub(super) fn send_in_fragments<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut packet = core::mem::take(&mut self.long_packet);
        let Some(frame) = packet.get_mut(..length) else {
            self.long_packet = packet;
            return fill(&mut vec![0; length]);
        };
        let result = fill(frame);
        let number = self.identification.wrapping_add(1);
        self.identification = number;
        let count = fragments(length, self.max_frame).count();
        if self.free.count() >= count && self.net.requests.room() as usize >= count {
            for fragment in fragments(length, self.max_frame) {
                self.send(fragment.length(), |space| fragment.write(frame, number, space));
            }
        }
        self.long_packet = packet;
        result
    }

    pub(super) fn submit(&mut self, page: TxPage, count: usize, request: &Request) {
        match self.in_flight.get_mut(usize::from(page.0)) {
            Some(sent) if self.net.requests.push(request).is_ok() => {
                *sent = count as u8;
                self.flush_due = true;
            }
            _ => self.free.give_back(page, count),
        }
    }
}
