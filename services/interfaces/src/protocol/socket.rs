//! `socket`: TCP connections. An application is the client, tcpip the server.
//!
//! The bytes of the streams are in two shared regions, in one ring per connection and direction.
//! The application writes `stream-out`, tcpip writes `stream-in`.
//!
//! | who is hostile | what it can do | what it must not | target |
//! |---|---|---|---|
//! | an application or tcpip | send any message; rewrite its streams while they are read | reach another's connection; stop the other | `tcpip-socket`, `http-socket` |

use core::time::Duration;

use crate::message::{Defect, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Socket;
impl Interface for Socket {
    const NAME: &'static str = "socket";
    type Request = Request;
    type Reply = Reply;
}

/// The index of a connection, below [`Layout::connections`]. It is valid from `Accepted` until
/// `Closed` has replied to the application's `Close` or `Abort`.
///
/// One that a message carries is below [`MAX_CONNECTIONS`]. It proves no more: each side looks it
/// up among its own connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u16);

/// The number of a peer's address among those that hold connections, below [`MAX_CONNECTIONS`]:
/// connections of one address have the same number, those of different addresses different ones.
/// Once an address holds none, tcpip uses its number for another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceId(pub u16);

/// The time that a peer may take for each byte that it sends or takes: the least rate is 500 bytes
/// a second.
pub const BYTE_TIME: Duration = Duration::from_millis(2);
/// The same under pressure, while others wait to connect: 16,000 bytes a second.
pub const BYTE_TIME_PRESSED: Duration = Duration::from_nanos(62_500);

/// The largest number of connections at once.
pub const MAX_CONNECTIONS: usize = 16_384;

/// One connection's ring in a stream region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// The offset of its start in the region.
    pub base: usize,
    /// Its size in bytes: a power of two.
    pub size: usize,
}

impl Ring {
    /// Returns the offset in the region of the byte at `position`, and how many of the `count`
    /// bytes from there lie before the end of the ring. Positions count freely and wrap.
    #[must_use]
    pub fn span(self, position: u32, count: usize) -> (usize, usize) {
        let offset = position as usize & (self.size - 1);
        (self.base + offset, count.min(self.size - offset))
    }
}

/// The division of the two stream regions into rings: each connection has one ring in each region.
///
/// A few connections have large rings, for bulk transfers; the others have small ones. Both sides
/// compute the layout from nothing but the sizes of the regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The number of connections.
    pub connections: usize,
    /// The number of connections with large rings. They are the first ones.
    pub large: usize,
    /// The size in bytes of a small ring from the application to tcpip.
    small_out: usize,
}

impl Layout {
    /// The size in bytes of a small ring from tcpip to the application: what a request may take.
    pub const SMALL_IN: usize = 2048;
    /// The size in bytes of a large ring from tcpip to the application.
    pub const LARGE_IN: usize = 256 * 1024;
    /// The size in bytes of a large ring from the application to tcpip.
    pub const LARGE_OUT: usize = 128 * 1024;
    /// The smallest size in bytes of a ring from the application to tcpip.
    pub const MIN_OUT: usize = 4096;
    /// The largest number of connections with large rings.
    const MAX_LARGE: usize = 64;

    /// Returns the layout for regions of these sizes in bytes.
    #[must_use]
    pub fn of(stream_in: usize, stream_out: usize) -> Layout {
        // At least half of each region is for the small rings.
        let large = (stream_in / 2 / Self::LARGE_IN).min(stream_out / 2 / Self::LARGE_OUT).min(Self::MAX_LARGE);
        let (left_in, left_out) = (stream_in - large * Self::LARGE_IN, stream_out - large * Self::LARGE_OUT);
        let small = (left_in / Self::SMALL_IN).min(left_out / Self::MIN_OUT).clamp(1, MAX_CONNECTIONS - large);
        let share = (left_out / small).clamp(1, Self::LARGE_OUT);
        let small_out = if share.is_power_of_two() { share } else { share.next_power_of_two() / 2 };
        Layout { connections: large + small, large, small_out }
    }

    /// Returns the connection's ring in the stream-in region, from tcpip to the application.
    #[must_use]
    pub fn ring_in(&self, ConnectionId(index): ConnectionId) -> Ring {
        self.ring(usize::from(index), Self::LARGE_IN, Self::SMALL_IN)
    }

    /// Returns the connection's ring in the stream-out region, from the application to tcpip.
    #[must_use]
    pub fn ring_out(&self, ConnectionId(index): ConnectionId) -> Ring {
        self.ring(usize::from(index), Self::LARGE_OUT, self.small_out)
    }

    fn ring(&self, index: usize, large: usize, small: usize) -> Ring {
        match index.checked_sub(self.large) {
            None => Ring { base: index * large, size: large },
            Some(beyond) => Ring { base: self.large * large + beyond * small, size: small },
        }
    }
}

