//! `control`: the control service (client) and tcpip (server): ending in good order.

use crate::message::{Malformed, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Control;
impl Interface for Control {
    const NAME: &'static str = "control";
    type Request = Request;
    type Reply = Reply;
}

/// What control asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The domain is about to end: accept nothing more, close every connection, then the link.
    Quiesce,
}

/// What tcpip answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Every connection is closed and the link is down.
    Quiet,
}

impl Message for Request {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(1);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.u16()? == 1 { Ok(Request::Quiesce) } else { Err(Malformed) }
    }
}

impl Message for Reply {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(1);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.u16()? == 1 { Ok(Reply::Quiet) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        check_round_trip(&[Request::Quiesce]);
        check_round_trip(&[Reply::Quiet]);
        check_malformed::<Request>(&[&[], &[2], &[1, 0, 1]]);
        check_malformed::<Reply>(&[&[], &[2], &[1, 0, 0, 0, 0, 0, 0, 1]]);
    }
}
