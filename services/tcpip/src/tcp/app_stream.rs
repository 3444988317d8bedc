//! One connection as the application knows it: positions in its two rings, and what it has yet to be told.

use core::time::Duration;

use cloister_interfaces::socket::{Connection as ConnectionId, Constant, Reply, Request, Ring, Socket};
use cloister_interfaces::{Instant, Memory, Server, System};
use smoltcp::socket::tcp;

use crate::refusals::Refusal;

/// How often the application is told of constant bytes that were taken, until all were.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Something that the application is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Notice {
    #[default]
    Unsent,
    Due,
    Sent,
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
pub struct AppStream {
    /// The application that has it: the index of its queue.
    pub client: u8,
    accepted: Option<Peer>,
    /// Where the next received byte goes; bytes not told of; bytes told of and not consumed.
    in_position: u32,
    unreported_in: u32,
    unconsumed: u32,
    /// Where the next byte to send is; bytes announced and not taken; bytes taken and not told of.
    out_position: u32,
    unsent: u32,
    unreported_out: u32,
    /// What is sent after those: where it starts in the constant region, how much is left, how much was taken and not told
    /// of. It was checked to lie in the region.
    constant_offset: u32,
    constant_left: u32,
    unreported_constant: u32,
    /// When the application was told last, or asked.
    last_report: Instant,
    /// The application, which was told of nothing since it asked, need not be told that all was taken.
    quiet: bool,
    peer_closed: Notice,
    closed: Notice,
    /// What there is to acknowledge was left for the application's answer.
    ack_delayed: bool,
    /// The application has asked for the end.
    pub closing: bool,
}

impl AppStream {
    /// A connection that was just accepted.
    pub fn new(client: u8, peer: Peer) -> Self {
        AppStream {
            client,
            accepted: Some(peer),
            in_position: 0,
            unreported_in: 0,
            unconsumed: 0,
            out_position: 0,
            unsent: 0,
            unreported_out: 0,
            constant_offset: 0,
            constant_left: 0,
            unreported_constant: 0,
            last_report: Instant::START,
            quiet: false,
            peer_closed: Notice::Unsent,
            closed: Notice::Unsent,
            ack_delayed: false,
            closing: false,
        }
    }

    /// Whether the socket is no longer the application's.
    pub fn is_detached(&self) -> bool {
        self.closed != Notice::Unsent
    }

    /// Returns how many bytes of the peer's stream were taken from the socket; nothing once they
    /// are thrown away.
    pub fn taken_from_socket(&self) -> Option<u32> {
        (!self.closing && !self.is_detached()).then_some(self.in_position)
    }

    /// Whether both sides are done with the index.
    pub fn is_free(&self) -> bool {
        self.closing && self.closed == Notice::Sent
    }

    /// Whether all that the application announced was taken.
    pub fn is_drained(&self) -> bool {
        self.unsent == 0 && self.constant_left == 0
    }

    /// How many bytes the application announced that were not taken yet.
    pub fn bytes_left(&self) -> u64 {
        u64::from(self.unsent) + u64::from(self.constant_left)
    }

    /// Parts from the socket; the application will be told that the connection is over.
    pub fn detach(&mut self) {
        if self.closed == Notice::Unsent {
            self.closed = Notice::Due;
        }
        (self.unsent, self.unreported_in, self.unreported_out) = (0, 0, 0);
        (self.constant_left, self.unreported_constant) = (0, 0);
    }

