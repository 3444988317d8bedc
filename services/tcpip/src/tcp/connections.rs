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
use cloister_interfaces::socket::{Layout, Ring};
use cloister_interfaces::timers::Timers;
use smoltcp::iface::{Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{self, Socket, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::IpAddress;

use crate::link::null_device::Nowhere;
use crate::segment::Segment;
use crate::table::{Key, Table};
use crate::tcp::app_stream::{Peer, Slot, discard};
use crate::tcp::buffers::{Buffers, Make};
use crate::tcp::closing::Closing;
use crate::tcp::recovery::Recovery;
use crate::tcp::time_wait::{self, End, TimeWait};

/// The most applications.
pub const CLIENTS: usize = 4;
/// The most ports that an application listens to.
const MAX_PORTS: usize = 8;
/// The most free connections that are few.
const SCARCE: usize = 32;
/// One connection for so many may be in TIME-WAIT without a socket.
const WAITING: usize = 2;
/// How long a peer may take to answer our SYN.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// Connections that were given up, that are looked at when a place is needed.
const LOOKED_AT: usize = 4;
/// How long a peer that closed nothing itself is waited for, once all was delivered.
const FIN_WAIT: Duration = Duration::from_secs(10);
/// How long a reset may take to leave.
const RESET: Duration = Duration::from_secs(1);
/// A peer that acknowledges nothing for this long is gone.
const TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(60);
/// The same for one that takes nothing at present: it is asked for a window once in a minute at least, and answers.
const SHUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(180);
/// How often a silent peer is asked whether it is there.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(15);

/// What a connection's socket is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing: no peer has it.
    Unused,
    /// A peer's SYN came, and is answered.
    HalfOpen,
    /// The application has it.
    Open,
    /// The application has given it up; data, a FIN or a reset is still on its way.
    Lingering,
    /// As before, but all was delivered: it waits so that what is old on the wire meets no new connection, unless its place
    /// is needed.
    Delivered,
}

/// Lists of connections, the oldest first.
const HALF_OPENS: usize = 0;
const DELIVERED: usize = 1;
const GIVEN_UP: usize = 2;

/// One connection.
pub struct Flow {
    /// Its socket, alone in a set; none until it is first needed.
    pub set: Option<SocketSet<'static>>,
    handle: SocketHandle,
    /// What its socket is at.
    pub stage: Stage,
    /// Whose port it is.
    client: u8,
    /// It is in the queue of those that are to be attended to.
    ready: bool,
    /// How long the stage may last, if it is not [`Stage::Open`].
    pub until: Instant,
    /// How long it may go on, once its application has closed it.
    closing: Option<Closing>,
    /// The connection as the application knows it.
    pub slot: Option<Slot>,
    /// What is on its way to the peer.
    pub recovery: Recovery,
    /// Bytes of data in the longest segments that the peer takes.
    pub largest: NonZeroU16,
    /// The sequence number of the first byte of the peer's stream.
    pub start: u32,
    /// The sequence number after the peer's FIN, when that has come.
    end: Option<u32>,
    /// The sequence number after our FIN, when both have been acknowledged.
    sent: Option<u32>,
    /// Until when it answers its peer alone, in TIME-WAIT.
    pub quiet: Instant,
}

/// What becomes of a segment that may be forged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The stack gets it.
    Take,
    /// Nobody gets it.
    Drop,
    /// The stack gets one with these numbers instead, to which it answers what it expects.
    Challenge {
        /// The sequence number.
        seq: u32,
        /// What is acknowledged.
        ack: u32,
    },
}

/// Later than any timer of a socket: than the longest time that it waits for an acknowledgement.
const FAR: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(61);

impl Flow {
    /// Takes note of the ends of the streams, if `segment`, which brought the socket to `state`, was the last of one.
    pub fn note_end(&mut self, segment: &Segment, state: State) {
        if self.end.is_none() && matches!(state, State::CloseWait | State::Closing | State::TimeWait) {
            self.end = Some(segment.seq.wrapping_add(segment.data as u32).wrapping_add(1));
        }
        if self.sent.is_none() && state == State::TimeWait {
            self.sent = Some(segment.ack);
        }
    }

    /// Returns the number that the peer's next byte has.
    fn next(&mut self) -> u32 {
        let (answered, start, end) = (self.recovery.answered(), self.start, self.end);
        let taken = self.slot.as_ref().map_or(Some(0), Slot::taken);
        let queued = self.socket().map_or(0, |socket| socket.recv_queue() as u32);
        match (end, self.stage, taken) {
            (Some(end), ..) => end,
            (None, Stage::HalfOpen | Stage::Open, Some(taken)) => start.wrapping_add(taken).wrapping_add(queued),
            // What is thrown away is not counted, but acknowledged at once.
            _ => answered,
        }
    }

