//! `control`: an orderly shutdown. The control service is the client, tcpip the server.
//!
//! | who is hostile | what it can do | what it must not | target |
//! |---|---|---|---|
//! | control or tcpip | send any message | end the domain without the toolstack's command; keep it from ending | `control-control`, `tcpip-control` |

use crate::message::{Defect, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Control;
impl Interface for Control {
    const NAME: &'static str = "control";
    type Request = Request;
    type Reply = Reply;
}

/// The requests of the control service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Prepare for the end of the domain: accept no more connections, close all that exist, and
    /// then the link.
    Quiesce,
}

/// The replies of tcpip.
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
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        if reader.u16()? == 1 { Ok(Request::Quiesce) } else { Err(reader.reject(0, Defect::Tag)) }
    }
}

impl Message for Reply {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(1);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        if reader.u16()? == 1 { Ok(Reply::Quiet) } else { Err(reader.reject(0, Defect::Tag)) }
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
        check_malformed::<Request>(&[(&[], 0, Defect::Tag), (&[2], 0, Defect::Tag), (&[1, 0, 1], 2, Defect::Padding)]);
        check_malformed::<Reply>(&[
            (&[], 0, Defect::Tag),
            (&[2], 0, Defect::Tag),
            (&[1, 0, 0, 0, 0, 0, 0, 1], 2, Defect::Padding),
        ]);
    }
}
