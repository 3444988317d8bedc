//! The grant manager: decides which pages are granted to which domain, within the policy's rules,
//! and always knows which are.
//!
//! All pages of a request are granted, or none. A page that the peer still maps when its grant is
//! to end stays granted, and the end is tried again at growing intervals. Until it succeeds the
//! page cannot be granted again. The kernel also checks every grant against the same policy, and
//! alone writes the grant table.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod pages;
mod service;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, GrantRule};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::{Memory, Server, Service, System};

/// The largest number of grant rules.
pub const MAX_RULES: usize = 8;
/// The largest number of clients.
pub const MAX_CLIENTS: usize = 4;

/// The capabilities that the policy gives the service.
pub struct Caps<S, M> {
    /// Logs refusals, and pages that a peer still maps.
    pub console: Console<S>,
    /// Measures the intervals between attempts to end grants.
    pub clock: Clock<S>,
    /// The rules under which the service may grant pages, in the order in which `rules` numbers
    /// them.
    pub grant_rules: ArrayVec<GrantRule<S>, MAX_RULES>,
    /// The queues to the clients, in the order in which `rules` numbers them.
    pub grants_clients: ArrayVec<Server<Grants, S, M>, MAX_CLIENTS>,
    /// The rules that each client may use: a blob of
    /// [`cloister_interfaces::rules::ClientGrantRule`].
    pub rules: &'static [u8],
}

/// Creates the service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::GrantManager::new(caps)
}

#[cfg(test)]
mod tests;
