//! TCP segments as the link and the connections tell each other of them.

use arrayvec::ArrayVec;

use crate::table::Key;

/// Ranges above the first gap that are remembered of a peer: so many gaps are filled in a round.
pub const MAX_RANGES: usize = 16;

/// A TCP segment to our address, as its headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its connection.
    pub key: Key,
    /// The port that it is to.
    pub port: u16,
    /// It starts a connection: a SYN without an ACK.
    pub opens: bool,
    /// It has a SYN, whatever else.
    pub syn: bool,
    /// It is a reset.
    pub reset: bool,
    /// It has no flag but ACK, except perhaps PSH.
    pub plain: bool,
    /// It has options.
    pub options: bool,
    /// Bytes of data.
    pub data: usize,
    /// The offset of the data in the frame.
    pub offset: usize,
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges, if it is plain.
    pub ack: u32,
    /// The window that it announces, not scaled.
    pub window: u16,
}

/// Bytes from one position up to another.
pub type Range = (u32, u32);

/// A segment that the stack made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// It is a SYN: the stack's own to repeat.
    pub opens: bool,
    /// Its sequence number.
    pub seq: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// Bytes of its data.
    pub data: u32,
    /// It is the last.
    pub fin: bool,
}

impl Outgoing {
    /// How much it takes of the sequence after the SYN.
    pub fn length(&self) -> u32 {
        if self.opens { 0 } else { self.data + u32::from(self.fin) }
    }
}

/// What of the segments that the stack builds anew is to be sent: ascending ranges, by sequence number relative to `base`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SendRanges {
    /// Where positions count from.
    pub base: u32,
    /// The ranges; the last has no end.
    pub ranges: ArrayVec<Range, { SendRanges::MAX }>,
}

impl SendRanges {
    /// The most ranges: one before each that the peer has, one after them, and what was never sent.
    pub const MAX: usize = MAX_RANGES + 2;
}
