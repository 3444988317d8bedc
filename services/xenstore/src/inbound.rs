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

#[cfg(test)]
mod tests {
    use super::*;
    use cloister_sim::SharedMemory;

    /// The offsets of the daemon's stream and of its producer's index (`xs_wire.h`).
    const STREAM: usize = 1024;
    const PRODUCED: usize = 2060;

    struct Stream {
        memory: SharedMemory,
        ring: Ring<SharedMemory>,
        inbound: Inbound,
    }

    impl Stream {
        fn new() -> Stream {
            let memory = SharedMemory::new(4096);
            Stream { ring: Ring::new(memory.clone()), memory, inbound: Inbound::new() }
        }

        /// Lets the daemon write `at_once` bytes at a time. Returns the messages that come out.
        fn feed(&mut self, bytes: &[u8], at_once: usize) -> Vec<(u32, Vec<u8>)> {
            let mut messages = Vec::new();
            for part in bytes.chunks(at_once) {
                let mut at = self.memory.load(PRODUCED);
                for byte in part {
                    self.memory.write(STREAM + at as usize % 1024, &[*byte]);
                    at += 1;
                }
                self.memory.store(PRODUCED, at);
                loop {
                    match self.inbound.step(&mut self.ring).expect("no violation") {
                        Progress::Empty => break,
                        Progress::Partial => {}
                        Progress::Message(header) => {
                            let payload = self.inbound.payload(&header).expect("a short payload");
                            messages.push((header.request, payload.to_vec()));
                        }
                    }
                }
            }
            messages
        }
    }

    fn message(kind: u32, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { kind, request, transaction, length: payload.len() as u32 };
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn messages_come_in_pieces_of_any_length() {
        let bytes = [message(2, 7, 0, b"one"), message(11, 8, 0, b""), message(2, 9, 0, &[b'x'; 200])].concat();
        for at_once in [1, 2, 15, 16, 17, 300] {
            let expected = vec![(7, b"one".to_vec()), (8, Vec::new()), (9, vec![b'x'; 200])];
            assert_eq!(Stream::new().feed(&bytes, at_once), expected, "{at_once}");
        }
    }

    /// What looks like the answer, but for one field, is none: it may be the data of another.
    #[test]
    fn everything_before_the_answer_that_is_sought_is_skipped() {
        let (read, error, write) = (2, 16, 11);
        let long = Header { kind: read, request: 7, transaction: 0, length: MAX_PAYLOAD + 1 }.encode().to_vec();
        let near = [message(write, 7, 0, b""), message(read, 6, 0, b""), message(read, 7, 1, b""), long];
        for kind in [read, error] {
            for before in near.iter().chain([&b"rubbish".to_vec(), &Vec::new()]) {
                let mut stream = Stream::new();
                stream.inbound.skip_to_answer(7);
                let bytes = [before, &message(kind, 7, 0, b"12")[..], &message(write, 8, 3, b"")].concat();
                assert_eq!(stream.feed(&bytes, 300), [(7, b"12".to_vec()), (8, Vec::new())], "{kind} after {before:?}");
            }
        }
    }

    #[test]
    fn the_longest_message_can_be_the_answer_that_is_sought() {
        let mut stream = Stream::new();
        stream.inbound.skip_to_answer(7);
        let header = Header { kind: 2, request: 7, transaction: 0, length: MAX_PAYLOAD };
        assert!(stream.feed(&header.encode(), 16).is_empty());
        assert_eq!((stream.inbound.current, stream.inbound.sought), (Some(header), None));
    }
}
