//! Shared rings (`io/ring.h`): a page with a header of four indices, and slots that requests and
//! responses share.

use core::mem::offset_of;

use static_assertions::const_assert_eq;

use crate::PAGE_SIZE;

/// The header of a ring (`DEFINE_RING_TYPES`). Indices count freely and wrap.
#[repr(C)]
pub struct Header {
    /// The number of requests ever published. The front end writes it.
    pub req_prod: u32,
    /// The request of which the back end wants to be told. The back end writes it.
    pub req_event: u32,
    /// The number of responses ever published. The back end writes it.
    pub rsp_prod: u32,
    /// The response of which the front end wants to be told. The front end writes it.
    pub rsp_event: u32,
    _private: [u8; 48],
}
const_assert_eq!(size_of::<Header>(), FIRST_SLOT);

/// The offset of [`Header::req_prod`].
pub const REQ_PROD: usize = offset_of!(Header, req_prod);
/// The offset of [`Header::req_event`].
pub const REQ_EVENT: usize = offset_of!(Header, req_event);
/// The offset of [`Header::rsp_prod`].
pub const RSP_PROD: usize = offset_of!(Header, rsp_prod);
/// The offset of [`Header::rsp_event`].
pub const RSP_EVENT: usize = offset_of!(Header, rsp_event);
/// The offset of the first slot.
pub const FIRST_SLOT: usize = 64;

/// Returns the number of slots of a ring of one page whose slots have `size` bytes: the largest
/// power of two that fits (`__CONST_RING_SIZE`).
#[must_use]
pub const fn slots(size: usize) -> u32 {
    1 << ((PAGE_SIZE - FIRST_SLOT) / size).ilog2()
}
