//! A connection as its application sees it: positions in its two rings, and what the application
//! has not been notified of yet.

use core::time::Duration;

use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::socket::{ConnectionId, Constant, Reply, Request, Ring, Socket, SourceId};
use cloister_interfaces::{Instant, Memory, Server, System};
use smoltcp::socket::tcp;

use crate::log::Violation;

/// The time between two notices to the application that constant bytes were taken, until all were.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The state of a notice that the application gets once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Notice {
    /// There is nothing to notify of yet.
    #[default]
    Unsent,
    /// The application must be notified.
    Due,
    /// The application was notified.
    Sent,
}

/// The peer of a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its IPv4 address.
    pub address: [u8; 4],
    /// Its port.
    pub port: u16,
    /// The port that it connected to.
    pub local_port: u16,
    /// The number of its address among those that hold connections.
    pub source: SourceId,
}

/// The memory that a connection's bytes come from and go to.
pub struct Streams<'a, M> {
    /// The memory of the rings to the application, and this connection's ring.
    pub stream_in: (&'a M, Ring),
    /// The memory of the rings from the application, and this connection's ring.
    pub stream_out: (&'a M, Ring),
    /// The constant region.
    pub constant: &'static [u8],
}

/// A connection as its application sees it.
pub struct AppStream {
    /// The application: the index of its queue.
    pub client: ClientIndex,
    accepted: Option<Peer>,
    /// The position of the next received byte in the in ring.
    in_position: u32,
    /// Received bytes that the application was not notified of.
    unreported_in: u32,
    /// Bytes that it was notified of and has not consumed.
    unconsumed: u32,
    /// The position of the next byte to send in the out ring.
    out_position: u32,
    /// Bytes that it announced and the socket has not taken.
    unsent: u32,
    /// Bytes that the socket took and the application was not notified of.
    unreported_out: u32,
    /// Constant bytes to send after those in the ring: the offset of the next one in the region.
    /// The range was checked to be inside the region.
    constant_offset: u32,
    /// The number of constant bytes that the socket has not taken.
    constant_left: u32,
    /// The number of those taken that the application was not notified of.
    unreported_constant: u32,
    /// The time at which the application was last notified, or last sent a request.
    last_report: Instant,
    /// The application waits only for the peer. It need not be notified that its bytes were taken.
    quiet: bool,
    /// The notice that the peer has closed its stream.
    peer_closed: Notice,
    /// The notice that the connection has ended.
    closed: Notice,
    /// The last acknowledgement was delayed for the application's answer.
    ack_delayed: bool,
    /// The application has requested the end.
    pub closing: bool,
}

impl AppStream {
    /// Creates the stream of a connection that is accepted now.
    pub fn new(client: ClientIndex, peer: Peer, now: Instant) -> Self {
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
            last_report: now,
            quiet: false,
            peer_closed: Notice::Unsent,
            closed: Notice::Unsent,
            ack_delayed: false,
            closing: false,
        }
    }

    /// Returns when the application was last notified of bytes, or sent some.
    pub fn last_report(&self) -> Instant {
        self.last_report
    }

    /// Returns `true` if the stream has no socket any more.
    pub fn is_detached(&self) -> bool {
        self.closed != Notice::Unsent
    }

    /// Returns how many bytes of the peer's stream were taken from the socket. Returns `None` once
    /// received bytes are discarded.
    pub fn taken_from_socket(&self) -> Option<u32> {
        (!self.closing && !self.is_detached()).then_some(self.in_position)
    }

    /// Returns `true` if neither side needs the index any more.
    pub fn is_free(&self) -> bool {
        self.closing && self.closed == Notice::Sent
    }

    /// Returns `true` if all bytes that the application announced were taken.
    pub fn is_drained(&self) -> bool {
        self.unsent == 0 && self.constant_left == 0
    }

    /// Returns the number of announced bytes that were not taken yet.
    pub fn bytes_left(&self) -> u64 {
        u64::from(self.unsent) + u64::from(self.constant_left)
    }

    /// Detaches the stream from its socket. The application will be notified that the connection
    /// has ended.
    pub fn detach(&mut self) {
        if self.closed == Notice::Unsent {
            self.closed = Notice::Due;
        }
        (self.unsent, self.unreported_in, self.unreported_out) = (0, 0, 0);
        (self.constant_left, self.unreported_constant) = (0, 0);
    }

    /// Handles a request of the application about this connection. `ring_out` is the size of its
    /// out ring, `region` that of the constant region.
    ///
    /// # Errors
    /// The application announces or consumes bytes that it cannot have. The caller ends the
    /// connection.
    pub fn on_request(
        &mut self,
        request: Request,
        ring_out: usize,
        region: usize,
        now: Instant,
    ) -> Result<(), Violation> {
        match request {
            Request::Send { consumed, length, constant, quiet, .. } if !self.is_detached() && !self.closing => {
                self.consumed(consumed)?;
                let total = u64::from(self.unsent) + u64::from(self.unreported_out) + u64::from(length);
                if total > ring_out as u64 || self.constant_left > 0 {
                    return Err(Violation::Send);
                }
                if let Some(Constant { offset, length }) = constant {
                    if u64::from(offset) + u64::from(length) > region as u64 {
                        return Err(Violation::Constant);
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
            // A request that crossed with our `Closed`.
            _ => {}
        }
        Ok(())
    }

    fn consumed(&mut self, length: u32) -> Result<(), Violation> {
        self.unconsumed = self.unconsumed.checked_sub(length).ok_or(Violation::Consumed)?;
        Ok(())
    }

    /// Moves bytes between the socket and the rings, as far as both have room.
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

    /// Returns where in the in ring `count` bytes from `position` of the peer's stream belong.
    /// Returns `None` if they are not the next ones, or if the socket holds bytes before them.
    pub fn ring_position(&self, socket: &tcp::Socket<'_>, position: u32, count: usize, ring: Ring) -> Option<u32> {
        let room = ring.size.saturating_sub((self.unconsumed + self.unreported_in) as usize);
        let next =
            socket.state() == tcp::State::Established && socket.recv_queue() == 0 && self.in_position == position;
        (next && count <= room && !self.closing && !self.is_detached()).then_some(self.in_position)
    }

    /// Counts bytes as received that were copied to the ring before smoltcp took their segment: as
    /// many of the `count` as smoltcp accepted.
    pub fn accept_direct(&mut self, socket: &mut tcp::Socket<'_>, count: usize) {
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

    /// Returns `true` if the acknowledgement is delayed, because the application will be notified
    /// of something that it usually answers at once.
    ///
    /// It is never delayed twice in a row, so that a peer that sends all the time gets
    /// acknowledgements.
    pub fn delays_ack(&mut self) -> bool {
        self.ack_delayed = !self.ack_delayed && (self.unreported_in > 0 || self.peer_closed == Notice::Due);
        self.ack_delayed
    }

    /// Notifies the application of everything new, as far as the queue has room. Returns `true` if
    /// the application must be woken.
    pub fn notify<S: System, M: Memory>(
        &mut self,
        connection: ConnectionId,
        server: &mut Server<Socket, S, M>,
        now: Instant,
    ) -> bool {
        let replies = &mut server.replies;
        let mut wake = false;
        if let Some(Peer { address, port, local_port, source }) = self.accepted {
            if replies.push(&Reply::Accepted { connection, address, port, local_port, source }).is_err() {
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

    /// Records that the application was notified of all taken bytes.
    fn reported(&mut self, now: Instant) {
        (self.unreported_out, self.unreported_constant, self.quiet, self.last_report) = (0, 0, false, now);
    }

    /// Returns `true` if the application was not notified of some taken bytes.
    fn has_unreported(&self) -> bool {
        self.unreported_out > 0 || self.unreported_constant > 0
    }

    /// Returns `true` if the application has handled everything that it was notified of, and waits
    /// only for the peer.
    fn needs_no_report(&self) -> bool {
        self.quiet && self.is_drained() && self.unconsumed == 0 && self.peer_closed == Notice::Unsent
    }

    /// Returns `true` if the queue had no room for a notice about bytes.
    pub fn has_pending_bytes(&self) -> bool {
        let sent = self.has_unreported() && self.is_drained() && !self.needs_no_report();
        self.accepted.is_some() || self.unreported_in > 0 || sent
    }

    /// Returns `true` if the queue had no room for some notice.
    pub fn has_pending(&self) -> bool {
        self.has_pending_bytes() || self.peer_closed == Notice::Due || self.closed == Notice::Due
    }
}

/// Discards received bytes: the application reads no more.
pub fn discard(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_delayed_for_new_bytes_and_never_twice_in_a_row() {
        let peer = Peer { address: [10, 0, 0, 1], port: 5000, local_port: 80, source: SourceId(0) };
        let mut stream = AppStream::new(ClientIndex(0), peer, Instant::START);
        assert!(!stream.delays_ack(), "nothing came");
        stream.unreported_in = 1;
        assert_eq!([(); 4].map(|()| stream.delays_ack()), [true, false, true, false]);
        (stream.unreported_in, stream.peer_closed) = (0, Notice::Due);
        assert_eq!([(); 2].map(|()| stream.delays_ack()), [true, false]);
        stream.peer_closed = Notice::Sent;
        assert!(!stream.delays_ack(), "it was told");
    }
}
