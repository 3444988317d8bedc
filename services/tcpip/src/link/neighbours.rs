//! The hosts on the link, and through which of them a packet goes (RFC 826; RFC 1122, 2.3.2).
//!
//! smoltcp's own table evicts whatever is nearest to its end, and asks for one neighbour a second.
//! So the stack knows one next hop only, and this table has the others. What anybody can send does
//! not evict what is in use: a host that only asked for us takes the place of others of its kind,
//! or of one that does not answer; a host that does not answer that of others that do not; and the
//! gateway's place is nobody's.
//!
//! Whoever was asked for keeps its place for a second, against everybody: so under one lease each
//! host is asked for once a second at most, and all together as often as there are places. Some
//! places are left to hosts that ask for us, so that those who do not answer never keep them out.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_interfaces::Instant;
use cloister_interfaces::lists::Lists;
use smoltcp::wire::Ipv4Address;

use super::arp::{BROADCAST, Station};
use crate::address::Lease;
use crate::config::Usable;
use crate::table::{Key, Table};

/// The most neighbours.
pub const MAX_NEIGHBOURS: usize = 128;
/// How long what a neighbour said is believed before it is asked again.
const VALID: Duration = Duration::from_secs(60);
/// How often a neighbour may be asked for (RFC 1122, 2.3.2.1).
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// How often a neighbour that was known is asked before all are.
const MAX_POLLS: u8 = 3;

/// Places that are left to hosts that only ask for us: as many as may come and be used in a second
/// while every other place has a host that does not answer.
const RESERVE: usize = 24;
/// Hosts that may be asked for without regard to the reserve.
const ALWAYS_ALLOWED: usize = 8;

/// Lists of neighbours, the oldest first: those that only asked for us, those that have not
/// answered, by when they were asked for, those in use, and places that nobody has.
const STRANGERS: usize = 0;
const UNANSWERED: usize = 1;
const USED: usize = 2;
const FREE: usize = 3;

#[derive(Clone, Copy)]
struct Entry {
    /// Its link address; none until it has told.
    mac: Option<[u8; 6]>,
    /// When it last told.
    confirmed_at: Instant,
    /// When it may be asked for.
    next_request: Instant,
    /// How often it was asked since it last told.
    polls: u8,
    /// It only asked for us; nothing was sent to it.
    stranger: bool,
    /// Something was sent to it since its place was last wanted.
    used: bool,
}

/// A place that nobody has.
const UNUSED: Entry = Entry {
    mac: None,
    confirmed_at: Instant::START,
    next_request: Instant::START,
    polls: 0,
    stranger: false,
    used: false,
};

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The next hop.
    pub hop: [u8; 4],
    /// Its link address, if that is known.
    pub mac: Option<[u8; 6]>,
    /// The station that is due to be asked for the address of the hop.
    pub request_to: Option<[u8; 6]>,
}

/// Where the last packet went.
#[derive(Clone, Copy)]
struct Last {
    to: [u8; 4],
    mac: [u8; 6],
    index: u16,
    /// When the next hop is to be asked again.
    until: Instant,
}

/// The neighbours.
pub struct Neighbours {
    table: Table,
    entries: Vec<Entry>,
    lists: Lists<4>,
    lease: Option<Lease>,
    /// The entry of the gateway, which is in no list.
    gateway: Option<u16>,
    /// Where the last packet went, if that is known.
    last: Option<Last>,
    now: Instant,
}

