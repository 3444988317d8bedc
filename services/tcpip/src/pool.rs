//! TCP sockets: made once, within what the heap was sized for, and used again and again.

use alloc::vec::Vec;

use cloister_interfaces::socket::{Layout, MAX_CONNECTIONS};
use smoltcp::socket::tcp;
use smoltcp::time::Duration;

/// What a socket costs beside its buffers: smoltcp's state, in the set of sockets and in the pool, our tables, the
/// allocator's headers.
const OVERHEAD: usize = 1280;
/// Sockets beyond the connections, which listen while every connection is in use.
const LISTENERS: usize = 16;
/// A peer that acknowledges nothing for this long is gone.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often a silent peer is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sockets that are not in use, and the right to make more.
pub struct Pool {
    idle: Vec<tcp::Socket<'static>>,
    made: usize,
    capacity: usize,
    receive: usize,
    send: usize,
}

impl Pool {
    /// A pool for the connections of `layout`. All sockets together take at most `budget` bytes.
    pub fn new(layout: Layout, budget: usize) -> Self {
        let send = (layout.ring_out / 2).clamp(2048, 64 * 1024);
        let receive = (layout.ring_out / 8).clamp(2048, 8 * 1024);
        let affordable = budget / (send + receive + OVERHEAD);
        let wanted = layout.connections.min(MAX_CONNECTIONS) + LISTENERS;
        Pool { idle: Vec::new(), made: 0, capacity: affordable.clamp(1, wanted), receive, send }
    }

    /// The most sockets that there will be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sockets that [`Self::take`] can still answer.
    pub fn left(&self) -> usize {
        self.idle.len() + (self.capacity - self.made)
    }

    /// A closed socket, if one is left.
    pub fn take(&mut self) -> Option<tcp::Socket<'static>> {
        if let Some(socket) = self.idle.pop() {
            return Some(socket);
        }
        if self.made == self.capacity {
            return None;
        }
        let Some(socket) = self.make() else {
            // The heap is smaller than the policy's proportion promised: live with what there is.
            self.capacity = self.made;
            return None;
        };
        self.made += 1;
        Some(socket)
    }

    /// Takes a socket back, in whatever state.
    pub fn put(&mut self, mut socket: tcp::Socket<'static>) {
        socket.abort();
        self.idle.push(socket);
    }

    fn make(&mut self) -> Option<tcp::Socket<'static>> {
        self.idle.try_reserve_exact(self.capacity - self.idle.len()).ok()?;
        let mut socket = tcp::Socket::new(buffer(self.receive)?, buffer(self.send)?);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_timeout(Some(TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        Some(socket)
    }
}

fn buffer(length: usize) -> Option<tcp::SocketBuffer<'static>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).ok()?;
    bytes.resize(length, 0);
    Some(tcp::SocketBuffer::new(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_socket_is_made_once_and_comes_back_closed() {
        let mut pool = Pool::new(Layout::of(4096, 8192), 3 * (2048 + 2048 + OVERHEAD));
        assert_eq!((pool.capacity(), pool.left()), (3, 3));
        let mut taken: Vec<_> = core::iter::from_fn(|| pool.take()).collect();
        assert_eq!((taken.len(), pool.left()), (3, 0));
        let mut socket = taken.pop().unwrap();
        socket.listen(80).unwrap();
        pool.put(socket);
        assert_eq!(pool.left(), 1);
        assert!(pool.take().unwrap().listen(81).is_ok());
    }

    proptest! {
        #[test]
        fn buffers_never_exceed_the_budget(stream_in in 2048usize..1 << 26, stream_out in 8192usize..1 << 30) {
            let pool = Pool::new(Layout::of(stream_in, stream_out), stream_out);
            let cost = pool.capacity() * (pool.receive + pool.send + OVERHEAD);
            prop_assert!(cost <= stream_out, "{} sockets cost {cost} of {stream_out}", pool.capacity());
        }
    }
}
