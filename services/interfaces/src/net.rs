//! `net`: tcpip (client) and netfront (server). Frames travel as page indices; netfront maps no payload.

use crate::message::{Malformed, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Net;
impl Interface for Net {
    const NAME: &'static str = "net";
    type Request = Request;
    type Reply = Reply;
}

/// What tcpip asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Send the first `length` bytes of page `page` of the tx-pool. The page belongs to netfront until
    /// [`Reply::Transmitted`].
    Transmit {
        /// Index of the page in the tx-pool.
        page: u16,
        /// Length of the frame in bytes.
        length: u16,
    },
    /// Page `page` of the rx-pool may be filled again.
    Receive {
        /// Index of the page in the rx-pool.
        page: u16,
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
    },
    /// The backend is gone, or the link was closed; all pages are as before [`Reply::Up`].
    Down,
    /// A frame came.
    Received {
        /// Index of the page in the rx-pool.
        page: u16,
        /// Where in the page it starts; `offset + length` is at most a page.
        offset: u16,
        /// Length of the frame in bytes.
        length: u16,
    },
    /// A page of the tx-pool is tcpip's again.
    Transmitted {
        /// Index of the page in the tx-pool.
        page: u16,
    },
}

impl Message for Request {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Transmit { page, length } => {
                writer.u16(1);
                writer.u16(page);
                writer.u16(length);
            }
            Request::Receive { page } => {
                writer.u16(2);
                writer.u16(page);
            }
            Request::Close => writer.u16(3),
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Request::Transmit { page: reader.u16()?, length: reader.u16()? }),
            2 => Ok(Request::Receive { page: reader.u16()? }),
            3 => Ok(Request::Close),
            _ => Err(Malformed),
        }
    }
}

impl Message for Reply {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Up { mac, mtu } => {
                writer.u16(1);
                writer.bytes(&mac);
                writer.u16(mtu);
            }
            Reply::Down => writer.u16(2),
            Reply::Received { page, offset, length } => {
                writer.u16(3);
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
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u16()? {
            1 => Ok(Reply::Up { mac: reader.bytes(6)?.try_into().map_err(|_| Malformed)?, mtu: reader.u16()? }),
            2 => Ok(Reply::Down),
            3 => Ok(Reply::Received { page: reader.u16()?, offset: reader.u16()?, length: reader.u16()? }),
            4 => Ok(Reply::Transmitted { page: reader.u16()? }),
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
        round_trips(&[
            Request::Transmit { page: 1, length: 2 },
            Request::Transmit { page: u16::MAX, length: u16::MAX },
            Request::Receive { page: 300 },
            Request::Close,
        ]);
        round_trips(&[
            Reply::Up { mac: [1, 2, 3, 4, 5, 6], mtu: 1500 },
            Reply::Down,
            Reply::Received { page: 1, offset: 2, length: 3 },
            Reply::Received { page: u16::MAX, offset: u16::MAX, length: u16::MAX },
            Reply::Transmitted { page: 9 },
        ]);
        malformed::<Request>(&[&[], &[4], &[3, 0, 1], &[2, 0, 1, 0, 1]]);
        malformed::<Reply>(&[&[], &[5], &[2, 0, 0, 0, 1], &[1, 1]]);
    }
}
