//! TCP: who listens, which connections are open, and which sockets see a connection to its end.
//!
//! A socket is in the pool (closed), listening, bound to a [`Slot`], or lingering: given up by the application,
//! with data or a FIN still on its way. Lingering sockets that have nothing left to deliver are taken back as soon as
//! another is needed, so a burst of short connections is not held up by TIME-WAIT.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_interfaces::Instant;
use cloister_interfaces::socket::Layout;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::IpAddress;

use crate::pool::Pool;
use crate::slot::{Peer, Slot, discard};

/// Ports that can be listened to.
const MAX_PORTS: usize = 8;
/// Sockets that listen to one port at a time: connection attempts that can come in one batch.
const LISTENING: usize = 16;
/// How long a peer may take to answer our SYN.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// How long a closed connection may take to deliver what was sent.
const LINGER: Duration = Duration::from_secs(60);
/// How long a peer that closed nothing itself is waited for, once all was delivered.
const FIN_WAIT: Duration = Duration::from_secs(10);

/// How long a reset may take to leave.
const RESET: Duration = Duration::from_secs(1);

struct Listener {
    handle: SocketHandle,
    client: u8,
    port: u16,
    /// When a SYN came.
    since: Option<Instant>,
}

struct Lingering {
    handle: SocketHandle,
    until: Instant,
    /// Nothing is left to deliver.
    delivered: bool,
}

/// The TCP sockets of the image.
pub struct Transport {
    /// smoltcp's sockets in use, ours and others.
    pub sockets: SocketSet<'static>,
    /// The connections, by index.
    pub slots: Vec<Option<Slot>>,
    free_slots: VecDeque<u16>,
    pool: Pool,
    ports: ArrayVec<(u8, u16), MAX_PORTS>,
    listeners: Vec<Listener>,
    lingering: VecDeque<Lingering>,
}

impl Transport {
    /// No connections yet; sockets for `layout` within `budget` bytes.
    pub fn new(layout: Layout, budget: usize) -> Self {
        let pool = Pool::new(layout, budget);
        let slots: Vec<_> = (0..layout.connections).map(|_| None).collect();
        Transport {
            sockets: SocketSet::new(Vec::with_capacity(pool.capacity() + 2)),
            free_slots: (0..layout.connections as u16).collect(),
            slots,
            ports: ArrayVec::new(),
            listeners: Vec::with_capacity(pool.capacity()),
            lingering: VecDeque::with_capacity(pool.capacity()),
            pool,
        }
    }

    /// Whether `client` has a connection.
    pub fn has_connections(&self, client: u8) -> bool {
        self.slots.iter().flatten().any(|slot| slot.client == client)
    }

    /// Whether no connection is open or has anything left to deliver.
    pub fn is_silent(&self) -> bool {
        self.listeners.is_empty()
            && self.slots.iter().flatten().all(|slot| slot.handle.is_none())
            && self.lingering.iter().all(|lingering| lingering.delivered)
    }

    /// Whether a connection attempt would be answered: some listener would take it, or nobody listens and it is refused.
    pub fn is_listening(&self) -> bool {
        self.ports.is_empty() || self.listeners.iter().any(|listener| listener.since.is_none())
    }

    /// How many connections can still be opened.
    pub fn free(&self) -> usize {
        let waiting = self.listeners.iter().filter(|listener| listener.since.is_none()).count();
        let recyclable = self.lingering.iter().filter(|lingering| lingering.delivered).count();
        (self.pool.left() + waiting + recyclable).min(self.free_slots.len())
    }

    /// Below this many free connections the applications are told of pressure.
    pub fn scarce(&self) -> usize {
        (self.slots.len().min(self.pool.capacity()) / 4).max(1)
    }

    /// Ports that `client` listens to.
    pub fn listens(&self, client: u8) -> bool {
        self.ports.iter().any(|(owner, _)| *owner == client)
    }

    /// Who listens to `port`.
    pub fn owner(&self, port: u16) -> Option<u8> {
        self.ports.iter().find(|(_, listened)| *listened == port).map(|(owner, _)| *owner)
    }

    /// Listens to `port` for `client`. Answers whether that was possible.
    pub fn listen(&mut self, client: u8, port: u16) -> bool {
        port != 0 && self.owner(port).is_none() && self.ports.try_push((client, port)).is_ok()
    }

