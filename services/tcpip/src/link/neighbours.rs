//! The hosts on the link, and the next hop of a packet (RFC 826; RFC 1122, 2.3.2).
//!
//! smoltcp's own table evicts the entry that expires first, and requests one address a second. So
//! smoltcp knows one next hop only, and this table holds the neighbours.
//!
//! A host that only sent us a request takes the entry of another such host, or of one that does not
//! answer: it never evicts a neighbour in use. A host that we request takes the same entries first.
//! While requests are unanswered, it evicts no neighbour in use either. Otherwise it may take the
//! entry of the neighbour to which nothing was sent for longest. Nobody takes the gateway's entry.
//!
//! A host that confirmed its address within the last second keeps its entry, and so does
//! a host for which we sent a request, whoever wants it. So, under one
//! lease, at most one request a second is sent for each host, and at most as many in total as there
//! are entries. Some entries are reserved for hosts that send us requests, so that hosts that do
//! not answer cannot keep them out.
//!
//! A neighbour is requested again a minute after it confirmed its address, unless TCP made progress
//! through it just before: then what we send arrives (RFC 1122, 2.3.2.1; RFC 4861, 7.3.1).

use core::time::Duration;

use cloister_collections::{LazyVec, Lists};
use cloister_interfaces::Instant;
use smoltcp::wire::Ipv4Address;

use super::arp::{ArpHost, BROADCAST, UNRESOLVED};
use crate::address::Lease;
use crate::config::Usable;
use crate::table::{Key, Table};

/// The number of entries where the heap has room for them. Their memory is reserved at the start and written when it is first used.
pub const MAX_NEIGHBOURS: usize = 1024;
/// The number of entries in the smallest guests.
pub const MIN_NEIGHBOURS: usize = 128;
/// The time for which a confirmed address is valid before it is requested again.
const VALID: Duration = Duration::from_secs(60);
/// The shortest time between two requests for one neighbour (RFC 1122, 2.3.2.1).
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time since TCP made progress through a neighbour for which that confirms its address.
const PROGRESS_VALID: Duration = Duration::from_secs(5);
/// The number of requests to a known neighbour itself before they are broadcast.
const MAX_POLLS: u8 = 3;

/// Of sixteen entries, those reserved for hosts that only send us requests: as many as may come and
/// be used in a second while all other entries are of hosts that do not answer.
const RESERVED_SIXTEENTHS: usize = 3;
/// Of sixteen entries, those of hosts that may be requested whatever the reserve.
const ALWAYS_ALLOWED_SIXTEENTHS: usize = 1;

/// The lists of entries, the oldest first: hosts that only sent us requests.
const STRANGERS: usize = 0;
/// Hosts that have not answered, by the time of the last request.
const UNANSWERED: usize = 1;
/// Hosts in use.
const USED: usize = 2;
/// Entries that were in use and are not any more.
const FREE: usize = 3;

#[derive(Clone, Copy)]
struct Entry {
    /// The time at which the next request for it may be sent. After it confirmed its address, that
    /// is when the address is no longer valid.
    due: Instant,
    /// Its link address, or [`UNRESOLVED`] while it is not known.
    mac: [u8; 6],
    /// The number of requests since it last confirmed its address.
    polls: u8,
    /// It only sent us a request. Nothing was sent to it.
    stranger: bool,
    /// Something was sent to it since its entry was last considered for eviction.
    used: bool,
}
const _: () = assert!(size_of::<Entry>() <= 24, "the heap has room for this many bytes of each");

impl Entry {
    /// Returns its link address, if it is known.
    fn mac(&self) -> Option<[u8; 6]> {
        (self.mac != UNRESOLVED).then_some(self.mac)
    }

    /// Returns `true` if no other host may take its entry: it was requested, or confirmed its
    /// address, within the last second.
    fn is_kept(&self, now: Instant) -> bool {
        let confirmed = self.polls == 0 && self.mac != UNRESOLVED;
        now + if confirmed { VALID - REQUEST_INTERVAL } else { Duration::ZERO } < self.due
    }
}

/// An entry that is not in use.
const UNUSED: Entry = Entry { due: Instant::START, mac: UNRESOLVED, polls: 0, stranger: false, used: false };

/// The route to a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The address of the next hop.
    pub hop: [u8; 4],
    /// The link address of the next hop, if it is known.
    pub mac: Option<[u8; 6]>,
    /// Where a request for the next hop's address is due to be sent: to the host itself or to all.
    pub request_to: Option<[u8; 6]>,
}

/// The route of the last packet.
#[derive(Clone, Copy)]
struct Last {
    to: [u8; 4],
    mac: [u8; 6],
    index: u16,
    /// The time at which its next hop has to be confirmed again.
    until: Instant,
}

/// The table of neighbours.
pub struct Neighbours {
    table: Table,
    /// The entries that were ever used, and room for the others.
    entries: LazyVec<Entry>,
    lists: Lists,
    lease: Option<Lease>,
    /// The entry of the gateway. It is in no list.
    gateway: Option<u16>,
    /// The route of the last packet, if its link address is known.
    last: Option<Last>,
    /// The peer through whose next hop TCP made progress last, and when.
    progress: ([u8; 4], Instant),
    now: Instant,
}