/// A range of bytes in the constant region that both sides map, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Constant {
    /// The offset of the first byte in the region.
    pub offset: u32,
    /// The number of bytes, not 0.
    pub length: u32,
}

/// The requests of the application.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Accept connections to this TCP port. The reply is `Network`, once there is an address.
    ///
    /// A second `Listen` for the same port means that the application has restarted. Everything
    /// that it had is void. The reply is a `Network` that is down, after which the application
    /// listens again. An application can listen to eight ports; for a ninth, tcpip drops the
    /// oldest.
    Listen {
        /// The TCP port.
        port: u16,
    },
    /// Send the next `length` bytes of the connection's out ring, and then the bytes `constant`.
    /// After constant bytes, the application sends no more until they have been taken
    /// ([`Reply::Sent`]).
    Send {
        /// The connection.
        connection: ConnectionId,
        /// The same as `length` of a [`Request::Consumed`] before this request.
        consumed: u32,
        /// The number of bytes in the out ring. 0 only if constant bytes follow.
        length: u32,
        /// The constant bytes that follow.
        constant: Option<Constant>,
        /// The application waits only for the peer. So tcpip reports that all bytes were taken
        /// together with its next reply about the connection.
        quiet: bool,
    },
    /// The next `length` bytes of the connection's in ring were read and may be overwritten.
    Consumed {
        /// The connection.
        connection: ConnectionId,
        /// The number of bytes.
        length: u32,
    },
    /// Close the connection after everything in the out ring is sent. The reply is `Closed`.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Reset the connection at once. The reply is `Closed`.
    Abort {
        /// The connection.
        connection: ConnectionId,
    },
}

/// The replies and events of tcpip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A peer connected. Both rings of the connection are empty and start at their first byte.
    Accepted {
        /// The connection.
        connection: ConnectionId,
        /// The peer's IPv4 address.
        address: [u8; 4],
        /// The peer's TCP port.
        port: u16,
        /// The TCP port that it connected to.
        local_port: u16,
        /// The number of its address.
        source: SourceId,
    },
    /// `length` more bytes are in the connection's in ring. `sent` and `constant` report what a
    /// [`Reply::Sent`] before this reply would.
    Received {
        /// The connection.
        connection: ConnectionId,
        /// The number of received bytes.
        length: u32,
        /// The number of bytes of the out ring that were taken.
        sent: u32,
        /// The number of constant bytes that were taken.
        constant: u32,
    },
    /// `length` bytes of the connection's out ring were taken and may be overwritten. `constant` of
    /// the constant bytes were taken; that is reported from time to time, and for the last byte.
    Sent {
        /// The connection.
        connection: ConnectionId,
        /// The number of bytes of the out ring.
        length: u32,
        /// The number of constant bytes.
        constant: u32,
    },
    /// The peer will not send any more bytes. It may still read.
    PeerClosed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection has ended: it was reset, timed out, or was closed as requested. If the
    /// application has not requested it, it must still send `Close`. The index is free after both
    /// messages.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
    /// All but `free` of the connections that any peer may open are in use. The application should
    /// close one that is idle, of an address that has many.
    ///
    /// tcpip keeps a few more for addresses that hold less than others, and resets connections of
    /// the one that holds the most to keep them free.
    Pressure {
        /// The number of connections that any peer may still open.
        free: u16,
    },
    /// The network is up, with this address, or down. When it is down, every connection and every
    /// `Listen` is void: the application forgets them and listens again. tcpip also sends it when
    /// it starts.
    Network {
        /// The IPv4 address. All zeros mean that the network is down.
        address: [u8; 4],
        /// The size in bytes of the region whose constant bytes can be sent. 0 if there is none.
        constant: u64,
    },
}

/// A flag in the tag of [`Request::Send`].
const QUIET: u16 = 0x100;

#[inline]
fn encode_header(writer: &mut Writer<'_>, tag: u16, connection: ConnectionId, length: u32) {
    writer.u16(tag);
    writer.u16(connection.0);
    writer.u32(length);
}

#[inline]
fn decode_connection(reader: &mut Reader<'_>) -> Result<ConnectionId, Defect> {
    decode_index(reader).map(ConnectionId)
}

