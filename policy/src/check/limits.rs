//! What the kernel and the services have room for.

use cloister_caps::tables::{
    FIRST_GRANT_REF, MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_PORT_RULES, MAX_QUEUES, MAX_REGIONS, MAX_SERVICES, MAX_SLOTS,
};

use super::served;
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Policy, Section, Source};
use crate::plan::FIXED_AREA_PAGES;

/// Clients of one interface that a service has room for.
const MAX_CLIENTS: usize = 4;
/// Grant rules that a service can hold.
const MAX_HELD_GRANTS: usize = 8;
/// Regions that one queue of the policy takes: two pages' worth for each direction.
const REGIONS_PER_QUEUE: usize = 4;

pub(super) fn check(policy: &Policy, log: &mut Log) {
    at_most(&policy.services, "services", MAX_SERVICES, log);
    at_most(&policy.queues, "queues", MAX_QUEUES / 2, log);
    at_most(&policy.ports, "ports", MAX_PORT_RULES, log);
    at_most(&policy.grants, "grants", MAX_GRANT_RULES, log);
    regions(policy, log);
    grant_references(policy, log);
    for service in &policy.services.names {
        clients(policy, service, log);
        held_grants(policy, service, log);
        slots(policy, service, log);
        address_space(policy, service, log);
    }
}

fn at_most<T>(section: &Section<T>, what: &str, limit: usize, log: &mut Log) {
    if let Some(first) = section.names.get(limit) {
        let count = section.names.len();
        log.push(
            Diagnostic::at(&first.span, format!("the policy has {count} {what}; an image has at most {limit}"))
                .label("one too many, in the order of the names"),
        );
    }
}

/// The regions of an image: those of the policy, a stack each, the pages of the queues, and the rules that a
/// service enforces.
fn regions(policy: &Policy, log: &mut Log) {
    let enforcing = policy.services.names.iter().filter(|service| enforces(policy, &service.value)).count();
    let (own, stacks) = (policy.regions.names.len(), policy.services.names.len());
    let queues = policy.queues.names.len() * REGIONS_PER_QUEUE;
    let count = own + stacks + queues + enforcing;
    if count > MAX_REGIONS {
        log.push(
            Diagnostic::of_file(format!("the policy takes {count} regions; an image has at most {MAX_REGIONS}")).help(
                format!(
                    "{own} are in `[regions]`, {stacks} are stacks, {queues} are pages of queues, {enforcing} are rules"
                ),
            ),
        );
    }
}

fn grant_references(policy: &Policy, log: &mut Log) {
    let count: u64 = policy.grants.items.iter().map(|grant| u64::from(grant.body.pages.value)).sum();
    let limit = u64::from(MAX_GRANT_REFS - FIRST_GRANT_REF);
    if count > limit
        && let Some(widest) = policy.grants.items.iter().max_by_key(|grant| grant.body.pages.value)
    {
        log.push(
            Diagnostic::at(
                &widest.body.pages.span,
                format!("the grants cover {count} pages; an image can grant at most {limit}"),
            )
            .label("the widest grant"),
        );
    }
}

fn clients(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    for (interface, _, _) in cloister_interfaces::CATALOG {
        let Some(over) = served(policy, &service.value, interface).nth(MAX_CLIENTS) else { continue };
        let count = served(policy, &service.value, interface).count();
        if let Some(queue) = policy.queues.get(over) {
            log.push(
                Diagnostic::at(
                    &queue.body.to.span,
                    format!("service `{}` has {count} clients of interface `{interface}`", service.value),
                )
                .label(format!("it has room for {MAX_CLIENTS}")),
            );
        }
    }
}

fn held_grants(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    let mut held = policy.grants.items.iter().filter(|grant| grant.body.held_by.value == service.value);
    if let Some(over) = held.nth(MAX_HELD_GRANTS) {
        let count = MAX_HELD_GRANTS + 1 + held.count();
        log.push(
            Diagnostic::at(&over.body.held_by.span, format!("service `{}` holds {count} grants", service.value))
                .label(format!("it has room for {MAX_HELD_GRANTS}")),
        );
    }
}

/// A service's CSpace: what its own entry gives it, its ends of queues and the pages of each, ports, grants,
/// regions, its stack, and the rules that it enforces. Slot 0 stays empty.
fn slots(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    let name = &service.value;
    let held = policy.services.get(name).map_or(0, |service| service.body.held.len());
    let is_end = |end: &Spanned<String>| usize::from(end.value == *name);
    let queues = policy.queues.items.iter().map(|queue| is_end(&queue.body.from) + is_end(&queue.body.to));
    let queues = queues.sum::<usize>() * (2 + REGIONS_PER_QUEUE);
    let ports = policy.ports.items.iter().filter(|port| port.body.service.value == *name).count();
    let grants = policy.grants.items.iter().filter(|grant| grant.body.held_by.value == *name).count();
    let regions = policy.regions.items.iter().flat_map(|region| &region.body.map);
    let regions =
        regions.filter(|entry| entry.service.value == *name).count() + 1 + usize::from(enforces(policy, name));
    let (count, limit) = (held + queues + ports + grants + regions, MAX_SLOTS - 1);
    if count > limit {
        log.push(
            Diagnostic::at(&service.span, format!("service `{name}` holds {count} capabilities"))
                .label(format!("it has room for {limit}"))
                .help(format!("{queues} of them are for its queues, {regions} are regions")),
        );
    }
}

/// Whether a service gets a region of rules.
fn enforces(policy: &Policy, service: &str) -> bool {
    ["store", "grants"].iter().any(|interface| served(policy, service, interface).next().is_some())
}

/// Regions of known size have 2 GiB of a service's addresses.
fn address_space(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    let mapped = policy
        .regions
        .items
        .iter()
        .filter(|region| region.body.map.iter().any(|entry| entry.service.value == service.value));
    let pages: u64 = mapped
        .map(|region| match region.body.source.value {
            Source::Fixed { pages } => u64::from(pages) + 1,
            _ => 2,
        })
        .sum();
    // Stacks, queues and rules take a small part of the margin.
    if pages > FIXED_AREA_PAGES - (1 << 16) {
        log.push(
            Diagnostic::at(
                &service.span,
                format!("the regions of service `{}` do not fit its address space", service.value),
            )
            .label("its regions of a fixed size take more than 1.75 GiB")
            .help("map fewer or smaller regions"),
        );
    }
}
