//! Several services wired together on the simulator, and a client with its own network stack
//! on the wire.
#![forbid(unsafe_code)]

pub mod client;
pub mod dhcp;
pub mod image;
pub mod wire;

/// The example of `docs/writing-a-service.md`, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/writing-a-service.md")]
pub struct WritingAService;

pub use client::{Client, Network};
pub use image::{Image, Options};
pub use wire::{Wire, finish, join};
