//! Requests for link addresses, and the frames that wait for them.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::Request;
use cloister_interfaces::{ExclusiveMemory, Memory, System};

use super::Outbound;
use crate::link::arp::{Arp, Station, UNRESOLVED};
use crate::link::neighbours::Route;
use crate::link::next_hop::{PARKED, Parked, Way};

/// One page of the pool for so many may be taken by such.
const SHARE: usize = 8;
/// How long they wait at most.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(3);

impl<S: System, M: Memory> Outbound<S, M> {
    /// Sends a frame of `count` pages whose way is not direct.
    #[cold]
    pub(super) fn detour(&mut self, way: Way, page: u16, count: usize, request: &Request) {
        match way {
            Way::Direct => self.submit(page, count, request),
            Way::Ask(route) => {
                self.submit(page, count, request);
                self.ask(route);
            }
            Way::Wait(route) => {
                self.park(route.hop, page, count, request);
                self.ask(route);
            }
            Way::Nowhere => self.free.put(page, count),
        }
    }

    #[cold]
    fn ask(&mut self, Route { hop, ask, .. }: Route) {
        let (Some(mac), Some(own)) = (ask, self.neighbours.own()) else { return };
        let from = Station { mac: self.mac, address: own };
        let request = Arp { asks: true, from, to: Station { mac: UNRESOLVED, address: hop } };
        // The caller's segment stays the last that the stack made.
        let made = self.made;
        self.send(42, |space| space.copy_from_slice(&request.frame(mac)));
        self.made = made;
    }

    /// Keeps a frame until the link address of `hop` is known (RFC 1122, 2.3.2.2): the last one for
    /// each.
    #[cold]
    fn park(&mut self, hop: [u8; 4], page: u16, count: usize, request: &Request) {
        let (length, offload) = match request {
            Request::Transmit { length, offload, .. } if count == 1 => (*length, *offload),
            _ => return self.free.put(page, count),
        };
        let most = (self.sent.len() / SHARE).min(PARKED);
        let same = self.parked.iter().position(|(other, _)| *other == hop);
        if let Some(old) = same.or_else(|| (self.parked.len() >= most).then_some(0))
            && let Some((_, old)) = self.parked.pop_at(old)
        {
            self.free.put(old.page, 1);
        }
        let parked = Parked { page, length, offload, since: self.neighbours.now() };
        if most == 0 || self.parked.try_push((hop, parked)).is_err() {
            self.free.put(page, 1);
        }
    }

    /// Sends what waits for the link address of `hop`, if that is known now.
    pub(in crate::link) fn leave_parked(&mut self, hop: [u8; 4]) {
        let Some(index) = self.parked.iter().position(|(other, _)| *other == hop) else { return };
        let Some(Parked { page, length, offload, since }) = self.parked.pop_at(index).map(|(_, parked)| parked) else {
            return;
        };
        let late = self.neighbours.now() >= since + PATIENCE;
        let Some(mac) = self.neighbours.known(hop).filter(|_| !late) else { return self.free.put(page, 1) };
        self.pool.edit(usize::from(page) * PAGE_SIZE, mac.len(), |space| space.copy_from_slice(&mac));
        self.submit(page, 1, &Request::Transmit { page, length, offload });
    }
}
