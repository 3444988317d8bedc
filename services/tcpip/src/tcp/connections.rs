//! All TCP connections: the table that finds them, their stages, their timers and the queue of
//! ready ones.
//!
//! A connection's index is also the application's name for it, the number of its rings, and the
//! number of a socket that is created once and used again and again. Every socket is in a set of
//! its own, so that smoltcp looks only at the one that a segment is for. Nothing is ever searched
//! for among all connections.

mod admission;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::ops::Range;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_collections::{LazyVec, Lists, Timers};
use cloister_interfaces::Instant;
use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::socket::{ConnectionId, Layout};
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::State;

use crate::clients::CLIENTS;
use crate::segment::Segment;
use crate::table::{Key, Table};
use crate::tcp::app_stream::discard;
use crate::tcp::buffers::{BufferPlan, MakeBuffer};
use crate::tcp::connection::{Connection, SILENCE_LIMIT, Stage};
use crate::tcp::half_open::HalfOpen;
use crate::tcp::limits::{CONNECTIONS_PER_TIME_WAIT, MAX_PORTS};
use crate::tcp::recovery::Recovery;
use crate::tcp::sources::Sources;
use crate::tcp::time_wait::TimeWait;

/// Below this many free connections, applications are notified of pressure, however many
/// connections there are.
const MAX_LOW_MARK: usize = 32;
/// The time that a peer may take to answer our SYN.
const HALF_OPEN_TIME: Duration = Duration::from_secs(5);
/// The largest number of connections that are kept free for sources that hold less than others.
const MAX_RESERVE: usize = 16;
/// The time to wait for the peer's FIN after everything was delivered.
const FIN_WAIT_TIME: Duration = Duration::from_secs(10);
/// The time that a reset may take to be sent.
const RESET_TIME: Duration = Duration::from_secs(1);
/// The time between two probes of a silent peer.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);

/// Lists of connections, the oldest first: those whose peers have not answered our SYN.
const HALF_OPEN_LIST: usize = 0;
/// Those that have delivered everything.
const DELIVERED_LIST: usize = 1;
/// Those that their applications have closed.
const CLOSING_LIST: usize = 2;
const LISTS: usize = 3;

/// Connections without a peer. The one that was used last is used next, and after those the ones
/// that never were.
struct Idle {
    used: Vec<ConnectionId>,
    unused: Range<u16>,
}

impl Idle {
    fn new(numbers: Range<u16>) -> Self {
        Idle { used: Vec::with_capacity(numbers.len()), unused: numbers }
    }

    fn len(&self) -> usize {
        self.used.len() + self.unused.len()
    }

    fn pop(&mut self) -> Option<ConnectionId> {
        self.used.pop().or_else(|| self.unused.next().map(ConnectionId))
    }
}

/// All connections.
pub struct Connections {
    connections: LazyVec<Connection>,
    table: Table,
    /// The sources that hold open or closing connections.
    sources: Sources,
    /// For each source's number, which of its connections was used least recently, and when, as it
    /// was found last.
    least_used: Vec<(Instant, ConnectionId)>,
    /// The sources of half-open connections.
    half_open: HalfOpen,
    /// The number of connections that are kept free for sources that hold less than others.
    reserve: usize,
    /// Connections in TIME-WAIT that have no socket any more.
    pub time_wait: TimeWait,
    /// Connections without a peer, with large buffers and with small ones.
    idle: [Idle; 2],
    lists: Lists,
    timers: Timers,
    ready: VecDeque<ConnectionId>,
    /// For each application, the ports that it listens to, the oldest first.
    ports: [ArrayVec<u16, MAX_PORTS>; CLIENTS],
    layout: Layout,
    buffers: BufferPlan,
    make: MakeBuffer,
    /// The number of connections that are half open, open or lingering.
    busy: usize,
}

