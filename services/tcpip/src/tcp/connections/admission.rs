//! Which peer gets a connection, and which other connection gives way to it.
//!
//! While places are free, anybody may have any number. Some are kept free: a source that holds less
//! than another always finds a place for its handshake there, and once it has answered our SYN, a
//! connection of the source that holds the most is reset. A SYN proves nothing, so it only ever
//! takes the place of another half-open connection.

use cloister_interfaces::Instant;
use cloister_interfaces::socket::{ConnectionId, SourceId};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::IpAddress;

use super::{CLOSING_LIST, Connections, HALF_OPEN_LIST};
use crate::table::Source;
use crate::tcp::app_stream::{AppStream, Peer};
use crate::tcp::closing::SLOW_TIME;
use crate::tcp::connection::Connection;

/// The largest number of closing connections that are examined for one that can make room.
const MAX_EXAMINED: usize = 4;

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
        let (held, most, free) = (self.sources.held(source), self.sources.most(), self.free_count());
        let has_share = if free == 0 {
            let own_half_open = self.half_open.count(source);
            let all = usize::from(held) + own_half_open;
            // It may replace one of another that holds more, or one of its own, one at a time.
            if all > 0 && all + 1 >= usize::from(most) {
                let number = self.sources.find(source)?;
                self.own_giving_way(number, self.reserve + own_half_open, now)?;
            }
            true
        } else {
            // What is kept free is for sources that hold less than another. Of the rest, all that
            // is not held may be half open for the others, and no more.
            held < most || self.half_open.count_with(most) < free
        };
        if !has_share || self.all_free() <= half_open {
            // An odd place is for those that hold less than another.
            let half = (self.all_free() + usize::from(held >= most)) / 2;
            let weakest = self.half_open.giving_way(source, held, half_open, half)?;
            self.release(weakest);
        }
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
        let giving_way = if held < usize::from(self.sources.most()) {
            self.sources.largest().and_then(|largest| self.least_used(largest, now))
        } else {
            source.and_then(|source| self.own_giving_way(source, self.reserve - 1, now))
        };
        match giving_way {
            Some(other) => self.reset(other, now),
            None if held > 1 => {
                // The application does not know of it yet.
                self.get(id).into_iter().for_each(|connection| connection.stream = None);
                self.abort(id, now);
            }
            None => {}
        }
    }

    /// Returns the connection that gives way to a new one of `source`, which is the one that holds
    /// the most: the least recently used one, if nothing has happened on it for a while and `least`
    /// are free. A connection that gives way is free only once its application has heard of it.
    fn own_giving_way(&mut self, source: SourceId, least: usize, now: Instant) -> Option<ConnectionId> {
        if self.all_free() < least {
            return None;
        }
        self.least_used(source, Instant(now.0.saturating_sub(SLOW_TIME.as_nanos() as u64)))
    }

    /// Returns the connection of a source that was used least recently, if that was at `before` or
    /// earlier.
    ///
    /// What is found is kept: a use never becomes earlier, and a new connection is used last. So the
    /// source's connections are searched again only once that one has been used or has ended, and
    /// the time of `before` has come. No number of SYNs makes a search.
    fn least_used(&mut self, source: SourceId, before: Instant) -> Option<ConnectionId> {
        let Connections { sources, connections, least_used, .. } = self;
        let used = |id: ConnectionId| connections.get(id.0).map(Connection::last_used);
        let known = least_used.get_mut(usize::from(source.0))?;
        if known.0 <= before && (sources.number(known.1) != Some(source) || used(known.1) != Some(known.0)) {
            *known = sources.connections(source).filter_map(|id| Some((used(id)?, id))).min()?;
        }
        (known.0 <= before).then_some(known.1)
    }
}

/// Returns the peer of a socket, whose address has the number `source`.
fn peer(source: SourceId, socket: &tcp::Socket<'_>) -> Option<Peer> {
    let (remote, local) = (socket.remote_endpoint()?, socket.local_endpoint()?);
    let IpAddress::Ipv4(address) = remote.addr;
    Some(Peer { address: address.octets(), port: remote.port, local_port: local.port, source })
}