    /// Forgets `client`: its ports, and its connections, which are reset. They need no `Close`.
    pub fn forget(&mut self, client: u8, now: Instant) {
        self.ports.retain(|(owner, _)| *owner != client);
        self.stop_listening(now);
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index).and_then(|slot| slot.take_if(|slot| slot.client == client))
            else {
                continue;
            };
            self.free_slots.push_back(index as u16);
            if let Some(handle) = slot.handle {
                self.abort(handle, now);
            }
        }
    }

    /// Accepts nothing more.
    pub fn close_ports(&mut self, now: Instant) {
        self.ports.clear();
        self.stop_listening(now);
    }

    fn stop_listening(&mut self, now: Instant) {
        let ports = &self.ports;
        let gone: ArrayVec<SocketHandle, { LISTENING * MAX_PORTS }> = self
            .listeners
            .extract_if(.., |listener| !ports.contains(&(listener.client, listener.port)))
            .map(|listener| listener.handle)
            .take(LISTENING * MAX_PORTS)
            .collect();
        for handle in gone {
            self.abort(handle, now);
        }
    }

    /// Resets the connection of a socket; it lingers until the reset is sent.
    pub fn abort(&mut self, handle: SocketHandle, now: Instant) {
        self.sockets.get_mut::<Socket<'_>>(handle).abort();
        self.linger(handle, now);
    }

    /// Sees a socket's connection to its end.
    pub fn linger(&mut self, handle: SocketHandle, now: Instant) {
        self.lingering.push_back(Lingering { handle, until: now + LINGER, delivered: false });
    }

    /// Resets every connection, and answers none of them.
    pub fn abort_all(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let handle = self.slots.get_mut(index).and_then(Option::as_mut).and_then(Slot::part);
            if let Some(handle) = handle {
                self.abort(handle, now);
            }
        }
        for lingering in &self.lingering {
            let socket = self.sockets.get_mut::<Socket<'_>>(lingering.handle);
            if !lingering.delivered {
                socket.abort();
            }
        }
    }

    /// Frees a slot that both sides are done with.
    pub fn free_slot(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index)
            && slot.take_if(|slot| slot.is_free()).is_some()
        {
            self.free_slots.push_back(index as u16);
        }
    }

    /// Moves listeners on: peers that connected become connections, and others listen in their place.
    pub fn accept(&mut self, now: Instant) {
        let mut index = 0;
        while index < self.listeners.len() {
            if self.settle(index, now) {
                self.listeners.swap_remove(index);
            } else {
                index += 1;
            }
        }
        for at in 0..self.ports.len() {
            let Some((client, port)) = self.ports.get(at).copied() else { break };
            self.top_up(client, port);
        }
    }

    /// Whether listener `index` is done listening; its socket then has another place.
    fn settle(&mut self, index: usize, now: Instant) -> bool {
        let Some(listener) = self.listeners.get_mut(index) else { return false };
        let socket = self.sockets.get_mut::<Socket<'_>>(listener.handle);
        match socket.state() {
            State::Listen => {
                listener.since = None;
                false
            }
            State::SynReceived => {
                let since = *listener.since.get_or_insert(now);
                if now < since + HALF_OPEN {
                    return false;
                }
                let handle = listener.handle;
                self.reclaim(handle);
                true
            }
            State::Closed => {
                let handle = listener.handle;
                self.linger(handle, now);
                true
            }
            _ => {
                // It waits for a free slot, if need be; there is no hurry from its side.
                listener.since = Some(now);
                let (Some(remote), Some(local)) = (socket.remote_endpoint(), socket.local_endpoint()) else {
                    return false;
                };
                let IpAddress::Ipv4(address) = remote.addr;
                let Some(slot) = self.free_slots.pop_front() else { return false };
                let peer = Peer { address: address.octets(), port: remote.port, local_port: local.port };
                if let Some(place) = self.slots.get_mut(usize::from(slot)) {
                    *place = Some(Slot::new(listener.client, listener.handle, peer));
                }
                true
            }
        }
    }

    fn top_up(&mut self, client: u8, port: u16) {
        let wanted = LISTENING.min((self.pool.capacity() / 2).max(1));
        let ours = |listener: &&Listener| listener.port == port;
        let mut waiting = self.listeners.iter().filter(ours).filter(|listener| listener.since.is_none()).count();
        while waiting < wanted {
            let Some(mut socket) = self.take(waiting == 0) else { return };
            if socket.listen(port).is_err() {
                self.pool.put(socket);
                return;
            }
            let handle = self.sockets.add(socket);
            self.listeners.push(Listener { handle, client, port, since: None });
            waiting += 1;
        }
    }

    /// A socket to listen with: an unused one, or one that has only to wait. If there is none and the `need` is great,
    /// the oldest half-open connection makes room: a flood of SYNs then delays others, but does not lock them out.
    fn take(&mut self, need: bool) -> Option<Socket<'static>> {
        if let Some(socket) = self.pool.take() {
            return Some(socket);
        }
        let at = self.lingering.iter().position(|lingering| lingering.delivered);
        if let Some(lingering) = at.and_then(|at| self.lingering.remove(at)) {
            self.reclaim(lingering.handle);
        } else {
            let half_open =
                |listener: &Listener| self.sockets.get::<Socket<'_>>(listener.handle).state() == State::SynReceived;
            let candidates = self.listeners.iter().enumerate().filter(|(_, listener)| need && half_open(listener));
            let (at, _) = candidates.min_by_key(|(_, listener)| listener.since)?;
            let listener = self.listeners.swap_remove(at);
            self.reclaim(listener.handle);
        }
        self.pool.take()
    }

    /// Puts a socket back into the pool, without a word to its peer.
    fn reclaim(&mut self, handle: SocketHandle) {
        if let smoltcp::socket::Socket::Tcp(socket) = self.sockets.remove(handle) {
            self.pool.put(socket);
        }
    }

    /// Moves lingering sockets on.
    pub fn tend(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(lingering) = self.lingering.get_mut(index) {
            let socket = self.sockets.get_mut::<Socket<'_>>(lingering.handle);
            discard(socket);
            let late = now >= lingering.until;
            let over = socket.state() == State::Closed && (late || socket.remote_endpoint().is_none());
            if matches!(socket.state(), State::FinWait2 | State::TimeWait) && !lingering.delivered {
                lingering.delivered = true;
                lingering.until = now + FIN_WAIT;
            }
            if over || lingering.delivered && late {
                let handle = lingering.handle;
                self.lingering.remove(index);
                self.reclaim(handle);
                continue;
            }
            if late {
                socket.abort();
                lingering.until = now + RESET;
            }
            index += 1;
        }
    }

    /// When something here wants to be looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        let half_open = self.listeners.iter().filter_map(|listener| listener.since.map(|since| since + HALF_OPEN));
        let lingering = self.lingering.iter().map(|lingering| lingering.until);
        half_open.chain(lingering).min()
    }
}
