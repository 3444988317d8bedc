//! Reads entries: one function for each kind.

use cloister_caps::abi::Operation;
use cloister_caps::rights::{Kind, Rights};
use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::{DomId, PAGE_SIZE};

use super::names::{at, checked_program};
use super::value::{Field, Key, Table, list};
use crate::authority::paths::without_stars;
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{
    Domain, Grant, HOLDABLE, HeldCapability, MapAccess, MapEntry, PathRight, Peer, Pin, Port, Queue, Region, Service,
    Source,
};
use crate::release::hash;

/// The largest region of a fixed size, in pages: 256 MiB.
const MAX_FIXED_PAGES: u32 = 1 << 16;
/// The largest share, in pages: 4 GiB, the kernel's limit.
const MAX_SHARE_PAGES: u32 = 1 << 20;
/// The largest stack, in pages: 1 MiB.
const MAX_STACK_PAGES: u32 = (1 << 20) / PAGE_SIZE as u32;

const SERVICE: Key = Key::new("service", "service = \"netfront\"");
const PEER: Key = Key::new("peer", "peer = \"netback\"");

pub(super) fn domain(table: &Table<'_>, log: &mut Log) -> Option<Domain> {
    let ids = Key::new("ids", "ids = \"0-32751\"");
    let pin = Key::new("pin", "pin = { by = \"xenstore\", node = \"device/vif/0/backend-id\" }");
    table.only(&[ids, pin], log);
    let pin = match table.find(pin) {
        Some(field) => Some(pin_of(&field, log)?),
        None => None,
    };
    let field = table.require(ids, log)?;
    let text = field.text(log)?;
    let (first, last) = text.value.split_once('-').unwrap_or((&text.value, &text.value));
    match (domain_id(first), domain_id(last)) {
        (Some(first), Some(last)) if first <= last => Some(Domain { first, last, pin }),
        _ => {
            let highest = DomId::FIRST_RESERVED.0 - 1;
            field.refuse(&format!("a domain id from 0 to {highest}, or two joined by -, the lower one first"), log);
            None
        }
    }
}

/// Reads which service says the peer, and by which node.
fn pin_of(field: &Field<'_>, log: &mut Log) -> Option<Pin> {
    let by = Key::new("by", "by = \"xenstore\"");
    let node = Key::new("node", "node = \"device/vif/0/backend-id\"");
    let table = field.table("`pin`".into(), log)?;
    table.only(&[by, node], log);
    let by = table.require(by, log).and_then(|field| field.text(log));
    let node = table.require(node, log).and_then(|field| {
        let text = field.text(log)?;
        // An absolute path could name the domain's own directory by a number, which is not known here.
        let pattern = text.value.split('/').any(|part| matches!(part, "*" | "**" | "{self}"));
        if text.value.starts_with('/') || pattern || path_problem(&text.value).is_some() {
            field
                .refuse("the path of one node below the domain's own directory, like \"device/vif/0/backend-id\"", log);
            return None;
        }
        Some(text)
    });
    Some(Pin { by: by?, node: node?, span: field.name.span.clone() })
}

fn domain_id(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|id| plain && DomId(*id).is_real())
}

pub(super) fn service(table: &Table<'_>, log: &mut Log) -> Option<Service> {
    let program = Key::new("program", "program = \"cloister-http\"");
    let pin = Key::new("program-sha256", "program-sha256 = \"HASH\"");
    let priority = Key::new("priority", "priority = 20");
    let cpu = Key::new("cpu", "cpu = { budget_us = 2000, period_us = 10000 }");
    let stack = Key::new("stack", "stack = \"16K\"");
    let restart = Key::new("restart", "restart = { limit = 0, then = \"stop-image\" }");
    let held = HOLDABLE.map(|kind| Key::new(kind.name(), held_example(kind)));
    let known: Vec<Key> = [program, pin, priority, cpu, stack, restart].into_iter().chain(held).collect();
    table.only(&known, log);
    let program =
        table.require(program, log).and_then(|field| field.text(log)).filter(|program| checked_program(program, log));
    let program_hash = match table.find(pin) {
        Some(field) => Some(program_hash(&field, log)?),
        None => None,
    };
    let priority = table.require(priority, log).and_then(|field| field.integer(1..=255, log));
    let cpu = table.require(cpu, log).and_then(|field| cpu_of(&field, log));
    let stack = table.require(stack, log).and_then(|field| field.size(1..=MAX_STACK_PAGES, log));
    let restart = table.require(restart, log).and_then(|field| restart_of(&field, log));
    let mut rights = Vec::new();
    let mut whole = true;
    for (kind, key) in HOLDABLE.into_iter().zip(held) {
        if let Some(field) = table.find(key) {
            match rights_of(&field, kind, log) {
                Some(found) => rights.push(HeldCapability { kind, rights: found.value, span: field.name.span }),
                None => whole = false,
            }
        }
    }
    let (budget_us, period_us) = cpu?;
    let (restart_limit, after_limit) = restart?;
    Some(Service {
        program: program?,
        program_hash,
        priority: u8::try_from(priority?.value).ok()?,
        budget_us,
        period_us,
        stack_pages: stack?,
        restart_limit,
        after_limit,
        held: whole.then_some(rights)?,
    })
}

