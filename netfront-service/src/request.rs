//! What tcpip must not request.

/// A breach of the protocol by tcpip: the request is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestViolation {
    /// The message does not decode.
    Malformed,
    /// The page is not in the pool.
    Page,
    /// The page does not belong to tcpip.
    Owner,
    /// No frame has this length.
    Length,
    /// The link has not offered this offload.
    Offload,
}

impl RequestViolation {
    /// Returns a description for the log.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            RequestViolation::Malformed => "a message that does not decode",
            RequestViolation::Page => "a page that is not in the pool",
            RequestViolation::Owner => "a page that is not its own",
            RequestViolation::Length => "a frame of impossible length",
            RequestViolation::Offload => "an offload that the link has not offered",
        }
    }
}
