//! `net`: tcpip (client) and netfront (server). Frames travel as page indices; netfront maps no payload.
//!
//! A frame of more than a page lies in pages that follow each other in the pool, so that one message tells of it.

use bitflags::bitflags;

use crate::message::{Malformed, Message, Reader, Writer};

/// The longest frame that is sent, in bytes: what the 16-bit size of a transmit request holds (Xen `io/netif.h`,
/// `XEN_NETIF_MAX_TX_SIZE`).
pub const MAX_FRAME: usize = 0xFFFF;
use crate::queue::Interface;

/// The interface.
pub struct Net;
impl Interface for Net {
    const NAME: &'static str = "net";
    type Request = Request;
    type Reply = Reply;
}

bitflags! {
    /// What the link does for IPv4 frames that tcpip sends.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Offloads: u8 {
        /// It completes TCP and UDP checksums.
        const CHECKSUM = 1;
        /// It cuts long TCP segments, completing their checksums.
        const SEGMENTS = 2;
    }
}

/// What is left to the link of a frame to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Offload {
    /// The frame is complete.
    #[default]
    None,
    /// The TCP or UDP checksum field holds the sum of the pseudo-header only.
    Checksum,
    /// The same, and the TCP segment is to be cut into segments of so many bytes of payload, which is not 0.
    Segments(u16),
}

/// What tcpip asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Send the `length` bytes from the start of page `page` of the tx-pool, which go on into the pages after it. The
    /// pages belong to netfront until [`Reply::Transmitted`].
    Transmit {
        /// Index of the first page in the tx-pool.
        page: u16,
        /// Length of the frame in bytes.
        length: u16,
        /// What the link has offered to do ([`Reply::Up`]) and is to do.
        offload: Offload,
    },
    /// `count` pages of the rx-pool from `page` may be filled again.
    Receive {
        /// Index of the first page in the rx-pool.
        page: u16,
        /// How many, at least one.
        count: u16,
    },
    /// Disconnect from the backend in good order, for the domain ends; answered by [`Reply::Down`].
    Close,
}

/// What netfront says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The backend is connected. Every page of the rx-pool is netfront's, every one of the tx-pool tcpip's.
    Up {
        /// The interface's address.
        mac: [u8; 6],
        /// The largest IP packet in bytes.
        mtu: u16,
        /// What the link does for frames that are sent.
        offloads: Offloads,
    },
    /// The backend is gone, or the link was closed; all pages are as before [`Reply::Up`].
    Down,
    /// A frame came, or a part of one: the bytes from `offset` in page `page`, which go on into the pages after it. All
    /// pages that they touch are tcpip's.
    Received {
        /// Index of the first page in the rx-pool.
        page: u16,
        /// Where in the first page they start; less than a page.
        offset: u16,
        /// How many bytes; not 0.
        length: u16,
        /// The frame goes on in the next message.
        more: bool,
        /// The sender vouches for the TCP or UDP checksum, or has left it out: it is not to be verified. The same in
        /// all parts of a frame.
        checked: bool,
    },
    /// The pages of a frame that was sent are tcpip's again.
    Transmitted {
        /// Index of the first of them in the tx-pool.
        page: u16,
    },
}

impl Message for Request {
    const SIZE: usize = 8;
    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Transmit { page, length, offload } => {
                let (kind, segment) = match offload {
                    Offload::None => (0, 0),
                    Offload::Checksum => (1, 0),
                    Offload::Segments(size) => (2, size),
                };
                writer.u8(1);
                writer.u8(kind);
                writer.u16(page);
                writer.u16(length);
                writer.u16(segment);
            }
            Request::Receive { page, count } => {
                writer.u16(2);
                writer.u16(page);
                writer.u16(count);
            }
            Request::Close => writer.u16(3),
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match (reader.u8()?, reader.u8()?) {
            (1, kind) => {
                let (page, length, segment) = (reader.u16()?, reader.u16()?, reader.u16()?);
                let offload = match (kind, segment) {
                    (0, 0) => Offload::None,
                    (1, 0) => Offload::Checksum,
                    (2, 1..) => Offload::Segments(segment),
                    _ => return Err(Malformed),
                };
                Ok(Request::Transmit { page, length, offload })
            }
            (2, 0) => Ok(Request::Receive { page: reader.u16()?, count: reader.u16()? }),
            (3, 0) => Ok(Request::Close),
            _ => Err(Malformed),
        }
    }
}

/// Flags of [`Reply::Received`].
const MORE: u8 = 1;
const CHECKED: u8 = 2;

impl Message for Reply {
    const SIZE: usize = 16;
    #[inline]
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Up { mac, mtu, offloads } => {
                writer.u8(1);
                writer.u8(offloads.bits());
                writer.bytes(mac);
                writer.u16(mtu);
            }
            Reply::Down => writer.u16(2),
            Reply::Received { page, offset, length, more, checked } => {
                writer.u8(3);
                writer.u8(if more { MORE } else { 0 } | if checked { CHECKED } else { 0 });
                writer.u16(page);
                writer.u16(offset);
                writer.u16(length);
            }
            Reply::Transmitted { page } => {
                writer.u16(4);
                writer.u16(page);
            }
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match (reader.u8()?, reader.u8()?) {
            (1, offloads) => Ok(Reply::Up {
                offloads: Offloads::from_bits(offloads).ok_or(Malformed)?,
                mac: reader.bytes()?,
                mtu: reader.u16()?,
            }),
            (2, 0) => Ok(Reply::Down),
            (3, flags) if flags & !(MORE | CHECKED) == 0 => Ok(Reply::Received {
                page: reader.u16()?,
                offset: reader.u16()?,
                length: reader.u16()?,
                more: flags & MORE != 0,
                checked: flags & CHECKED != 0,
            }),
            (4, 0) => Ok(Reply::Transmitted { page: reader.u16()? }),
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
        check_round_trip(&[
            Request::Transmit { page: 1, length: 2, offload: Offload::None },
            Request::Transmit { page: u16::MAX, length: u16::MAX, offload: Offload::Segments(u16::MAX) },
            Request::Transmit { page: 0, length: 60, offload: Offload::Checksum },
            Request::Receive { page: 300, count: 17 },
            Request::Close,
        ]);
        let received = |more, checked| Reply::Received { page: 1, offset: 2, length: 3, more, checked };
        check_round_trip(&[
            Reply::Up { mac: [1, 2, 3, 4, 5, 6], mtu: 1500, offloads: Offloads::empty() },
            Reply::Up { mac: [1, 2, 3, 4, 5, 6], mtu: 1500, offloads: Offloads::all() },
            Reply::Down,
            received(false, false),
            received(true, false),
            received(false, true),
            received(true, true),
            Reply::Received { page: u16::MAX, offset: u16::MAX, length: u16::MAX, more: false, checked: false },
            Reply::Transmitted { page: 9 },
        ]);
        check_malformed::<Request>(&[
            &[],
            &[4],
            &[3, 0, 1],
            &[2, 0, 1, 0, 1, 0, 1],
            &[2, 1, 1],
            &[1, 3],
            &[1, 0, 0, 0, 60, 0, 1],
            &[1, 1, 0, 0, 60, 0, 1],
            &[1, 2, 0, 0, 60, 0, 0],
        ]);
        check_malformed::<Reply>(&[&[], &[5], &[2, 0, 0, 0, 1], &[1, 4], &[3, 4], &[4, 1]]);
    }
}