    /// Decides what becomes of a segment that may be forged, so that the peer must have seen our
    /// numbers to end the connection: a reset, or a SYN (RFC 5961, 3.2 and 4.2).
    #[inline(never)] // Seldom.
    pub fn doubt(&mut self, segment: &Segment) -> Verdict {
        /// Beyond anything that was ever sent.
        const FAR: u32 = 1 << 30;
        let next = self.next();
        let (oldest, answered) = (self.recovery.oldest(), self.recovery.answered());
        let Some(socket) = self.socket().filter(|_| segment.reset || segment.syn) else { return Verdict::Take };
        let room = (socket.recv_capacity() - socket.recv_queue()) as u32;
        let ack = match socket.state() {
            State::Closed | State::Listen | State::SynSent => return Verdict::Take,
            // The stack answers nothing but an acknowledgement of its SYN, once that was sent; and
            // it would reset one that nobody sends who connects.
            State::SynReceived if !segment.reset && !segment.start => return Verdict::Drop,
            State::SynReceived if !segment.reset => return Verdict::Take,
            State::SynReceived if answered == next => Some(oldest),
            State::SynReceived => None,
            _ => Some(oldest.wrapping_add(FAR)),
        };
        let distance = segment.seq.wrapping_sub(next);
        match ack {
            _ if segment.reset && distance == 0 => Verdict::Take,
            // The stack limits how often it answers, for each connection by itself.
            Some(ack) if !segment.reset || distance < room => Verdict::Challenge { seq: next.wrapping_sub(1), ack },
            _ => Verdict::Drop,
        }
    }

    /// Where both streams ended, in TIME-WAIT.
    pub fn end(&self) -> Option<End> {
        Some(End { sent: self.sent?, taken: self.end? })
    }

    /// Whether `segment` has data after the end of the peer's stream. They are to be ignored (RFC 9293, 3.10.7.4); the stack
    /// would deliver them.
    pub fn is_beyond_end(&self, segment: &Segment) -> bool {
        let after = |end: u32| segment.seq.wrapping_add(segment.data as u32).wrapping_sub(end) as i32;
        segment.data > 0 && self.end.is_some_and(|end| after(end) > 0)
    }

    /// Makes the socket go back: it sends anew what was not acknowledged, from the oldest byte on. It does so when its timer for
    /// repeats runs out, and so it is shown a clock on which that is the case, and a link that takes nothing.
    pub fn go_back(&mut self, interface: &mut Interface, now: StackInstant) {
        let Some(socket) = self.socket() else { return };
        socket.set_timeout(None);
        if let Some(set) = &mut self.set {
            interface.poll_egress(now + FAR, &mut Nowhere, set);
        }
        self.limit_silence();
    }

    /// Gives the peer as much time to be silent as it may need.
    pub fn limit_silence(&mut self) {
        let limit = if self.recovery.is_shut() { SHUT } else { TIMEOUT };
        if let Some(socket) = self.socket() {
            socket.set_timeout(Some(limit));
        }
    }

    /// The connection as the application knows it, and its socket.
    pub fn parts(&mut self) -> Option<(&mut Slot, &mut Socket<'static>)> {
        let handle = self.handle;
        Some((self.slot.as_mut()?, self.set.as_mut()?.get_mut(handle)))
    }

    /// Where in the in ring the bytes of `segment` belong, if the socket will take them next: then they need not pass through it.
    pub fn place(&mut self, segment: &Segment, ring: Ring) -> Option<u32> {
        let position = segment.seq.wrapping_sub(self.start);
        let (slot, socket) = self.parts().filter(|_| segment.plain)?;
        slot.place(socket, position, segment.data, ring)
    }

    /// When the present stage ends at the latest.
    pub fn limit(&self) -> Option<Instant> {
        match self.stage {
            Stage::Unused => None,
            Stage::Open => self.closing.map(|closing| closing.until),
            Stage::HalfOpen | Stage::Lingering | Stage::Delivered => Some(self.until),
        }
    }

    /// How long it may go on, now that its application has closed it, by what its peer has taken.
    fn closing(&mut self, now: Instant) -> Closing {
        let queued = self.socket().map_or(0, |socket| socket.send_queue() as u64);
        let left = queued + self.slot.as_ref().map_or(0, Slot::left);
        let closing = self.closing.get_or_insert(Closing::new(left, now));
        closing.note(left, now);
        *closing
    }

    /// Its socket.
    pub fn socket(&mut self) -> Option<&mut Socket<'static>> {
        let handle = self.handle;
        self.set.as_mut().map(|set| set.get_mut(handle))
    }
}

/// Bytes of the heap that a connection takes beside its buffers: the socket in its set, and an entry in each table.
pub const OVERHEAD: usize = size_of::<SocketStorage<'static>>() + size_of::<Flow>() + 64 + time_wait::BYTES / WAITING;
const _: () = assert!(OVERHEAD <= 1024, "an idle connection is cheap");

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
        let none = || Flow {
            set: None,
            handle: SocketHandle::default(),
            stage: Stage::Unused,
            client: 0,
            ready: false,
            until: Instant::START,
            closing: None,
            slot: None,
            recovery: Recovery::default(),
            largest: NonZeroU16::MIN,
            start: 0,
            end: None,
            sent: None,
            quiet: Instant::START,
        };
        let (large, small) = (0..count.min(layout.large) as u16, layout.large as u16..count as u16);
        Flows {
            flows: (0..count).map(|_| none()).collect(),
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