impl Neighbours {
    /// Creates an empty table of `count` entries. `random` is secret.
    pub fn new(count: usize, random: u64) -> Self {
        Neighbours {
            table: Table::new(count, random),
            entries: LazyVec::new(count).unwrap_or_default(),
            lists: Lists::new(4, count).unwrap_or_default(),
            lease: None,
            gateway: None,
            last: None,
            progress: ([0; 4], Instant::START),
            now: Instant::START,
        }
    }

    /// Forgets all neighbours, because the link or our address is another one.
    pub fn set_lease(&mut self, lease: Option<Lease>) {
        for list in [STRANGERS, UNANSWERED, USED] {
            while let Some(index) = self.lists.front(list) {
                self.release(index);
            }
        }
        self.gateway.into_iter().for_each(|index| self.release(index));
        (self.lease, self.gateway, self.last) = (lease, None, None);
        self.progress = ([0; 4], Instant::START);
        self.gateway = lease.and_then(|lease| lease.gateway).and_then(|gateway| {
            let index = self.insert(gateway.octets(), None)?;
            self.lists.remove(index);
            Some(index)
        });
    }

    /// Sets the time of this pass.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Returns the time of this pass.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Records that the peer at `from` acknowledged what we sent to it.
    #[inline]
    pub fn record_progress(&mut self, from: [u8; 4]) {
        self.progress = (from, self.now);
    }

    /// Returns when TCP made progress through `hop`, if that was just now.
    fn progress_through(&self, hop: [u8; 4]) -> Option<Instant> {
        let (peer, at) = self.progress;
        (self.now < at + PROGRESS_VALID && self.next_hop(peer) == Some(hop)).then_some(at)
    }

    /// Returns our own address.
    pub fn own(&self) -> Option<[u8; 4]> {
        self.lease.map(|lease| lease.address.address().octets())
    }

    /// Returns the link address for a packet to `to`, if the last packet went there, too.
    #[inline]
    pub fn cached(&self, to: [u8; 4]) -> Option<[u8; 6]> {
        self.last.filter(|last| last.to == to && self.now < last.until).map(|last| last.mac)
    }

    /// Returns the route for a packet to `to`, and marks its next hop as used. Returns `None` if no
    /// route leads there.
    #[inline(never)] // Called once for most bursts.
    pub fn route(&mut self, to: [u8; 4]) -> Option<Route> {
        let hop = self.next_hop(to)?;
        let index = match self.index(hop) {
            Some(index) => index,
            None => self.insert(hop, None)?,
        };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let (progress, reserve_short) = (self.progress_through(hop), self.is_reserve_short());
        let entry = self.entries.get_mut(index)?;
        entry.used = true;
        let known = entry.mac().is_some();
        if known
            && now >= entry.due
            && let Some(at) = progress
        {
            (entry.due, entry.polls) = (at + VALID, 0);
        }
        let mut request_to = None;
        if now >= entry.due {
            // It was requested before, and its entry belongs to the reserve.
            if entry.polls > 0 && !known && !pinned && reserve_short {
                self.release(index);
                return Some(Route { hop, mac: None, request_to: None });
            }
            if entry.polls >= MAX_POLLS {
                entry.mac = UNRESOLVED;
            }
            entry.due = now + REQUEST_INTERVAL;
            entry.polls = entry.polls.saturating_add(1);
            request_to = Some(entry.mac().unwrap_or(BROADCAST));
        }
        let (mac, until) = (entry.mac(), entry.due);
        let moved = core::mem::take(&mut entry.stranger) || known != mac.is_some();
        let requested = request_to.is_some() && mac.is_none();
        if (moved || requested) && !pinned {
            self.lists.move_to_back(index, if mac.is_some() { USED } else { UNANSWERED });
        }
        self.last = mac.map(|mac| Last { to, mac, index, until });
        Some(Route { hop, mac, request_to })
    }

    /// Returns the link address of a next hop, if it is known.
    pub fn mac_of(&mut self, hop: [u8; 4]) -> Option<[u8; 6]> {
        let index = self.index(hop)?;
        self.entries.get(index)?.mac()
    }

    /// Records the link address that a host states for itself. With `is_request`, it sent a request
    /// for us.
    pub fn learn(&mut self, from: ArpHost, is_request: bool) {
        let other = self.lease.is_some_and(|lease| lease.address.address().octets() != from.address);
        if !from.is_possible() || !other {
            return;
        }
        let known = self.index(from.address);
        if known.is_none() && !(is_request && self.next_hop(from.address) == Some(from.address)) {
            return;
        }
        self.last = None;
        let Some(index) = known.or_else(|| self.insert(from.address, Some(from.mac))) else { return };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let Some(entry) = self.entries.get_mut(index) else { return };
        let silent = entry.mac().is_none();
        (entry.mac, entry.due, entry.polls) = (from.mac, now + VALID, 0);
        if silent && !pinned {
            self.lists.move_to_back(index, USED);
        }
    }

