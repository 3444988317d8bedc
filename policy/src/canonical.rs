//! The canonical form of a policy: one text for the same policy, whatever its comments, order and
//! spacing.
//!
//! It is itself a policy, and its SHA-256 is the policy hash.

use std::fmt::Write;

use cloister_caps::Operation;
use cloister_caps::rights::{Kind, Rights};
use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::weakness::{Weakness, Weaknesses};

use crate::model::{
    Assertion, Claim, Domain, Grant, Image, Named, PathRight, Peer, Policy, Port, Queue, Region, Service, Source,
};
use crate::printable::hexadecimal;
use crate::read::render_size;

/// Renders the canonical form.
pub(crate) fn render(policy: &Policy) -> String {
    let mut out = "format = 2\n".to_owned();
    image(&policy.image, &mut out);
    policy.domains.items.iter().for_each(|item| domain(item, &mut out));
    policy.services.items.iter().for_each(|item| service(item, &mut out));
    policy.regions.items.iter().for_each(|item| region(item, &mut out));
    policy.queues.items.iter().for_each(|item| queue(item, &mut out));
    policy.ports.items.iter().for_each(|item| port(item, &mut out));
    policy.grants.items.iter().for_each(|item| grant(item, &mut out));
    policy.xenstore.items.iter().for_each(|item| paths(item, &mut out));
    policy.assertions.items.iter().for_each(|item| assertion(item, &mut out));
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a `String` never fails.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn header(out: &mut String, section: &str, name: &str) {
    line(out, format_args!("\n[{section}.{name}]"));
}

fn image(image: &Image, out: &mut String) {
    line(out, format_args!("\n[image]\nname = \"{}\"", image.name));
    if image.strict {
        line(out, format_args!("isolation = \"{}\"", image.isolation().name()));
    }
    if image.refused != Weaknesses::NONE {
        let words = word_list(image.refused.iter().map(Weakness::name));
        line(out, format_args!("refuse-weakness = {words}"));
    }
}

fn domain(item: &Named<Domain>, out: &mut String) {
    header(out, "domains", &item.name.value);
    let Domain { first, last, ref pin } = item.body;
    if first == last {
        line(out, format_args!("ids = \"{first}\""));
    } else {
        line(out, format_args!("ids = \"{first}-{last}\""));
    }
    if let Some(pin) = pin {
        line(out, format_args!("pin = {{ by = \"{}\", node = \"{}\" }}", pin.by.value, pin.node.value));
    }
}

fn service(item: &Named<Service>, out: &mut String) {
    let body = &item.body;
    header(out, "services", &item.name.value);
    line(out, format_args!("program = \"{}\"", body.program.value));
    if let Some(hash) = &body.program_hash {
        line(out, format_args!("program-sha256 = \"{}\"", hexadecimal(hash)));
    }
    line(out, format_args!("priority = {}", body.priority));
    let (budget, period) = (body.budget_us.value, body.period_us.value);
    line(out, format_args!("cpu = {{ budget_us = {budget}, period_us = {period} }}"));
    line(out, format_args!("stack = \"{}\"", render_size(body.stack_pages.value)));
    let then = match body.after_limit {
        AfterLimit::StopImage => "stop-image",
        AfterLimit::StopService => "stop-service",
    };
    line(out, format_args!("restart = {{ limit = {}, then = \"{then}\" }}", body.restart_limit));
    for held in &body.held {
        line(out, format_args!("{} = {}", held.kind.name(), rights(held.kind, held.rights)));
    }
}

/// Returns rights as a list of words, in the order of the operations' numbers.
fn rights(kind: Kind, rights: Rights) -> String {
    let words = Operation::ALL
        .iter()
        .filter(|operation| operation.applies_to(kind) && rights.contains(operation.right()))
        .map(|operation| operation.name());
    word_list(words)
}

fn word_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

fn region(item: &Named<Region>, out: &mut String) {
    header(out, "regions", &item.name.value);
    match item.body.source.value {
        Source::Fixed { pages } => line(out, format_args!("pages = {pages}")),
        Source::Share { weight, minimum, maximum } => {
            line(out, format_args!("share = {weight}"));
            line(out, format_args!("minimum = \"{}\"", render_size(minimum)));
            line(out, format_args!("maximum = \"{}\"", render_size(maximum)));
        }
        kind => line(out, format_args!("kind = \"{}\"", kind.word())),
    }
    if item.body.keep.is_some() {
        line(out, format_args!("keep = true"));
    }
    // The reader sorts the entries by the services' names.
    let map: Vec<String> =
        item.body.map.iter().map(|entry| format!("{} = \"{}\"", entry.service.value, entry.how.value.word())).collect();
    line(out, format_args!("map = {{ {} }}", map.join(", ")));
}

fn queue(item: &Named<Queue>, out: &mut String) {
    let body = &item.body;
    header(out, "queues", &item.name.value);
    line(out, format_args!("from = \"{}\"", body.from.value));
    line(out, format_args!("to = \"{}\"", body.to.value));
    line(out, format_args!("interface = \"{}\"", body.interface.value));
    line(out, format_args!("depth = {}", body.depth));
}

fn port(item: &Named<Port>, out: &mut String) {
    header(out, "ports", &item.name.value);
    line(out, format_args!("service = \"{}\"", item.body.service.value));
    match &item.body.peer {
        Peer::Domain(peer) => line(out, format_args!("peer = \"{}\"", peer.value)),
        Peer::XenStore(_) => line(out, format_args!("kind = \"xenstore\"")),
    }
    line(out, format_args!("rights = {}", rights(Kind::Port, item.body.rights.value)));
}

fn grant(item: &Named<Grant>, out: &mut String) {
    let body = &item.body;
    header(out, "grants", &item.name.value);
    line(out, format_args!("region = \"{}\"", body.region.value));
    line(out, format_args!("peer = \"{}\"", body.peer.value));
    let access = match body.access.value {
        Access::Read => "read",
        Access::ReadWrite => "read-write",
    };
    line(out, format_args!("access = \"{access}\""));
    line(out, format_args!("pages = {}", body.pages.value));
    line(out, format_args!("lifetime = \"session\""));
    line(out, format_args!("held-by = \"{}\"", body.held_by.value));
    line(out, format_args!("on-behalf-of = \"{}\"", body.on_behalf_of.value));
}

fn paths(item: &Named<Vec<PathRight>>, out: &mut String) {
    header(out, "xenstore", &item.name.value);
    for right in &item.body {
        let words = [("read", right.read), ("write", right.write), ("watch", right.watch)];
        let words = word_list(words.into_iter().filter(|(_, held)| *held).map(|(word, _)| word));
        line(out, format_args!("\"{}\" = {words}", right.path.value));
    }
}

fn assertion(item: &Named<Assertion>, out: &mut String) {
    line(out, format_args!("\n[[assert]]\nname = \"{}\"\nwhy = \"{}\"", item.name.value, item.body.why));
    claim(&item.body.claim, out);
    if item.body.allow_vacuous {
        line(out, format_args!("allow-vacuous = true"));
    }
}

/// Writes the claim of an assertion in the policy language.
pub(crate) fn claim(claim: &Claim, out: &mut String) {
    let words = |words: &[crate::diagnostic::Spanned<String>]| word_list(words.iter().map(|word| word.value.as_str()));
    let reach = |takeovers: u32, unless: &[crate::diagnostic::Spanned<String>], out: &mut String| {
        if takeovers > 0 {
            line(out, format_args!("takeovers = {takeovers}"));
        }
        if !unless.is_empty() {
            line(out, format_args!("unless = {}", words(unless)));
        }
    };
    match claim {
        Claim::CannotCause { from, to, takeovers, unless } => {
            line(out, format_args!("kind = \"cannot-cause\"\nfrom = \"{}\"\nto = \"{}\"", from.value, to.value));
            reach(*takeovers, unless, out);
        }
        Claim::NoLeak { regions, to, takeovers, unless } => {
            line(out, format_args!("kind = \"no-leak\"\nregions = {}\nto = \"{}\"", words(regions), to.value));
            reach(*takeovers, unless, out);
        }
        Claim::Exclusive { owner, regions, access, besides } => {
            line(out, format_args!("kind = \"exclusive\"\nowner = \"{}\"", owner.value));
            line(out, format_args!("regions = {}\naccess = \"{}\"", words(regions), access.value.word()));
            if !besides.is_empty() {
                line(out, format_args!("besides = {}", words(besides)));
            }
        }
        Claim::AtMost { what, service, limit } => {
            line(out, format_args!("kind = \"at-most\"\nwhat = \"{}\"", what.value.word()));
            if let Some(service) = service {
                line(out, format_args!("service = \"{}\"", service.value));
            }
            line(out, format_args!("limit = {limit}"));
        }
        Claim::Only { who, may, takeovers, directly, unless } => {
            line(out, format_args!("kind = \"only\"\nwho = {}\nmay = \"{}\"", words(who), may.value));
            if *directly {
                line(out, format_args!("directly = true"));
            }
            reach(*takeovers, unless, out);
        }
        Claim::ShareNothing { between } => {
            line(out, format_args!("kind = \"share-nothing\"\nbetween = {}", words(between)));
        }
    }
}
