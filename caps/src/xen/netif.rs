//! The network device (`io/netif.h`).

use core::mem::offset_of;

use static_assertions::const_assert_eq;

use super::ring::slots;

/// A request to send (`netif_tx_request`).
#[repr(C)]
pub struct TxRequest {
    /// The page of the bytes.
    pub gref: u32,
    /// The offset of the first byte in the page.
    pub offset: u16,
    /// `NETTXF_*`: see [`tx_flag`].
    pub flags: u16,
    /// Repeated by the response.
    pub id: u16,
    /// In the first slot of a frame, the length of the frame; in others, that of the slot's bytes.
    pub size: u16,
}
const_assert_eq!(size_of::<TxRequest>(), 12);

/// A response to a [`TxRequest`] (`netif_tx_response`).
#[repr(C)]
pub struct TxResponse {
    /// The id of the request that this answers.
    pub id: u16,
    /// `NETIF_RSP_*`: see [`status`].
    pub status: i16,
}
const_assert_eq!(size_of::<TxResponse>(), 4);

/// A page to receive into (`netif_rx_request`).
#[repr(C)]
pub struct RxRequest {
    /// Repeated by the response.
    pub id: u16,
    _padding: u16,
    /// The page.
    pub gref: u32,
}
const_assert_eq!(size_of::<RxRequest>(), 8);
const_assert_eq!(offset_of!(RxRequest, gref), 4);

/// A response to an [`RxRequest`] (`netif_rx_response`).
#[repr(C)]
pub struct RxResponse {
    /// The id of the request that this answers.
    pub id: u16,
    /// The offset of the first byte in the page.
    pub offset: u16,
    /// `NETRXF_*`: see [`rx_flag`].
    pub flags: u16,
    /// The number of bytes, or `NETIF_RSP_*` if it is negative.
    pub status: i16,
}
const_assert_eq!(size_of::<RxResponse>(), size_of::<RxRequest>());

/// A slot with more about the frame (`netif_extra_info`), here that of type
/// [`EXTRA_TYPE_GSO`].
#[repr(C)]
pub struct ExtraGso {
    /// `XEN_NETIF_EXTRA_TYPE_*`.
    pub kind: u8,
    /// [`EXTRA_FLAG_MORE`] or 0.
    pub flags: u8,
    /// The largest payload of a segment, in bytes.
    pub size: u16,
    /// `XEN_NETIF_GSO_TYPE_*`.
    pub protocol: u8,
    _padding: u8,
    /// `XEN_NETIF_GSO_FEAT_*`: 0.
    pub features: u16,
}
const_assert_eq!(size_of::<ExtraGso>(), 8);

/// The number of slots of the transmit ring.
pub const TX_SLOTS: u32 = slots(size_of::<TxRequest>());
/// The number of slots of the receive ring.
pub const RX_SLOTS: u32 = slots(size_of::<RxRequest>());
const_assert_eq!(TX_SLOTS, RX_SLOTS);

/// Flags of a request to send (`NETTXF_*`).
pub mod tx_flag {
    /// The checksum field holds the sum of the pseudo-header only (`NETTXF_csum_blank`).
    pub const CSUM_BLANK: u16 = 1 << 0;
    /// The bytes are known to be intact (`NETTXF_data_validated`).
    pub const DATA_VALIDATED: u16 = 1 << 1;
    /// The frame continues in the next slot (`NETTXF_more_data`).
    pub const MORE_DATA: u16 = 1 << 2;
    /// The next slot is an extra info (`NETTXF_extra_info`).
    pub const EXTRA_INFO: u16 = 1 << 3;
}

/// Flags of a received slot (`NETRXF_*`).
pub mod rx_flag {
    /// The checksum was verified (`NETRXF_data_validated`).
    pub const DATA_VALIDATED: u16 = 1 << 0;
    /// The sender left the checksum out (`NETRXF_csum_blank`).
    pub const CSUM_BLANK: u16 = 1 << 1;
    /// The frame continues in the next slot (`NETRXF_more_data`).
    pub const MORE_DATA: u16 = 1 << 2;
    /// The next slot is an extra info (`NETRXF_extra_info`).
    pub const EXTRA_INFO: u16 = 1 << 3;
    /// The slot is of an older form of segmentation (`NETRXF_gso_prefix`).
    pub const GSO_PREFIX: u16 = 1 << 4;
}

/// The status of a response (`NETIF_RSP_*`).
pub mod status {
    /// The back end dropped the frame (`NETIF_RSP_DROPPED`).
    pub const DROPPED: i16 = -2;
    /// An error (`NETIF_RSP_ERROR`).
    pub const ERROR: i16 = -1;
    /// The frame was sent (`NETIF_RSP_OKAY`).
    pub const OKAY: i16 = 0;
    /// No response to the request, which was an extra info (`NETIF_RSP_NULL`).
    pub const NULL: i16 = 1;
}

/// `XEN_NETIF_EXTRA_TYPE_GSO`: the frame is a TCP segment longer than the MTU.
pub const EXTRA_TYPE_GSO: u8 = 1;
/// `XEN_NETIF_EXTRA_FLAG_MORE`: another extra info follows.
pub const EXTRA_FLAG_MORE: u8 = 1;
/// `XEN_NETIF_GSO_TYPE_TCPV4`: TCP over IPv4.
pub const GSO_TYPE_TCPV4: u8 = 1;
/// `XEN_NETIF_NR_SLOTS_MIN`: the number of slots of a frame that every back end takes.
pub const NR_SLOTS_MIN: usize = 18;
/// `XEN_NETIF_MAX_TX_SIZE`: the length of the longest frame that can be sent, in bytes.
pub const MAX_TX_SIZE: usize = 0xFFFF;
