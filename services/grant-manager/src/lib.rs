//! The grant manager: decides which pages are granted to which domain, within the policy's rules, and knows at
//! any time which are.
//!
//! A grant is made whole or not at all. A page that the peer still maps when its grant is to end stays granted and
//! is tried again, ever more rarely; until then it is counted as held, and cannot be granted anew. The kernel
//! checks every grant once more against the same policy, and alone writes the grant table.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod pages;
mod service;

use arrayvec::ArrayVec;
use cloister_interfaces::capability::{Clock, Console, GrantRule};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::{Memory, Server, Service, System};

/// The most grant rules that the service holds.
pub const MAX_RULES: usize = 8;
/// The most clients that the service has.
pub const MAX_CLIENTS: usize = 4;

/// What the policy gives the service.
pub struct Caps<S, M> {
    /// For refusals, and for pages that a peer does not let go.
    pub console: Console<S>,
    /// For the times of new attempts.
    pub clock: Clock<S>,
    /// The rules under which the service may grant, in the order in which `rules` numbers them.
    pub grant_rules: ArrayVec<GrantRule<S>, MAX_RULES>,
    /// The clients, in the order in which `rules` numbers them.
    pub grants_clients: ArrayVec<Server<Grants, S, M>, MAX_CLIENTS>,
    /// What each client may ask for: a blob of [`cloister_interfaces::rules::ClientGrantRule`].
    pub rules: &'static [u8],
}

/// The service.
pub fn service<S: System + 'static, M: Memory + 'static>(caps: Caps<S, M>) -> impl Service {
    service::GrantManager::new(caps)
}

#[cfg(test)]
mod tests;
