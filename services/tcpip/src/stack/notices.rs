//! The notices about the network that an application has not been sent yet.

/// The notices about the network that an application has not been sent yet.
#[derive(Clone, Copy, Default)]
pub(super) struct PendingNotices {
    /// Everything that it has is void, and it must listen again.
    pub down: bool,
    /// The network is up.
    pub up: bool,
    /// The number of free connections that it was sent last.
    pub pressure: Option<u16>,
    /// A reply was pushed that the application must be notified of.
    pub must_notify: bool,
}
