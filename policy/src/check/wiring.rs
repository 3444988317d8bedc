//! Checks queues, ports, and the services that enforce rules of the policy.

use std::collections::{BTreeMap, HashMap, HashSet};

use cloister_caps::rights::Rights;
use cloister_interfaces::CATALOG;

use crate::diagnostic::{Diagnostic, Log, Span};
use crate::model::{Grant, Named, Peer, Policy, Queue};

pub(super) fn check(policy: &Policy, log: &mut Log) {
    cycles(policy, log);
    one_queue_per_interface(policy, log);
    xenstore_ports(policy, log);
    // Only if every queue is sound does the absence of one prove anything.
    if policy.queues.is_complete() && policy.queues.items.iter().all(|queue| sound(policy, &queue.body)) {
        let queues = Queues::new(policy);
        for grant in &policy.grants.items {
            grant_client_can_ask(policy, &queues, grant, log);
            grant_is_of_own_region(policy, &queues, grant, log);
        }
        paths_have_a_client(policy, &queues, log);
        one_kind_of_rules(policy, &queues, log);
    }
}

/// The first queue of an interface by each of its ends.
struct Queues<'a> {
    used: HashMap<(&'a str, &'a str), &'a Queue>,
    served: HashMap<(&'a str, &'a str), &'a str>,
}

impl<'a> Queues<'a> {
    fn new(policy: &'a Policy) -> Self {
        let mut queues = Queues { used: HashMap::new(), served: HashMap::new() };
        for queue in &policy.queues.items {
            let interface = queue.body.interface.value.as_str();
            queues.used.entry((&queue.body.from.value, interface)).or_insert(&queue.body);
            queues.served.entry((&queue.body.to.value, interface)).or_insert(&queue.name.value);
        }
        queues
    }
}

/// Returns `true` if everything that a queue names is defined.
fn sound(policy: &Policy, queue: &Queue) -> bool {
    policy.services.defines(&queue.from.value)
        && policy.services.defines(&queue.to.value)
        && CATALOG.iter().any(|(interface, _, _)| *interface == queue.interface.value)
}

/// A queue, as an edge from its client to its server.
struct Edge<'a> {
    to: &'a str,
    queue: &'a str,
    span: &'a Span,
}

/// Checks that the requests between services form no cycle, so that no two services can wait for
/// each other.
fn cycles(policy: &Policy, log: &mut Log) {
    let mut edges: BTreeMap<&str, Vec<Edge<'_>>> = BTreeMap::new();
    for queue in &policy.queues.items {
        edges.entry(&queue.body.from.value).or_default().push(Edge {
            to: &queue.body.to.value,
            queue: &queue.name.value,
            span: &queue.body.to.span,
        });
    }
    let mut done: HashSet<&str> = HashSet::new();
    for start in edges.keys() {
        let mut trail: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((service, next)) = trail.last_mut() {
            let service: &str = service;
            let edge = edges.get(service).and_then(|edges| edges.get(*next)).filter(|_| !done.contains(service));
            *next += 1;
            let Some(edge) = edge else {
                done.insert(service);
                trail.pop();
                continue;
            };
            match trail.iter().position(|(passed, _)| *passed == edge.to) {
                Some(position) => report_cycle(&edges, trail.get(position..).unwrap_or_default(), edge, log),
                None => trail.push((edge.to, 0)),
            }
        }
    }
}

fn report_cycle(edges: &BTreeMap<&str, Vec<Edge<'_>>>, cycle: &[(&str, usize)], last: &Edge<'_>, log: &mut Log) {
    let mut names: Vec<&str> = cycle.iter().map(|(service, _)| *service).collect();
    names.push(last.to);
    let mut diagnostic = Diagnostic::at(last.span, format!("requests form a cycle: {}", names.join(" → ")))
        .label(format!("queue `{}`", last.queue))
        .help("let one of them answer by replies or events instead of requests");
    // For every service but the last, `next - 1` is the queue by which the trail continued.
    for (service, next) in cycle.iter().take(cycle.len().saturating_sub(1)) {
        if let Some(edge) = edges.get(service).and_then(|edges| edges.get(next.checked_sub(1)?)) {
            diagnostic = diagnostic.related(edge.span, format!("queue `{}`", edge.queue));
        }
    }
    log.push(diagnostic);
}

/// Checks that a service is a client of one queue of an interface: it finds its server by the
/// interface.
fn one_queue_per_interface(policy: &Policy, log: &mut Log) {
    let mut first: HashMap<(&str, &str), &Named<Queue>> = HashMap::new();
    for queue in &policy.queues.items {
        let (from, interface) = (queue.body.from.value.as_str(), queue.body.interface.value.as_str());
        let Some(first) = first.get(&(from, interface)) else {
            first.insert((from, interface), queue);
            continue;
        };
        log.push(
            Diagnostic::at(
                &queue.body.interface.span,
                format!("service `{from}` is a client of two queues of interface `{interface}`"),
            )
            .label(format!("queue `{}`", queue.name.value))
            .related(&first.body.interface.span, format!("queue `{}`", first.name.value))
            .help("a service has one server of an interface; leave one queue out"),
        );
    }
}

