//! One connection as the application knows it: positions in its two rings, and what it has yet to be told.

use core::time::Duration;

use cloister_interfaces::socket::{Connection, Constant, Reply, Request, Ring, Socket};
use cloister_interfaces::{Instant, Memory, Server, System};
use smoltcp::socket::tcp;

use crate::refusals::Refusal;

/// How often the application is told of constant bytes that were taken, until all were.
const PROGRESS: Duration = Duration::from_secs(1);

/// Something that the application is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Notice {
    #[default]
    No,
    Due,
    Told,
}

/// The peer of a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its address.
    pub address: [u8; 4],
    /// Its port.
    pub port: u16,
    /// The port that it connected to.
    pub local_port: u16,
}

/// Where a connection's bytes come from and go to.
pub struct Streams<'a, M> {
    /// The region of the rings to the application, and this connection's.
    pub stream_in: (&'a M, Ring),
    /// The region of the rings from the application, and this connection's.
    pub stream_out: (&'a M, Ring),
    /// The region that is constant.
    pub constant: &'static [u8],
}

/// A connection in use.
pub struct Slot {
    /// The application that has it: the index of its queue.
    pub client: u8,
    accepted: Option<Peer>,
    /// Where the next received byte goes; bytes not told of; bytes told of and not consumed.
    write: u32,
    received: u32,
    unconsumed: u32,
    /// Where the next byte to send is; bytes announced and not taken; bytes taken and not told of.
    read: u32,
    unsent: u32,
    sent: u32,
    /// What is sent after those: where it starts in the constant region, how much is left, how much was taken and not told
    /// of. It was checked to lie in the region.
    constant: u32,
    constant_left: u32,
    constant_sent: u32,
    /// When the application was told last, or asked.
    told: Instant,
    /// The application, which was told of nothing since it asked, need not be told that all was taken.
    quiet: bool,
    peer_closed: Notice,
    closed: Notice,
    /// What there is to acknowledge was left for the application's answer.
    awaited: bool,
    /// The application has asked for the end.
    pub closing: bool,
}

impl Slot {
    /// A connection that was just accepted.
    pub fn new(client: u8, peer: Peer) -> Self {
        Slot {
            client,
            accepted: Some(peer),
            write: 0,
            received: 0,
            unconsumed: 0,
            read: 0,
            unsent: 0,
            sent: 0,
            constant: 0,
            constant_left: 0,
            constant_sent: 0,
            told: Instant::START,
            quiet: false,
            peer_closed: Notice::No,
            closed: Notice::No,
            awaited: false,
            closing: false,
        }
    }

    /// Whether the socket is no longer the application's.
    pub fn is_over(&self) -> bool {
        self.closed != Notice::No
    }

    /// Returns how many bytes of the peer's stream were taken from the socket; nothing once they
    /// are thrown away.
    pub fn taken(&self) -> Option<u32> {
        (!self.closing && !self.is_over()).then_some(self.write)
    }

    /// Whether both sides are done with the index.
    pub fn is_free(&self) -> bool {
        self.closing && self.closed == Notice::Told
    }

    /// Whether all that the application announced was taken.
    pub fn is_drained(&self) -> bool {
        self.unsent == 0 && self.constant_left == 0
    }

    /// How many bytes the application announced that were not taken yet.
    pub fn left(&self) -> u64 {
        u64::from(self.unsent) + u64::from(self.constant_left)
    }

    /// Parts from the socket; the application will be told that the connection is over.
    pub fn part(&mut self) {
        if self.closed == Notice::No {
            self.closed = Notice::Due;
        }
        (self.unsent, self.received, self.sent) = (0, 0, 0);
        (self.constant_left, self.constant_sent) = (0, 0);
    }

    /// Takes note of a request of the application about this connection. `ring_out` is the size of its ring, `region` that
    /// of the constant region.
    ///
    /// # Errors
    /// A length is impossible.
    pub fn asked(&mut self, request: Request, ring_out: usize, region: usize, now: Instant) -> Result<(), Refusal> {
        match request {
            Request::Send { consumed, length, constant, quiet, .. } if !self.is_over() && !self.closing => {
                self.consumed(consumed)?;
                let total = u64::from(self.unsent) + u64::from(self.sent) + u64::from(length);
                if total > ring_out as u64 || self.constant_left > 0 {
                    return Err(Refusal::Send);
                }
                if let Some(Constant { offset, length }) = constant {
                    if u64::from(offset) + u64::from(length) > region as u64 {
                        return Err(Refusal::Constant);
                    }
                    (self.constant, self.constant_left) = (offset, length);
                }
                self.unsent += length;
                (self.quiet, self.told) = (quiet, now);
            }
            Request::Consumed { length, .. } if !self.is_over() => {
                self.consumed(length)?;
            }
            Request::Close { .. } | Request::Abort { .. } => self.closing = true,
            // What crossed with our `Closed`.
            _ => {}
        }
        Ok(())
    }

    fn consumed(&mut self, length: u32) -> Result<(), Refusal> {
        self.unconsumed = self.unconsumed.checked_sub(length).ok_or(Refusal::Consumed)?;
        Ok(())
    }

    /// Moves bytes between the socket and the rings as far as both have room.
    pub fn pump<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, streams: &Streams<'_, M>) {
        if self.closing {
            discard(socket);
        } else {
            self.fill(socket, streams);
            let over = socket.state() == tcp::State::Closed;
            if self.peer_closed == Notice::No && !over && !socket.may_recv() && socket.recv_queue() == 0 {
                self.peer_closed = Notice::Due;
            }
        }
        if !self.is_drained() {
            self.drain(socket, streams);
        }
    }

    /// Where in the in ring `count` bytes from `position` in the peer's stream belong, if `socket` has none before them and they are
    /// those that come next.
    pub fn place(&self, socket: &tcp::Socket<'_>, position: u32, count: usize, ring: Ring) -> Option<u32> {
        let room = ring.size.saturating_sub((self.unconsumed + self.received) as usize);
        let next = socket.state() == tcp::State::Established && socket.recv_queue() == 0 && self.write == position;
        (next && count <= room && !self.closing && !self.is_over()).then_some(self.write)
    }

    /// The socket took a segment whose `count` bytes were put where they belong: those that it took are received.
    pub fn placed(&mut self, socket: &mut tcp::Socket<'_>, count: usize) {
        let mut left = count;
        while left > 0 {
            let taken = socket.recv(|bytes| (bytes.len().min(left), bytes.len().min(left))).unwrap_or(0);
            if taken == 0 {
                return;
            }
            left -= taken;
            self.write = self.write.wrapping_add(taken as u32);
            self.received += taken as u32;
        }
    }

    fn fill<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, streams: &Streams<'_, M>) {
        let (memory, ring) = streams.stream_in;
        while socket.can_recv() {
            let room = ring.size.saturating_sub((self.unconsumed + self.received) as usize);
            let (offset, room) = ring.span(self.write, room);
            let moved = socket.recv(|bytes| {
                let count = bytes.len().min(room);
                memory.write(offset, bytes.get(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.write = self.write.wrapping_add(count as u32);
                    self.received += count as u32;
                }
                _ => return,
            }
        }
    }

    fn drain<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, streams: &Streams<'_, M>) {
        let (memory, ring) = streams.stream_out;
        while self.unsent > 0 && socket.can_send() {
            let (offset, available) = ring.span(self.read, self.unsent as usize);
            let moved = socket.send(|space| {
                let count = space.len().min(available);
                memory.read(offset, space.get_mut(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.read = self.read.wrapping_add(count as u32);
                    self.unsent -= count as u32;
                    self.sent += count as u32;
                }
                _ => return,
            }
        }
        while self.unsent == 0 && self.constant_left > 0 && socket.can_send() {
            let from = streams.constant.get(self.constant as usize..).unwrap_or_default();
            let from = from.get(..self.constant_left as usize).unwrap_or(from);
            let moved = socket.send(|space| {
                let count = space.len().min(from.len());
                if let (Some(space), Some(from)) = (space.get_mut(..count), from.get(..count)) {
                    space.copy_from_slice(from);
                }
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.constant += count as u32;
                    self.constant_left -= count as u32;
                    self.constant_sent += count as u32;
                }
                _ => return,
            }
        }
    }

    /// Whether the application is to be told of something that it mostly answers at once. Never twice in a row: who sends on and on
    /// is acknowledged all the same.
    pub fn awaits_answer(&mut self) -> bool {
        self.awaited = !self.awaited && (self.received > 0 || self.peer_closed == Notice::Due);
        self.awaited
    }

    /// Tells the application what it has not been told, as far as the queue has room. Answers whether it is to be woken for
    /// it.
    pub fn tell<S: System, M: Memory>(&mut self, index: u16, server: &mut Server<Socket, S, M>, now: Instant) -> bool {
        let connection = Connection(index);
        let replies = &mut server.replies;
        let mut wake = false;
        if let Some(Peer { address, port, local_port }) = self.accepted {
            if replies.push(&Reply::Accepted { connection, address, port, local_port }).is_err() {
                return true;
            }
            self.accepted = None;
            wake = true;
        }
        if self.received > 0 {
            let (length, sent, constant) = (self.received, self.sent, self.constant_sent);
            if replies.push(&Reply::Received { connection, length, sent, constant }).is_ok() {
                self.unconsumed += core::mem::take(&mut self.received);
                self.was_told(now);
            }
            wake = true;
        }
        wake |= self.tell_sent(connection, server, now);
        let replies = &mut server.replies;
        if self.peer_closed == Notice::Due {
            if !self.is_behind() && replies.push(&Reply::PeerClosed { connection }).is_ok() {
                self.peer_closed = Notice::Told;
            }
            wake = true;
        }
        if self.closed == Notice::Due {
            if replies.push(&Reply::Closed { connection }).is_ok() {
                self.closed = Notice::Told;
            }
            wake = true;
        }
        wake
    }

    fn tell_sent<S: System, M: Memory>(
        &mut self,
        connection: Connection,
        server: &mut Server<Socket, S, M>,
        now: Instant,
    ) -> bool {
        let early = self.constant_left > 0 && now < self.told + PROGRESS;
        if !self.has_sent() || self.is_patient() || early {
            return false;
        }
        let reply = Reply::Sent { connection, length: self.sent, constant: self.constant_sent };
        if server.replies.push(&reply).is_ok() {
            self.was_told(now);
        }
        true
    }

    /// The application was told what was taken.
    fn was_told(&mut self, now: Instant) {
        (self.sent, self.constant_sent, self.quiet, self.told) = (0, 0, false, now);
    }

    /// Whether there is something that was taken and not told of.
    fn has_sent(&self) -> bool {
        self.sent > 0 || self.constant_sent > 0
    }

    /// Whether the application has seen to all that it was told, and waits for nothing but the peer.
    fn is_patient(&self) -> bool {
        self.quiet && self.is_drained() && self.unconsumed == 0 && self.peer_closed == Notice::No
    }

    /// Whether something could not be told for want of room in the queue.
    pub fn is_behind(&self) -> bool {
        let sent = self.has_sent() && self.is_drained() && !self.is_patient();
        self.accepted.is_some() || self.received > 0 || sent
    }

    /// Whether the end, of the peer's stream or of the connection, could not be told for want of room in the queue.
    pub fn owes(&self) -> bool {
        self.is_behind() || self.peer_closed == Notice::Due || self.closed == Notice::Due
    }
}

/// Throws away what was received: the application reads no more.
pub fn discard(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_awaited_for_what_is_new_and_never_twice_in_a_row() {
        let mut slot = Slot::new(0, Peer { address: [10, 0, 0, 1], port: 5000, local_port: 80 });
        assert!(!slot.awaits_answer(), "nothing came");
        slot.received = 1;
        assert_eq!([(); 4].map(|()| slot.awaits_answer()), [true, false, true, false]);
        (slot.received, slot.peer_closed) = (0, Notice::Due);
        assert_eq!([(); 2].map(|()| slot.awaits_answer()), [true, false]);
        slot.peer_closed = Notice::Told;
        assert!(!slot.awaits_answer(), "it was told");
    }
}
