//! Checks the limits of the kernel and of the services.

use cloister_caps::tables::{
    FIRST_GRANT_REF, MAX_GRANT_REFS, MAX_GRANT_RULES, MAX_PORT_RULES, MAX_QUEUES, MAX_REGIONS, MAX_SERVICES, MAX_SLOTS,
};

use cloister_interfaces::rules::MAX_PATH_RULES;

use crate::address_space::FIXED_AREA_PAGES;
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Policy, Section, Source};

/// The largest number of clients of one interface of a service.
const MAX_CLIENTS: usize = 4;
/// The largest number of grant rules that a service can hold.
const MAX_HELD_GRANTS: usize = 8;
/// The number of regions of one queue of the policy: two for each direction.
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
        path_rules(policy, service, log);
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

/// Checks the number of regions of an image: those of the policy, a stack for each service, the
/// pages of the queues, and the rules that services enforce.
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
            .label("the largest grant"),
        );
    }
}

fn clients(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    for (interface, _, _) in cloister_interfaces::CATALOG {
        let Some(over) = policy.served(&service.value, interface).nth(MAX_CLIENTS) else { continue };
        let count = policy.served(&service.value, interface).count();
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

/// Checks the number of paths that a XenStore server enforces, over all its clients.
fn path_rules(policy: &Policy, service: &Spanned<String>, log: &mut Log) {
    let clients = policy.served(&service.value, "store").filter_map(|queue| policy.queues.get(queue));
    let paths = clients.filter_map(|queue| policy.xenstore.get(&queue.body.from.value)).flat_map(|paths| &paths.body);
    let mut beyond = paths.skip(MAX_PATH_RULES);
    if let Some(over) = beyond.next() {
        let count = MAX_PATH_RULES + 1 + beyond.count();
        log.push(
            Diagnostic::at(&over.path.span, format!("service `{}` enforces {count} paths", service.value))
                .label(format!("it has room for {MAX_PATH_RULES}"))
                .help("a path that ends in /** stands for every node below: name directories"),
        );
    }
}

/// Checks the size of a service's CSpace.
///
/// It counts the capabilities of the service's own entry, its ends of queues and the pages of each,
/// ports, grants, pins, regions, its stack, and the rules that it enforces. Slot 0 stays empty.
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
    let pins = policy.pinned(name).count();
    let (count, limit) = (held + queues + ports + grants + pins + regions, MAX_SLOTS - 1);
    if count > limit {
        log.push(
            Diagnostic::at(&service.span, format!("service `{name}` holds {count} capabilities"))
                .label(format!("it has room for {limit}"))
                .help(format!("{queues} of them are for its queues, {regions} are regions")),
        );
    }
}

/// Returns `true` if a service gets a region of rules.
fn enforces(policy: &Policy, service: &str) -> bool {
    ["store", "grants"].iter().any(|interface| policy.served(service, interface).next().is_some())
}

/// Checks that a service's regions of known size fit their 2 GiB of addresses.
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
    // The margin is for stacks, queues and rules, which take a small part of it.
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

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use cloister_caps::tables::Tables;
    use proptest::prelude::*;

    use super::*;
    use crate::{canonical, check, diagnostic, emit, plan, read};

    /// Returns a policy with these numbers of services, regions of a page, queues, ports and
    /// grants.
    fn text(services: usize, regions: usize, queues: usize, ports: usize, grants: usize, pages: u32) -> String {
        let mut out = String::from("format = 2\nimage = { name = \"full\" }\n");
        for index in 0..services {
            let _ = write!(
                out,
                "[services.s{index}]\nprogram = \"p\"\npriority = 1\ncpu = {{ budget_us = 1, period_us = 1000 }}\n\
                 stack = \"4K\"\nrestart = {{ limit = 0, then = \"stop-image\" }}\n"
            );
        }
        for index in 0..regions.max(grants) {
            // The client of a grant maps its region.
            let (pages, mapper) = if index < grants { (pages, 3 + index % 3) } else { (1, 6 + index % (services - 6)) };
            let _ = write!(out, "[regions.r{index}]\npages = {pages}\nmap = {{ s{mapper} = \"read\" }}\n");
        }
        for index in 0..3 {
            let _ = write!(
                out,
                "[queues.g{index}]\nfrom = \"s{}\"\nto = \"s{index}\"\ninterface = \"grants\"\ndepth = 2\n",
                3 + index
            );
        }
        for index in 0..queues {
            let _ = write!(
                out,
                "[queues.q{index}]\nfrom = \"s{}\"\nto = \"s{index}\"\ninterface = \"net\"\ndepth = 2\n",
                6 + index
            );
        }
        for index in 0..ports {
            let service = index % services;
            let _ = write!(out, "[ports.p{index}]\nservice = \"s{service}\"\npeer = \"d\"\nrights = [\"open\"]\n");
        }
        for index in 0..grants {
            let _ = write!(
                out,
                "[grants.x{index}]\nregion = \"r{index}\"\npeer = \"d\"\naccess = \"read\"\npages = {pages}\n\
                 lifetime = \"session\"\nheld-by = \"s{}\"\non-behalf-of = \"s{}\"\n",
                index % 3,
                3 + index % 3
            );
        }
        if ports + grants > 0 {
            out.push_str("[domains.d]\nids = \"0\"\n");
        }
        out
    }

    proptest! {
        /// Around each limit, the kernel refuses what the compiler refuses, and accepts what it
        /// accepts.
        #[test]
        fn the_compiler_and_the_kernel_have_the_same_limits(
            services in 12usize..19,
            regions in 0usize..70,
            queues in 0usize..4,
            ports in 12usize..20,
            grants in 12usize..20,
            pages in 250u32..350,
        ) {
            let text = text(services, regions, queues, ports, grants, pages);
            let mut log = Log::default();
            let policy = read::read("full", &text, read::text::Size::Image, &mut log).unwrap();
            check::check(&policy, &mut log);
            prop_assume!(log.is_empty());
            super::check(&policy, &mut log);
            let lines = diagnostic::Lines::new(&text);
            let canonical = canonical::render(&policy);
            let tables = plan::plan(&policy, &lines)
                .and_then(|plan| emit::emit(&plan, &emit::Placement::without_programs(&plan), [0; 32], &canonical));
            let taken = tables.is_some_and(|tables| Tables::parse(&tables).is_ok());
            prop_assert_eq!(log.is_empty(), taken, "{}", crate::Report::refused("full", &text, log));
        }
    }
}
