//! What an application has yet to be told about the network.

/// What an application has yet to be told about the network.
#[derive(Clone, Copy, Default)]
pub(super) struct PendingNotices {
    /// Everything that it has is void: it is to listen again.
    pub down: bool,
    /// The address.
    pub up: bool,
    /// The number of free connections that it was last told of.
    pub pressure: Option<u16>,
    /// It is to be woken for what it was told.
    pub wake: bool,
}
