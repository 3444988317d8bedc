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

use super::arp::{EVERYONE, Station};
use crate::address::Lease;
use crate::config::Usable;
use crate::table::{Key, Table};

/// The most neighbours.
pub const MOST: usize = 128;
/// How long what a neighbour said is believed before it is asked again.
const FRESH: Duration = Duration::from_secs(60);
/// How often a neighbour may be asked for (RFC 1122, 2.3.2.1).
const PAUSE: Duration = Duration::from_secs(1);
/// How often a neighbour that was known is asked before all are.
const POLLS: u8 = 3;

/// Places that are left to hosts that only ask for us: as many as may come and be used in a second
/// while every other place has a host that does not answer.
const RESERVE: usize = 24;
/// Hosts that may be asked for without regard to the reserve.
const FEW: usize = 8;

/// Lists of neighbours, the oldest first: those that only asked for us, those that have not
/// answered, by when they were asked for, those in use, and places that nobody has.
const STRANGERS: usize = 0;
const SILENT: usize = 1;
const USED: usize = 2;
const FREE: usize = 3;

#[derive(Clone, Copy)]
struct Entry {
    /// Its link address; none until it has told.
    mac: Option<[u8; 6]>,
    /// When it last told.
    told: Instant,
    /// When it may be asked for.
    quiet: Instant,
    /// How often it was asked since it last told.
    polls: u8,
    /// It only asked for us; nothing was sent to it.
    stranger: bool,
    /// Something was sent to it since its place was last wanted.
    used: bool,
}

