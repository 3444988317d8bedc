//! ARP: the link addresses of next hops, written into the frames that the stack made, and asked for
//! and told.

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Offload, Request};
use cloister_interfaces::{ExclusiveMemory, Instant, Memory, System};

use super::{Outbound, Wire};
use crate::address::Lease;
use crate::link::frame::{Arp, EVERYONE, Station, UNRESOLVED, unresolved};
use crate::link::neighbours::{Neighbours, Route};

/// The most frames that wait for the link address of their next hop.
pub(super) const PARKED: usize = 8;
/// One page of the pool for so many may be taken by such.
const SHARE: usize = 8;
/// How long they wait at most.
const PATIENCE: core::time::Duration = core::time::Duration::from_secs(3);

/// A frame of one page that waits for a link address.
#[derive(Clone, Copy)]
pub(super) struct Parked {
    page: u16,
    length: u16,
    offload: Offload,
    since: Instant,
}

/// Where a frame goes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// Its destination is written in it.
    Direct,
    /// As `Direct`; the station, or everyone, is to be asked whether the host still has that link
    /// address.
    Ask(Route),
    /// The link address of the next hop is not known.
    Wait(Route),
    /// No way leads to its destination.
    Nowhere,
}

/// Writes the link address of the next hop into a frame that the stack made.
#[inline]
pub(super) fn direct(frame: &mut [u8], neighbours: &mut Neighbours) -> Way {
    let Some(to) = unresolved(frame) else { return Way::Direct };
    if let (Some(mac), Some(space)) = (neighbours.again(to), frame.first_chunk_mut()) {
        *space = mac;
        return Way::Direct;
    }
    resolve(frame, to, neighbours)
}

#[inline(never)]
fn resolve(frame: &mut [u8], to: [u8; 4], neighbours: &mut Neighbours) -> Way {
    let Some(route) = neighbours.route(to) else { return Way::Nowhere };
    let (Some(mac), Some(space)) = (route.mac, frame.first_chunk_mut()) else {
        return Way::Wait(route);
    };
    *space = mac;
    if route.ask.is_some() { Way::Ask(route) } else { Way::Direct }
}

impl<S: System, M: Memory> Wire<S, M> {
    /// A turn begins at this time.
    pub fn turn(&mut self, now: Instant) {
        self.out.neighbours.turn(now);
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn join(&mut self, lease: Option<Lease>) {
        self.out.neighbours.join(lease);
        for (_, parked) in self.out.parked.drain(..) {
            self.out.free.put(parked.page, 1);
        }
    }

    /// Takes note of the message of ARP that was readied, for a host with this address, and answers
    /// it.
    pub fn hear(&mut self, own: Option<[u8; 4]>) {
        let frame = self.frame.get(..self.loaded).unwrap_or_default();
        let ours = frame.starts_with(&EVERYONE) || frame.starts_with(&self.out.mac);
        let message = Arp::parse(frame).filter(|message| ours && message.from.is_possible());
        self.pass_over();
        let (Some(Arp { asks, from, to }), Some(own)) = (message, own) else { return };
        let asks_for_us = asks && to.address == own;
        self.out.neighbours.hear(from, asks_for_us);
        self.out.leave_parked(from.address);
        if asks_for_us {
            let answer = Arp { asks: false, from: Station { mac: self.out.mac, address: own }, to: from };
            self.send(&answer.frame(from.mac));
        }
    }

    /// Returns `true` if the DHCP client has sent something since this was last asked.
    pub fn has_leased(&mut self) -> bool {
        core::mem::take(&mut self.out.leased)
    }
}

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
    fn leave_parked(&mut self, hop: [u8; 4]) {
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
