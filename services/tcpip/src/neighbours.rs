//! The hosts on the link, and through which of them a packet goes (RFC 826; RFC 1122, 2.3.2).
//!
//! smoltcp's own table evicts whatever is nearest to its end, and asks for one neighbour a second.
//! So the stack knows one next hop only, and this table has the others. What anybody can send does
//! not evict what is in use: a host that only asked for us takes the place of others of its kind,
//! or of one that does not answer; a host that does not answer that of others that do not; and the
//! gateway's place is nobody's. Whoever was asked for keeps its place for a second against others
//! that are to be: so each is asked for once a second at most, and all together as often as there
//! are places.

use alloc::vec::Vec;
use core::time::Duration;

use cloister_interfaces::Instant;
use cloister_interfaces::lists::Lists;
use smoltcp::wire::Ipv4Address;

use crate::address::Lease;
use crate::config::Usable;
use crate::frame::{EVERYONE, Station};
use crate::table::{Key, Table};

/// The most neighbours.
pub const MOST: usize = 128;
/// How long what a neighbour said is believed before it is asked again.
const FRESH: Duration = Duration::from_secs(60);
/// How often a neighbour may be asked for (RFC 1122, 2.3.2.1).
const PAUSE: Duration = Duration::from_secs(1);
/// How often a neighbour that was known is asked before all are.
const POLLS: u8 = 3;

/// Lists of neighbours, the oldest first: those that only asked for us, those that have not
/// answered, by when they were asked for, and those in use.
const STRANGERS: usize = 0;
const SILENT: usize = 1;
const USED: usize = 2;

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
    /// Those that have had a place since the last lease; a place is not given up, but taken over.
    entries: Vec<Entry>,
    lists: Lists<3>,
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
            entries: Vec::with_capacity(MOST),
            lists: Lists::new(MOST).unwrap_or_default(),
            lease: None,
            gateway: None,
            last: None,
            now: Instant::START,
        }
    }

    /// Forgets all neighbours: the host is on another link, or has another address.
    pub fn join(&mut self, lease: Option<Lease>) {
        for index in 0..self.entries.len() as u16 {
            self.table.remove(index);
            self.lists.remove(index);
        }
        self.entries.clear();
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

    /// Returns a place that nobody has any more. A stranger gets a stranger's, or that of one who
    /// does not answer; who is asked for gets also that of the one in use that was used longest
    /// ago, and none of one who was asked for within the last second.
    fn place(&mut self, stranger: bool) -> Option<u16> {
        if self.entries.len() < MOST {
            self.entries.push(NOBODY);
            return Some((self.entries.len() - 1) as u16);
        }
        let mut found = self.lists.front(STRANGERS);
        if found.is_none() {
            found = self.lists.front(SILENT);
            if !stranger {
                found = found.or_else(|| self.idle()).filter(|index| self.is_due(*index));
            }
        }
        self.table.remove(found?);
        found
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smoltcp::wire::Ipv4Cidr;

    use super::*;

    const GATEWAY: [u8; 4] = [10, 0, 0, 1];

    fn station(high: u8, low: u8, mac: u8) -> Station {
        Station { mac: [2, mac, mac, mac, high, low], address: [10, 0, high, low] }
    }

    /// A table that knows the gateway.
    fn neighbours() -> Neighbours {
        let mut neighbours = Neighbours::new(12_345);
        let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 16);
        neighbours.join(Some(Lease { address, gateway: Some(GATEWAY.into()) }));
        neighbours.turn(Instant(1 << 40));
        neighbours.hear(station(0, 1, 0), true);
        neighbours
    }

    fn mac(neighbours: &mut Neighbours, to: [u8; 4]) -> Option<[u8; 6]> {
        neighbours.again(to).or_else(|| neighbours.route(to)?.mac)
    }

    #[derive(Clone, Debug)]
    enum Act {
        /// A stranger asks for us.
        Ask(u8, u8),
        /// Something is sent to a host that does not answer.
        Silent(u8, u8),
        /// A host answers that was never used, nor asked for.
        Answer(u8, u8),
        /// A packet goes to a friend, to which one goes now and then.
        Send(u8),
        /// A friend has another link address from now on.
        Move(u8, u8),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (100u8..=120, any::<u8>()).prop_map(|(high, low)| Act::Ask(high, low)),
            3 => (140u8..=150, any::<u8>()).prop_map(|(high, low)| Act::Silent(high, low)),
            1 => (160u8..=170, any::<u8>()).prop_map(|(high, low)| Act::Answer(high, low)),
            2 => any::<u8>().prop_map(Act::Send),
            1 => (any::<u8>(), 1u8..).prop_map(|(friend, mac)| Act::Move(friend, mac)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 100 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// Hosts in use are known at every moment, whoever else comes.
        #[test]
        fn what_is_in_use_stays(friends in 1u8..100, acts in prop::collection::vec(act(), 0..1000)) {
            let mut neighbours = neighbours();
            let mut macs = std::collections::BTreeMap::new();
            for friend in 0..friends {
                let station = station(1, friend, 0);
                prop_assert_eq!(mac(&mut neighbours, station.address), None);
                neighbours.hear(station, false);
                macs.insert(friend, station);
            }
            for act in acts {
                match act {
                    Act::Ask(high, low) => neighbours.hear(station(high, low, 9), true),
                    Act::Silent(high, low) => prop_assert_eq!(mac(&mut neighbours, [10, 0, high, low]), None),
                    Act::Answer(high, low) => neighbours.hear(station(high, low, 9), false),
                    Act::Send(friend) => {
                        let station = macs[&(friend % friends)];
                        prop_assert_eq!(mac(&mut neighbours, station.address), Some(station.mac));
                    }
                    Act::Move(friend, mac) => {
                        let station = station(1, friend % friends, mac);
                        neighbours.hear(station, false);
                        macs.insert(friend % friends, station);
                    }
                }
                prop_assert_eq!(mac(&mut neighbours, [192, 0, 2, 1]), Some([2, 0, 0, 0, 0, 1]));
            }
            for station in macs.values() {
                prop_assert_eq!(mac(&mut neighbours, station.address), Some(station.mac));
            }
        }
    }

    #[test]
    fn of_more_hosts_than_there_are_places_those_used_last_are_known() {
        let mut neighbours = neighbours();
        for low in 0..=255 {
            let station = station(1, low, 0);
            neighbours.turn(neighbours.now() + Duration::from_millis(10));
            assert_eq!(mac(&mut neighbours, station.address), None);
            neighbours.hear(station, false);
            assert_eq!(mac(&mut neighbours, station.address), Some(station.mac));
            assert!(mac(&mut neighbours, [192, 0, 2, 1]).is_some());
        }
        let known = (0..=255).filter(|low| mac(&mut neighbours, [10, 0, 1, *low]).is_some()).count();
        // What is asked for takes places, too.
        assert!(known >= MOST / 2, "{known}");
        assert!(mac(&mut neighbours, [192, 0, 2, 1]).is_some());
    }

    #[test]
    fn another_lease_forgets_all() {
        let mut neighbours = neighbours();
        let lease = neighbours.lease;
        assert!(mac(&mut neighbours, GATEWAY).is_some());
        neighbours.join(lease);
        assert_eq!(neighbours.again(GATEWAY), None);
        let route = neighbours.route([192, 0, 2, 1]).expect("a way");
        assert_eq!(route, Route { hop: GATEWAY, mac: None, ask: Some(EVERYONE) });
        neighbours.join(None);
        assert_eq!(neighbours.route(GATEWAY), None);
    }
}
