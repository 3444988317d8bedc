//! The TCP connections: which there are, what each is at, and who waits for what.
//!
//! A connection's index is the application's name for it, the number of its rings, and of a socket that is made once and used
//! again and again. Every socket stands in a set of its own, so that the stack looks at the one that a segment is for; what
//! is to be done is in queues, and nothing is ever looked for among all connections.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::Instant;
use cloister_interfaces::lists::Lists;
use cloister_interfaces::socket::Layout;
use cloister_interfaces::timers::Timers;
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::IpAddress;

use crate::segment::Segment;
use crate::table::{Key, Table};
use crate::tcp::app_stream::{Peer, Slot, discard};
use crate::tcp::buffers::{Buffers, Make};
use crate::tcp::connection::{Flow, Stage, TIMEOUT};
use crate::tcp::limits::{CLIENTS, MAX_PORTS, WAITING};
use crate::tcp::recovery::Recovery;
use crate::tcp::time_wait::TimeWait;

/// The most free connections that are few.
const SCARCE: usize = 32;
/// How long a peer may take to answer our SYN.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// Connections that were given up, that are looked at when a place is needed.
const LOOKED_AT: usize = 4;
/// How long a peer that closed nothing itself is waited for, once all was delivered.
const FIN_WAIT: Duration = Duration::from_secs(10);
/// How long a reset may take to leave.
const RESET: Duration = Duration::from_secs(1);
/// How often a silent peer is asked whether it is there.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);

/// Lists of connections, the oldest first.
const HALF_OPENS: usize = 0;
const DELIVERED: usize = 1;
const GIVEN_UP: usize = 2;

/// The connections.
pub struct Flows {
    flows: Vec<Flow>,
    table: Table,
    /// Those that have nothing of ours any more.
    pub time_wait: TimeWait,
    /// Those that nobody has, with large buffers and with small ones; the last used is used next.
    idle: [Vec<u16>; 2],
    lists: Lists<3>,
    timers: Timers,
    ready: VecDeque<u16>,
    /// Of each application those that it listens to, the oldest first.
    ports: [ArrayVec<u16, MAX_PORTS>; CLIENTS],
    layout: Layout,
    buffers: Buffers,
    make: Make,
    /// Connections that are neither unused nor delivered.
    busy: usize,
}

impl Flows {
    /// No connections yet; sockets for `layout` within `budget` bytes that `make` makes. `random` is a secret.
    pub fn new(layout: Layout, budget: usize, make: Make, random: u64) -> Self {
        let buffers = Buffers::new(layout, budget);
        let count = buffers.connections;
        let (large, small) = (0..count.min(layout.large) as u16, layout.large as u16..count as u16);
        Flows {
            flows: (0..count).map(|_| Flow::unused()).collect(),
            table: Table::new(count, random),
            time_wait: TimeWait::new(count / WAITING, random),
            idle: [large.rev().collect(), small.rev().collect()],
            lists: Lists::new(count).unwrap_or_default(),
            timers: Timers::new(count).unwrap_or_default(),
            ready: VecDeque::with_capacity(count),
            ports: Default::default(),
            layout,
            buffers,
            make,
            busy: 0,
        }
    }

    /// A connection.
    pub fn get(&mut self, index: u16) -> Option<&mut Flow> {
        self.flows.get_mut(usize::from(index))
    }

    /// All connections.
    pub fn indices(&self) -> core::ops::Range<u16> {
        0..self.flows.len() as u16
    }

    /// Whether `client` has a connection.
    pub fn has_connections(&self, client: u8) -> bool {
        self.flows.iter().filter_map(|flow| flow.slot.as_ref()).any(|slot| slot.client == client)
    }

    /// Whether no connection is open or has anything left to deliver.
    pub fn is_silent(&self) -> bool {
        self.busy == 0
    }

    /// How many connections can still be opened: what peers have only begun counts, for it makes room.
    pub fn free(&self) -> usize {
        self.idle.iter().map(Vec::len).sum::<usize>() + self.lists.len(DELIVERED) + self.lists.len(HALF_OPENS)
    }

    /// Below this many free connections the applications are told of pressure.
    pub fn scarce(&self) -> usize {
        (self.flows.len() / 4).clamp(1, SCARCE)
    }

