//! One connection as the application knows it: positions in its two rings, and what it has yet to be told.

use cloister_interfaces::socket::{Connection, Reply, Request, Socket};
use cloister_interfaces::{Memory, Server, System};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

/// Something that the application is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Notice {
    #[default]
    No,
    Due,
    Told,
}

/// Why a request was not followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breach {
    /// More bytes were announced than the out ring has room for.
    Send,
    /// More bytes were consumed than had been received.
    Consumed,
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

/// A position in a ring of a power of two bytes, which runs freely and wraps.
#[derive(Clone, Copy, Default)]
struct Cursor(u32);

impl Cursor {
    /// The offset in the ring, and how many of `count` bytes lie before the ring's end.
    fn span(self, ring: usize, count: usize) -> (usize, usize) {
        let offset = self.0 as usize & (ring - 1);
        (offset, count.min(ring - offset))
    }

    fn advance(&mut self, count: usize) {
        self.0 = self.0.wrapping_add(count as u32);
    }
}

/// A connection in use.
pub struct Slot {
    /// The application that has it: the index of its queue.
    pub client: u8,
    /// Its socket; none once it is over.
    pub handle: Option<SocketHandle>,
    accepted: Option<Peer>,
    /// Where the next received byte goes; bytes not told of; bytes told of and not consumed.
    write: Cursor,
    received: u32,
    unconsumed: u32,
    /// Where the next byte to send is; bytes announced and not taken; bytes taken and not told of.
    read: Cursor,
    unsent: u32,
    sent: u32,
    peer_closed: Notice,
    closed: Notice,
    /// The application has asked for the end.
    pub closing: bool,
}

impl Slot {
    /// A connection that was just accepted.
    pub fn new(client: u8, handle: SocketHandle, peer: Peer) -> Self {
        Slot {
            client,
            handle: Some(handle),
            accepted: Some(peer),
            write: Cursor::default(),
            received: 0,
            unconsumed: 0,
            read: Cursor::default(),
            unsent: 0,
            sent: 0,
            peer_closed: Notice::No,
            closed: Notice::No,
            closing: false,
        }
    }

    /// Whether both sides are done with the index.
    pub fn is_free(&self) -> bool {
        self.closing && self.closed == Notice::Told
    }

    /// Whether all that the application announced was taken.
    pub fn is_drained(&self) -> bool {
        self.unsent == 0
    }

    /// Parts from the socket; the application will be told that the connection is over.
    pub fn part(&mut self) -> Option<SocketHandle> {
        self.closed = Notice::Due;
        (self.unsent, self.received, self.sent) = (0, 0, 0);
        self.handle.take()
    }

    /// Takes note of a request of the application about this connection.
    ///
    /// # Errors
    /// A length is impossible.
    pub fn asked(&mut self, request: Request, ring_out: usize) -> Result<(), Breach> {
        match request {
            Request::Send { length, .. } if self.handle.is_some() && !self.closing => {
                let total = u64::from(self.unsent) + u64::from(self.sent) + u64::from(length);
                if total > ring_out as u64 {
                    return Err(Breach::Send);
                }
                self.unsent += length;
            }
            Request::Consumed { length, .. } if self.handle.is_some() => {
                self.unconsumed = self.unconsumed.checked_sub(length).ok_or(Breach::Consumed)?;
            }
            Request::Close { .. } | Request::Abort { .. } => self.closing = true,
            // What crossed with our `Closed`.
            _ => {}
        }
        Ok(())
    }

    /// Moves bytes between the socket and the rings as far as both have room. `base` is where the ring starts.
    pub fn pump<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, stream_in: &Ring<'_, M>, stream_out: &Ring<'_, M>) {
        if self.closing {
            discard(socket);
        } else {
            self.fill(socket, stream_in);
            let over = socket.state() == tcp::State::Closed;
            if self.peer_closed == Notice::No && !over && !socket.may_recv() && socket.recv_queue() == 0 {
                self.peer_closed = Notice::Due;
            }
        }
        self.drain(socket, stream_out);
    }

    fn fill<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, ring: &Ring<'_, M>) {
        while socket.can_recv() {
            let room = ring.size.saturating_sub((self.unconsumed + self.received) as usize);
            let (offset, room) = self.write.span(ring.size, room);
            let moved = socket.recv(|bytes| {
                let count = bytes.len().min(room);
                ring.memory.write(ring.base + offset, bytes.get(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.write.advance(count);
                    self.received += count as u32;
                }
                _ => return,
            }
        }
    }

    fn drain<M: Memory>(&mut self, socket: &mut tcp::Socket<'_>, ring: &Ring<'_, M>) {
        while self.unsent > 0 && socket.can_send() {
            let (offset, available) = self.read.span(ring.size, self.unsent as usize);
            let moved = socket.send(|space| {
                let count = space.len().min(available);
                ring.memory.read(ring.base + offset, space.get_mut(..count).unwrap_or_default());
                (count, count)
            });
            match moved {
                Ok(count) if count > 0 => {
                    self.read.advance(count);
                    self.unsent -= count as u32;
                    self.sent += count as u32;
                }
                _ => return,
            }
        }
    }

    /// Tells the application what it has not been told, as far as the queue has room.
    pub fn tell<S: System, M: Memory>(&mut self, index: u16, server: &mut Server<Socket, S, M>) {
        let connection = Connection(index);
        let replies = &mut server.replies;
        if let Some(Peer { address, port, local_port }) = self.accepted {
            if replies.push(&Reply::Accepted { connection, address, port, local_port }).is_err() {
                return;
            }
            self.accepted = None;
        }
        if self.received > 0 && replies.push(&Reply::Received { connection, length: self.received }).is_ok() {
            self.unconsumed += core::mem::take(&mut self.received);
        }
        if self.sent > 0 && replies.push(&Reply::Sent { connection, length: self.sent }).is_ok() {
            self.sent = 0;
        }
        let behind = self.received > 0 || self.sent > 0;
        if self.peer_closed == Notice::Due && !behind && replies.push(&Reply::PeerClosed { connection }).is_ok() {
            self.peer_closed = Notice::Told;
        }
        if self.closed == Notice::Due && replies.push(&Reply::Closed { connection }).is_ok() {
            self.closed = Notice::Told;
        }
    }
}

/// Throws away what was received: the application reads no more.
pub fn discard(socket: &mut tcp::Socket<'_>) {
    while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
}

/// One connection's ring in a stream region.
pub struct Ring<'a, M> {
    /// The region.
    pub memory: &'a M,
    /// Where in it the ring starts.
    pub base: usize,
    /// Its bytes; a power of two.
    pub size: usize,
}