impl Neighbours {
    /// No neighbours yet, with a random number.
    pub fn new(random: u64) -> Self {
        Neighbours {
            table: Table::new(MAX_NEIGHBOURS, random),
            entries: alloc::vec![UNUSED; MAX_NEIGHBOURS],
            lists: Lists::new(MAX_NEIGHBOURS).unwrap_or_default(),
            lease: None,
            gateway: None,
            last: None,
            now: Instant::START,
        }
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn set_lease(&mut self, lease: Option<Lease>) {
        (0..self.entries.len() as u16).for_each(|index| self.release(index));
        (self.lease, self.gateway, self.last) = (lease, None, None);
        self.gateway = lease.and_then(|lease| lease.gateway).and_then(|gateway| {
            let index = self.insert(gateway.octets(), None)?;
            self.lists.remove(index);
            Some(index)
        });
    }

    /// Begins a turn at this time.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Returns the time of this turn.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns our own address.
    pub fn own(&self) -> Option<[u8; 4]> {
        self.lease.map(|lease| lease.address.address().octets())
    }

    /// Returns the link address for a packet to `to`, if the last one went there too.
    #[inline]
    pub fn cached(&self, to: [u8; 4]) -> Option<[u8; 6]> {
        self.last.filter(|last| last.to == to && self.now < last.until).map(|last| last.mac)
    }

    /// Returns where a packet to `to` goes, of which it takes note; nowhere if no way leads there.
    #[inline(never)] // Once for most bursts.
    pub fn route(&mut self, to: [u8; 4]) -> Option<Route> {
        let hop = self.next_hop(to)?;
        let index = match self.index(hop) {
            Some(index) => index,
            None => self.insert(hop, None)?,
        };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let entry = self.entries.get_mut(usize::from(index))?;
        entry.used = true;
        let known = entry.mac.is_some();
        let aged = !known || now >= entry.confirmed_at + VALID;
        let due = aged && now >= entry.next_request;
        let mut request_to = None;
        if due {
            // It was asked for before, and its place belongs to the reserve.
            if entry.polls > 0 && !known && !pinned && is_reserve_short(&self.lists) {
                self.release(index);
                return Some(Route { hop, mac: None, request_to: None });
            }
            if entry.polls >= MAX_POLLS {
                entry.mac = None;
            }
            entry.next_request = now + REQUEST_INTERVAL;
            entry.polls = entry.polls.saturating_add(1);
            request_to = Some(entry.mac.unwrap_or(BROADCAST));
        }
        let (mac, until) = (entry.mac, entry.confirmed_at + VALID);
        let moved = core::mem::take(&mut entry.stranger) || known != mac.is_some();
        let asked = request_to.is_some() && mac.is_none();
        if (moved || asked) && !pinned {
            self.lists.move_to_back(index, if mac.is_some() { USED } else { UNANSWERED });
        }
        self.last = mac.map(|mac| Last { to, mac, index, until });
        Some(Route { hop, mac, request_to })
    }

    /// Returns the link address of a next hop, if it is known.
    pub fn mac_of(&mut self, hop: [u8; 4]) -> Option<[u8; 6]> {
        let index = self.index(hop)?;
        self.entries.get(usize::from(index))?.mac
    }

    /// Takes note of what a host says of itself; `asks` tells that it asks for us.
    pub fn learn(&mut self, from: Station, asks: bool) {
        let other = self.lease.is_some_and(|lease| lease.address.address().octets() != from.address);
        if !from.is_possible() || !other {
            return;
        }
        let known = self.index(from.address);
        if known.is_none() && !(asks && self.next_hop(from.address) == Some(from.address)) {
            return;
        }
        self.last = None;
        let Some(index) = known.or_else(|| self.insert(from.address, Some(from.mac))) else { return };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        let silent = entry.mac.is_none();
        (entry.mac, entry.confirmed_at, entry.polls) = (Some(from.mac), now, 0);
        if silent && !pinned {
            self.lists.move_to_back(index, USED);
        }
    }

    /// Returns the next hop of packets to `to`.
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

    /// Enters a neighbour that is not in the table: a stranger that told its link address, or one
    /// that is to be asked for it.
    fn insert(&mut self, address: [u8; 4], mac: Option<[u8; 6]>) -> Option<u16> {
        let index = self.allocate(mac.is_some())?;
        self.last = None;
        *self.entries.get_mut(usize::from(index))? =
            Entry { mac, confirmed_at: self.now, next_request: self.now, stranger: mac.is_some(), ..UNUSED };
        self.table.insert(index, Key::new(address, 0, 0));
        self.lists.move_to_back(index, if mac.is_some() { STRANGERS } else { UNANSWERED });
        Some(index)
    }

    /// Returns a place that nobody has any more, and never that of one who was asked for within the
    /// last second. A stranger gets a free one, a stranger's, or that of one who does not answer.
    /// Who is asked for gets the same, except for the reserve; and if nobody is being asked for, that
    /// of the one in use that was used longest ago.
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

    /// Takes a place from whoever has it.
    fn release(&mut self, index: u16) {
        self.table.remove(index);
        self.lists.move_to_back(index, FREE);
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            *entry = UNUSED;
        }
    }

    /// Returns a free place, or the stranger that came first.
    fn free_or_stranger(&self) -> Option<u16> {
        self.lists.front(FREE).or_else(|| self.lists.front(STRANGERS))
    }

    /// Returns the host that was asked for longest ago and has not answered, if that is a second ago.
    fn oldest_unanswered(&self) -> Option<u16> {
        self.lists.front(UNANSWERED).filter(|index| self.is_due(*index))
    }

    /// Returns `true` if one more host that is to be asked for may have a spare place.
    fn has_beyond_reserve(&self) -> bool {
        count_spare(&self.lists) > if self.lists.len(UNANSWERED) < ALWAYS_ALLOWED { 0 } else { RESERVE }
    }

    /// Returns `true` if a neighbour may be asked for.
    fn is_due(&self, index: u16) -> bool {
        self.entries.get(usize::from(index)).is_some_and(|entry| self.now >= entry.next_request)
    }

    /// Returns the neighbour in use to which nothing was sent for longest.
    fn least_used(&mut self) -> Option<u16> {
        for _ in 0..self.lists.len(USED) {
            let index = self.lists.front(USED)?;
            let entry = self.entries.get_mut(usize::from(index))?;
            let last = self.last.is_some_and(|last| last.index == index);
            if !core::mem::take(&mut entry.used) && !last {
                break;
            }
            self.lists.move_to_back(index, USED);
        }
        self.lists.front(USED)
    }
}

/// Returns the number of places that strangers have or can have.
fn count_spare(lists: &Lists<4>) -> usize {
    lists.len(FREE) + lists.len(STRANGERS)
}

/// Returns `true` if hosts that do not answer have places that belong to the reserve.
fn is_reserve_short(lists: &Lists<4>) -> bool {
    count_spare(lists) < RESERVE && lists.len(UNANSWERED) > ALWAYS_ALLOWED
}

#[cfg(test)]
mod tests;