    /// Whether `client` listens to any port.
    pub fn listens(&self, client: u8) -> bool {
        self.ports.get(usize::from(client)).is_some_and(|ports| !ports.is_empty())
    }

    /// Whether `client` listens to as many ports as it may.
    pub fn has_all_ports(&self, client: u8) -> bool {
        self.ports.get(usize::from(client)).is_some_and(ArrayVec::is_full)
    }

    /// Who listens to `port`.
    pub fn owner(&self, port: u16) -> Option<u8> {
        self.ports.iter().position(|ports| ports.contains(&port)).map(|client| client as u8)
    }

    /// Listens to `port` for `client`. If that is one too many, its oldest port is given up: an
    /// application that was started anew does not know what it listened to before. Answers
    /// whether that was possible.
    pub fn listen(&mut self, client: u8, port: u16) -> bool {
        if port == 0 || self.owner(port).is_some() {
            return false;
        }
        let Some(ports) = self.ports.get_mut(usize::from(client)) else { return false };
        if ports.is_full() {
            ports.remove(0);
        }
        ports.try_push(port).is_ok()
    }

    /// Forgets `client`: its ports, and its connections, which are reset. They need no `Close`.
    pub fn forget(&mut self, client: u8, now: Instant) {
        self.ports.get_mut(usize::from(client)).into_iter().for_each(ArrayVec::clear);
        for index in self.indices() {
            let Some(flow) = self.get(index).filter(|flow| flow.client == client) else { continue };
            let had = flow.slot.take().is_some();
            match self.get(index).map_or(Stage::Unused, |flow| flow.stage) {
                Stage::HalfOpen | Stage::Open => self.abort(index, now),
                Stage::Unused if had => self.release(index),
                _ => {}
            }
        }
    }

    /// Accepts nothing more.
    pub fn close_ports(&mut self, now: Instant) {
        self.ports.iter_mut().for_each(ArrayVec::clear);
        while let Some(index) = self.lists.front(HALF_OPENS) {
            self.abort(index, now);
        }
    }

    /// Resets every connection that has anything left to deliver, and tells its application.
    pub fn abort_all(&mut self, now: Instant) {
        for index in self.indices() {
            let Some(flow) = self.get(index) else { continue };
            if let Some(slot) = &mut flow.slot {
                slot.part();
            }
            if matches!(flow.stage, Stage::HalfOpen | Stage::Open | Stage::Lingering) {
                self.abort(index, now);
            }
        }
    }

    /// The connection of this key.
    pub fn find(&mut self, key: Key) -> Option<u16> {
        self.table.find(key)
    }

    /// Makes a socket listen for the peer whose first segment this is, and which takes segments with up to `largest` bytes. None if
    /// there is no room, or nobody listens.
    pub fn open(&mut self, segment: &Segment, largest: NonZeroU16, now: Instant) -> Option<u16> {
        let client = self.owner(segment.port)?;
        let index = self.take(now)?;
        let flow = self.get(index)?;
        flow.socket()?.listen(segment.port).ok()?;
        (flow.client, flow.largest) = (client, largest);
        flow.recovery = Recovery::default();
        flow.limit_silence();
        (flow.start, flow.end, flow.sent) = (segment.seq.wrapping_add(1), None, None);
        flow.quiet = Instant::START;
        self.table.insert(index, segment.key);
        self.enter(index, Stage::HalfOpen, now + HALF_OPEN);
        Some(index)
    }

    /// A connection that nobody has, with a closed socket. If all are in use, one that has only to wait makes room, or one whose
    /// peer does not take what is left; and of those that are half open the oldest, so that a flood of SYNs delays others,
    /// but does not lock them out.
    fn take(&mut self, now: Instant) -> Option<u16> {
        loop {
            let [large, small] = &mut self.idle;
            let Some(index) = large.pop().or_else(|| small.pop()) else {
                let spare = self.lists.front(DELIVERED).or_else(|| self.overdue(now));
                self.release(spare.or(self.lists.front(HALF_OPENS))?);
                continue;
            };
            let large = usize::from(index) < self.layout.large;
            if self.flows.get(usize::from(index)).is_some_and(|flow| flow.set.is_some()) {
                return Some(index);
            }
            // If the heap is smaller than the policy's proportion promised, we live with what there is: the index is in no
            // list any more.
            let Some(mut socket) = self.buffers.socket(large, self.make) else { continue };
            socket.set_nagle_enabled(false);
            // What may wait for the application's answer waits for our next turn ([`Slot::awaits_answer`]), and no longer.
            socket.set_ack_delay(None);
            socket.set_timeout(Some(TIMEOUT));
            socket.set_keep_alive(Some(KEEP_ALIVE));
            let mut set = SocketSet::new(Vec::with_capacity(1));
            let handle = set.add(socket);
            let flow = self.get(index)?;
            (flow.set, flow.handle) = (Some(set), handle);
            return Some(index);
        }
    }

