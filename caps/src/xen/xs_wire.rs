//! The XenStore ring and its messages (`io/xs_wire.h`).

use core::mem::offset_of;

use static_assertions::const_assert_eq;

/// The page between a guest and the daemon (`xenstore_domain_interface`). Indices count freely and
/// wrap.
#[repr(C)]
pub struct Interface {
    /// The stream of requests.
    pub req: [u8; RING_SIZE],
    /// The stream of responses.
    pub rsp: [u8; RING_SIZE],
    /// Free-running consumer index of the requests, in bytes. The daemon writes it.
    pub req_cons: u32,
    /// Free-running producer index of the requests, in bytes. The guest writes it.
    pub req_prod: u32,
    /// Free-running consumer index of the responses, in bytes. The guest writes it.
    pub rsp_cons: u32,
    /// Free-running producer index of the responses, in bytes. The daemon writes it.
    pub rsp_prod: u32,
    /// The features of the daemon: [`SERVER_FEATURE_RECONNECTION`].
    pub server_features: u32,
    /// [`CONNECTED`] or [`RECONNECT`].
    pub connection: u32,
}
const_assert_eq!(size_of::<Interface>(), 2072);

/// `XENSTORE_RING_SIZE`: the size of a stream in bytes.
pub const RING_SIZE: usize = 1024;
/// The offset of [`Interface::req`].
pub const REQ: usize = offset_of!(Interface, req);
/// The offset of [`Interface::rsp`].
pub const RSP: usize = offset_of!(Interface, rsp);
/// The offset of [`Interface::req_cons`].
pub const REQ_CONS: usize = offset_of!(Interface, req_cons);
/// The offset of [`Interface::req_prod`].
pub const REQ_PROD: usize = offset_of!(Interface, req_prod);
/// The offset of [`Interface::rsp_cons`].
pub const RSP_CONS: usize = offset_of!(Interface, rsp_cons);
/// The offset of [`Interface::rsp_prod`].
pub const RSP_PROD: usize = offset_of!(Interface, rsp_prod);
/// The offset of [`Interface::server_features`].
pub const SERVER_FEATURES: usize = offset_of!(Interface, server_features);
/// The offset of [`Interface::connection`].
pub const CONNECTION: usize = offset_of!(Interface, connection);

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`: the guest may ask for a new connection.
pub const SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_CONNECTED`: the usual state.
pub const CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`: the guest has asked for a new connection, which is being made.
pub const RECONNECT: u32 = 1;

/// The head of a message (`xsd_sockmsg`).
#[repr(C)]
pub struct Header {
    /// A [`MessageType`].
    pub kind: u32,
    /// Repeated by the response; 0 for a watch event.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// The length of the payload in bytes.
    pub len: u32,
}
const_assert_eq!(size_of::<Header>(), 16);

/// `XENSTORE_PAYLOAD_MAX`: the length of the longest payload in bytes.
pub const PAYLOAD_MAX: u32 = 4096;

/// The types of messages that an unprivileged guest needs (`enum xsd_sockmsg_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MessageType {
    /// `XS_DIRECTORY`: names of the children of a node.
    Directory = 1,
    /// `XS_READ`
    Read = 2,
    /// `XS_WATCH`
    Watch = 4,
    /// `XS_UNWATCH`
    Unwatch = 5,
    /// `XS_TRANSACTION_START`
    TransactionStart = 6,
    /// `XS_TRANSACTION_END`
    TransactionEnd = 7,
    /// `XS_WRITE`
    Write = 11,
    /// `XS_RM`
    Rm = 13,
    /// `XS_WATCH_EVENT`
    WatchEvent = 15,
    /// `XS_ERROR`
    Error = 16,
    /// `XS_RESET_WATCHES`
    ResetWatches = 21,
}
