//! The definitions that every part of Cloister shares: identifiers, rights, the invocation ABI, and
//! the layout of the capability tables that the policy compiler writes into the image.
//!
//! This crate defines what an authority *is*; the kernel (`kernel/core`) decides who holds it. It
//! depends on no other crate of the workspace.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
mod clamped;
pub mod ids;
pub mod rights;
pub mod tables;
pub mod weakness;
pub mod xen;

pub use abi::{InvokeError, Operation, Status};
pub use clamped::Clamped;
pub use ids::{DomId, EvtchnPort, Gfn, GrantRef, Slot};
pub use rights::{Kind, Rights};
pub use tables::{DomainSetId, GrantRuleId, MappingId, PortRuleId, QueueId, RegionId, ServiceId};

/// The size of a page in bytes: the unit of mapping and of granting (`XC_PAGE_SIZE` of Xen).
pub const PAGE_SIZE: usize = 4096;
