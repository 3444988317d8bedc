//! `net`: sending and receiving Ethernet frames. tcpip is the client, netfront the server.
//!
//! A message names the pages of a frame by their indices in a pool; netfront does not map the
//! payload. A frame longer than a page lies in adjacent pages of the pool, so that one message
//! describes it.
//!
//! | who is hostile | what it can do | what it must not | target |
//! |---|---|---|---|
//! | a compromised tcpip or netfront | send any message, rewrite its queue pages | send from or receive into pages that are not its own; stop the other | `netfront-net`, `tcpip-net` |

use core::num::NonZeroU16;

use bitflags::bitflags;
use cloister_caps::xen::netif::MAX_TX_SIZE;

use crate::message::{Defect, Message, Reader, Writer};
use crate::pages::{PageOffset, PageRun};
use crate::queue::Interface;

/// The longest frame that can be sent, in bytes: the largest value of the 16-bit size in a transmit
/// request.
pub const MAX_FRAME: usize = MAX_TX_SIZE;

/// The interface.
pub struct Net;
impl Interface for Net {
    const NAME: &'static str = "net";
    type Request = Request;
    type Reply = Reply;
}

/// The index of a page in the tx-pool. Not every index is one of a page that the pool has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct TxPage(pub u16);

/// The index of a page in the rx-pool. Not every index is one of a page that the pool has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct RxPage(pub u16);

/// Adjacent pages of the rx-pool, by their indices. Not every run is one of pages that the pool
/// has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxRun(pub PageRun);

bitflags! {
    /// The offloads that the link offers for IPv4 frames that tcpip sends.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Offloads: u8 {
        /// The link completes TCP and UDP checksums.
        const CHECKSUM = 1;
        /// The link splits long TCP segments, and completes their checksums.
        const SEGMENTS = 2;
    }
}

/// The offload that a frame to send needs from the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Offload {
    /// None: the frame is complete.
    #[default]
    None,
    /// Complete the checksum: the TCP or UDP checksum field holds the sum of the pseudo-header
    /// only.
    Checksum,
    /// Split the TCP segment into segments with at most this many bytes of payload. The
    /// checksum is as for [`Offload::Checksum`].
    Segments(NonZeroU16),
}

/// The requests of tcpip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Send the frame of `length` bytes that starts in page `page` of the tx-pool and continues in
    /// the pages after it. The pages belong to netfront until [`Reply::Transmitted`].
    Transmit {
        /// The first page. The frame starts at the start of the page.
        page: TxPage,
        /// The length of the frame in bytes.
        length: u16,
        /// The offload that the frame needs: one that the link offered ([`Reply::Up`]).
        offload: Offload,
    },
    /// Return pages of the rx-pool, to be filled with received frames.
    Receive {
        /// The pages.
        pages: RxRun,
    },
    /// Disconnect from the back end in good order, because the domain is about to end. The reply is
    /// [`Reply::Down`].
    Close,
}

