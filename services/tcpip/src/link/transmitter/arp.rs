//! ARP requests, and the frames that wait for their answers.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Request, TxPage};
use cloister_interfaces::{ExclusiveMemory, Memory, System};

use super::Transmitter;
use crate::link::arp::{Arp, ArpHost, UNRESOLVED};
use crate::link::neighbours::Route;
use crate::link::next_hop::{MAX_PARKED, ParkedFrame, Resolution};

/// One page of the pool for this many may hold a waiting frame.
const PAGES_PER_PARKED: usize = 4;
/// The largest number of frames that wait for one next hop: what a handshake and a first answer
/// take.
const MAX_PARKED_FOR_HOP: usize = 4;
/// The longest time that a frame waits.
const MAX_PARKED_TIME: core::time::Duration = core::time::Duration::from_secs(3);

impl<S: System, M: Memory> Transmitter<S, M> {
    /// Sends a frame of `count` pages that has no link address, or an old one.
    #[cold]
    pub(super) fn send_unresolved(&mut self, resolution: Resolution, page: TxPage, count: usize, request: &Request) {
        match resolution {
            Resolution::Resolved => self.submit(page, count, request),
            Resolution::Refresh(route) => {
                self.submit(page, count, request);
                self.send_request(route);
            }
            Resolution::Unresolved(route) => {
                self.park(route.hop, page, count, request);
                self.send_request(route);
            }
            Resolution::NoRoute => self.free.give_back(page, count),
        }
    }

    #[cold]
    fn send_request(&mut self, Route { hop, request_to, .. }: Route) {
        let (Some(mac), Some(own)) = (request_to, self.neighbours.own()) else { return };
        let from = ArpHost { mac: self.mac, address: own };
        let request = Arp { is_request: true, from, to: ArpHost { mac: UNRESOLVED, address: hop } };
        // To the caller, its own segment stays the last one built.
        let built = self.built;
        self.send(42, |space| space.copy_from_slice(&request.frame(mac)));
        self.built = built;
    }

    /// Keeps a frame until the link address of `hop` is known (RFC 1122, 2.3.2.2). If there is no
    /// room, the oldest frame of the next hop with the most waiting frames is dropped.
    #[cold]
    fn park(&mut self, hop: [u8; 4], page: TxPage, count: usize, request: &Request) {
        let max_parked = (self.in_flight.len() / PAGES_PER_PARKED).min(MAX_PARKED);
        let (length, offload) = match request {
            Request::Transmit { length, offload, .. } if count == 1 && max_parked > 0 => (*length, *offload),
            _ => return self.free.give_back(page, count),
        };
        if self.count_parked(hop) >= MAX_PARKED_FOR_HOP {
            self.drop_oldest(hop);
        } else if self.parked.len() >= max_parked {
            // Of several, the one whose oldest frame has waited longest.
            let most = self.parked.iter().map(|(hop, _)| *hop).rev().max_by_key(|hop| self.count_parked(*hop));
            most.into_iter().for_each(|hop| self.drop_oldest(hop));
        }
        let parked = ParkedFrame { page, length, offload, since: self.neighbours.now() };
        if self.parked.try_push((hop, parked)).is_err() {
            self.free.give_back(page, 1);
        }
    }

    /// Returns the number of frames that wait for the link address of `hop`.
    fn count_parked(&self, hop: [u8; 4]) -> usize {
        self.parked.iter().filter(|(other, _)| *other == hop).count()
    }

    /// Takes the oldest frame that waits for the link address of `hop`.
    fn take_parked(&mut self, hop: [u8; 4]) -> Option<ParkedFrame> {
        let index = self.parked.iter().position(|(other, _)| *other == hop)?;
        self.parked.pop_at(index).map(|(_, parked)| parked)
    }

    fn drop_oldest(&mut self, hop: [u8; 4]) {
        if let Some(parked) = self.take_parked(hop) {
            self.free.give_back(parked.page, 1);
        }
    }

    /// Drops the frames that have waited too long. They are in the order in which they came.
    #[cold]
    pub(in crate::link) fn drop_late(&mut self) {
        let now = self.neighbours.now();
        while let Some((_, parked)) = self.parked.first().copied()
            && now >= parked.since + MAX_PARKED_TIME
        {
            self.parked.remove(0);
            self.free.give_back(parked.page, 1);
        }
    }

    /// Sends the frames that wait for the link address of `hop`, in order, if that is known now.
    pub(in crate::link) fn send_parked(&mut self, hop: [u8; 4]) {
        if self.parked.is_empty() {
            return;
        }
        let Some(mac) = self.neighbours.mac_of(hop) else { return };
        while let Some(ParkedFrame { page, length, offload, .. }) = self.take_parked(hop) {
            self.pool.edit(usize::from(page.0) * PAGE_SIZE, mac.len(), |space| space.copy_from_slice(&mac));
            self.submit(page, 1, &Request::Transmit { page, length, offload });
        }
    }
}
