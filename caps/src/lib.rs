//! The vocabulary that every part of Cloister shares: identifiers, rights, the invocation ABI
//! and the layout of the capability tables that the policy compiler writes into the image.
//!
//! This crate has no dependencies of ours and no `unsafe`; it says what an authority *is*. The
//! kernel (`kernel/core`) says who holds it.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
mod clamped;
pub mod ids;
pub mod rights;
pub mod tables;

pub use abi::{InvokeError, Operation, Status};
pub use clamped::Clamped;
pub use ids::{DomId, EvtchnPort, Gfn, GrantRef, ServiceId, Slot};
pub use rights::{Kind, Rights};

/// Bytes in a page: the unit of mapping and of granting (Xen `XC_PAGE_SIZE`).
pub const PAGE_SIZE: usize = 4096;
