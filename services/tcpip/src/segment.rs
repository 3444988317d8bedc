//! TCP segments, as the link half and the TCP half describe them to each other.

use arrayvec::ArrayVec;
use bitflags::bitflags;

use crate::table::Key;

/// The number of ranges above the first gap that are remembered of a peer. One round of repeats
/// fills as many gaps.
pub const MAX_RANGES: usize = 16;

bitflags! {
    /// The flags of a TCP segment (RFC 9293, 3.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TcpFlags: u8 {
        /// The sender's stream ends after the data.
        const FIN = 0x01;
        /// The sender's stream begins.
        const SYN = 0x02;
        /// There is no such connection.
        const RST = 0x04;
        /// The data should reach the application at once.
        const PSH = 0x08;
        /// There is an acknowledgement number.
        const ACK = 0x10;
        /// The others are kept as they are.
        const _ = !0;
    }
}

impl TcpFlags {
    /// Returns `true` if the segment asks to open a connection: SYN without ACK.
    #[inline]
    #[must_use]
    pub fn opens(self) -> bool {
        self & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN
    }

    /// Returns `true` if there is no flag except ACK, and perhaps PSH.
    #[inline]
    #[must_use]
    pub fn is_plain(self) -> bool {
        self & !TcpFlags::PSH == TcpFlags::ACK
    }

    /// Returns `true` if the segment has the SYN flag.
    #[inline]
    #[must_use]
    pub fn has_syn(self) -> bool {
        self.contains(TcpFlags::SYN)
    }

    /// Returns `true` if the segment has the RST flag.
    #[inline]
    #[must_use]
    pub fn has_rst(self) -> bool {
        self.contains(TcpFlags::RST)
    }
}

/// The headers of a received TCP segment to our address.
///
/// # Holding one proves
/// If [`crate::link::frame::classify`] returned it: the fixed parts of the IPv4 and TCP headers are
/// inside the frame, the segment is no fragment, and it is to our address. It does not prove that
/// the segment is honest, nor that the lengths agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its connection.
    pub key: Key,
    /// The destination port.
    pub port: u16,
    /// The flags.
    pub flags: TcpFlags,
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
/// If [`crate::link::segmentation::outgoing`] returned it: the frame that smoltcp built holds the
/// headers of a TCP segment, and these are their fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BuiltSegment {
    /// The flags. smoltcp repeats a segment with SYN by itself.
    pub flags: TcpFlags,
    /// The sequence number.
    pub seq: u32,
    /// The acknowledgement number.
    pub ack: u32,
    /// The number of bytes of data.
    pub data: u32,
}

impl BuiltSegment {
    /// Returns how many sequence numbers it takes, not counting a SYN.
    pub fn length(&self) -> u32 {
        if self.flags.has_syn() { 0 } else { self.data + u32::from(self.flags.contains(TcpFlags::FIN)) }
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