/// Reads the hash of a program.
fn program_hash(field: &Field<'_>, log: &mut Log) -> Option<[u8; 32]> {
    let text = field.text(log)?;
    let hash = hash(&text.value);
    if hash.is_none() {
        field.refuse("a SHA-256 of 64 lower-case hexadecimal digits", log);
    }
    hash
}

fn held_example(kind: Kind) -> &'static str {
    match kind {
        Kind::Console => "console = [\"write\"]",
        Kind::Clock => "clock = [\"now\"]",
        Kind::Entropy => "entropy = [\"draw\"]",
        Kind::Power => "power = [\"off\", \"reboot\"]",
        _ => "info = [\"read\"]",
    }
}

/// Reads budget and period.
fn cpu_of(field: &Field<'_>, log: &mut Log) -> Option<(Spanned<u32>, Spanned<u32>)> {
    let budget = Key::new("budget_us", "budget_us = 2000");
    let period = Key::new("period_us", "period_us = 10000");
    let table = field.table("`cpu`".into(), log)?;
    table.only(&[budget, period], log);
    let budget = table.require(budget, log).and_then(|field| field.integer(1..=1_000_000, log));
    let period = table.require(period, log).and_then(|field| field.integer(1000..=1_000_000, log));
    let (budget, period) = (budget?, period?);
    if budget.value > period.value {
        log.push(
            Diagnostic::at(&budget.span, "the budget is longer than the period")
                .label(format!("{} µs in every {} µs", budget.value, period.value))
                .related(&period.span, "the period")
                .help("make `budget_us` at most `period_us`"),
        );
        return None;
    }
    Some((budget, period))
}

fn restart_of(field: &Field<'_>, log: &mut Log) -> Option<(u16, AfterLimit)> {
    let limit = Key::new("limit", "limit = 0");
    let then = Key::new("then", "then = \"stop-image\"");
    let table = field.table("`restart`".into(), log)?;
    table.only(&[limit, then], log);
    let limit = table.require(limit, log).and_then(|field| field.integer(0..=u32::from(u16::MAX), log));
    let words = [("stop-image", AfterLimit::StopImage), ("stop-service", AfterLimit::StopService)];
    let then = table.require(then, log).and_then(|field| field.choice(&words, log));
    Some((u16::try_from(limit?.value).ok()?, then?.value))
}

/// Reads a list of words as the rights to an object of `kind`.
fn rights_of(field: &Field<'_>, kind: Kind, log: &mut Log) -> Option<Spanned<Rights>> {
    let words = field.words(log)?;
    let operations: Vec<Operation> =
        Operation::ALL.iter().copied().filter(|operation| operation.applies_to(kind)).collect();
    let mut rights = Rights::empty();
    let mut whole = true;
    for word in words {
        match operations.iter().find(|operation| operation.name() == word.value) {
            Some(operation) => rights |= operation.right(),
            None => {
                let names: Vec<&str> = operations.iter().map(|operation| operation.name()).collect();
                log.push(
                    Diagnostic::at(&word.span, format!("a {} has no right \"{}\"", kind.name(), word.value))
                        .label("unknown right")
                        .help(format!("the rights to a {} are {}", kind.name(), list(&names))),
                );
                whole = false;
            }
        }
    }
    whole.then(|| Spanned::new(rights, field.span.clone()))
}

