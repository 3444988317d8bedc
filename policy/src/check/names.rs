//! Checks that every name that is used is defined, and that every domain that is defined is used.

use std::collections::HashSet;

use cloister_interfaces::CATALOG;

use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Peer, Policy, Section};
use crate::read::list;

pub(super) fn check(policy: &Policy, log: &mut Log) {
    let services = &policy.services;
    for pin in policy.domains.items.iter().filter_map(|domain| domain.body.pin.as_ref()) {
        defined(services, "service", &pin.by, log);
    }
    for region in &policy.regions.items {
        for entry in &region.body.map {
            defined(services, "service", &entry.service, log);
        }
    }
    for queue in &policy.queues.items {
        defined(services, "service", &queue.body.from, log);
        defined(services, "service", &queue.body.to, log);
        interface(&queue.body.interface, log);
    }
    for port in &policy.ports.items {
        defined(services, "service", &port.body.service, log);
        if let Peer::Domain(peer) = &port.body.peer {
            defined(&policy.domains, "domain", peer, log);
        }
    }
    for grant in &policy.grants.items {
        defined(&policy.regions, "region", &grant.body.region, log);
        defined(&policy.domains, "domain", &grant.body.peer, log);
        defined(services, "service", &grant.body.held_by, log);
        defined(services, "service", &grant.body.on_behalf_of, log);
    }
    for client in &policy.xenstore.names {
        defined(services, "service", client, log);
    }
    if services.names.is_empty() && log.is_empty() {
        log.push(
            Diagnostic::of_file("the policy has no service").help("write, for example, a section `[services.http]`"),
        );
    }
    unused_domains(policy, log);
}

fn defined<T>(section: &Section<T>, what: &str, name: &Spanned<String>, log: &mut Log) {
    if section.defines(&name.value) {
        return;
    }
    let known: Vec<&str> = section.names.iter().map(|known| known.value.as_str()).collect();
    let help = if known.is_empty() {
        format!("the policy defines no {what}; write a section `[{what}s.{}]`", name.value)
    } else {
        format!("the {what}s are {}", list(&known))
    };
    log.push(
        Diagnostic::at(&name.span, format!("there is no {what} `{}`", name.value))
            .label(format!("unknown {what}"))
            .help(help),
    );
}

fn interface(name: &Spanned<String>, log: &mut Log) {
    if CATALOG.iter().any(|(known, _, _)| *known == name.value) {
        return;
    }
    let known: Vec<&str> = CATALOG.iter().map(|(known, _, _)| *known).collect();
    log.push(
        Diagnostic::at(&name.span, format!("there is no interface `{}`", name.value))
            .label("unknown interface")
            .help(format!("the interfaces are {}", list(&known))),
    );
}

/// Checks that each domain is named by a port or a grant. Otherwise it would look as if the image
/// used it.
fn unused_domains(policy: &Policy, log: &mut Log) {
    if !policy.ports.is_complete() || !policy.grants.is_complete() {
        return;
    }
    let ports = policy.ports.items.iter().filter_map(|port| match &port.body.peer {
        Peer::Domain(peer) => Some(peer.value.as_str()),
        Peer::XenStore(_) => None,
    });
    let grants = policy.grants.items.iter().map(|grant| grant.body.peer.value.as_str());
    let used: HashSet<&str> = ports.chain(grants).collect();
    for domain in policy.domains.names.iter().filter(|domain| !used.contains(domain.value.as_str())) {
        log.push(
            Diagnostic::at(&domain.span, format!("nothing names the domain `{}`", domain.value))
                .label("no port and no grant has it as peer")
                .help("leave it out"),
        );
    }
}
