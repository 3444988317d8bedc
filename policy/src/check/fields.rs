//! The names by which a service's program knows its capabilities: each must be a name in Rust, and once only.

use std::collections::BTreeMap;

use cloister_caps::rights::Kind;

use super::{served, used};
use crate::diagnostic::{Diagnostic, Log, Span, Spanned};
use crate::model::{How, Named, Policy, Queue};

/// Words that Rust does not take as the name of a field: strict and reserved keywords.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

pub(super) fn check(policy: &Policy, log: &mut Log) {
    for service in &policy.services.items {
        let mut fields: BTreeMap<String, (&Span, &str)> = BTreeMap::new();
        for (name, span, what) in fields_of(policy, &service.name.value) {
            if let Some((first, first_what)) = fields.get(&name) {
                let shown = name.replace('_', "-");
                log.push(
                    Diagnostic::at(span, format!("service `{}` knows two things as `{shown}`", service.name.value))
                        .label(what)
                        .related(first, *first_what)
                        .help("give one of them another name"),
                );
            } else {
                fields.insert(name, (span, what));
            }
        }
    }
    let regions = policy.regions.names.iter();
    for name in regions.chain(&policy.ports.names).chain(&policy.grants.names) {
        not_a_keyword(name, log);
    }
}

/// Name, place and description of each field.
type Fields<'a> = Vec<(String, &'a Span, &'static str)>;

/// The fields of a service's capabilities, those with fixed names first.
fn fields_of<'a>(policy: &'a Policy, service: &'a str) -> Fields<'a> {
    let mut fields = Vec::new();
    if let Some(entry) = policy.services.get(service) {
        for held in &entry.body.held {
            fields.push((held.kind.name().to_owned(), &held.span, kind_label(held.kind)));
        }
    }
    for queue in &policy.queues.items {
        queue_fields(policy, service, queue, &mut fields);
    }
    for region in &policy.regions.items {
        let mapped = region.body.map.iter().any(|entry| entry.service.value == service && entry.how.value != How::Heap);
        if mapped {
            fields.push((field(&region.name.value), &region.name.span, "a region"));
        }
    }
    for port in policy.ports.items.iter().filter(|port| port.body.service.value == service) {
        fields.push((field(&port.name.value), &port.name.span, "a port"));
    }
    for grant in policy.grants.items.iter().filter(|grant| grant.body.on_behalf_of.value == service) {
        fields.push((field(&grant.name.value), &grant.name.span, "a grant"));
    }
    fields
}

/// The fields that a queue gives one of its ends. What a service has once for several queues is the first one's.
fn queue_fields<'a>(policy: &'a Policy, service: &'a str, queue: &'a Named<Queue>, fields: &mut Fields<'a>) {
    let (interface, span) = (queue.body.interface.value.as_str(), &queue.body.interface.span);
    let is_first = |first: Option<&str>| first == Some(queue.name.value.as_str());
    if is_first(used(policy, service, interface).map(|first| first.name.value.as_str())) {
        fields.push((interface.to_owned(), span, "its client's end of this interface"));
    }
    if is_first(served(policy, service, interface).next()) {
        fields.push((format!("{interface}_clients"), span, "its ends as server of this interface"));
        let enforces = interface == "store" || interface == "grants";
        if enforces && !fields.iter().any(|(name, _, _)| name == "rules") {
            fields.push(("rules".into(), span, "the rules that it enforces as server of this interface"));
        }
        if interface == "grants" {
            fields.push(("grant_rules".into(), span, "the grants that it holds"));
        }
    }
}

fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Console => "its console",
        Kind::Clock => "its clock",
        Kind::Entropy => "its entropy",
        Kind::Power => "its power capability",
        _ => "its info capability",
    }
}

/// The name of the field for a name of the policy.
pub(crate) fn field(name: &str) -> String {
    name.replace('-', "_")
}

fn not_a_keyword(name: &Spanned<String>, log: &mut Log) {
    if KEYWORDS.contains(&name.value.as_str()) {
        log.push(
            Diagnostic::at(&name.span, format!("`{}` is a word of Rust", name.value))
                .label("cannot be the name of a field")
                .help("choose another name: the service's program knows it by this name"),
        );
    }
}
