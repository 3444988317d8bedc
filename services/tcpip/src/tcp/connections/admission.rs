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

use super::{CLOSING_LIST, Connections, HALF_OPEN_LIST};
use crate::table::Source;
use crate::tcp::app_stream::{AppStream, Peer};
use crate::tcp::closing::SLOW_TIME;

/// The largest number of closing connections that are examined for one that can make room.
const MAX_EXAMINED: usize = 4;
/// The largest number of half-open connections, the oldest ones, and of those of one source that
/// are searched for one that gives way.
const MAX_SEARCHED: usize = 32;

impl Connections {
    /// Makes sure that there is an idle or delivered connection for a SYN of `source`. Returns
    /// `None` if the source gets none.
    pub(super) fn make_room(&mut self, source: Source, now: Instant) -> Option<()> {
        // Usually there are enough that are neither held nor half open.
        if self.all_free() > self.reserve + self.lists.len(HALF_OPEN_LIST) {
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
        let half_open = self.lists.len(HALF_OPEN_LIST);
        let held = self.sources.held(source);
        let has_share = if self.free_count() == 0 {
            let number = self.sources.find(source);
            let own_half_open = self.half_open_of(source);
            let held = usize::from(held) + own_half_open;
            if held > 0 {
                // An address that replaces its own opens one connection at a time.
                self.giving_way(number, held + 1, self.reserve + own_half_open, now)?;
            }
            true
        } else {
            // What is kept free is for sources that hold less than another. Of the rest, all that
            // is not held may be half open for the others, and no more.
            held < self.sources.most() || half_open - self.half_open_of_light() < self.free_count()
        };
        if has_share && self.all_free() > half_open { Some(()) } else { self.drop_half_open(source) }
    }

    /// Returns the number of half-open connections of sources that hold less than another, among the
    /// oldest.
    fn half_open_of_light(&mut self) -> usize {
        let Connections { lists, table, sources, .. } = self;
        let oldest = lists.iter(HALF_OPEN_LIST).take(MAX_SEARCHED);
        let held = oldest.filter_map(|id| table.key(id)).map(|key| sources.held(key.source()));
        let held: ArrayVec<u16, MAX_SEARCHED> = held.collect();
        held.iter().filter(|held| **held < sources.most()).count()
    }

    /// Returns the number of half-open connections of `source`, among the oldest.
    fn half_open_of(&self, source: Source) -> usize {
        let oldest = self.lists.iter(HALF_OPEN_LIST).take(MAX_SEARCHED);
        oldest.filter(|id| self.table.key(*id).is_some_and(|key| key.source() == source)).count()
    }

    /// Releases the half-open connection that gives way to a SYN of `source`. Returns `None` if none
    /// does.
    ///
    /// SYNs may have forged addresses. So sources that hold connections, and all others, have half
    /// of the places for half-open ones each, if they need as many. Within each half, the source that
    /// has the most half-open ones gives way, of several the one that holds the most connections, and
    /// of its half-open ones the oldest. If that is `source`, and it has none, its SYN gives way.
    #[inline(never)] // Rarely called.
    fn drop_half_open(&mut self, source: Source) -> Option<()> {
        let own = self.sources.held(source);
        let mut oldest = ArrayVec::<(u16, Source, u16), MAX_SEARCHED>::new();
        for id in self.lists.iter(HALF_OPEN_LIST).take(MAX_SEARCHED) {
            let Some(other) = self.table.key(id).map(|key| key.source()) else { continue };
            oldest.push((id, other, self.sources.held(other)));
        }
        let of = |candidate: Source| {
            oldest.iter().filter(|(_, other, _)| *other == candidate).count() + usize::from(source == candidate)
        };
        // An odd place is for those that hold less than another.
        let places = self.all_free().min(MAX_SEARCHED) + usize::from(own >= self.sources.most());
        let others = oldest.iter().filter(|(.., held)| (*held > 0) != (own > 0)).count();
        let of_known = (own > 0) != (others > places / 2);
        let half = oldest.iter().rev().filter(|(.., held)| (*held > 0) == of_known);
        // Of equals, the last is taken.
        let (id, other, held) = half.max_by_key(|(_, other, held)| (of(*other), *held)).copied()?;
        if of_known == (own > 0) && (of(other), held) < (of(source), own) {
            return None;
        }
        self.release(ConnectionId(id));
        Some(())
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
    /// If another source holds more, it is one of the source that holds the most. Otherwise it is
    /// one of the same source, on which nothing has happened for a while, as long as `least` are
    /// free: a connection that gives way is free only once its application has heard of it. Of
    /// several, it is the one that was used least recently.
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
        let Connections { sources, connections, .. } = self;
        let used = |id: ConnectionId| Some((connections.get(usize::from(id.0))?.last_used(), id));
        let (last_used, id) = sources.connections(from, MAX_SEARCHED).filter_map(used).min()?;
        (last_used <= before).then_some(id)
    }
}

/// Returns the peer of a socket, whose address has the number `source`.
fn peer(source: SourceId, socket: &tcp::Socket<'_>) -> Option<Peer> {
    let (remote, local) = (socket.remote_endpoint()?, socket.local_endpoint()?);
    let IpAddress::Ipv4(address) = remote.addr;
    Some(Peer { address: address.octets(), port: remote.port, local_port: local.port, source })
}