    /// A place is needed and there is none: returns a connection that was given up and of which the peer has taken too little
    /// for long. Those whose end their applications have not heard are reset, a few at a time, and make room for the next.
    #[inline(never)] // Seldom.
    fn overdue(&mut self, now: Instant) -> Option<u16> {
        for _ in 0..self.lists.len(GIVEN_UP).min(LOOKED_AT) {
            let index = self.lists.front(GIVEN_UP)?;
            let flow = self.get(index)?;
            let reset = flow.socket().is_none_or(|socket| socket.state() == State::Closed);
            if reset || flow.closing(now).spared > now {
                self.lists.move_to_back(index, GIVEN_UP);
                continue;
            }
            let Some(slot) = &mut flow.slot else { return Some(index) };
            slot.part();
            self.abort(index, now);
        }
        None
    }

    /// The application has given a connection up of which not all was sent yet. Returns how long it
    /// may go on.
    pub fn give_up(&mut self, index: u16, now: Instant) -> Option<Instant> {
        let flow = self.get(index)?;
        let first = flow.closing.is_none();
        let until = flow.closing(now).until;
        if first {
            self.lists.move_to_back(index, GIVEN_UP);
        }
        Some(until)
    }

    /// Changes a connection's stage, which lasts until then at most.
    fn enter(&mut self, index: u16, stage: Stage, until: Instant) {
        let Some(flow) = self.get(index) else { return };
        flow.until = until;
        if matches!(stage, Stage::Unused | Stage::HalfOpen | Stage::Open) {
            flow.closing = None;
        }
        let old = core::mem::replace(&mut flow.stage, stage);
        let busy = |stage| matches!(stage, Stage::HalfOpen | Stage::Open | Stage::Lingering);
        self.busy = self.busy + usize::from(busy(stage)) - usize::from(busy(old));
        match stage {
            Stage::HalfOpen => self.lists.move_to_back(index, HALF_OPENS),
            Stage::Delivered => self.lists.move_to_back(index, DELIVERED),
            Stage::Lingering => self.lists.move_to_back(index, GIVEN_UP),
            Stage::Unused | Stage::Open => self.lists.remove(index),
        }
        if !matches!(stage, Stage::Unused | Stage::Open) {
            self.timers.set(index, until);
        }
    }

    /// Takes a connection away from its peer, without a word; what the application has of it stays.
    pub fn release(&mut self, index: u16) {
        self.table.remove(index);
        self.timers.remove(index);
        self.enter(index, Stage::Unused, Instant::START);
        let large = usize::from(index) < self.layout.large;
        let Some(flow) = self.get(index) else { return };
        if let Some(socket) = flow.socket() {
            socket.abort();
        }
        if flow.slot.is_none() {
            let [first, second] = &mut self.idle;
            if large { first.push(index) } else { second.push(index) }
        }
    }

    /// Resets a connection; it lingers until the reset is sent.
    pub fn abort(&mut self, index: u16, now: Instant) {
        let Some(socket) = self.get(index).and_then(Flow::socket) else { return };
        socket.abort();
        self.enter(index, Stage::Lingering, now + RESET);
        self.mark(index);
    }

    /// Sees a connection that the application has given up to its end.
    pub fn linger(&mut self, index: u16, now: Instant) {
        let Some(until) = self.get(index).map(|flow| flow.closing(now).until) else { return };
        self.enter(index, Stage::Lingering, until);
    }

    /// Frees the index of a connection that both sides are done with.
    pub fn free_slot(&mut self, index: u16) {
        let Some(flow) = self.get(index) else { return };
        flow.slot = None;
        if flow.stage == Stage::Unused {
            self.release(index);
        }
    }

