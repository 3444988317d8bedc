//! Checks the fields by which a service's program names its capabilities: each is a Rust name, and
//! unique.

use std::collections::{BTreeMap, HashMap, HashSet};

use cloister_caps::rights::Kind;

use crate::diagnostic::{Diagnostic, Log, Span, Spanned};
use crate::model::{MapAccess, Policy};

/// Words that cannot be the name of a field in Rust: strict and reserved keywords.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

pub(super) fn check(policy: &Policy, log: &mut Log) {
    let found = fields_of(policy);
    for service in &policy.services.items {
        let mut fields: BTreeMap<&str, (&Span, &str)> = BTreeMap::new();
        for (name, span, what) in found.get(service.name.value.as_str()).map_or(&[][..], Vec::as_slice) {
            if let Some((first, first_what)) = fields.get(name.as_str()) {
                let shown = name.replace('_', "-");
                log.push(
                    Diagnostic::at(
                        span,
                        format!("service `{}` has two capabilities with the name `{shown}`", service.name.value),
                    )
                    .label(*what)
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

/// Name, position and description of each field.
type Fields<'a> = Vec<(String, &'a Span, &'static str)>;

/// Returns the fields of each service's capabilities, those with fixed names first.
fn fields_of(policy: &Policy) -> HashMap<&str, Fields<'_>> {
    let mut fields: HashMap<&str, Fields<'_>> = HashMap::new();
    for service in &policy.services.items {
        let own = service.body.held.iter().map(|held| (held.kind.name().to_owned(), &held.span, kind_label(held.kind)));
        fields.insert(&service.name.value, own.collect());
    }
    queue_fields(policy, &mut fields);
    for region in &policy.regions.items {
        for entry in region.body.map.iter().filter(|entry| entry.how.value != MapAccess::Heap) {
            let own = fields.entry(&entry.service.value).or_default();
            own.push((field(&region.name.value), &region.name.span, "a region"));
        }
    }
    for port in &policy.ports.items {
        let own = fields.entry(&port.body.service.value).or_default();
        own.push((field(&port.name.value), &port.name.span, "a port"));
    }
    for grant in &policy.grants.items {
        let own = fields.entry(&grant.body.on_behalf_of.value).or_default();
        own.push((field(&grant.name.value), &grant.name.span, "a grant"));
    }
    fields
}

/// Adds the fields for the ends of queues. A field that stands for several queues is reported at
/// the first.
fn queue_fields<'a>(policy: &'a Policy, fields: &mut HashMap<&'a str, Fields<'a>>) {
    let mut seen: HashSet<(&str, &str, bool)> = HashSet::new();
    let mut enforcing: HashSet<&str> = HashSet::new();
    for queue in &policy.queues.items {
        let (interface, span) = (queue.body.interface.value.as_str(), &queue.body.interface.span);
        let (from, to) = (queue.body.from.value.as_str(), queue.body.to.value.as_str());
        if seen.insert((from, interface, false)) {
            let own = fields.entry(from).or_default();
            own.push((interface.to_owned(), span, "its client's end of this interface"));
        }
        if seen.insert((to, interface, true)) {
            let own = fields.entry(to).or_default();
            own.push((format!("{interface}_clients"), span, "its ends as server of this interface"));
            if (interface == "store" || interface == "grants") && enforcing.insert(to) {
                own.push(("rules".into(), span, "the rules that it enforces as server of this interface"));
            }
            if interface == "store" {
                own.push(("pins".into(), span, "the domains that it pins"));
            }
            if interface == "grants" {
                own.push(("grant_rules".into(), span, "the grants that it holds"));
            }
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

/// Returns the name of the field for a name of the policy.
pub(crate) fn field(name: &str) -> String {
    name.replace('-', "_")
}

fn not_a_keyword(name: &Spanned<String>, log: &mut Log) {
    if KEYWORDS.contains(&name.value.as_str()) {
        log.push(
            Diagnostic::at(&name.span, format!("`{}` is a keyword of Rust", name.value))
                .label("cannot be the name of a field")
                .help("choose another name: the service's program knows it by this name"),
        );
    }
}
