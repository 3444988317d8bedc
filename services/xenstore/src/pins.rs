//! The nodes that say which domain of a set is the peer.

use arrayvec::ArrayVec;
use cloister_caps::{DomId, Status};
use cloister_interfaces::System;
use cloister_interfaces::capability::DomainPin;
use cloister_interfaces::rules::{PathRule, PinRule, after_rules, decode_rules};

use crate::MAX_PINS;
use crate::policy::{OwnDomid, is_node};
use crate::wire;

/// A domain set whose peer a node says.
struct Pin<S> {
    capability: DomainPin<S>,
    /// `None` if the rules name no node: it is never set.
    rule: Option<PinRule<'static>>,
}

/// The index of a pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinIndex(u8);

impl PinIndex {
    /// Returns the index into a list of pins.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The domain sets whose peer nodes say.
pub struct Pins<S>(ArrayVec<Pin<S>, MAX_PINS>);

impl<S: System> Pins<S> {
    /// Takes the capabilities, and the nodes that `rules` have for them.
    pub fn new(capabilities: ArrayVec<DomainPin<S>, MAX_PINS>, rules: &'static [u8]) -> Self {
        let rules = || decode_rules::<PinRule<'static>>(after_rules::<PathRule<'_>>(rules));
        let pin = |(index, capability)| {
            let rule = rules().find(|rule| rule.pin == index);
            Pin { capability, rule }
        };
        Pins((0..).zip(capabilities).map(pin).collect())
    }

    /// Returns the pin whose node `path` is, in either form.
    pub fn find(&self, path: &str, own: OwnDomid<'_>) -> Option<PinIndex> {
        let names = |pin: &Pin<S>| pin.rule.is_some_and(|rule| is_node(path, rule.node, own));
        (0..).zip(&self.0).find_map(|(index, pin)| names(pin).then_some(PinIndex(index)))
    }

    /// Pins the domain that a node's value names. Returns `false` if the set still has ports or
    /// pages in use with another one.
    ///
    /// A value that is not the number of a domain of the set pins nothing. It can be passed on: it
    /// gives its reader no right.
    pub fn set(&self, PinIndex(index): PinIndex, value: &[u8]) -> bool {
        let Some(Pin { capability, rule: Some(rule) }) = self.0.get(usize::from(index)) else { return true };
        // The daemon ends numbers of its own with a NUL. In a node, that is no number.
        let number = wire::number(value).filter(|_| value.last() != Some(&0));
        let domain = number.and_then(|id| u16::try_from(id).ok());
        let Some(domain) = domain.filter(|id| (rule.first..=rule.last).contains(id)) else { return true };
        capability.pin(DomId(domain)).err().is_none_or(|error| error.status() != Status::InUse)
    }
}