    /// Returns the next hop for packets to `to`.
    fn next_hop(&self, to: [u8; 4]) -> Option<[u8; 4]> {
        let (lease, to) = (self.lease?, Ipv4Address::from(to));
        if !to.is_usable() || lease.address.address() == to || lease.address.broadcast() == Some(to) {
            return None;
        }
        let hop = if lease.address.contains_addr(&to) { Some(to) } else { lease.gateway };
        hop.map(|hop| hop.octets())
    }

    fn index(&mut self, address: [u8; 4]) -> Option<u16> {
        self.table.find(Key::new(address, 0, 0))
    }

    /// Inserts a neighbour that is not in the table: a stranger with its link address, or a host
    /// whose address will be requested.
    fn insert(&mut self, address: [u8; 4], mac: Option<[u8; 6]>) -> Option<u16> {
        let index = self.allocate(mac.is_some())?;
        self.last = None;
        let due = if mac.is_some() { self.now + VALID } else { self.now };
        *self.entries.get_or_make(index, |_| UNUSED)? =
            Entry { mac: mac.unwrap_or(UNRESOLVED), due, stranger: mac.is_some(), ..UNUSED };
        self.table.insert(index, Key::new(address, 0, 0));
        self.lists.move_to_back(index, if mac.is_some() { STRANGERS } else { UNANSWERED });
        Some(index)
    }

    /// Returns an entry that is free for a new neighbour. Never evicts a host that was requested
    /// within the last second.
    ///
    /// For a stranger: a free entry, that of another stranger, or that of a host that does not
    /// answer. For a host to be requested: the same, except for the reserve. If no host is being
    /// requested: the entry in use that was not used for longest.
    fn allocate(&mut self, stranger: bool) -> Option<u16> {
        let found = if stranger {
            self.free_or_stranger().or_else(|| self.oldest_unanswered())
        } else {
            while !self.has_beyond_reserve()
                && let Some(index) = self.oldest_unanswered()
            {
                self.release(index);
            }
            if self.has_beyond_reserve() {
                self.free_or_stranger()
            } else if self.lists.len(UNANSWERED) == 0 {
                self.least_used().filter(|index| self.is_due(*index))
            } else {
                None
            }
        };
        self.table.remove(found?);
        found
    }

    /// Frees an entry.
    fn release(&mut self, index: u16) {
        self.table.remove(index);
        self.lists.move_to_back(index, FREE);
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = UNUSED;
        }
    }

    /// Returns a free entry, or that of the oldest stranger.
    fn free_or_stranger(&self) -> Option<u16> {
        let unused = || Some(self.entries.made() as u16).filter(|_| self.unused() > 0);
        self.lists.front(FREE).or_else(unused).or_else(|| self.lists.front(STRANGERS))
    }

    /// Returns the number of entries that were never used.
    fn unused(&self) -> usize {
        self.entries.bound() - self.entries.made()
    }

    /// Returns the number of entries that strangers have or can have.
    fn spare(&self) -> usize {
        self.unused() + self.lists.len(FREE) + self.lists.len(STRANGERS)
    }

    /// Returns the host without an answer that was requested longest ago, if that is at least a
    /// second ago.
    fn oldest_unanswered(&self) -> Option<u16> {
        self.lists.front(UNANSWERED).filter(|index| self.is_due(*index))
    }

    /// Returns `true` if one more host may be requested in a spare entry.
    fn has_beyond_reserve(&self) -> bool {
        self.spare()
            > if self.lists.len(UNANSWERED) < self.sixteenths(ALWAYS_ALLOWED_SIXTEENTHS) {
                0
            } else {
                self.sixteenths(RESERVED_SIXTEENTHS)
            }
    }

    /// Returns `true` if hosts that do not answer have entries that belong to the reserve.
    fn is_reserve_short(&self) -> bool {
        self.spare() < self.sixteenths(RESERVED_SIXTEENTHS)
            && self.lists.len(UNANSWERED) > self.sixteenths(ALWAYS_ALLOWED_SIXTEENTHS)
    }

    fn sixteenths(&self, count: usize) -> usize {
        self.entries.bound() / 16 * count
    }

    /// Returns `true` if another host may take this neighbour's entry.
    fn is_due(&self, index: u16) -> bool {
        self.entries.get(index).is_some_and(|entry| !entry.is_kept(self.now))
    }

    /// Returns the neighbour in use to which nothing was sent for longest.
    fn least_used(&mut self) -> Option<u16> {
        for _ in 0..self.lists.len(USED) {
            let index = self.lists.front(USED)?;
            let entry = self.entries.get_mut(index)?;
            let last = self.last.is_some_and(|last| last.index == index);
            if !core::mem::take(&mut entry.used) && !last {
                break;
            }
            self.lists.move_to_back(index, USED);
        }
        self.lists.front(USED)
    }
}

#[cfg(test)]
mod tests;
