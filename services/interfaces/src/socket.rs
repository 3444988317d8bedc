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
pub const MAX_CONNECTIONS: usize = 16_384;

/// One connection's ring in a stream region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// Where in the region it starts.
    pub base: usize,
    /// Its bytes; a power of two.
    pub size: usize,
}

impl Ring {
    /// Where in the region the byte at `position` is, positions counting on for ever, and how many of `count` bytes
    /// from there lie before the ring's end.
    #[must_use]
    pub fn span(self, position: u32, count: usize) -> (usize, usize) {
        let offset = position as usize & (self.size - 1);
        (self.base + offset, count.min(self.size - offset))
    }
}

/// How the two stream regions are divided into rings, one of each for a connection: a few connections have large ones,
/// through which bulk flows, and the others small ones. Both sides compute it from the sizes of the regions alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Connections.
    pub connections: usize,
    /// How many of them, the first, have large rings.
    pub large: usize,
    /// Bytes of a small ring from the application to tcpip.
    small_out: usize,
}

impl Layout {
    /// Bytes of a small ring from tcpip to the application: what a request may take.
    pub const SMALL_IN: usize = 2048;
    /// Bytes of a large ring from tcpip to the application.
    pub const LARGE_IN: usize = 256 * 1024;
    /// Bytes of a large ring from the application to tcpip.
    pub const LARGE_OUT: usize = 128 * 1024;
    /// The least bytes of a ring from the application to tcpip.
    pub const MIN_OUT: usize = 4096;
    /// The most connections that have large rings.
    const MAX_LARGE: usize = 64;

    /// The division of regions of these sizes in bytes.
    #[must_use]
    pub fn of(stream_in: usize, stream_out: usize) -> Layout {
        // Half of each region is for the small ones.
        let large = (stream_in / 2 / Self::LARGE_IN).min(stream_out / 2 / Self::LARGE_OUT).min(Self::MAX_LARGE);
        let (left_in, left_out) = (stream_in - large * Self::LARGE_IN, stream_out - large * Self::LARGE_OUT);
        let small = (left_in / Self::SMALL_IN).min(left_out / Self::MIN_OUT).clamp(1, MAX_CONNECTIONS - large);
        let share = (left_out / small).clamp(1, Self::LARGE_OUT);
        let small_out = if share.is_power_of_two() { share } else { share.next_power_of_two() / 2 };
        Layout { connections: large + small, large, small_out }
    }

    /// The ring from tcpip to the application, which is in the stream-in region.
    #[must_use]
    pub fn ring_in(&self, Connection(index): Connection) -> Ring {
        self.ring(usize::from(index), Self::LARGE_IN, Self::SMALL_IN)
    }

    /// The ring from the application to tcpip, which is in the stream-out region.
    #[must_use]
    pub fn ring_out(&self, Connection(index): Connection) -> Ring {
        self.ring(usize::from(index), Self::LARGE_OUT, self.small_out)
    }

    fn ring(&self, index: usize, large: usize, small: usize) -> Ring {
        match index.checked_sub(self.large) {
            None => Ring { base: index * large, size: large },
            Some(beyond) => Ring { base: self.large * large + beyond * small, size: small },
        }
    }
}

/// Bytes of the region that is constant and that both sides map, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constant {
    /// Where they start.
    pub offset: u32,
    /// How many; not 0.
    pub length: u32,
}

