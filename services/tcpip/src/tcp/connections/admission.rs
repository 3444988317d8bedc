//! Which peer gets a connection, and which other connection gives way to it.
//!
//! While places are free, anybody may have any number. Some are kept free: a source that holds less
//! than another always finds a place for its handshake there, and once it has answered our SYN, a
//! connection of the source that holds the most is reset. A SYN proves nothing, so it only ever
//! takes the place of another half-open connection.

use arrayvec::ArrayVec;
use cloister_interfaces::Instant;
use cloister_interfaces::socket::{ConnectionId, SourceId};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::IpAddress;

use super::{CLOSING_LIST, Connections, KNOWN_LIST, STRANGERS_LIST};
use crate::table::Source;
use crate::tcp::app_stream::{AppStream, Peer};
use crate::tcp::closing::SLOW_TIME;

/// The largest number of closed connections that are examined for one that can make room.
const MAX_EXAMINED: usize = 4;
/// The largest number of half-open connections of a list, the oldest ones, that are examined.
const MAX_SEARCHED: usize = 32;

impl Connections {
    /// Makes sure that there is an idle or delivered connection for a SYN of `source`. Returns
    /// `None` if the source gets none.
    pub(super) fn make_room(&mut self, source: Source, now: Instant) -> Option<()> {
        // Usually there are enough that are neither held nor half open.
        if self.all_free() > self.reserve + self.half_open_count() {
            return Some(());
        }
        self.make_scarce_room(source, now)
    }

    #[inline(never)] // Rarely called.
    fn make_scarce_room(&mut self, source: Source, now: Instant) -> Option<()> {
        if self.free_count() == 0
            && let Some(slow) = self.reclaim_slow(source, now)
        {
            self.release(slow);
        }
        let (held, most, free) = (self.sources.held(source), self.sources.most(), self.free_count());
        let has_share = if free == 0 {
            let own_half_open =
                self.half_open.iter_mut().map(|sources| usize::from(sources.held(source))).sum::<usize>();
            let all = usize::from(held) + own_half_open;
            if all > 0 {
                // An address that replaces its own opens one connection at a time.
                let number = self.sources.find(source);
                self.giving_way(number, all + 1, self.reserve + own_half_open, now)?;
            }
            true
        } else {
            // What is kept free is for sources that hold less than another. Of the rest, all that
            // is not held may be half open for the others, and no more.
            held < most || self.half_open_of_heaviest(most) < free
        };
        if !has_share || self.all_free() <= self.half_open_count() {
            // An odd place is for those that hold less than another.
            let half = (self.all_free() + usize::from(held >= most)) / 2;
            let weakest = self.weakest_half_open(source, held, half)?;
            self.release(weakest);
        }
        Some(())
    }

    /// Returns how many half-open connections belong to sources that hold `most`. Those that are
    /// not examined count, too.
    fn half_open_of_heaviest(&mut self, most: u16) -> usize {
        let known = self.lists.len(KNOWN_LIST);
        let lighter = self.examined(KNOWN_LIST).iter().filter(|(held, _)| *held < most).count();
        known - lighter + if most == 0 { self.lists.len(STRANGERS_LIST) } else { 0 }
    }

    /// Returns the oldest half-open connections of a list, and how many connections the source of
    /// each holds.
    fn examined(&mut self, list: usize) -> ArrayVec<(u16, ConnectionId), MAX_SEARCHED> {
        let mut found = ArrayVec::new();
        for id in self.lists.iter(list).take(MAX_SEARCHED) {
            let held = self.table.key(id).map_or(0, |key| self.sources.held(key.source()));
            found.push((held, ConnectionId(id)));
        }
        found
    }

    /// Returns the list of half-open connections that one of `source` belongs to now.
    fn half_open_list(&mut self, source: Source) -> usize {
        if self.sources.held(source) > 0 { KNOWN_LIST } else { STRANGERS_LIST }
    }

    /// Counts a half-open connection. Returns its list.
    pub(super) fn add_half_open(&mut self, id: ConnectionId, source: Source) -> usize {
        let list = self.half_open_list(source);
        self.half_open.get_mut(list).into_iter().for_each(|sources| sources.add(id, source));
        list
    }

