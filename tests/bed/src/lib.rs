#![forbid(unsafe_code)]
//! Runs images on real Xen, for tests: Xen and a Linux dom0 in QEMU's software emulation, guests
//! created by `xl`, and a channel over which the host runs commands in dom0.
//!
//! A [`Bed`] is one such machine. It needs no hardware virtualisation, and root only to install
//! missing Debian packages. QEMU never outlives the process that started it.

pub mod agent;
pub mod bare;
mod bed;
pub mod boot_files;
pub mod direct;
pub mod elf;
mod error;
pub mod gdb;
pub mod guest;
pub mod http;
mod image;
pub mod initramfs;
pub mod inject;
pub mod kmod;
pub mod linux;
pub mod log;
pub mod packages;
mod paths;
pub mod port;
mod qemu;
pub mod tree;

pub use agent::Output;
pub use bed::{Bed, Clock, Config};
pub use error::BedError;
pub use guest::Guest;
pub use image::image;
pub use initramfs::Dom0;
/// Called with the name of each stage as it begins. Each call ends the stage before.
pub type Progress<'a> = dyn FnMut(&str) + 'a;
pub use paths::{bed_dir, target_dir};
