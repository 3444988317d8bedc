//! Domain sets: the pin that says which domain of a set is the peer.
//!
//! The rules of ports and grants name a set. If the set is pinned, only the pinned domain is the
//! peer of all of them. So a service that opens ports or issues grants does not choose their peer,
//! and no two of them have different ones.

use cloister_caps::tables::{DomainSet, PortPeer};
use cloister_caps::{DomId, DomainSetId, Status};

use super::Kernel;
use super::answer::{Answer, DONE};
use super::grants::bits_of;

/// Returns `domain` if it is a real domain of the set.
fn member(domains: DomainSet, domain: u64) -> Result<DomId, Status> {
    let domain = u16::try_from(domain).map(DomId).map_err(|_| Status::NotPermitted)?;
    let is_member = domain.is_real() && (domains.first..=domains.last).contains(&domain.0);
    if is_member { Ok(domain) } else { Err(Status::NotPermitted) }
}

impl Kernel<'_> {
    /// Returns `peer` if it may be the peer of a rule that names `set`: it is a domain of the set,
    /// and the pinned one if the set is pinned.
    pub(super) fn allowed_peer(&self, set: DomainSetId, peer: u64) -> Result<DomId, Status> {
        let domains = self.tables.domain_set(set);
        let peer = member(domains, peer)?;
        match self.pins[set] {
            Some(pin) if pin == peer => Ok(peer),
            None if !domains.pinned => Ok(peer),
            None => Err(Status::WrongState),
            Some(_) => Err(Status::NotPermitted),
        }
    }

    /// Pins a domain of a set.
    ///
    /// Another one than before is refused while anything is shared with the earlier one: that is
    /// what keeps all ports and pages of a set with one domain. It is no more a defect of the caller
    /// than a page that the peer still maps, so the status is the same.
    pub(super) fn pin_domain(&mut self, set: DomainSetId, domain: u64) -> Result<Answer, Status> {
        let domain = member(self.tables.domain_set(set), domain)?;
        if self.pins[set].is_some_and(|pin| pin != domain) && self.is_set_in_use(set) {
            return Err(Status::InUse);
        }
        self.pins[set] = Some(domain);
        Ok(DONE)
    }

    /// Returns `true` if a port of a rule that names `set` is open, or a page is granted or mapped.
    fn is_set_in_use(&self, set: DomainSetId) -> bool {
        let mut ports = self.tables.ports().with_ids();
        let mut grants = self.tables.grants().iter();
        ports.any(|(id, rule)| rule.peer == PortPeer::Domains(set) && self.channels[id].is_some())
            || grants.any(|rule| {
                // `granted` also has the pages that are mapped.
                let references = rule.first_ref..=rule.first_ref + rule.count - 1;
                rule.peers == set && bits_of(&references).any(|(word, bits)| self.granted.get(word) & bits != 0)
            })
    }
}