fn xenstore_ports(policy: &Policy, log: &mut Log) {
    let mut first: Option<&Span> = None;
    for port in &policy.ports.items {
        let Peer::XenStore(span) = &port.body.peer else { continue };
        if port.body.rights.value != Rights::SEND {
            log.push(
                Diagnostic::at(&port.body.rights.span, "a port of kind \"xenstore\" has the right \"send\" only")
                    .label("not allowed")
                    .related(span, "the toolstack opened this channel, and closes it")
                    .help("write `rights = [\"send\"]`"),
            );
        }
        if let Some(first) = first {
            log.push(
                Diagnostic::at(span, "there are two ports of kind \"xenstore\"")
                    .label("the second")
                    .related(first, "the first")
                    .help("the domain has one XenStore channel; leave one port out"),
            );
        }
        first = first.or(Some(span));
    }
}

/// Checks that the client of a grant rule can ask its holder.
///
/// The holder acts on requests, so the client needs a queue to it. A client that holds the rule
/// itself, and serves no requests for grants, needs none.
fn grant_client_can_ask(policy: &Policy, queues: &Queues<'_>, grant: &Named<Grant>, log: &mut Log) {
    let (holder, client) = (&grant.body.held_by.value, &grant.body.on_behalf_of.value);
    if !policy.services.defines(holder) || !policy.services.defines(client) {
        return;
    }
    if holder == client && !queues.served.contains_key(&(holder.as_str(), "grants")) {
        return;
    }
    if queues.used.get(&(client.as_str(), "grants")).is_none_or(|queue| queue.to.value != *holder) {
        log.push(
            Diagnostic::at(
                &grant.body.on_behalf_of.span,
                format!("service `{client}` cannot ask `{holder}` for grant `{}`", grant.name.value),
            )
            .label(format!("has no queue of interface `grants` to `{holder}`"))
            .related(&grant.body.held_by.span, "the holder")
            .help(format!("add a queue with `from = \"{client}\"`, `to = \"{holder}\"`, `interface = \"grants\"`")),
        );
    }
}

/// Checks that a grant opens no region that is another's: its client maps the region, or serves a
/// service that does, which hands it the pages.
fn grant_is_of_own_region(policy: &Policy, queues: &Queues<'_>, grant: &Named<Grant>, log: &mut Log) {
    let (name, client) = (&grant.body.region, &grant.body.on_behalf_of);
    let Some(region) = policy.regions.get(&name.value).filter(|_| policy.services.defines(&client.value)) else {
        return;
    };
    let mappers = || region.body.map.iter().map(|entry| entry.service.value.as_str());
    let serves = |mapper: &str| {
        let asks = |(interface, _, _): &(&str, usize, usize)| {
            queues.used.get(&(mapper, *interface)).is_some_and(|queue| queue.to.value == client.value)
        };
        CATALOG.iter().any(asks)
    };
    if !mappers().any(|mapper| mapper == client.value || serves(mapper)) {
        log.push(
            Diagnostic::at(
                &client.span,
                format!(
                    "grant `{}` opens region `{}`, which is not for `{}`",
                    grant.name.value, name.value, client.value
                ),
            )
            .label("neither maps the region nor serves a service that maps it")
            .related(&region.name.span, format!("mapped by {}", mappers().collect::<Vec<_>>().join(", ")))
            .help(format!(
                "add `{}` to the region's `map`, or let a service that maps the region ask for it",
                client.value
            )),
        );
    }
}

fn paths_have_a_client(policy: &Policy, queues: &Queues<'_>, log: &mut Log) {
    for client in policy.xenstore.names.iter().filter(|client| policy.services.defines(&client.value)) {
        if !queues.used.contains_key(&(client.value.as_str(), "store")) {
            log.push(
                Diagnostic::at(&client.span, format!("service `{}` cannot reach XenStore", client.value))
                    .label("has no queue of interface `store`")
                    .help(format!("add a queue with `from = \"{}\"` and `interface = \"store\"`", client.value)),
            );
        }
    }
}

/// Checks that a service enforces one kind of rules only, because it receives them as one region.
fn one_kind_of_rules(policy: &Policy, queues: &Queues<'_>, log: &mut Log) {
    for service in &policy.services.names {
        let store = queues.served.get(&(service.value.as_str(), "store"));
        let grants = queues.served.get(&(service.value.as_str(), "grants"));
        if let (Some(store), Some(grants)) = (store, grants) {
            log.push(
                Diagnostic::at(&service.span, format!("service `{}` serves both `store` and `grants`", service.value))
                    .label(format!("queues `{store}` and `{grants}`"))
                    .help("let two services serve them"),
            );
        }
    }
}