    /// Follows what became of a connection's socket: after this, it is at what [`Flow::stage`] says.
    pub fn settle(&mut self, index: u16, now: Instant) {
        let Some(flow) = self.get(index) else { return };
        let stage = flow.stage;
        let Some(socket) = flow.socket() else { return };
        let state = socket.state();
        // Mostly nothing became of it.
        if stage != Stage::Open || state == State::Closed {
            self.follow(index, stage, state, now);
        }
    }

    #[inline(never)] // Seldom, and long.
    fn follow(&mut self, index: u16, stage: Stage, state: State, now: Instant) {
        let Some(flow) = self.get(index) else { return };
        let (until, client) = (flow.until, flow.client);
        let Some(socket) = flow.socket() else { return };
        let gone = socket.remote_endpoint().is_none();
        match (stage, state) {
            (Stage::HalfOpen, State::Established | State::CloseWait) => {
                let Some(peer) = peer(socket) else { return self.release(index) };
                flow.slot = Some(Slot::new(client, peer));
                flow.recovery.opened(until.since(now), HALF_OPEN);
                self.enter(index, Stage::Open, Instant::START);
            }
            // The peer has taken it back, or the frame was no SYN after all.
            (Stage::HalfOpen, State::Listen | State::Closed) => self.release(index),
            (Stage::HalfOpen, _) if now >= until => self.abort(index, now),
            (Stage::Open, State::Closed) => {
                if let Some(slot) = &mut flow.slot {
                    slot.part();
                }
                self.linger(index, now);
                self.settle(index, now);
            }
            (Stage::Lingering, State::Closed) if gone || now >= until => self.release(index),
            (Stage::Lingering, State::FinWait2 | State::TimeWait) => {
                self.enter(index, Stage::Delivered, now + FIN_WAIT);
            }
            (Stage::Lingering, _) => {
                discard(socket);
                flow.until = flow.closing(now).until;
                if now >= flow.until {
                    self.abort(index, now);
                }
            }
            (Stage::Delivered, State::Closed) => self.release(index),
            (Stage::Delivered, _) if now >= until => self.release(index),
            (Stage::Delivered, _) => discard(socket),
            _ => {}
        }
    }

    /// Takes socket and buffers from a connection that only waits in TIME-WAIT, and has nothing to send.
    pub fn retire(&mut self, index: u16, now: Instant) {
        let Some(flow) = self.get(index) else { return };
        let quiet = flow.quiet;
        if let (Stage::Delivered, None, Some(end)) = (flow.stage, &flow.slot, flow.end())
            && let Some(key) = self.table.key(index)
        {
            self.release(index);
            self.time_wait.insert(key, end, quiet, now);
        }
    }

    /// Something happened to a connection: it is to be attended to.
    pub fn mark(&mut self, index: u16) {
        if let Some(flow) = self.flows.get_mut(usize::from(index))
            && !core::mem::replace(&mut flow.ready, true)
        {
            self.ready.push_back(index);
        }
    }

    /// Something happened to all connections that peers have.
    pub fn mark_all(&mut self) {
        for index in self.indices() {
            if self.get(index).is_some_and(|flow| flow.stage != Stage::Unused) {
                self.mark(index);
            }
        }
    }

    /// The next connection to be attended to.
    pub fn next_ready(&mut self) -> Option<u16> {
        let index = self.ready.pop_front()?;
        if let Some(flow) = self.get(index) {
            flow.ready = false;
        }
        Some(index)
    }

    /// How many connections are to be attended to.
    pub fn waiting(&self) -> usize {
        self.ready.len()
    }

    /// Marks the connections whose time has come.
    pub fn expire(&mut self, now: Instant) {
        while let Some(index) = self.timers.pop_expired(now) {
            self.mark(index);
        }
    }

    /// Attends to a connection at `at` at the latest.
    pub fn wake(&mut self, index: u16, at: Instant) {
        self.timers.set(index, at);
    }

    /// When a connection wants to be attended to next.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How the rings are laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

fn peer(socket: &tcp::Socket<'_>) -> Option<Peer> {
    let (remote, local) = (socket.remote_endpoint()?, socket.local_endpoint()?);
    let IpAddress::Ipv4(address) = remote.addr;
    Some(Peer { address: address.octets(), port: remote.port, local_port: local.port })
}
