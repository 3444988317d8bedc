//! Proves assertions of kind `share-nothing`.

use std::collections::{BTreeSet, HashSet};

use super::{Outcome, Prover, Refutation};
use crate::authority::{Rule, names, paths};
use crate::diagnostic::Spanned;
use crate::model::PathRight;

impl Prover<'_> {
    /// Proves that no two of the services have anything in common.
    pub(super) fn share_nothing(&self, between: &[Spanned<String>]) -> Outcome {
        let names: HashSet<&str> = between.iter().map(|name| name.value.as_str()).collect();
        self.no_common_region(&names)?;
        self.no_common_queue(&names)?;
        self.no_common_pin(&names)?;
        let services: BTreeSet<usize> =
            names.iter().filter_map(|name| self.sound.policy.services.index(name)).collect();
        for (position, one) in services.iter().enumerate() {
            for other in services.iter().skip(position + 1) {
                self.no_common_partner(*one, *other)?;
                self.no_common_peer(*one, *other)?;
                self.no_common_path(*one, *other)?;
            }
        }
        Ok("no region, queue, pin, server, client, peer or path is common to two of them".into())
    }

    fn name(&self, service: usize) -> &str {
        self.sound.policy.services.items.get(service).map_or("", |item| &item.name.value)
    }

    /// Proves that no third service serves both, or is a client of both.
    fn no_common_partner(&self, one: usize, other: usize) -> Result<(), Refutation> {
        let queues = &self.sound.index.queues;
        for (first, a) in queues.iter().enumerate().filter(|(_, ends)| ends.from == one || ends.to == one) {
            for (second, b) in queues.iter().enumerate() {
                let path = || vec![Rule::Queue(first), Rule::Queue(second)];
                if (a.from, b.from) == (one, other) && a.to == b.to {
                    let finding = format!("{} and {} both ask {}", self.name(one), self.name(other), self.name(a.to));
                    return Err(Refutation { finding, path: path() });
                }
                if (a.to, b.to) == (one, other) && a.from == b.from {
                    let finding =
                        format!("{} and {} both serve {}", self.name(one), self.name(other), self.name(a.from));
                    return Err(Refutation { finding, path: path() });
                }
            }
        }
        Ok(())
    }

    /// Returns the domains that a service shares memory, grants or events with, each with a rule.
    fn peers(&self, service: usize) -> Vec<(usize, Rule)> {
        let index = &self.sound.index;
        let Some(links) = index.services.get(service) else { return Vec::new() };
        let ports = links.ports.iter().filter_map(|port| Some((index.ports.get(*port)?.peer?, Rule::Port(*port))));
        let mapped = links.maps.iter().filter_map(|(region, _)| index.granted.get(region));
        let grants = links.held_grants.iter().chain(&links.grants_on_behalf).chain(mapped);
        let grants = grants.filter_map(|grant| Some((index.grants.get(*grant)?.peer, Rule::Grant(*grant))));
        ports.chain(grants).collect()
    }

    fn no_common_peer(&self, one: usize, other: usize) -> Result<(), Refutation> {
        let others = self.peers(other);
        for (peer, rule) in self.peers(one) {
            let aliases = self.sound.index.aliases.get(peer).map_or(&[][..], |aliases| aliases);
            if let Some((_, second)) = others.iter().find(|(peer, _)| aliases.contains(peer)) {
                let domain = names::subject(&self.sound.policy, crate::authority::Subject::Domain(peer));
                let finding =
                    format!("{} and {} both share with the domain {domain}", self.name(one), self.name(other));
                return Err(Refutation { finding, path: vec![rule, *second] });
            }
        }
        Ok(())
    }

    /// Proves that neither writes a path that the other has any right to.
    fn no_common_path(&self, one: usize, other: usize) -> Result<(), Refutation> {
        let paths = |service: usize| {
            let entry = self.sound.index.services.get(service)?.xenstore_entry?;
            Some((entry, self.sound.policy.xenstore.items.get(entry)?.body.as_slice()))
        };
        let (Some((first, own)), Some((second, others))) = (paths(one), paths(other)) else { return Ok(()) };
        let meet = |a: &PathRight, b: &PathRight| (a.write || b.write) && paths::overlap(&a.path.value, &b.path.value);
        for (position, right) in own.iter().enumerate() {
            if let Some(at) = others.iter().position(|theirs| meet(right, theirs)) {
                let finding =
                    format!("{} and {} both have rights to {}", self.name(one), self.name(other), right.path.value);
                return Err(Refutation { finding, path: vec![Rule::Path(first, position), Rule::Path(second, at)] });
            }
        }
        Ok(())
    }

    fn no_common_region(&self, names: &HashSet<&str>) -> Result<(), Refutation> {
        let policy = &self.sound.policy;
        for (region, item) in policy.regions.items.iter().enumerate() {
            let maps =
                item.body.map.iter().enumerate().filter(|(_, entry)| names.contains(entry.service.value.as_str()));
            let entries: Vec<usize> = maps.map(|(entry, _)| entry).collect();
            if let [one, two, ..] = entries.as_slice() {
                let service =
                    |entry: &usize| item.body.map.get(*entry).map_or("", |entry| entry.service.value.as_str());
                let finding = format!("{} and {} both map {}", service(one), service(two), item.name.value);
                return Err(Refutation { finding, path: vec![Rule::Map(region, *one), Rule::Map(region, *two)] });
            }
        }
        Ok(())
    }

    fn no_common_queue(&self, names: &HashSet<&str>) -> Result<(), Refutation> {
        let policy = &self.sound.policy;
        for (queue, item) in policy.queues.items.iter().enumerate() {
            let (from, to) = (item.body.from.value.as_str(), item.body.to.value.as_str());
            if names.contains(from) && names.contains(to) {
                let finding = format!("{from} and {to} share the pages of queue {}", item.name.value);
                return Err(Refutation { finding, path: vec![Rule::Queue(queue)] });
            }
        }
        Ok(())
    }

    fn no_common_pin(&self, names: &HashSet<&str>) -> Result<(), Refutation> {
        let policy = &self.sound.policy;
        for (domain, links) in self.sound.index.domains.iter().enumerate() {
            let Some(by) = links.pinned_by.and_then(|by| policy.services.items.get(by)) else { continue };
            let by = by.name.value.as_str();
            let ports = links.ports.iter().filter_map(|port| {
                Some((policy.ports.items.get(*port)?.body.service.value.as_str(), Rule::Port(*port)))
            });
            let grants = links.grants.iter().filter_map(|grant| {
                Some((policy.grants.items.get(*grant)?.body.held_by.value.as_str(), Rule::Grant(*grant)))
            });
            let mut users = ports.chain(grants).filter(|(user, _)| *user != by && names.contains(user));
            // Each sees by the kernel's answers what the other has done.
            if let (true, Some((user, rule))) = (names.contains(by), users.next()) {
                let finding = format!("{by} pins the peer of {user}");
                return Err(Refutation { finding, path: vec![Rule::Pin(domain), rule] });
            }
        }
        Ok(())
    }
}
