//! The sizes of sockets' buffers: large ones for a few connections, for bulk transfers, and small
//! ones for the others.

use alloc::vec::Vec;

use cloister_interfaces::socket::Layout;
use smoltcp::socket::tcp;

use super::congestion;
use super::limits::OVERHEAD;

/// The smallest buffer of use: it holds a full segment.
const MIN_BUFFER: usize = 2048;
/// The number of bytes of data in the longest frame: 44 segments of 1460 bytes.
const MAX_FRAME_DATA: usize = 44 * 1460;
/// The largest buffers of a connection with small rings.
const SMALL_MAX: BufferSizes = BufferSizes { receive: 64 * 1024, send: 64 * 1024 };
/// The largest buffers of a connection with large rings.
const LARGE_MAX: BufferSizes = BufferSizes { receive: 256 * 1024, send: 8 * MAX_FRAME_DATA };
const _: () = assert!(LARGE_MAX.send < congestion::MAX_LIMIT as usize);

/// The buffers of all sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferPlan {
    /// The number of connections that there is memory for.
    pub connections: usize,
    large: BufferSizes,
    small: BufferSizes,
}

/// The sizes of a socket's two buffers, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferSizes {
    receive: usize,
    /// The size of the buffer for bytes to send.
    pub send: usize,
}

impl BufferSizes {
    /// Divides `bytes`, which include what a socket takes besides its buffers.
    fn of(bytes: usize, max: BufferSizes) -> Self {
        let bytes = bytes.saturating_sub(OVERHEAD);
        // Servers send more than they receive.
        let send = (bytes - bytes / 3).clamp(MIN_BUFFER, max.send);
        // A multiple of the longest frame's data, because smoltcp ends a frame where the buffer
        // wraps.
        let send = if send < MAX_FRAME_DATA { send } else { send - send % MAX_FRAME_DATA };
        BufferSizes { receive: (bytes / 3).clamp(MIN_BUFFER, max.receive), send }
    }

    fn cost(self) -> usize {
        self.receive + self.send + OVERHEAD
    }
}

impl BufferPlan {
    /// Plans buffers for the connections of `layout`. All sockets together take at most `budget`
    /// bytes, if that is enough for one.
    pub fn new(layout: Layout, budget: usize) -> Self {
        let large = BufferSizes::of((budget / 2).checked_div(layout.large).unwrap_or(0), LARGE_MAX);
        let large_count = (budget / large.cost()).min(layout.large);
        let left = budget - large_count * large.cost();
        let small_count = if large_count < layout.large { 0 } else { layout.connections - large_count };
        let small = BufferSizes::of(left / small_count.max(1), SMALL_MAX);
        let small_count_affordable = (left / small.cost()).min(small_count);
        BufferPlan { connections: (large_count + small_count_affordable).max(1), large, small }
    }

    /// Creates a socket, with buffers from `make` ([`Memory::buffer`]). Returns `None` if there is
    /// no memory.
    ///
    /// [`Memory::buffer`]: cloister_interfaces::Memory::buffer
    pub fn socket(&self, large: bool, make: MakeBuffer) -> Option<tcp::Socket<'static>> {
        let sizes = if large { self.large } else { self.small };
        let buffer = |length| Some(tcp::SocketBuffer::new(make(length)?));
        Some(tcp::Socket::new(buffer(sizes.receive)?, buffer(sizes.send)?))
    }
}

/// Allocates a buffer of this many bytes. Returns `None` if there is no memory.
pub type MakeBuffer = fn(usize) -> Option<Vec<u8>>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sockets_never_exceed_the_budget(stream_in in 0usize..1 << 26, stream_out in 0usize..1 << 28, budget in 8192usize..1 << 28) {
            let layout = Layout::of(stream_in, stream_out);
            let BufferPlan { connections, large, small } = BufferPlan::new(layout, budget);
            prop_assert!((1..=layout.connections).contains(&connections));
            let large_count = connections.min(layout.large);
            let cost = large_count * large.cost() + (connections - large_count) * small.cost();
            prop_assert!(cost <= budget, "{cost} of {budget}");
            prop_assert!(large.send < MAX_FRAME_DATA || large.send % MAX_FRAME_DATA == 0, "{large:?}");
        }
    }

    #[test]
    fn the_smallest_image_serves_sixteen_and_a_large_one_thousands() {
        let smallest = BufferPlan::new(Layout::of(32 << 10, 64 << 10), 128 << 10);
        assert_eq!(smallest.connections, 16, "{smallest:?}");
        let large = BufferPlan::new(Layout::of(44 << 20, 64 << 20), 150 << 20);
        assert!(large.connections > 12_000, "{large:?}");
        assert_eq!(large.large, LARGE_MAX);
    }
}
