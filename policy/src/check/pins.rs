//! Checks the pins of domains: which service says the peer, and by which node of XenStore.

use crate::authority::paths::{covers, overlap};
use crate::diagnostic::{Diagnostic, Log};
use crate::model::{PathRight, Pin, Policy};

/// The largest number of pins. The XenStore service has room for no more.
const MAX_PINS: usize = 4;

pub(super) fn check(policy: &Policy, log: &mut Log) {
    let pins = || policy.domains.items.iter().filter_map(|domain| domain.body.pin.as_ref());
    if let Some(over) = pins().nth(MAX_PINS) {
        let count = pins().count();
        log.push(
            Diagnostic::at(&over.span, format!("the policy pins {count} domains; it can pin at most {MAX_PINS}"))
                .label("one too many, in the order of the names"),
        );
    }
    let mut earlier: Vec<&Pin> = Vec::new();
    for pin in pins().take(MAX_PINS) {
        serves_store(policy, pin, log);
        nobody_writes_the_node(policy, pin, log);
        somebody_reads_the_node(policy, pin, log);
        if let Some(first) = earlier.iter().find(|first| first.node.value == pin.node.value) {
            log.push(
                Diagnostic::at(&pin.node.span, format!("two domains are pinned by `{}`", pin.node.value))
                    .label("the second")
                    .related(&first.node.span, "the first")
                    .help("let the ports and grants of both name one entry of `[domains]`"),
            );
        }
        earlier.push(pin);
    }
}

/// Checks that the service reads nodes for others: it pins what it reads for them.
fn serves_store(policy: &Policy, pin: &Pin, log: &mut Log) {
    let by = &pin.by.value;
    let complete = policy.queues.is_complete() && policy.services.defines(by);
    if complete && policy.served(by, "store").next().is_none() {
        log.push(
            Diagnostic::at(&pin.by.span, format!("service `{by}` reads no node, so it cannot pin a domain"))
                .label("serves no queue of interface `store`")
                .help("name the service that serves `store`"),
        );
    }
}

/// Returns every path rule, with its client.
fn rules(policy: &Policy) -> impl Iterator<Item = (&str, &PathRight)> {
    let entries = policy.xenstore.items.iter();
    entries.flat_map(|entry| entry.body.iter().map(|right| (entry.name.value.as_str(), right)))
}

/// Checks that no service can write the node, and so choose the peer.
fn nobody_writes_the_node(policy: &Policy, pin: &Pin, log: &mut Log) {
    let node = &pin.node.value;
    for (client, right) in rules(policy).filter(|(_, right)| right.write && overlap(&right.path.value, node)) {
        log.push(
            Diagnostic::at(
                &right.path.span,
                format!("service `{client}` could choose the peer: it may write `{node}`"),
            )
            .label("covers the node")
            .related(&pin.node.span, "the node that pins the domain")
            .help("give `write` to the nodes that the service has to write, each by itself"),
        );
    }
}

/// Checks that some service reads the node. Otherwise no domain would ever be pinned.
fn somebody_reads_the_node(policy: &Policy, pin: &Pin, log: &mut Log) {
    let node = &pin.node.value;
    let reads = rules(policy).any(|(_, right)| right.read && covers(&right.path.value, node));
    if policy.xenstore.is_complete() && !reads {
        log.push(
            Diagnostic::at(&pin.node.span, format!("no service may read `{node}`, so no domain would ever be pinned"))
                .label("pinned when a client reads it")
                .help("give `read` to the service that opens the ports"),
        );
    }
}