pub(super) fn region(table: &Table<'_>, log: &mut Log) -> Option<Region> {
    let pages = Key::new("pages", "pages = 128");
    let share = Key::new("share", "share = 1");
    let minimum = Key::new("minimum", "minimum = \"64K\"");
    let maximum = Key::new("maximum", "maximum = \"32M\"");
    let kind = Key::new("kind", "kind = \"module\"");
    let map = Key::new("map", "map = { tcpip = \"read\" }");
    let keep = Key::new("keep", "keep = true");
    table.only(&[pages, share, minimum, maximum, kind, map, keep], log);
    let map = table.require(map, log).and_then(|field| map_of(&field, log));
    let keep_field = table.find(keep);
    let keep = match &keep_field {
        Some(field) => field.flag(log).map(|keep| keep.value.then_some(keep.span)),
        None => Some(None),
    };
    let source = match (table.find(pages), table.find(share), table.find(kind)) {
        (Some(field), None, None) => fixed_of(&field, log),
        (None, Some(field), None) => {
            let minimum = table.require(minimum, log).and_then(|field| field.size(1..=MAX_SHARE_PAGES, log));
            let maximum = table.require(maximum, log).and_then(|field| field.size(1..=MAX_SHARE_PAGES, log));
            share_of(&field, minimum, maximum, log)
        }
        (None, None, Some(field)) => kind_of(&field, log),
        _ => {
            log.push(
                Diagnostic::at(&at(table), format!("{} must have one of `pages`, `share` and `kind`", table.what))
                    .label("the source of its memory is missing")
                    .help("write `pages = N`, `share = N` with `minimum` and `maximum`, or `kind = \"module\"`"),
            );
            None
        }
    };
    if table.find(share).is_none() {
        for stray in [minimum, maximum].into_iter().filter_map(|key| table.find(key)) {
            log.push(
                Diagnostic::at(
                    &stray.name.span,
                    format!("{} is not a share, but has `{}`", table.what, stray.name.value),
                )
                .label("has no effect here")
                .help("only a region with `share` has `minimum` and `maximum`"),
            );
        }
    }
    Some(Region { source: source?, map: map?, keep: keep? })
}

fn fixed_of(field: &Field<'_>, log: &mut Log) -> Option<Spanned<Source>> {
    Some(field.integer(1..=MAX_FIXED_PAGES, log)?.map(|pages| Source::Fixed { pages }))
}

fn share_of(
    field: &Field<'_>,
    minimum: Option<Spanned<u32>>,
    maximum: Option<Spanned<u32>>,
    log: &mut Log,
) -> Option<Spanned<Source>> {
    let weight = field.integer(1..=1000, log);
    let (minimum, maximum) = (minimum?, maximum?);
    if minimum.value > maximum.value {
        log.push(
            Diagnostic::at(&minimum.span, "the minimum is larger than the maximum")
                .label("the minimum")
                .related(&maximum.span, "the maximum")
                .help("make `minimum` at most `maximum`"),
        );
        return None;
    }
    Some(weight?.map(|weight| Source::Share { weight, minimum: minimum.value, maximum: maximum.value }))
}

fn kind_of(field: &Field<'_>, log: &mut Log) -> Option<Spanned<Source>> {
    let words = [Source::Module, Source::CommandLine, Source::XenStoreRing].map(|source| (source.word(), source));
    field.choice(&words, log)
}

fn map_of(field: &Field<'_>, log: &mut Log) -> Option<Vec<MapEntry>> {
    let table = field.table("`map`".into(), log)?;
    let mut map = Vec::new();
    let mut whole = true;
    let fields = table.fields("map = { tcpip = \"read\" }");
    for entry in &fields {
        match how_of(entry, log) {
            Some(how) => map.push(MapEntry { service: entry.name.clone(), how }),
            None => whole = false,
        }
    }
    if fields.is_empty() {
        log.push(
            Diagnostic::at(&field.span, "`map` is empty")
                .label("no service maps the region")
                .help("write, for example, `map = { tcpip = \"read\" }`, or leave the region out"),
        );
        return None;
    }
    whole.then_some(map)
}

fn how_of(entry: &Field<'_>, log: &mut Log) -> Option<Spanned<MapAccess>> {
    let text = entry.text(log)?;
    if text.value.contains("execute") {
        log.push(
            Diagnostic::at(&text.span, format!("service `{}` cannot execute a region", entry.name.value))
                .label("W^X: not allowed")
                .help("only a service's own program is executable; map the region as \"read\" or \"read-write\""),
        );
        return None;
    }
    entry.choice(&MapAccess::WORDS, log)
}

pub(super) fn queue(table: &Table<'_>, log: &mut Log) -> Option<Queue> {
    let from = Key::new("from", "from = \"http\"");
    let to = Key::new("to", "to = \"tcpip\"");
    let interface = Key::new("interface", "interface = \"socket\"");
    let depth = Key::new("depth", "depth = 8");
    table.only(&[from, to, interface, depth], log);
    let from = table.require(from, log).and_then(|field| field.text(log));
    let to = table.require(to, log).and_then(|field| field.text(log));
    let interface = table.require(interface, log).and_then(|field| field.text(log));
    let depth = table.require(depth, log).and_then(|field| {
        let depth = field.integer(2..=1 << 15, log)?;
        if !depth.value.is_power_of_two() {
            field.refuse("a power of two, so that the position of a message is a mask of its number", log);
            return None;
        }
        u16::try_from(depth.value).ok()
    });
    Some(Queue { from: from?, to: to?, interface: interface?, depth: depth? })
}