    /// Returns the half-open connection that gives way to a SYN of `source`, which holds `held`
    /// connections. Returns `None` if none does.
    ///
    /// SYNs may have forged addresses. So sources that hold connections, and all others, have `half`
    /// of the places for half-open ones each, if they need as many. Within each half, the source
    /// that has the most half-open ones, with the new one, gives way: of several one that holds the
    /// most connections, and of its half-open ones the oldest. If that is `source`, and it has none,
    /// its SYN gives way.
    #[inline(never)] // Rarely called.
    fn weakest_half_open(&mut self, source: Source, held: u16, half: usize) -> Option<ConnectionId> {
        let own = self.half_open_list(source);
        let other = if own == KNOWN_LIST { STRANGERS_LIST } else { KNOWN_LIST };
        let list = if self.lists.len(other) > half { other } else { own };
        let sources = self.half_open.get_mut(list)?;
        let (most, heaviest) = (sources.most(), sources.largest()?);
        let ours = sources.find(source).filter(|_| list == own);
        let (first, own_first) = (sources.first_of(heaviest), ours.and_then(|ours| sources.first_of(ours)));
        let count = if list == own { sources.held(source) + 1 } else { 0 };
        if most > 1 {
            let of_heaviest = self.table.key(first?.0).map_or(0, |key| self.sources.held(key.source()));
            return if (count, held) > (most, of_heaviest) { own_first } else { first };
        }
        // Each source has one at most.
        if own_first.is_some() {
            return own_first;
        }
        let examined = self.examined(list);
        let most = examined.iter().map(|(held, _)| *held).max()?;
        let oldest = examined.iter().find(|(held, _)| *held == most).map(|(_, id)| *id);
        oldest.filter(|_| count == 0 || held <= most)
    }

    /// Returns a closing connection whose peer has taken too little for too long. If there is none
    /// whose application knows of its end, resets a few, which make room for the next caller. It
    /// spares those of sources that hold less than `source`.
    #[inline(never)] // Rarely called.
    fn reclaim_slow(&mut self, source: Source, now: Instant) -> Option<ConnectionId> {
        let held = self.sources.held(source);
        for _ in 0..self.lists.len(CLOSING_LIST).min(MAX_EXAMINED) {
            let id = self.front(CLOSING_LIST)?;
            let spared = self.sources.held_with(id) < held;
            let connection = self.get(id)?;
            let reset = connection.socket().is_none_or(|socket| socket.state() == State::Closed);
            if spared || reset || connection.update_closing(now).spared > now {
                self.lists.move_to_back(id.0, CLOSING_LIST);
                continue;
            }
            if connection.stream.is_none() {
                return Some(id);
            }
            self.reset(id, now);
        }
        None
    }

    /// Gives a connection that has just opened to its application.
    ///
    /// If fewer are free than are kept, another is reset for it. If none gives way, it is reset
    /// itself, unless it is the only one of its source.
    pub(super) fn admit(&mut self, id: ConnectionId, now: Instant) {
        let (source, held) = (self.sources.number(id), usize::from(self.sources.held_with(id)));
        let Some(connection) = self.get(id) else { return };
        let client = connection.client;
        let peer = source.zip(connection.socket()).and_then(|(source, socket)| peer(source, socket));
        connection.stream = peer.map(|peer| AppStream::new(client, peer, now));
        connection.used = now;
        if self.all_free() >= self.reserve {
            return;
        }
        match self.giving_way(source, held, self.reserve - 1, now) {
            Some(other) => self.reset(other, now),
            None if held > 1 => {
                // The application does not know of it yet.
                self.get(id).into_iter().for_each(|connection| connection.stream = None);
                self.abort(id, now);
            }
            None => {}
        }
    }

    /// Returns the connection that gives way to a new one of `source`, with which that holds
    /// `held`.
    ///
    /// Of the source that holds the most, if that is another one and holds more, it is the one that
    /// was used least recently. Otherwise it is that of the same source, if nothing has happened on
    /// it for a while and `least` are free: a connection that gives way is free only once its
    /// application has heard of it.
    fn giving_way(
        &mut self,
        source: Option<SourceId>,
        held: usize,
        least: usize,
        now: Instant,
    ) -> Option<ConnectionId> {
        let (from, before) = if held < usize::from(self.sources.most()) {
            (self.sources.largest()?, now)
        } else if self.all_free() < least {
            return None;
        } else {
            (source?, Instant(now.0.saturating_sub(SLOW_TIME.as_nanos() as u64)))
        };
        let id = self.least_used(from, now)?;
        (self.get(id)?.last_used() <= before).then_some(id)
    }

    /// Returns the connection of a source that was used least recently: the first of its list, but
    /// for closed ones whose peers have taken enough since they were put there.
    fn least_used(&mut self, source: SourceId, now: Instant) -> Option<ConnectionId> {
        for _ in 0..MAX_EXAMINED {
            let id = self.sources.first_of(source)?;
            if !self.get(id)?.note_use(now) {
                break;
            }
            self.sources.move_to_back(id);
        }
        self.sources.first_of(source)
    }
}

/// Returns the peer of a socket, whose address has the number `source`.
fn peer(source: SourceId, socket: &tcp::Socket<'_>) -> Option<Peer> {
    let (remote, local) = (socket.remote_endpoint()?, socket.local_endpoint()?);
    let IpAddress::Ipv4(address) = remote.addr;
    Some(Peer { address: address.octets(), port: remote.port, local_port: local.port, source })
}
