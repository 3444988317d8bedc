//! ARP requests, and the frames that wait for their answers.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Request, TxPage};
use cloister_interfaces::{ExclusiveMemory, Memory, System};

use super::Transmitter;
use crate::link::arp::{Arp, ArpHost, UNRESOLVED};
use crate::link::neighbours::Route;
use crate::link::next_hop::{MAX_PARKED, ParkedFrame, Resolution};

/// One page of the pool for this many may hold a waiting frame.
const PAGES_PER_PARKED: usize = 8;
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

    /// Keeps a frame until the link address of `hop` is known (RFC 1122, 2.3.2.2). Only the last
    /// frame for each next hop is kept.
    #[cold]
    fn park(&mut self, hop: [u8; 4], page: TxPage, count: usize, request: &Request) {
        let (length, offload) = match request {
            Request::Transmit { length, offload, .. } if count == 1 => (*length, *offload),
            _ => return self.free.give_back(page, count),
        };
        let max_parked = (self.in_flight.len() / PAGES_PER_PARKED).min(MAX_PARKED);
        let same = self.parked.iter().position(|(other, _)| *other == hop);
        if let Some(old) = same.or_else(|| (self.parked.len() >= max_parked).then_some(0))
            && let Some((_, old)) = self.parked.pop_at(old)
        {
            self.free.give_back(old.page, 1);
        }
        let parked = ParkedFrame { page, length, offload, since: self.neighbours.now() };
        if max_parked == 0 || self.parked.try_push((hop, parked)).is_err() {
            self.free.give_back(page, 1);
        }
    }

    /// Sends the frame that waits for the link address of `hop`, if that is known now.
    pub(in crate::link) fn send_parked(&mut self, hop: [u8; 4]) {
        let Some(index) = self.parked.iter().position(|(other, _)| *other == hop) else { return };
        let Some(ParkedFrame { page, length, offload, since }) = self.parked.pop_at(index).map(|(_, parked)| parked)
        else {
            return;
        };
        let late = self.neighbours.now() >= since + MAX_PARKED_TIME;
        let Some(mac) = self.neighbours.mac_of(hop).filter(|_| !late) else { return self.free.give_back(page, 1) };
        self.pool.edit(usize::from(page.0) * PAGE_SIZE, mac.len(), |space| space.copy_from_slice(&mac));
        self.submit(page, 1, &Request::Transmit { page, length, offload });
    }
}
