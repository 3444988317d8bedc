//! The console ring (`io/console.h`).

use core::mem::offset_of;

use static_assertions::const_assert_eq;

/// The page that a guest shares with the console daemon (`xencons_interface`).
#[repr(C)]
pub struct Interface {
    /// Input: bytes for the guest.
    pub input: [u8; 1024],
    /// Output: bytes of the guest.
    pub output: [u8; 2048],
    /// The guest's index of the input.
    pub in_cons: u32,
    /// The daemon's index of the input.
    pub in_prod: u32,
    /// The daemon's index of the output.
    pub out_cons: u32,
    /// The guest's index of the output.
    pub out_prod: u32,
}
const_assert_eq!(offset_of!(Interface, in_cons), 3072);

/// Bytes of the output half of the ring.
pub const OUT_SIZE: u32 = 2048;