pub(super) fn port(table: &Table<'_>, log: &mut Log) -> Option<Port> {
    let kind = Key::new("kind", "kind = \"xenstore\"");
    let rights = Key::new("rights", "rights = [\"open\", \"send\", \"close\"]");
    table.only(&[SERVICE, PEER, kind, rights], log);
    let service = table.require(SERVICE, log).and_then(|field| field.text(log));
    let rights = table.require(rights, log).and_then(|field| rights_of(&field, Kind::Port, log));
    let peer = match (table.find(PEER), table.find(kind)) {
        (Some(field), None) => field.text(log).map(Peer::Domain),
        (None, Some(field)) => field.choice(&[("xenstore", ())], log).map(|word| Peer::XenStore(word.span)),
        _ => {
            log.push(
                Diagnostic::at(&at(table), format!("{} must have one of `peer` and `kind`", table.what))
                    .label("the other end is missing")
                    .help("write `peer = \"netback\"` for a domain, or `kind = \"xenstore\"`"),
            );
            None
        }
    };
    Some(Port { service: service?, peer: peer?, rights: rights? })
}

pub(super) fn grant(table: &Table<'_>, log: &mut Log) -> Option<Grant> {
    let region = Key::new("region", "region = \"rx-pool\"");
    let access = Key::new("access", "access = \"read\"");
    let pages = Key::new("pages", "pages = 128");
    let lifetime = Key::new("lifetime", "lifetime = \"session\"");
    let held_by = Key::new("held-by", "held-by = \"grant-manager\"");
    let on_behalf_of = Key::new("on-behalf-of", "on-behalf-of = \"netfront\"");
    table.only(&[region, PEER, access, pages, lifetime, held_by, on_behalf_of], log);
    let region = table.require(region, log).and_then(|field| field.text(log));
    let peer = table.require(PEER, log).and_then(|field| field.text(log));
    let words = [("read", Access::Read), ("read-write", Access::ReadWrite)];
    let access = table.require(access, log).and_then(|field| field.choice(&words, log));
    let pages = table.require(pages, log).and_then(|field| field.integer(1..=MAX_FIXED_PAGES, log));
    let lifetime = table.require(lifetime, log).and_then(|field| field.choice(&[("session", ())], log));
    let held_by = table.require(held_by, log).and_then(|field| field.text(log));
    let on_behalf_of = table.require(on_behalf_of, log).and_then(|field| field.text(log));
    lifetime?;
    Some(Grant {
        region: region?,
        peer: peer?,
        access: access?,
        pages: pages?,
        held_by: held_by?,
        on_behalf_of: on_behalf_of?,
    })
}

pub(super) fn paths(table: &Table<'_>, log: &mut Log) -> Option<Vec<PathRight>> {
    let mut paths = Vec::new();
    let mut whole = true;
    for field in table.fields("\"device/vif/0\" = [\"read\", \"write\", \"watch\"]") {
        match path(&field, log) {
            Some(right) => paths.push(right),
            None => whole = false,
        }
    }
    whole.then_some(paths)
}

fn path(field: &Field<'_>, log: &mut Log) -> Option<PathRight> {
    let syntax = path_problem(&field.name.value);
    if let Some(problem) = syntax {
        log.push(
            Diagnostic::at(&field.name.span, format!("`{}` is not a XenStore path: {problem}", field.name.value))
                .label("not a path")
                .help("write a path like \"device/vif/0/state\", or \"device/vif/0/**\" for everything below a node"),
        );
    }
    let words = field.words(log)?;
    let mut right = PathRight { path: field.name.clone(), read: false, write: false, watch: false };
    let mut whole = syntax.is_none();
    for word in words {
        match word.value.as_str() {
            "read" => right.read = true,
            "write" => right.write = true,
            "watch" => right.watch = true,
            other => {
                log.push(
                    Diagnostic::at(&word.span, format!("a XenStore path has no right \"{other}\""))
                        .label("unknown right")
                        .help(format!("the rights to a path are {}", list(&["read", "write", "watch"]))),
                );
                whole = false;
            }
        }
    }
    whole.then_some(right)
}

/// Returns why a text is not a path. The characters are those that `xenstored` allows
/// (`is_valid_nodename`).
fn path_problem(path: &str) -> Option<&'static str> {
    const LONGEST: usize = 96;
    let (path, _) = without_stars(path);
    let rest = path.strip_prefix('/').unwrap_or(path);
    let component = |part: &str| {
        part == "*"
            || part == "{self}"
            || part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '@'))
    };
    if path.len() > LONGEST {
        Some("it has more than 96 bytes")
    } else if path.starts_with('@') {
        Some("names that begin with @ are special watches of the daemon")
    } else if rest.split('/').any(str::is_empty) {
        Some("a component is empty")
    } else if rest.split('/').any(|part| part == "**") {
        Some("** is the last component of a path, or none")
    } else if !rest.split('/').all(component) {
        Some("a component is * (a number), {self}, or made of a-z, A-Z, 0-9, -, _ and @")
    } else {
        None
    }
}