/// What the application asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Accept connections to this TCP port. Answered by `Network` once there is an address. From an application that
    /// listens to the port already it means that it was started anew: all that it had is void, and the answer is a
    /// `Network` that is down, after which it listens again. An application listens to eight ports; of one more, its
    /// oldest is given up.
    Listen {
        /// The port.
        port: u16,
    },
    /// `length` more bytes stand in the connection's out ring, and after them `constant` is to be sent. Nothing more may be
    /// sent until that was taken ([`Reply::Sent`]).
    Send {
        /// The connection.
        connection: Connection,
        /// What [`Request::Consumed`] says, at the same time.
        consumed: u32,
        /// How many; 0 only if something constant follows.
        length: u32,
        /// What follows.
        constant: Option<Constant>,
        /// The application waits for nothing but the peer: when all was taken, it is told with what there is to tell next
        /// of the connection.
        quiet: bool,
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
    /// `length` more bytes stand in the connection's in ring; and what [`Reply::Sent`] says, at the same time.
    Received {
        /// The connection.
        connection: Connection,
        /// How many.
        length: u32,
        /// How many bytes of the out ring were taken.
        sent: u32,
        /// How many constant ones.
        constant: u32,
    },
    /// `length` bytes of the connection's out ring were taken and may be overwritten, and so were `constant` of the constant
    /// bytes. Of these it is told now and then, and when the last was taken.
    Sent {
        /// The connection.
        connection: Connection,
        /// How many bytes of the ring.
        length: u32,
        /// How many constant ones.
        constant: u32,
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
        /// The size of the region of which constant bytes can be sent; 0 if there is none.
        constant: u64,
    },
}

/// In the tag of [`Request::Send`].
const QUIET: u16 = 0x100;

#[inline]
fn encode_header(writer: &mut Writer<'_>, tag: u16, connection: Connection, length: u32) {
    writer.u16(tag);
    writer.u16(connection.0);
    writer.u32(length);
}

#[inline]
fn decode_connection(reader: &mut Reader<'_>) -> Result<Connection, Malformed> {
    let index = reader.u16()?;
    if usize::from(index) < MAX_CONNECTIONS { Ok(Connection(index)) } else { Err(Malformed) }
}

impl Message for Request {
    const SIZE: usize = 24;
    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Listen { port } => {
                writer.u16(1);
                writer.u16(port);
            }
            Request::Send { connection, consumed, length, constant, quiet } => {
                encode_header(writer, if quiet { 2 | QUIET } else { 2 }, connection, length);
                writer.u32(constant.map_or(0, |constant| constant.offset));
                writer.u32(constant.map_or(0, |constant| constant.length));
                writer.u32(consumed);
            }
            Request::Consumed { connection, length } => encode_header(writer, 3, connection, length),
            Request::Close { connection } => encode_header(writer, 4, connection, 0),
            Request::Abort { connection } => encode_header(writer, 5, connection, 0),
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Request::Listen { port: reader.u16()? }),
            tag if tag & !QUIET == 2 => {
                let (connection, length) = (decode_connection(reader)?, reader.u32()?);
                let constant = match (reader.u32()?, reader.u32()?) {
                    (0, 0) => None,
                    (_, 0) => return Err(Malformed),
                    (offset, length) => Some(Constant { offset, length }),
                };
                let (consumed, quiet) = (reader.u32()?, tag & QUIET != 0);
                Ok(Request::Send { connection, consumed, length, constant, quiet })
            }
            3 => Ok(Request::Consumed { connection: decode_connection(reader)?, length: reader.u32()? }),
            4 => Ok(Request::Close { connection: decode_connection(reader)? }),
            5 => Ok(Request::Abort { connection: decode_connection(reader)? }),
            _ => Err(Malformed),
        }
    }
}