/// Decodes the index of a connection, or of one of its address.
#[inline]
fn decode_index(reader: &mut Reader<'_>) -> Result<u16, Defect> {
    reader.checked(Reader::u16, |index| (usize::from(index) < MAX_CONNECTIONS).then_some(index))
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
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match reader.u16()? {
            1 => Ok(Request::Listen { port: reader.u16()? }),
            tag if tag & !QUIET == 2 => {
                let (connection, length) = (decode_connection(reader)?, reader.u32()?);
                let constant = match (reader.u32()?, reader.u32()?) {
                    (0, 0) => None,
                    (_, 0) => return Err(reader.reject(12, Defect::Range)),
                    (offset, length) => Some(Constant { offset, length }),
                };
                let (consumed, quiet) = (reader.u32()?, tag & QUIET != 0);
                Ok(Request::Send { connection, consumed, length, constant, quiet })
            }
            3 => Ok(Request::Consumed { connection: decode_connection(reader)?, length: reader.u32()? }),
            4 => Ok(Request::Close { connection: decode_connection(reader)? }),
            5 => Ok(Request::Abort { connection: decode_connection(reader)? }),
            _ => Err(reader.reject(0, Defect::Tag)),
        }
    }
}

impl Message for Reply {
    const SIZE: usize = 16;
    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Accepted { connection, address, port, local_port, source } => {
                writer.u16(1);
                writer.u16(connection.0);
                writer.bytes(address);
                writer.u16(port);
                writer.u16(local_port);
                writer.u16(source.0);
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
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match reader.u16()? {
            1 => Ok(Reply::Accepted {
                connection: decode_connection(reader)?,
                address: reader.bytes()?,
                port: reader.u16()?,
                local_port: reader.u16()?,
                source: SourceId(decode_index(reader)?),
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
            _ => Err(reader.reject(0, Defect::Tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        let connection = ConnectionId(511);
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
            Request::Abort { connection: ConnectionId(0) },
        ]);
        check_round_trip(&[
            Reply::Accepted { connection, address: [10, 0, 0, 1], port: 1, local_port: 2, source: SourceId(510) },
            Reply::Received { connection, length, sent: 3, constant: u32::MAX },
            Reply::Sent { connection, length, constant: 7 },
            Reply::PeerClosed { connection },
            Reply::Closed { connection },
            Reply::Pressure { free: 3 },
            Reply::Network { address: [1, 2, 3, 4], constant: u64::MAX },
            Reply::Network { address: [0; 4], constant: 0 },
        ]);
        check_malformed::<Request>(&[
            (&[], 0, Defect::Tag),
            (&[6], 0, Defect::Tag),
            (&[3, 1], 0, Defect::Tag),
            (&[2, 0, 0, 0x40], 2, Defect::Range),
            (&[2, 0, 0, 0, 1, 0, 0, 0, 1], 12, Defect::Range),
            (&[4, 0, 0, 0, 1], 4, Defect::Padding),
            (&[1, 0, 80, 0, 1], 4, Defect::Padding),
        ]);
        check_malformed::<Reply>(&[
            (&[], 0, Defect::Tag),
            (&[8], 0, Defect::Tag),
            (&[1, 0, 0, 0x40], 2, Defect::Range),
            (&[1, 0, 0, 0, 10, 0, 0, 1, 0, 1, 0, 2, 0, 0x40], 12, Defect::Range),
            (&[5, 0, 0, 0, 1], 4, Defect::Padding),
            (&[2, 0, 0xff, 0xff], 2, Defect::Range),
        ]);
    }

    #[test]
    fn rings_fit_their_regions_whatever_their_sizes() {
        // Under Miri, where each connection is a thousand times slower, only small sizes are tried.
        let largest = if cfg!(miri) { 65_536 } else { 1 << 31 };
        let sizes = [0, 1, 2047, 2048, 4096, 65_536, 100_000, 1 << 20, 3 << 20, 1 << 25, 1 << 31];
        let pairs = sizes.into_iter().flat_map(|size| sizes.map(|other| (size, other)));
        for (stream_in, stream_out) in pairs.filter(|pair| pair.0.max(pair.1) <= largest) {
            let layout = Layout::of(stream_in, stream_out);
            assert!((1..=MAX_CONNECTIONS).contains(&layout.connections));
            let (mut end_in, mut end_out) = (0, 0);
            for index in 0..layout.connections {
                let (inner, outer) =
                    (layout.ring_in(ConnectionId(index as u16)), layout.ring_out(ConnectionId(index as u16)));
                assert!(inner.size.is_power_of_two() && outer.size.is_power_of_two());
                assert_eq!((inner.base, outer.base), (end_in, end_out), "one after the other");
                (end_in, end_out) = (inner.base + inner.size, outer.base + outer.size);
            }
            // There is always one connection. If it has no room, it cannot be used.
            assert!(layout.connections == 1 || end_in <= stream_in && end_out <= stream_out, "{layout:?}");
        }
        let smallest = Layout::of(32 << 10, 64 << 10);
        assert_eq!((smallest.connections, smallest.large), (16, 0));
        assert_eq!(smallest.ring_out(ConnectionId(15)), Ring { base: 15 * 4096, size: 4096 });
        let large = Layout::of(44 << 20, 64 << 20);
        assert!((large.connections, large.large) == (14_336 + 64, 64), "{large:?}");
    }
}