/// A place that nobody has.
const NOBODY: Entry =
    Entry { mac: None, told: Instant::START, quiet: Instant::START, polls: 0, stranger: false, used: false };

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The next hop.
    pub hop: [u8; 4],
    /// Its link address, if that is known.
    pub mac: Option<[u8; 6]>,
    /// The station that is due to be asked for the address of the hop.
    pub ask: Option<[u8; 6]>,
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
            table: Table::new(MOST, random),
            entries: alloc::vec![NOBODY; MOST],
            lists: Lists::new(MOST).unwrap_or_default(),
            lease: None,
            gateway: None,
            last: None,
            now: Instant::START,
        }
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn join(&mut self, lease: Option<Lease>) {
        (0..self.entries.len() as u16).for_each(|index| self.release(index));
        (self.lease, self.gateway, self.last) = (lease, None, None);
        self.gateway = lease.and_then(|lease| lease.gateway).and_then(|gateway| {
            let index = self.insert(gateway.octets(), None)?;
            self.lists.remove(index);
            Some(index)
        });
    }

    /// Begins a turn at this time.
    pub fn turn(&mut self, now: Instant) {
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
    pub fn again(&self, to: [u8; 4]) -> Option<[u8; 6]> {
        self.last.filter(|last| last.to == to && self.now < last.until).map(|last| last.mac)
    }

    /// Returns where a packet to `to` goes, of which it takes note; nowhere if no way leads there.
    #[inline(never)] // Once for most bursts.
    pub fn route(&mut self, to: [u8; 4]) -> Option<Route> {
        let hop = self.hop(to)?;
        let index = match self.index(hop) {
            Some(index) => index,
            None => self.insert(hop, None)?,
        };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let entry = self.entries.get_mut(usize::from(index))?;
        entry.used = true;
        let known = entry.mac.is_some();
        let aged = !known || now >= entry.told + FRESH;
        let due = aged && now >= entry.quiet;
        let mut ask = None;
        if due {
            // It was asked for before, and its place belongs to the reserve.
            if entry.polls > 0 && !known && !pinned && is_reserve_short(&self.lists) {
                self.release(index);
                return Some(Route { hop, mac: None, ask: None });
            }
            if entry.polls >= POLLS {
                entry.mac = None;
            }
            entry.quiet = now + PAUSE;
            entry.polls = entry.polls.saturating_add(1);
            ask = Some(entry.mac.unwrap_or(EVERYONE));
        }
        let (mac, until) = (entry.mac, entry.told + FRESH);
        let moved = core::mem::take(&mut entry.stranger) || known != mac.is_some();
        let asked = ask.is_some() && mac.is_none();
        if (moved || asked) && !pinned {
            self.lists.move_to_back(index, if mac.is_some() { USED } else { SILENT });
        }
        self.last = mac.map(|mac| Last { to, mac, index, until });
        Some(Route { hop, mac, ask })
    }

    /// Returns the link address of a next hop, if it is known.
    pub fn known(&mut self, hop: [u8; 4]) -> Option<[u8; 6]> {
        let index = self.index(hop)?;
        self.entries.get(usize::from(index))?.mac
    }

    /// Takes note of what a host says of itself; `asks` tells that it asks for us.
    pub fn hear(&mut self, from: Station, asks: bool) {
        let other = self.lease.is_some_and(|lease| lease.address.address().octets() != from.address);
        if !from.is_possible() || !other {
            return;
        }
        let known = self.index(from.address);
        if known.is_none() && !(asks && self.hop(from.address) == Some(from.address)) {
            return;
        }
        self.last = None;
        let Some(index) = known.or_else(|| self.insert(from.address, Some(from.mac))) else { return };
        let (now, pinned) = (self.now, self.gateway == Some(index));
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        let silent = entry.mac.is_none();
        (entry.mac, entry.told, entry.polls) = (Some(from.mac), now, 0);
        if silent && !pinned {
            self.lists.move_to_back(index, USED);
        }
    }

    /// Returns the next hop of packets to `to`.
    fn hop(&self, to: [u8; 4]) -> Option<[u8; 4]> {
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
        let index = self.place(mac.is_some())?;
        self.last = None;
        *self.entries.get_mut(usize::from(index))? =
            Entry { mac, told: self.now, quiet: self.now, stranger: mac.is_some(), ..NOBODY };
        self.table.insert(index, Key::new(address, 0, 0));
        self.lists.move_to_back(index, if mac.is_some() { STRANGERS } else { SILENT });
        Some(index)
    }

    /// Returns a place that nobody has any more, and never that of one who was asked for within the
    /// last second. A stranger gets a free one, a stranger's, or that of one who does not answer.
    /// Who is asked for gets the same, except for the reserve; and if nobody is being asked for, that
    /// of the one in use that was used longest ago.
    fn place(&mut self, stranger: bool) -> Option<u16> {
        let found = if stranger {
            self.spare().or_else(|| self.silent())
        } else {
            while !self.has_beyond_reserve()
                && let Some(index) = self.silent()
            {
                self.release(index);
            }
            if self.has_beyond_reserve() {
                self.spare()
            } else if self.lists.len(SILENT) == 0 {
                self.idle().filter(|index| self.is_due(*index))
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
            *entry = NOBODY;
        }
    }

    /// Returns a free place, or the stranger that came first.
    fn spare(&self) -> Option<u16> {
        self.lists.front(FREE).or_else(|| self.lists.front(STRANGERS))
    }

    /// Returns the host that was asked for longest ago and has not answered, if that is a second ago.
    fn silent(&self) -> Option<u16> {
        self.lists.front(SILENT).filter(|index| self.is_due(*index))
    }

    /// Returns `true` if one more host that is to be asked for may have a spare place.
    fn has_beyond_reserve(&self) -> bool {
        spares(&self.lists) > if self.lists.len(SILENT) < FEW { 0 } else { RESERVE }
    }

    /// Returns `true` if a neighbour may be asked for.
    fn is_due(&self, index: u16) -> bool {
        self.entries.get(usize::from(index)).is_some_and(|entry| self.now >= entry.quiet)
    }

    /// Returns the neighbour in use to which nothing was sent for longest.
    fn idle(&mut self) -> Option<u16> {
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
fn spares(lists: &Lists<4>) -> usize {
    lists.len(FREE) + lists.len(STRANGERS)
}

/// Returns `true` if hosts that do not answer have places that belong to the reserve.
fn is_reserve_short(lists: &Lists<4>) -> bool {
    spares(lists) < RESERVE && lists.len(SILENT) > FEW
}

#[cfg(test)]
mod tests;