impl Message for Reply {
    const SIZE: usize = 16;
    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Accepted { connection, address, port, local_port } => {
                writer.u16(1);
                writer.u16(connection.0);
                writer.bytes(address);
                writer.u16(port);
                writer.u16(local_port);
            }
            Reply::Received { connection, length, sent, constant } => {
                encode_header(writer, 2, connection, length);
                writer.u32(sent);
                writer.u32(constant);
            }
            Reply::Sent { connection, length, constant } => {
                encode_header(writer, 3, connection, length);
                writer.u32(constant);
            }
            Reply::PeerClosed { connection } => encode_header(writer, 4, connection, 0),
            Reply::Closed { connection } => encode_header(writer, 5, connection, 0),
            Reply::Pressure { free } => {
                writer.u16(6);
                writer.u16(free);
            }
            Reply::Network { address, constant } => {
                writer.u16(7);
                writer.bytes(address);
                writer.u64(constant);
            }
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Reply::Accepted {
                connection: decode_connection(reader)?,
                address: reader.bytes()?,
                port: reader.u16()?,
                local_port: reader.u16()?,
            }),
            2 => Ok(Reply::Received {
                connection: decode_connection(reader)?,
                length: reader.u32()?,
                sent: reader.u32()?,
                constant: reader.u32()?,
            }),
            3 => Ok(Reply::Sent {
                connection: decode_connection(reader)?,
                length: reader.u32()?,
                constant: reader.u32()?,
            }),
            4 => Ok(Reply::PeerClosed { connection: decode_connection(reader)? }),
            5 => Ok(Reply::Closed { connection: decode_connection(reader)? }),
            6 => Ok(Reply::Pressure { free: reader.u16()? }),
            7 => Ok(Reply::Network { address: reader.bytes()?, constant: reader.u64()? }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        let connection = Connection(511);
        let length = u32::MAX;
        let constant = Some(Constant { offset: u32::MAX, length: 1 });
        check_round_trip(&[
            Request::Listen { port: 80 },
            Request::Send { connection, consumed: 1, length, constant: None, quiet: false },
            Request::Send { connection, consumed: length, length: 0, constant, quiet: true },
            Request::Send {
                connection,
                consumed: 0,
                length,
                constant: Some(Constant { offset: 0, length }),
                quiet: false,
            },
            Request::Consumed { connection, length: 1 },
            Request::Close { connection },
            Request::Abort { connection: Connection(0) },
        ]);
        check_round_trip(&[
            Reply::Accepted { connection, address: [10, 0, 0, 1], port: 1, local_port: 2 },
            Reply::Received { connection, length, sent: 3, constant: u32::MAX },
            Reply::Sent { connection, length, constant: 7 },
            Reply::PeerClosed { connection },
            Reply::Closed { connection },
            Reply::Pressure { free: 3 },
            Reply::Network { address: [1, 2, 3, 4], constant: u64::MAX },
            Reply::Network { address: [0; 4], constant: 0 },
        ]);
        check_malformed::<Request>(&[
            &[],
            &[6],
            &[3, 1],
            &[2, 0, 0, 0x40],
            &[2, 0, 0, 0, 1, 0, 0, 0, 1],
            &[4, 0, 0, 0, 1],
            &[1, 0, 80, 0, 1],
        ]);
        check_malformed::<Reply>(&[&[], &[8], &[1, 0, 0, 0x40], &[5, 0, 0, 0, 1], &[2, 0, 0xff, 0xff]]);
    }

    #[test]
    fn rings_fit_their_regions_whatever_their_sizes() {
        // Miri, for which each connection is a thousand times dearer, is shown the small ones.
        let largest = if cfg!(miri) { 65_536 } else { 1 << 31 };
        let sizes = [0, 1, 2047, 2048, 4096, 65_536, 100_000, 1 << 20, 3 << 20, 1 << 25, 1 << 31];
        let pairs = sizes.into_iter().flat_map(|size| sizes.map(|other| (size, other)));
        for (stream_in, stream_out) in pairs.filter(|pair| pair.0.max(pair.1) <= largest) {
            let layout = Layout::of(stream_in, stream_out);
            assert!((1..=MAX_CONNECTIONS).contains(&layout.connections));
            let (mut end_in, mut end_out) = (0, 0);
            for index in 0..layout.connections {
                let (inner, outer) =
                    (layout.ring_in(Connection(index as u16)), layout.ring_out(Connection(index as u16)));
                assert!(inner.size.is_power_of_two() && outer.size.is_power_of_two());
                assert_eq!((inner.base, outer.base), (end_in, end_out), "one after the other");
                (end_in, end_out) = (inner.base + inner.size, outer.base + outer.size);
            }
            // The one connection that there always is may have no room, and is then of no use.
            assert!(layout.connections == 1 || end_in <= stream_in && end_out <= stream_out, "{layout:?}");
        }
        let smallest = Layout::of(32 << 10, 64 << 10);
        assert_eq!((smallest.connections, smallest.large), (16, 0));
        assert_eq!(smallest.ring_out(Connection(15)), Ring { base: 15 * 4096, size: 4096 });
        let large = Layout::of(44 << 20, 64 << 20);
        assert!((large.connections, large.large) == (14_336 + 64, 64), "{large:?}");
    }
}
