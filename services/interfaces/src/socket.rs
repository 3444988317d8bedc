//! `socket`: an application (client) and tcpip (server). Stream bytes travel in per-connection rings of two
//! shared regions: `stream-out` is written by the application, `stream-in` by tcpip.

use crate::message::{Malformed, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Socket;
impl Interface for Socket {
    const NAME: &'static str = "socket";
    type Request = Request;
    type Reply = Reply;
}

/// A connection: an index below [`Layout::connections`], good from `Accepted` until the application's `Close` or
/// `Abort` has been answered by `Closed`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Connection(pub u16);

/// The most connections that an image serves at once.
pub const MAX_CONNECTIONS: usize = 512;

/// How the two stream regions are divided: into rings of equal size, one a connection. Both sides compute it
/// from the sizes of the regions alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Connections.
    pub connections: usize,
    /// Bytes of a ring from tcpip to the application; a power of two. Ring `n` starts at `n` times this.
    pub ring_in: usize,
    /// Bytes of a ring from the application to tcpip; a power of two.
    pub ring_out: usize,
}

impl Layout {
    /// The division of regions of these sizes in bytes.
    #[must_use]
    pub fn of(stream_in: usize, stream_out: usize) -> Layout {
        const RING_IN: usize = 2048;
        const SMALLEST_OUT: usize = 4096;
        const LARGEST_OUT: usize = 128 * 1024;
        let connections = (stream_in / RING_IN).min(stream_out / SMALLEST_OUT).clamp(1, MAX_CONNECTIONS);
        let share = (stream_out / connections).clamp(1, LARGEST_OUT);
        let ring_out = if share.is_power_of_two() { share } else { share.next_power_of_two() / 2 };
        Layout { connections, ring_in: RING_IN, ring_out }
    }
}

/// What the application asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Accept connections to this TCP port. Answered by `Network` once there is an address. From an application that
    /// listens to the port already it means that it was started anew: all that it had is void, and the answer is a
    /// `Network` that is down, after which it listens again.
    Listen {
        /// The port.
        port: u16,
    },
    /// `length` more bytes stand in the connection's out ring.
    Send {
        /// The connection.
        connection: Connection,
        /// How many.
        length: u32,
    },
    /// `length` bytes of the connection's in ring were read and may be overwritten.
    Consumed {
        /// The connection.
        connection: Connection,
        /// How many.
        length: u32,
    },
    /// Send what was sent, then close. Answered by `Closed`.
    Close {
        /// The connection.
        connection: Connection,
    },
    /// Reset the connection at once. Answered by `Closed`.
    Abort {
        /// The connection.
        connection: Connection,
    },
}

/// What tcpip says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A peer connected; both rings of the connection are empty, and start at their first byte.
    Accepted {
        /// The connection.
        connection: Connection,
        /// The peer's IPv4 address.
        address: [u8; 4],
        /// The peer's port.
        port: u16,
        /// The port that it connected to.
        local_port: u16,
    },
    /// `length` more bytes stand in the connection's in ring.
    Received {
        /// The connection.
        connection: Connection,
        /// How many.
        length: u32,
    },
    /// `length` bytes of the connection's out ring were taken and may be overwritten.
    Sent {
        /// The connection.
        connection: Connection,
        /// How many.
        length: u32,
    },
    /// The peer will send no more. It may still read.
    PeerClosed {
        /// The connection.
        connection: Connection,
    },
    /// The connection is over: reset, timed out, or closed as asked. Unless the application has asked for it,
    /// it owes a `Close`; the index is free after both.
    Closed {
        /// The connection.
        connection: Connection,
    },
    /// All connections but `free` are in use; the application does well to close one that is idle.
    Pressure {
        /// Connections left.
        free: u16,
    },
    /// The network is up (an address was configured) or down. Down, every connection and every `Listen` is void: the
    /// application forgets them and listens again. (Also said when tcpip starts.)
    Network {
        /// The IPv4 address; all zero is down.
        address: [u8; 4],
    },
}

fn about(writer: &mut Writer<'_>, tag: u16, connection: Connection, length: u32) {
    writer.u16(tag);
    writer.u16(connection.0);
    writer.u32(length);
}

fn connection(reader: &mut Reader<'_>) -> Result<Connection, Malformed> {
    let index = reader.u16()?;
    if usize::from(index) < MAX_CONNECTIONS { Ok(Connection(index)) } else { Err(Malformed) }
}

