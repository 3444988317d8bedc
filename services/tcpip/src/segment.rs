//! TCP segments, as the link half and the TCP half describe them to each other.

use arrayvec::ArrayVec;

use crate::table::Key;

/// The number of ranges above the first gap that are remembered of a peer. One round of repeats
/// fills as many gaps.
pub const MAX_RANGES: usize = 16;

/// The headers of a received TCP segment to our address.
///
/// # Holding one proves
///
/// If [`crate::link::frame::classify`] returned it: the fixed parts of the IPv4 and TCP headers are
/// inside the frame, the segment is no fragment, and it is to our address. It does not prove that
/// the segment is honest, nor that the lengths agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its connection.
    pub key: Key,
    /// The destination port.
    pub port: u16,
    /// It opens a connection: SYN without ACK.
    pub opens: bool,
    /// It has the SYN flag.
    pub syn: bool,
    /// It has the RST flag.
    pub reset: bool,
    /// It has no flags except ACK, and perhaps PSH.
    pub plain: bool,
    /// It has TCP options.
    pub options: bool,
    /// The number of bytes of data.
    pub data: usize,
    /// The offset of the data in the frame.
    pub offset: usize,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number. It has a meaning only with the ACK flag.
    pub ack: u32,
    /// The announced window, not scaled.
    pub window: u16,
}

/// A range of positions: the first, and the one after the last.
pub type Range = (u32, u32);

/// A segment that smoltcp built to be sent.
///
/// # Holding one proves
///
/// If [`crate::link::segmentation::outgoing`] returned it: the frame that smoltcp built holds the
/// headers of a TCP segment, and these are their fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// It has the SYN flag. smoltcp repeats it by itself.
    pub opens: bool,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number.
    pub ack: u32,
    /// The number of bytes of data.
    pub data: u32,
    /// It has the FIN flag.
    pub fin: bool,
}

impl Outgoing {
    /// Returns how many sequence numbers it takes, not counting a SYN.
    pub fn length(&self) -> u32 {
        if self.opens { 0 } else { self.data + u32::from(self.fin) }
    }
}

/// What is sent of the segments that smoltcp builds again: ascending ranges of positions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SendRanges {
    /// The sequence number of position 0.
    pub base: u32,
    /// The ranges. The last has no end.
    pub ranges: ArrayVec<Range, { SendRanges::MAX }>,
}

impl SendRanges {
    /// The largest number of ranges: one before each range that the peer has, one after them, and
    /// what was never sent.
    pub const MAX: usize = MAX_RANGES + 2;
}
