//! The grant manager: decides which pages are granted to which domain, within the policy's rules,
//! and always knows which are.
//!
//! All pages of a request are granted, or none. A page that the peer still maps when its grant is
//! to end stays granted, and the end is tried again at growing intervals. Until it succeeds the
//! page cannot be granted again. The kernel also checks every grant against the same policy, and
//! alone writes the grant table.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod capabilities;
mod log;
mod pages;
mod service;

use cloister_interfaces::{Memory, Service, System};

pub use capabilities::{Caps, MAX_CLIENTS, MAX_RULES};

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service + core::fmt::Debug {
    service::GrantManager::new(caps)
}

#[cfg(test)]
mod tests;
