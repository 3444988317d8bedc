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
        let (half_open, oldest) = (self.lists.len(HALF_OPEN_LIST), self.oldest_half_open());
        let (held, most, free) = (self.sources.held(source), self.sources.most(), self.free_count());
        let own_half_open = oldest.iter().filter(|one| one.source == source).count();
        let has_share = if free == 0 {
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
            let light = oldest.iter().filter(|one| one.held < most).count();
            held < most || half_open - light < free
        };
        if !has_share || self.all_free() <= half_open {
            // An odd place is for those that hold less than another.
            let half = (self.all_free().min(MAX_SEARCHED) + usize::from(held >= most)) / 2;
            self.release(weakest(&oldest, source, held, half)?);
        }
        Some(())
    }

    /// Returns the oldest half-open connections.
    fn oldest_half_open(&mut self) -> ArrayVec<HalfOpen, MAX_SEARCHED> {
        let mut oldest = ArrayVec::new();
        for id in self.lists.iter(HALF_OPEN_LIST).take(MAX_SEARCHED) {
            if let Some(source) = self.table.key(id).map(|key| key.source()) {
                oldest.push(HalfOpen { id: ConnectionId(id), source, held: self.sources.held(source) });
            }
        }
        oldest
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
        let used = |id: ConnectionId| Some((connections.get(id.0)?.last_used(), id));
        let (last_used, id) = sources.connections(from, MAX_SEARCHED).filter_map(used).min()?;
        (last_used <= before).then_some(id)
    }
}

/// A half-open connection.
struct HalfOpen {
    id: ConnectionId,
    source: Source,
    /// The number of connections that its source holds.
    held: u16,
}

/// Returns the half-open connection that gives way to a SYN of `source`, which holds `held`
/// connections. Returns `None` if none does.
///
/// SYNs may have forged addresses. So sources that hold connections, and all others, have `half` of
/// the places for half-open ones each, if they need as many. Within each half, the source that has
/// the most half-open ones gives way, of several the one that holds the most connections, and of its
/// half-open ones the oldest. If that is `source`, and it has none, its SYN gives way.
fn weakest(oldest: &[HalfOpen], source: Source, held: u16, half: usize) -> Option<ConnectionId> {
    let known = held > 0;
    let others = oldest.iter().filter(|one| (one.held > 0) != known).count();
    let of_known = known != (others > half);
    let weight = |source_of: Source, held: u16| {
        let of = oldest.iter().filter(|one| one.source == source_of).count();
        (of + usize::from(source_of == source), held)
    };
    // From the newest on, so that of equals the oldest is taken.
    let mut found = None;
    let mut heaviest = if known == of_known { weight(source, held) } else { (0, 0) };
    for one in oldest.iter().rev().filter(|one| (one.held > 0) == of_known) {
        let weight = weight(one.source, one.held);
        if weight >= heaviest {
            (found, heaviest) = (Some(one.id), weight);
        }
    }
    found
}

/// Returns the peer of a socket, whose address has the number `source`.
fn peer(source: SourceId, socket: &tcp::Socket<'_>) -> Option<Peer> {
    let (remote, local) = (socket.remote_endpoint()?, socket.local_endpoint()?);
    let IpAddress::Ipv4(address) = remote.addr;
    Some(Peer { address: address.octets(), port: remote.port, local_port: local.port, source })
}