impl Message for Request {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Listen { port } => {
                writer.u16(1);
                writer.u16(port);
            }
            Request::Send { connection, length } => about(writer, 2, connection, length),
            Request::Consumed { connection, length } => about(writer, 3, connection, length),
            Request::Close { connection } => about(writer, 4, connection, 0),
            Request::Abort { connection } => about(writer, 5, connection, 0),
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Request::Listen { port: reader.u16()? }),
            2 => Ok(Request::Send { connection: connection(reader)?, length: reader.u32()? }),
            3 => Ok(Request::Consumed { connection: connection(reader)?, length: reader.u32()? }),
            4 => Ok(Request::Close { connection: connection(reader)? }),
            5 => Ok(Request::Abort { connection: connection(reader)? }),
            _ => Err(Malformed),
        }
    }
}

impl Message for Reply {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Accepted { connection, address, port, local_port } => {
                writer.u16(1);
                writer.u16(connection.0);
                writer.bytes(&address);
                writer.u16(port);
                writer.u16(local_port);
            }
            Reply::Received { connection, length } => about(writer, 2, connection, length),
            Reply::Sent { connection, length } => about(writer, 3, connection, length),
            Reply::PeerClosed { connection } => about(writer, 4, connection, 0),
            Reply::Closed { connection } => about(writer, 5, connection, 0),
            Reply::Pressure { free } => {
                writer.u16(6);
                writer.u16(free);
            }
            Reply::Network { address } => {
                writer.u16(7);
                writer.bytes(&address);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Reply::Accepted {
                connection: connection(reader)?,
                address: reader.bytes(4)?.try_into().map_err(|_| Malformed)?,
                port: reader.u16()?,
                local_port: reader.u16()?,
            }),
            2 => Ok(Reply::Received { connection: connection(reader)?, length: reader.u32()? }),
            3 => Ok(Reply::Sent { connection: connection(reader)?, length: reader.u32()? }),
            4 => Ok(Reply::PeerClosed { connection: connection(reader)? }),
            5 => Ok(Reply::Closed { connection: connection(reader)? }),
            6 => Ok(Reply::Pressure { free: reader.u16()? }),
            7 => Ok(Reply::Network { address: reader.bytes(4)?.try_into().map_err(|_| Malformed)? }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{malformed, round_trips};

    #[test]
    fn messages_are_read_back() {
        let connection = Connection(511);
        let length = u32::MAX;
        round_trips(&[
            Request::Listen { port: 80 },
            Request::Send { connection, length },
            Request::Consumed { connection, length: 1 },
            Request::Close { connection },
            Request::Abort { connection: Connection(0) },
        ]);
        round_trips(&[
            Reply::Accepted { connection, address: [10, 0, 0, 1], port: 1, local_port: 2 },
            Reply::Received { connection, length },
            Reply::Sent { connection, length },
            Reply::PeerClosed { connection },
            Reply::Closed { connection },
            Reply::Pressure { free: 3 },
            Reply::Network { address: [1, 2, 3, 4] },
            Reply::Network { address: [0; 4] },
        ]);
        malformed::<Request>(&[&[], &[6], &[2, 0, 0, 2], &[4, 0, 0, 0, 1], &[1, 0, 80, 0, 1]]);
        malformed::<Reply>(&[&[], &[8], &[1, 0, 0, 2], &[5, 0, 0, 0, 1], &[2, 0, 0xff, 0xff]]);
    }

    #[test]
    fn rings_fit_their_regions_whatever_their_sizes() {
        let sizes = [0, 1, 2047, 2048, 4096, 65_536, 100_000, 1 << 20, 3 << 20, 1 << 25, 1 << 31];
        for (stream_in, stream_out) in sizes.into_iter().flat_map(|size| sizes.map(|other| (size, other))) {
            let Layout { connections, ring_in, ring_out } = Layout::of(stream_in, stream_out);
            assert!((1..=MAX_CONNECTIONS).contains(&connections));
            assert!(ring_in.is_power_of_two() && ring_out.is_power_of_two());
            assert!(connections * ring_out <= stream_out.max(1), "{stream_out}");
            if connections > 1 {
                assert!(connections * ring_in <= stream_in && ring_out >= 4096, "{stream_in} {stream_out}");
            }
        }
        assert_eq!(Layout::of(32 << 10, 64 << 10), Layout { connections: 16, ring_in: 2048, ring_out: 4096 });
        assert_eq!(Layout::of(1 << 20, 32 << 20), Layout { connections: 512, ring_in: 2048, ring_out: 65_536 });
    }
}