/// The replies and events of netfront.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The back end is connected. Every page of the rx-pool is netfront's, and every page of the
    /// tx-pool is tcpip's.
    Up {
        /// The MAC address of the interface.
        mac: [u8; 6],
        /// The length of the largest IP packet, in bytes.
        mtu: u16,
        /// The offloads that the link offers for frames to send.
        offloads: Offloads,
    },
    /// The back end is gone, or the link was closed. All pages are as they were before
    /// [`Reply::Up`].
    Down,
    /// A frame or a part of one was received: the bytes from `offset` in page `page` on, which
    /// continue in the pages after it. All pages that they touch become tcpip's.
    Received {
        /// The first page.
        page: RxPage,
        /// The offset of the first byte in the first page.
        offset: PageOffset,
        /// The number of bytes.
        length: NonZeroU16,
        /// The frame continues in the next message.
        more: bool,
        /// The TCP or UDP checksum need not be verified: the back end says that it is correct, or
        /// that the sender left it out. The same in all parts of a frame.
        checked: bool,
    },
    /// A frame was sent. Its pages are tcpip's again.
    Transmitted {
        /// Its first page.
        page: TxPage,
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
                    Offload::Segments(size) => (2, size.get()),
                };
                writer.u8(1);
                writer.u8(kind);
                writer.u16(page.0);
                writer.u16(length);
                writer.u16(segment);
            }
            Request::Receive { pages: RxRun(run) } => {
                writer.u16(2);
                run.encode(writer);
            }
            Request::Close => writer.u16(3),
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match (reader.u8()?, reader.u8()?) {
            (1, kind) => {
                let (page, length, segment) = (TxPage(reader.u16()?), reader.u16()?, reader.u16()?);
                let offload = match (kind, segment) {
                    (0, 0) => Offload::None,
                    (1, 0) => Offload::Checksum,
                    (2, size) => {
                        Offload::Segments(NonZeroU16::new(size).ok_or_else(|| reader.reject(6, Defect::Range))?)
                    }
                    _ => return Err(reader.reject(1, Defect::Flags)),
                };
                Ok(Request::Transmit { page, length, offload })
            }
            (2, 0) => Ok(Request::Receive { pages: RxRun(PageRun::decode(reader)?) }),
            (3, 0) => Ok(Request::Close),
            (2 | 3, _) => Err(reader.reject(1, Defect::Flags)),
            _ => Err(reader.reject(0, Defect::Tag)),
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
                writer.u16(page.0);
                writer.u16(offset.get());
                writer.u16(length.get());
            }
            Reply::Transmitted { page } => {
                writer.u16(4);
                writer.u16(page.0);
            }
        }
    }
    #[inline]
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match (reader.u8()?, reader.u8()?) {
            (1, offloads) => Ok(Reply::Up {
                offloads: Offloads::from_bits(offloads).ok_or_else(|| reader.reject(1, Defect::Flags))?,
                mac: reader.bytes()?,
                mtu: reader.u16()?,
            }),
            (2, 0) => Ok(Reply::Down),
            (3, flags) if flags & !(MORE | CHECKED) == 0 => Ok(Reply::Received {
                page: RxPage(reader.u16()?),
                offset: reader.checked(Reader::u16, PageOffset::new)?,
                length: reader.checked(Reader::u16, NonZeroU16::new)?,
                more: flags & MORE != 0,
                checked: flags & CHECKED != 0,
            }),
            (4, 0) => Ok(Reply::Transmitted { page: TxPage(reader.u16()?) }),
            (2..=4, _) => Err(reader.reject(1, Defect::Flags)),
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
        let size = |size| NonZeroU16::new(size).expect("not 0");
        let pages = |first, count| RxRun(PageRun::new(first, count).expect("a run"));
        let offset = |offset| PageOffset::new(offset).expect("less than a page");
        check_round_trip(&[
            Request::Transmit { page: TxPage(1), length: 2, offload: Offload::None },
            Request::Transmit { page: TxPage(u16::MAX), length: u16::MAX, offload: Offload::Segments(NonZeroU16::MAX) },
            Request::Transmit { page: TxPage(0), length: 60, offload: Offload::Checksum },
            Request::Receive { pages: pages(300, 17) },
            Request::Receive { pages: pages(u16::MAX, 1) },
            Request::Receive { pages: pages(1, u16::MAX) },
            Request::Close,
        ]);
        let received =
            |more, checked| Reply::Received { page: RxPage(1), offset: offset(2), length: size(3), more, checked };
        check_round_trip(&[
            Reply::Up { mac: [1, 2, 3, 4, 5, 6], mtu: 1500, offloads: Offloads::empty() },
            Reply::Up { mac: [1, 2, 3, 4, 5, 6], mtu: 1500, offloads: Offloads::all() },
            Reply::Down,
            received(false, false),
            received(true, false),
            received(false, true),
            received(true, true),
            Reply::Received {
                page: RxPage(u16::MAX),
                offset: offset(4095),
                length: NonZeroU16::MAX,
                more: false,
                checked: false,
            },
            Reply::Transmitted { page: TxPage(9) },
        ]);
        check_malformed::<Request>(&[
            (&[], 0, Defect::Tag),
            (&[4], 0, Defect::Tag),
            (&[3, 0, 1], 2, Defect::Padding),
            (&[2, 0, 1, 0, 1, 0, 1], 6, Defect::Padding),
            (&[2, 1, 1], 1, Defect::Flags),
            (&[1, 3], 1, Defect::Flags),
            (&[1, 0, 0, 0, 60, 0, 1], 1, Defect::Flags),
            (&[1, 1, 0, 0, 60, 0, 1], 1, Defect::Flags),
            (&[1, 2, 0, 0, 60, 0, 0], 6, Defect::Range),
            (&[2, 0, 1, 0, 0, 0], 2, Defect::Range),
            (&[2, 0, 0xff, 0xff, 2, 0], 2, Defect::Range),
            (&[2, 0, 2, 0, 0xff, 0xff], 2, Defect::Range),
        ]);
        check_malformed::<Reply>(&[
            (&[], 0, Defect::Tag),
            (&[5], 0, Defect::Tag),
            (&[2, 0, 0, 0, 1], 2, Defect::Padding),
            (&[1, 4], 1, Defect::Flags),
            (&[3, 4], 1, Defect::Flags),
            (&[4, 1], 1, Defect::Flags),
            (&[3, 0, 1, 0, 0, 0, 0, 0], 6, Defect::Range),
            (&[3, 0, 1, 0, 0, 0x10, 1, 0], 4, Defect::Range),
            (&[3, 0, 1, 0, 0xff, 0xff, 1, 0], 4, Defect::Range),
        ]);
    }
}
