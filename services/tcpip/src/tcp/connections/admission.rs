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

use super::{CLOSING_LIST, Connections, KNOWN_LIST, STRANGERS_LIST};
use crate::table::Source;
use crate::tcp::app_stream::{AppStream, Peer};
use crate::tcp::closing::SLOW_TIME;

/// The largest number of closed connections that are examined for one that can make room.
const MAX_EXAMINED: usize = 4;

impl Connections {
    /// Makes sure that there is an idle or delivered connection for a SYN of `source`. Returns
    /// `None` if the source gets none.
    pub(super) fn make_room(&mut self, source: Source, now: Instant) -> Option<()> {
        let half_open = self.half_open_count();
        if self.free_count() > 0 {
            // Of what is not kept free, all that is not held may be half open, and no more.
            if self.all_free() - half_open <= self.reserve {
                self.drop_half_open(source);
            }
            return Some(());
        }
        if let Some(slow) = self.reclaim_slow(source, now) {
            self.release(slow);
        }
        if self.free_count() > 0 {
            return Some(());
        }
        let number = self.sources.find(source);
        let own_half_open = self.half_open.iter_mut().map(|sources| usize::from(sources.held(source))).sum::<usize>();
        let held = usize::from(self.sources.held(source)) + own_half_open;
        if held > 0 {
            // An address that replaces its own opens one connection at a time.
            self.giving_way(number, held + 1, self.reserve + own_half_open, now)?;
        }
        if self.all_free() == half_open {
            self.drop_half_open(source);
        }
        Some(())
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

    /// Releases the half-open connection that makes room for a SYN of `source`.
    ///
    /// SYNs may have forged addresses. So sources that hold connections, and all others, have half
    /// of the half-open ones each, if they need as many. Within each half, the source that has the
    /// most gives way, and of its connections the oldest. If each has one, the oldest of all does.
    /// The new one counts.
    #[inline(never)] // Rarely called.
    fn drop_half_open(&mut self, source: Source) {
        let own = self.half_open_list(source);
        let other = if own == KNOWN_LIST { STRANGERS_LIST } else { KNOWN_LIST };
        let list = if self.lists.len(own) + 1 > self.lists.len(other) { own } else { other };
        let oldest = self.front(list);
        let Some(sources) = self.half_open.get_mut(list) else { return };
        let (held, most) = (if list == own { sources.held(source) } else { 0 }, sources.most());
        let weakest = match most {
            _ if held > 0 && held == most => sources.find(source),
            0 | 1 => None,
            _ => sources.largest(),
        };
        if let Some(id) = weakest.map_or(oldest, |weakest| sources.first_of(weakest)) {
            self.release(id);
        }
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
