//! The link half: frames, the pages that hold them, and the hosts on the link.
//!
//! It knows segments ([`crate::segment`]), but no connections.

pub mod arp;
pub(crate) mod device;
pub(crate) mod fragments;
pub mod frame;
pub(crate) mod neighbours;
pub(crate) mod next_hop;
pub(crate) mod null_device;
pub(crate) mod page_runs;
pub(crate) mod rx_part;
pub mod segmentation;
pub(crate) mod transmitter;
