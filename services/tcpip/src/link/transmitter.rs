//! The sending half of the device.

mod arp;

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use arrayvec::ArrayVec;
use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{MAX_FRAME, Net, Offload, Offloads, Request};
use cloister_interfaces::{Client, ExclusiveMemory, Memory, System};

use super::fragments::fragments;
use super::frame::{
    self, ETHERNET_HEADER, LARGEST_REASSEMBLED, LONGEST_HEADERS, SEGMENT_HEADERS, largest_segment, prepare_checksum,
};
use super::neighbours::Neighbours;
use super::next_hop::{self, PARKED, Parked, Way};
use super::page_runs::{MAX_PAGES, Runs};
use super::segmentation::{outgoing, parts};
use crate::refusals::Refusal;
use crate::segment::{Outgoing, Wanted};

/// The sending half.
pub struct Outbound<S, M: Memory> {
    pub(super) net: Client<Net, S, M>,
    pub(super) pool: M::Exclusive,
    /// Something may have been written to the pool, by a former run of the service if by nobody else.
    pub(super) written: bool,
    pub(super) free: Runs,
    /// For the first page of each frame that netfront has, how many pages that frame has.
    pub(super) sent: Vec<u8>,
    pub(super) offloads: Offloads,
    /// The longest frame that the link carries uncut.
    pub(super) whole: usize,
    /// The data of the segments that the link is to cut those of this turn's connection into; none in another's turn.
    pub(super) segment: Option<NonZeroU16>,
    /// The segment that the stack made last.
    pub(super) made: Option<Outgoing>,
    /// Where a packet that is longer is built, and the number of the last one.
    pub(super) packet: Vec<u8>,
    pub(super) number: u16,
    /// netfront was asked for something that it does not know of yet.
    pub(super) asked: bool,
    /// Our address on the link.
    pub(super) mac: [u8; 6],
    pub(super) neighbours: Neighbours,
    /// Frames that wait for the link address of their next hop: the last for each.
    pub(super) parked: ArrayVec<([u8; 4], Parked), PARKED>,
    /// The DHCP client has sent something.
    pub(super) leased: bool,
}

impl<S: System, M: Memory> Outbound<S, M> {
    pub(super) fn new(net: Client<Net, S, M>, tx_pool: M::Exclusive, random: u64) -> Self {
        let tx = (tx_pool.size() / PAGE_SIZE).min(MAX_PAGES);
        Outbound {
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
        }
    }

    pub(super) fn can_send(&self) -> bool {
        self.free.has(1) && self.net.requests.room() > 0
    }

    pub(super) fn left(&mut self, page: u16) -> Result<(), Refusal> {
        let count = self.sent.get_mut(usize::from(page)).map_or(0, core::mem::take);
        if count == 0 {
            return Err(Refusal::LinkPage);
        }
        self.free.put(page, usize::from(count));
        Ok(())
    }

    /// Has `fill` build a frame of `length` bytes in the pool, and sends it. Without room it is lost, as on any link; its sender
    /// looked first.
    pub(super) fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let count = length.div_ceil(PAGE_SIZE);
        let page = if length <= MAX_FRAME { self.free.take(count) } else { None };
        let offset = page.map_or(usize::MAX, |page| usize::from(page) * PAGE_SIZE);
        let (offloads, segment, whole) = (self.offloads, self.segment, self.whole);
        let (neighbours, leased) = (&mut self.neighbours, &mut self.leased);
        let mut fill = Some(fill);
        let placed = self.pool.edit(offset, length, |space| {
            let result = fill.take().map(|fill| fill(space));
            let made = outgoing(space);
            let way = next_hop::direct(space, neighbours);
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
    pub(super) fn send_wanted(&mut self, frame: &[u8], wanted: &Wanted) {
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
    pub(super) fn send_long<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
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

    pub(super) fn submit(&mut self, page: u16, count: usize, request: &Request) {
        match self.sent.get_mut(usize::from(page)) {
            Some(sent) if self.net.requests.push(request).is_ok() => {
                *sent = count as u8;
                self.asked = true;
            }
            _ => self.free.put(page, count),
        }
    }
}