    /// Takes note of a request of the application about this connection. `ring_out` is the size of its ring, `region` that
    /// of the constant region.
    ///
    /// # Errors
    /// A length is impossible.
    pub fn on_request(
        &mut self,
        request: Request,
        ring_out: usize,
        region: usize,
        now: Instant,
    ) -> Result<(), Refusal> {
        match request {
            Request::Send { consumed, length, constant, quiet, .. } if !self.is_detached() && !self.closing => {
                self.consumed(consumed)?;
                let total = u64::from(self.unsent) + u64::from(self.unreported_out) + u64::from(length);
                if total > ring_out as u64 || self.constant_left > 0 {
                    return Err(Refusal::Send);
                }
                if let Some(Constant { offset, length }) = constant {
                    if u64::from(offset) + u64::from(length) > region as u64 {
                        return Err(Refusal::Constant);
                    }
                    (self.constant_offset, self.constant_left) = (offset, length);
                }
                self.unsent += length;
                (self.quiet, self.last_report) = (quiet, now);
            }
            Request::Consumed { length, .. } if !self.is_detached() => {
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
            self.fill_in_ring(socket, streams);
            let over = socket.state() == tcp::State::Closed;
            if self.peer_closed == Notice::Unsent && !over && !socket.may_recv() && socket.recv_queue() == 0 {
                self.peer_closed = Notice::Due;
            }
        }
        if !self.is_drained() {
            self.drain_out_ring(socket, streams);
        }
    }

    /// Where in the in ring `count` bytes from `position` in the peer's stream belong, if `socket` has none before them and they are
    /// those that come next.
    pub fn ring_position(&self, socket: &tcp::Socket<'_>, position: u32, count: usize, ring: Ring) -> Option<u32> {
        let room = ring.size.saturating_sub((self.unconsumed + self.unreported_in) as usize);
        let next =
            socket.state() == tcp::State::Established && socket.recv_queue() == 0 && self.in_position == position;
        (next && count <= room && !self.closing && !self.is_detached()).then_some(self.in_position)
    }

    /// The socket took a segment whose `count` bytes were put where they belong: those that it took are received.
    pub fn accept_placed(&mut self, socket: &mut tcp::Socket<'_>, count: usize) {
        let mut left = count;
        while left > 0 {
            let taken = socket.recv(|bytes| (bytes.len().min(left), bytes.len().min(left))).unwrap_or(0);
            if taken == 0 {
                return;
            }
            left -= taken;
            self.in_position = self.in_position.wrapping_add(taken as u32);
            self.unreported_in += taken as u32;
        }
    }

    fn fill_in_ring<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, streams: &Streams<'_, M>) {
        let (memory, ring) = streams.stream_in;
        while socket.can_recv() {
            let room = ring.size.saturating_sub((self.unconsumed + self.unreported_in) as usize);
            let (offset, room) = ring.span(self.in_position, room);
            let moved = socket.recv(|bytes| {
                let count = bytes.len().min(room);
                memory.write(offset, bytes.get(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.in_position = self.in_position.wrapping_add(count as u32);
                    self.unreported_in += count as u32;
                }
                _ => return,
            }
        }
    }

    fn drain_out_ring<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, streams: &Streams<'_, M>) {
        let (memory, ring) = streams.stream_out;
        while self.unsent > 0 && socket.can_send() {
            let (offset, available) = ring.span(self.out_position, self.unsent as usize);
            let moved = socket.send(|space| {
                let count = space.len().min(available);
                memory.read(offset, space.get_mut(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.out_position = self.out_position.wrapping_add(count as u32);
                    self.unsent -= count as u32;
                    self.unreported_out += count as u32;
                }
                _ => return,
            }
        }
        while self.unsent == 0 && self.constant_left > 0 && socket.can_send() {
            let from = streams.constant.get(self.constant_offset as usize..).unwrap_or_default();
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
                    self.constant_offset += count as u32;
                    self.constant_left -= count as u32;
                    self.unreported_constant += count as u32;
                }
                _ => return,
            }
        }
    }

    /// Whether the application is to be told of something that it mostly answers at once. Never twice in a row: who sends on and on
    /// is acknowledged all the same.
    pub fn delays_ack(&mut self) -> bool {
        self.ack_delayed = !self.ack_delayed && (self.unreported_in > 0 || self.peer_closed == Notice::Due);
        self.ack_delayed
    }

    /// Tells the application what it has not been told, as far as the queue has room. Answers whether it is to be woken for
    /// it.
    pub fn notify<S: System, M: Memory>(
        &mut self,
        index: u16,
        server: &mut Server<Socket, S, M>,
        now: Instant,
    ) -> bool {
        let connection = ConnectionId(index);
        let replies = &mut server.replies;
        let mut wake = false;
        if let Some(Peer { address, port, local_port }) = self.accepted {
            if replies.push(&Reply::Accepted { connection, address, port, local_port }).is_err() {
                return true;
            }
            self.accepted = None;
            wake = true;
        }
        if self.unreported_in > 0 {
            let (length, sent, constant) = (self.unreported_in, self.unreported_out, self.unreported_constant);
            if replies.push(&Reply::Received { connection, length, sent, constant }).is_ok() {
                self.unconsumed += core::mem::take(&mut self.unreported_in);
                self.reported(now);
            }
            wake = true;
        }
        wake |= self.notify_sent(connection, server, now);
        let replies = &mut server.replies;
        if self.peer_closed == Notice::Due {
            if !self.has_pending_bytes() && replies.push(&Reply::PeerClosed { connection }).is_ok() {
                self.peer_closed = Notice::Sent;
            }
            wake = true;
        }
        if self.closed == Notice::Due {
            if replies.push(&Reply::Closed { connection }).is_ok() {
                self.closed = Notice::Sent;
            }
            wake = true;
        }
        wake
    }

    fn notify_sent<S: System, M: Memory>(
        &mut self,
        connection: ConnectionId,
        server: &mut Server<Socket, S, M>,
        now: Instant,
    ) -> bool {
        let early = self.constant_left > 0 && now < self.last_report + REPORT_INTERVAL;
        if !self.has_unreported() || self.needs_no_report() || early {
            return false;
        }
        let reply = Reply::Sent { connection, length: self.unreported_out, constant: self.unreported_constant };
        if server.replies.push(&reply).is_ok() {
            self.reported(now);
        }
        true
    }

    /// The application was told what was taken.
    fn reported(&mut self, now: Instant) {
        (self.unreported_out, self.unreported_constant, self.quiet, self.last_report) = (0, 0, false, now);
    }

    /// Whether there is something that was taken and not told of.
    fn has_unreported(&self) -> bool {
        self.unreported_out > 0 || self.unreported_constant > 0
    }

    /// Whether the application has seen to all that it was told, and waits for nothing but the peer.
    fn needs_no_report(&self) -> bool {
        self.quiet && self.is_drained() && self.unconsumed == 0 && self.peer_closed == Notice::Unsent
    }

    /// Whether something could not be told for want of room in the queue.
    pub fn has_pending_bytes(&self) -> bool {
        let sent = self.has_unreported() && self.is_drained() && !self.needs_no_report();
        self.accepted.is_some() || self.unreported_in > 0 || sent
    }

    /// Whether the end, of the peer's stream or of the connection, could not be told for want of room in the queue.
    pub fn has_pending(&self) -> bool {
        self.has_pending_bytes() || self.peer_closed == Notice::Due || self.closed == Notice::Due
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
        let mut stream = AppStream::new(0, Peer { address: [10, 0, 0, 1], port: 5000, local_port: 80 });
        assert!(!stream.delays_ack(), "nothing came");
        stream.unreported_in = 1;
        assert_eq!([(); 4].map(|()| stream.delays_ack()), [true, false, true, false]);
        (stream.unreported_in, stream.peer_closed) = (0, Notice::Due);
        assert_eq!([(); 2].map(|()| stream.delays_ack()), [true, false]);
        stream.peer_closed = Notice::Sent;
        assert!(!stream.delays_ack(), "it was told");
    }
}
