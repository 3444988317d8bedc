//! What tcpip must not request.

use core::fmt;

use cloister_interfaces::Malformed;

/// A violation of the protocol by tcpip: the request is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestViolation {
    /// The message does not decode.
    Malformed(Malformed),
    /// The page is not in the pool.
    Page,
    /// The page does not belong to tcpip.
    Owner,
    /// No frame has this length.
    Length,
    /// The link has not offered this offload.
    Offload,
}

impl fmt::Display for RequestViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestViolation::Malformed(malformed) => return malformed.fmt(f),
            RequestViolation::Page => "a page that is not in the pool",
            RequestViolation::Owner => "a page that is not its own",
            RequestViolation::Length => "a frame of impossible length",
            RequestViolation::Offload => "an offload that the link has not offered",
        })
    }
}