impl Connections {
    /// Creates the connections of `layout`, with sockets of at most `budget` bytes from `make`.
    /// `random` is secret.
    pub fn new(layout: Layout, budget: usize, make: MakeBuffer, random: u64) -> Self {
        let buffers = BufferPlan::new(layout, budget);
        let count = buffers.connections;
        let (large, small) = (0..count.min(layout.large) as u16, layout.large as u16..count as u16);
        Connections {
            connections: LazyVec::new(count).unwrap_or_default(),
            table: Table::new(count, random),
            sources: Sources::new(count, random),
            least_used: alloc::vec![(Instant::START, ConnectionId(u16::MAX)); count],
            half_open: HalfOpen::new(count, random),
            reserve: (count / 16).clamp((count / 8).min(2), MAX_RESERVE),
            time_wait: TimeWait::new(count / CONNECTIONS_PER_TIME_WAIT, random),
            idle: [Idle::new(large), Idle::new(small)],
            lists: Lists::new(LISTS, count).unwrap_or_default(),
            timers: Timers::new(count).unwrap_or_default(),
            ready: VecDeque::with_capacity(count),
            ports: Default::default(),
            layout,
            buffers,
            make,
            busy: 0,
        }
    }

    /// Returns the connection `id`, if it was ever used.
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.0)
    }

    /// Returns the ids of all connections that were ever used.
    fn ids(&self) -> impl Iterator<Item = ConnectionId> + use<> {
        self.connections.numbers().map(ConnectionId)
    }

    /// Returns the first connection of a list.
    fn front(&self, list: usize) -> Option<ConnectionId> {
        self.lists.front(list).map(ConnectionId)
    }

    /// Returns `true` if `client` has a connection.
    pub fn has_connections(&self, client: ClientIndex) -> bool {
        self.connections
            .iter()
            .filter_map(|(_, connection)| connection.stream.as_ref())
            .any(|stream| stream.client == client)
    }

    /// Returns `true` if no connection is open or has anything left to deliver.
    pub fn are_all_finished(&self) -> bool {
        self.busy == 0
    }

    /// Returns how many connections can still be opened, with those that are kept free. Half-open
    /// and delivered ones count, because they make room.
    fn all_free(&self) -> usize {
        self.idle.iter().map(Idle::len).sum::<usize>() + self.lists.len(DELIVERED_LIST) + self.lists.len(HALF_OPEN_LIST)
    }

    /// Returns how many connections any source can still open.
    pub fn free_count(&self) -> usize {
        self.all_free().saturating_sub(self.reserve)
    }

    /// Returns the number of free connections below which applications are notified of pressure.
    pub fn low_mark(&self) -> usize {
        (self.connections.bound() / 4).min(MAX_LOW_MARK).saturating_sub(self.reserve).max(1)
    }

    /// Returns `true` if `client` listens to any port.
    pub fn listens(&self, client: ClientIndex) -> bool {
        self.ports.get(client.index()).is_some_and(|ports| !ports.is_empty())
    }

    /// Returns `true` if `client` listens to as many ports as it may.
    pub fn has_all_ports(&self, client: ClientIndex) -> bool {
        self.ports.get(client.index()).is_some_and(ArrayVec::is_full)
    }

    /// Returns the application that listens to `port`.
    pub fn port_owner(&self, port: u16) -> Option<ClientIndex> {
        let owner = self.ports.iter().zip(0..).find(|(ports, _)| ports.contains(&port));
        owner.map(|(_, client)| ClientIndex(client))
    }

    /// Makes `client` listen to `port`. Returns `false` if it cannot.
    ///
    /// If that is one port too many, its oldest port is given up: an application that has restarted
    /// does not know what it listened to before.
    pub fn listen(&mut self, client: ClientIndex, port: u16) -> bool {
        if port == 0 || self.port_owner(port).is_some() {
            return false;
        }
        let Some(ports) = self.ports.get_mut(client.index()) else { return false };
        if ports.is_full() {
            ports.remove(0);
        }
        ports.try_push(port).is_ok()
    }

    /// Drops the ports of `client` and resets its connections, which need no `Close`.
    pub fn forget_client(&mut self, client: ClientIndex, now: Instant) {
        self.ports.get_mut(client.index()).into_iter().for_each(ArrayVec::clear);
        for id in self.ids() {
            let Some(connection) = self.get(id).filter(|connection| connection.client == client) else { continue };
            let had = connection.stream.take().is_some();
            match self.get(id).map_or(Stage::Unused, |connection| connection.stage) {
                Stage::HalfOpen { .. } | Stage::Open => self.abort(id, now),
                Stage::Unused if had => self.release(id),
                _ => {}
            }
        }
    }

    /// Accepts no more connections.
    pub fn close_ports(&mut self, now: Instant) {
        self.ports.iter_mut().for_each(ArrayVec::clear);
        while let Some(id) = self.front(HALF_OPEN_LIST) {
            self.abort(id, now);
        }
    }

    /// Resets every connection that has anything left to deliver, and notifies its application.
    pub fn abort_all(&mut self, now: Instant) {
        for id in self.ids() {
            let Some(connection) = self.get(id) else { continue };
            if let Some(stream) = &mut connection.stream {
                stream.detach();
            }
            if connection.stage.is_busy() {
                self.abort(id, now);
            }
        }
    }

    /// Returns the connection of `key`.
    pub fn find(&mut self, key: Key) -> Option<ConnectionId> {
        self.table.find(key).map(ConnectionId)
    }

    /// Makes a socket listen for the peer that sent the SYN `segment`, and whose MSS is `peer_mss`.
    /// Returns `None` if there is no room, or if no application listens to the port.
    pub fn open(&mut self, segment: &Segment, peer_mss: NonZeroU16, now: Instant) -> Option<ConnectionId> {
        let client = self.port_owner(segment.port)?;
        self.make_room(segment.key.source(), now)?;
        let id = self.allocate()?;
        let connection = self.get(id)?;
        connection.socket()?.listen(segment.port).ok()?;
        (connection.client, connection.peer_mss) = (client, peer_mss);
        connection.recovery = Recovery::default();
        connection.update_silence_limit();
        (connection.first_seq, connection.peer_end, connection.our_end) = (segment.seq.wrapping_add(1), None, None);
        connection.quiet_until = Instant::START;
        self.table.insert(id.0, segment.key);
        self.set_stage(id, Stage::HalfOpen { until: now + HALF_OPEN_TIME });
        Some(id)
    }

    /// Returns a connection without a peer, with a closed socket: an idle one, or one that only
    /// waits. Returns `None` if there is none.
    fn allocate(&mut self) -> Option<ConnectionId> {
        loop {
            let [large, small] = &mut self.idle;
            let Some(id) = large.pop().or_else(|| small.pop()) else {
                self.release(self.front(DELIVERED_LIST)?);
                continue;
            };
            let large = usize::from(id.0) < self.layout.large;
            let connection = self.connections.get_or_make(id.0, |_| Connection::unused())?;
            if connection.set.is_some() {
                return Some(id);
            }
            // If the heap is smaller than the policy's proportion promises, the index is in no list
            // any more, and there are fewer connections.
            let Some(mut socket) = self.buffers.socket(large, self.make) else { continue };
            socket.set_nagle_enabled(false);
            // An acknowledgement that may be delayed waits until our next turn
            // ([`AppStream::delays_ack`](super::app_stream::AppStream::delays_ack)), and no longer.
            socket.set_ack_delay(None);
            socket.set_timeout(Some(SILENCE_LIMIT));
            socket.set_keep_alive(Some(KEEP_ALIVE));
            let mut set = SocketSet::new(Vec::with_capacity(1));
            let handle = set.add(socket);
            (connection.set, connection.handle) = (Some(set), handle);
            return Some(id);
        }
    }

    /// Keeps a closed connection while not everything was sent. Returns its deadline.
    pub fn keep_closing(&mut self, id: ConnectionId, now: Instant) -> Option<Instant> {
        let connection = self.get(id)?;
        let first = connection.closing.is_none();
        let until = connection.update_closing(now).until;
        if first {
            self.lists.move_to_back(id.0, CLOSING_LIST);
        }
        Some(until)
    }

    /// Resets a connection, and notifies its application.
    pub fn reset(&mut self, id: ConnectionId, now: Instant) {
        if let Some(stream) = self.get(id).and_then(|connection| connection.stream.as_mut()) {
            stream.detach();
        }
        self.abort(id, now);
    }

    /// Changes a connection's stage.
    fn set_stage(&mut self, id: ConnectionId, stage: Stage) {
        let Some(connection) = self.get(id) else { return };
        if matches!(stage, Stage::Unused | Stage::HalfOpen { .. } | Stage::Open) {
            connection.closing = None;
        }
        let old = core::mem::replace(&mut connection.stage, stage);
        let reset = connection.socket().is_none_or(|socket| socket.state() == State::Closed);
        self.busy = self.busy + usize::from(stage.is_busy()) - usize::from(old.is_busy());
        self.count(id, stage, reset);
        let (list, until) = match stage {
            Stage::Unused | Stage::Open => return self.lists.remove(id.0),
            Stage::HalfOpen { until } => (HALF_OPEN_LIST, until),
            Stage::Delivered { until } => (DELIVERED_LIST, until),
            Stage::Lingering { until } => (CLOSING_LIST, until),
        };
        self.lists.move_to_back(id.0, list);
        self.timers.set(id.0, until);
    }

    /// Counts a connection for its source, as one that is held or half open, by its stage and
    /// whether it is `reset`.
    fn count(&mut self, id: ConnectionId, stage: Stage, reset: bool) {
        let source = self.table.key(id.0).map(Key::source);
        if let (Stage::HalfOpen { .. }, Some(source)) = (stage, source) {
            let held = self.sources.held(source);
            return self.half_open.add(id, source, held);
        }
        self.half_open.remove(id);
        let changed = match (stage, source) {
            (Stage::Open, Some(source)) => {
                self.sources.add(id, source);
                Some(source)
            }
            (Stage::Lingering { .. }, _) if !reset => None,
            _ => self.sources.remove(id),
        };
        if let Some(source) = changed {
            let held = self.sources.held(source);
            self.half_open.set_held(source, held);
        }
    }

    /// Takes a connection from its peer without a reset. Its stream to the application stays.
    pub fn release(&mut self, id: ConnectionId) {
        self.table.remove(id.0);
        self.timers.remove(id.0);
        self.set_stage(id, Stage::Unused);
        let large = usize::from(id.0) < self.layout.large;
        let Some(connection) = self.get(id) else { return };
        if let Some(socket) = connection.socket() {
            socket.abort();
        }
        if connection.stream.is_none() {
            let [first, second] = &mut self.idle;
            if large { first.used.push(id) } else { second.used.push(id) }
        }
    }

    /// Resets a connection. It lingers until the reset is sent.
    pub fn abort(&mut self, id: ConnectionId, now: Instant) {
        let Some(socket) = self.get(id).and_then(Connection::socket) else { return };
        socket.abort();
        self.set_stage(id, Stage::Lingering { until: now + RESET_TIME });
        self.mark_ready(id);
    }

    /// Keeps a connection that the application has closed until it has ended.
    pub fn start_lingering(&mut self, id: ConnectionId, now: Instant) {
        let Some(until) = self.get(id).map(|connection| connection.update_closing(now).until) else { return };
        self.set_stage(id, Stage::Lingering { until });
    }

    /// Frees the index of a connection that neither side needs.
    pub fn free_index(&mut self, id: ConnectionId) {
        let Some(connection) = self.get(id) else { return };
        connection.stream = None;
        if connection.stage == Stage::Unused {
            self.release(id);
        }
    }

    /// Updates a connection's stage by the state of its socket.
    pub fn update_stage(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.get(id) else { return };
        let stage = connection.stage;
        let Some(socket) = connection.socket() else { return };
        let state = socket.state();
        // Usually nothing has changed.
        if stage != Stage::Open || state == State::Closed {
            self.follow_state(id, stage, state, now);
        }
    }

    #[inline(never)] // Rarely called, and long.
    fn follow_state(&mut self, id: ConnectionId, stage: Stage, state: State, now: Instant) {
        let Some(connection) = self.get(id) else { return };
        let Some(socket) = connection.socket() else { return };
        let gone = socket.remote_endpoint().is_none();
        match (stage, state) {
            (Stage::HalfOpen { until }, State::Established | State::CloseWait) => {
                connection.recovery.opened(until.since(now), HALF_OPEN_TIME);
                self.set_stage(id, Stage::Open);
                self.admit(id, now);
            }
            // The peer has reset it, or the segment was not a valid SYN.
            (Stage::HalfOpen { .. }, State::Listen | State::Closed) => self.release(id),
            (Stage::HalfOpen { until }, _) if now >= until => self.abort(id, now),
            (Stage::Open, State::Closed) => {
                if let Some(stream) = &mut connection.stream {
                    stream.detach();
                }
                self.start_lingering(id, now);
                self.update_stage(id, now);
            }
            (Stage::Lingering { until }, State::Closed) if gone || now >= until => self.release(id),
            (Stage::Lingering { .. }, State::FinWait2 | State::TimeWait) => {
                self.set_stage(id, Stage::Delivered { until: now + FIN_WAIT_TIME });
            }
            (Stage::Lingering { .. }, _) => {
                discard(socket);
                let until = connection.update_closing(now).until;
                connection.stage = Stage::Lingering { until };
                if now >= until {
                    self.abort(id, now);
                }
            }
            (Stage::Delivered { .. }, State::Closed) => self.release(id),
            (Stage::Delivered { until }, _) if now >= until => self.release(id),
            (Stage::Delivered { .. }, _) => discard(socket),
            _ => {}
        }
    }

    /// Moves a connection that only waits in TIME-WAIT, and has nothing to send, to [`TimeWait`].
    /// Its socket and buffers are free again.
    pub fn enter_time_wait(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.get(id) else { return };
        let quiet = connection.quiet_until;
        if let (Stage::Delivered { .. }, None, Some(end)) = (connection.stage, &connection.stream, connection.ends())
            && let Some(key) = self.table.key(id.0)
        {
            self.release(id);
            self.time_wait.insert(key, end, quiet, now);
        }
    }

    /// Puts a connection in the queue of ready ones.
    pub fn mark_ready(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id.0)
            && !core::mem::replace(&mut connection.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Puts all connections with a peer in the queue of ready ones.
    pub fn mark_all_ready(&mut self) {
        for id in self.ids() {
            if self.get(id).is_some_and(|connection| connection.stage != Stage::Unused) {
                self.mark_ready(id);
            }
        }
    }

    /// Takes the next ready connection.
    pub fn next_ready(&mut self) -> Option<ConnectionId> {
        let id = self.ready.pop_front()?;
        if let Some(connection) = self.get(id) {
            connection.ready = false;
        }
        Some(id)
    }

    /// Returns the number of ready connections.
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// Marks the connections ready whose timers have expired.
    pub fn mark_expired(&mut self, now: Instant) {
        while let Some(id) = self.timers.pop_expired(now).map(ConnectionId) {
            self.mark_ready(id);
        }
    }

    /// Makes a connection ready at `at` at the latest.
    pub fn set_timer(&mut self, id: ConnectionId, at: Instant) {
        self.timers.set(id.0, at);
    }

    /// Returns when the next timer expires.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Returns the layout of the rings.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}
