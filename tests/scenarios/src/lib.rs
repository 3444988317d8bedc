//! Several services wired together on the simulator, and a client with a network stack of its own on the wire.
#![forbid(unsafe_code)]

pub mod client;
pub mod dhcp;
pub mod image;
pub mod wire;

pub use client::{Client, Network};
pub use image::{Image, Options};
pub use wire::{Wire, finish, join};
