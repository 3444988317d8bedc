//! Takes messages out of the response stream, piece by piece.

use arrayvec::ArrayVec;
use cloister_interfaces::Memory;

use crate::ring::{Ring, Violation};
use crate::wire::{HEADER, Header, MAX_PAYLOAD, MessageType};

/// The number of payload bytes that are kept. Expected answers are shorter. Of a longer payload
/// only the length matters.
const MAX_KEPT: usize = 256;

/// The result of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// The stream has no bytes.
    Empty,
    /// Some bytes were taken.
    Partial,
    /// A complete message was taken. [`Inbound::payload`] returns its payload.
    Message(Header),
}

/// The message being received.
pub struct Inbound {
    header: [u8; HEADER],
    filled: usize,
    current: Option<Header>,
    remaining: usize,
    payload: ArrayVec<u8, MAX_KEPT>,
    /// If set, everything before the answer to this read request is skipped: the stream may begin
    /// in the middle of an answer to an earlier user of the ring.
    sought: Option<u32>,
}

impl Inbound {
    /// Creates the state between two messages.
    pub const fn new() -> Self {
        Inbound {
            header: [0; HEADER],
            filled: 0,
            current: None,
            remaining: 0,
            payload: ArrayVec::new_const(),
            sought: None,
        }
    }

    /// Skips everything before the answer to the read `request`.
    pub fn skip_to_answer(&mut self, request: u32) {
        *self = Inbound { sought: Some(request), ..Inbound::new() };
    }

    /// Returns the payload of the message that was taken last, or `None` if it was too long to be
    /// kept.
    pub fn payload(&self, header: &Header) -> Option<&[u8]> {
        (header.length as usize <= MAX_KEPT).then_some(&self.payload)
    }

    /// Takes bytes of a header or of a payload: all that it needs, or a part.
    ///
    /// # Errors
    /// The daemon's index cannot be, or a message is longer than the protocol allows.
    pub fn step<M: Memory>(&mut self, ring: &mut Ring<M>) -> Result<Progress, Violation> {
        match self.current {
            None => self.take_header(ring),
            Some(header) => self.take_payload(ring, header),
        }
    }

    fn take_header<M: Memory>(&mut self, ring: &mut Ring<M>) -> Result<Progress, Violation> {
        let count = ring.receive(self.header.get_mut(self.filled..).unwrap_or_default())?;
        self.filled += count;
        if count == 0 {
            return Ok(Progress::Empty);
        }
        if self.filled < HEADER {
            return Ok(Progress::Partial);
        }
        let header = Header::decode(&self.header);
        if let Some(request) = self.sought {
            let expected = header.is(MessageType::Read) || header.is(MessageType::Error);
            if !expected || header.request != request || header.transaction != 0 || header.length > MAX_PAYLOAD {
                self.header.rotate_left(1);
                self.filled = HEADER - 1;
                return Ok(Progress::Partial);
            }
            self.sought = None;
        }
        if header.length > MAX_PAYLOAD {
            return Err(Violation);
        }
        self.filled = 0;
        self.payload.clear();
        self.remaining = header.length as usize;
        self.current = Some(header);
        if self.remaining == 0 { Ok(self.finish(header)) } else { Ok(Progress::Partial) }
    }

    fn take_payload<M: Memory>(&mut self, ring: &mut Ring<M>, header: Header) -> Result<Progress, Violation> {
        let mut bytes = [0; 128];
        let wanted = self.remaining.min(bytes.len());
        let count = ring.receive(bytes.get_mut(..wanted).unwrap_or_default())?;
        if count == 0 {
            return Ok(Progress::Empty);
        }
        let kept = count.min(self.payload.remaining_capacity());
        let _ = self.payload.try_extend_from_slice(bytes.get(..kept).unwrap_or_default());
        self.remaining -= count;
        if self.remaining == 0 { Ok(self.finish(header)) } else { Ok(Progress::Partial) }
    }

    fn finish(&mut self, header: Header) -> Progress {
        self.current = None;
        Progress::Message(header)
    }
}
