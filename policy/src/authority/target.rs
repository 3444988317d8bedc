//! Resolves the names in questions and assertions.

use cloister_caps::weakness::Weakness;

use std::collections::HashSet;

use super::names::{DAEMON, FIXED, TOOLSTACK};
use super::{Hypercall, Object, Op, Subject, paths};
use crate::diagnostic::Spanned;
use crate::model::{Domain, Policy};
use crate::nearest::did_you_mean;

/// The last id of a domain: one less than `DOMID_FIRST_RESERVED` (`xen.h`).
const LAST_DOMAIN: u16 = 0x7FEF;

/// The objects and operations that a question is about.
pub(crate) type Targets = Vec<(Object, Op)>;

/// The rules for XenStore paths that a path stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathScope {
    /// Those that cover it.
    Covering,
    /// Those that have any node in common with it: also those below.
    Overlapping,
}

/// Returns the subjects of a name: one, or every entry of `[domains]` that can be the same domain.
pub(crate) fn subjects(policy: &Policy, text: &str) -> Result<Vec<Subject>, String> {
    let unknown = || {
        let mut known: Vec<&str> =
            policy.services.names.iter().chain(&policy.domains.names).map(|name| name.value.as_str()).collect();
        known.extend([DAEMON, TOOLSTACK]);
        let near = did_you_mean(text, &known);
        format!("there is no service or domain `{text}`;{near} there are {}", shortened(&known))
    };
    let same = |domain: usize| aliases(policy, domain).map(Subject::Domain).collect();
    if let Some(rest) = text.strip_prefix("domain:") {
        if !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = rest.parse::<u16>().ok().filter(|id| *id <= LAST_DOMAIN);
            let id = id.ok_or_else(|| format!("no domain can have the id {rest}: the last one is {LAST_DOMAIN}"))?;
            return Ok(entries_of_id(policy, id).map(Subject::Domain).collect());
        }
        return policy.domains.index(rest).map(same).ok_or_else(unknown);
    }
    if let Some(service) = policy.services.index(text) {
        return Ok(vec![Subject::Service(service)]);
    }
    if let Some(domain) = policy.domains.index(text) {
        return Ok(same(domain));
    }
    match text.strip_prefix("outside:").unwrap_or(text) {
        DAEMON => Ok(vec![Subject::XenStoreDaemon]),
        TOOLSTACK => Ok(vec![Subject::Toolstack]),
        _ => Err(unknown()),
    }
}

/// Returns the entries of `[domains]` that have an id in common with one of them, itself too.
fn aliases(policy: &Policy, domain: usize) -> impl Iterator<Item = usize> {
    let ids = policy.domains.items.get(domain).map(|item| item.body.first..=item.body.last);
    let items = policy.domains.items.iter().enumerate();
    let meets =
        move |other: &Domain| ids.as_ref().is_some_and(|ids| *ids.start() <= other.last && other.first <= *ids.end());
    items.filter(move |(_, item)| meets(&item.body)).map(|(position, _)| position)
}

/// Returns the subjects that names stand for wholly: of domains, the entries whose every id is one
/// of theirs.
pub(crate) fn whole(policy: &Policy, names: &[Spanned<String>]) -> HashSet<Subject> {
    let mut found = HashSet::new();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for name in names {
        let text = name.value.strip_prefix("domain:").unwrap_or(&name.value);
        let service = policy.services.defines(&name.value);
        match (policy.domains.get(text), text.parse::<u16>()) {
            (Some(domain), _) if !service => ranges.push((domain.body.first.into(), domain.body.last.into())),
            (None, Ok(id)) if text != name.value => ranges.push((id.into(), id.into())),
            _ => found.extend(subjects(policy, &name.value).unwrap_or_default()),
        }
    }
    ranges.sort_unstable();
    for (domain, item) in policy.domains.items.iter().enumerate() {
        // The first id that no range up to here has.
        let mut next = u32::from(item.body.first);
        for (_, last) in ranges.iter().filter(|(first, _)| *first <= u32::from(item.body.last)) {
            let reaches = ranges.iter().any(|(first, end)| *first <= next && end == last);
            if reaches && next <= *last {
                next = last + 1;
            }
        }
        if next > u32::from(item.body.last) {
            found.insert(Subject::Domain(domain));
        }
    }
    found
}

/// Returns the entries of `[domains]` that contain a domain id.
fn entries_of_id(policy: &Policy, id: u16) -> impl Iterator<Item = usize> {
    let items = policy.domains.items.iter().enumerate();
    let belongs = items.filter(move |(_, item)| (item.body.first..=item.body.last).contains(&id));
    belongs.map(|(position, _)| position)
}

/// Returns the names as a list that is not too long to read.
fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    let head = names.get(..SHOWN.min(names.len())).unwrap_or_default().join(", ");
    if names.len() > SHOWN { format!("{head} and {} more", names.len() - SHOWN) } else { head }
}

/// Returns the targets of `OBJECT.OPERATION` or of the name of a hypercall.
pub(crate) fn targets(policy: &Policy, text: &str, scope: PathScope) -> Result<Targets, String> {
    if let Some(hypercall) = Hypercall::ALL.iter().find(|hypercall| hypercall.name() == text) {
        return Ok(causes(policy, *hypercall));
    }
    let Some((object, word)) = text.rsplit_once('.') else {
        return Err(format!("`{text}` is neither OBJECT.OPERATION nor the name of a hypercall"));
    };
    operation(policy, object, word, scope)
}

/// Returns the targets of an operation on an object.
pub(crate) fn operation(policy: &Policy, object: &str, word: &str, scope: PathScope) -> Result<Targets, String> {
    let Some(op) = Op::parse(word) else {
        let words: Vec<&str> = Op::ALL.iter().map(|op| op.word()).collect();
        return Err(format!("there is no operation `{word}`; there are {}", words.join(", ")));
    };
    if let Some(path) = object.strip_prefix("path:").or(object.contains('/').then_some(object)) {
        return match op {
            Op::Read | Op::Write | Op::Watch => Ok(path_rules(policy, path, op, scope)),
            _ => Err(format!("a path of XenStore has no operation `{word}`; it has read, write and watch")),
        };
    }
    if let Some(program) = object.strip_prefix("program:") {
        if !op.applies_to(Object::Program(0)) {
            return Err(format!("a program has no operation `{word}`; it has execute"));
        }
        let runs = policy.services.items.iter().enumerate().filter(|(_, item)| item.body.program.value == program);
        return Ok(runs.map(|(service, _)| (Object::Program(service), op)).collect());
    }
    if let Some(id) = object.strip_prefix("domain:").and_then(|id| id.parse::<u16>().ok()) {
        // Like a subject that is named by an id: every entry with it, if there is one.
        let found = entries_of_id(policy, id).map(|domain| (Object::Domain(domain), op));
        return Ok(found.filter(|(object, op)| op.applies_to(*object)).collect());
    }
    let candidates = objects(policy, object);
    // The word of an empty section is known, but has no objects.
    if candidates.is_empty() && !FIXED.contains(&object) {
        return Err(unknown_object(policy, object));
    }
    let fitting: Targets =
        candidates.iter().map(|object| (*object, op)).filter(|(object, op)| op.applies_to(*object)).collect();
    match fitting.as_slice() {
        [] if candidates.is_empty() => Ok(fitting),
        [] => Err(format!("`{object}` has no operation `{word}`; it has {}", operations_of(&candidates))),
        [first, rest @ ..]
            if !FIXED.contains(&object) && rest.iter().any(|(other, _)| kind(*other) != kind(first.0)) =>
        {
            let kinds: Vec<String> = fitting.iter().map(|(found, _)| format!("{}:{object}", kind(*found))).collect();
            Err(format!("`{object}` is the name of several things; write {}", kinds.join(" or ")))
        }
        _ => Ok(fitting),
    }
}

fn operations_of(objects: &[Object]) -> String {
    let has = |op: &Op| objects.iter().any(|object| op.applies_to(*object));
    let words: Vec<&str> = Op::ALL.iter().filter(|op| has(op)).map(|op| op.word()).collect();
    words.join(", ")
}

/// Returns every object of this name in any section, or all objects of a section for the section's
/// word.
fn objects(policy: &Policy, name: &str) -> Vec<Object> {
    let (section, bare) = match name.split_once(':') {
        Some((section, bare)) => (Some(section), bare),
        None => (None, name),
    };
    let fixed = match (section, name) {
        (None, "console") => vec![Object::Console],
        (None, "clock") => vec![Object::Clock],
        (None, "entropy") => vec![Object::Entropy],
        (None, "power") => vec![Object::Power],
        (None, "info") => vec![Object::Info],
        (None, "image") => vec![Object::Image],
        (None, "self") => vec![Object::Itself],
        (None, "predictors") => vec![Object::Predictors],
        (None, "weakness") => Weakness::ALL.iter().copied().map(Object::Weakness).collect(),
        (Some("weakness"), _) => Weakness::from_name(bare).map(Object::Weakness).into_iter().collect(),
        (None, "region") => (0..policy.regions.items.len()).map(Object::Region).collect(),
        (None, "port") => (0..policy.ports.items.len()).map(Object::Port).collect(),
        (None, "grant") => (0..policy.grants.items.len()).map(Object::Grant).collect(),
        (None, "domain") => (0..policy.domains.items.len()).map(Object::Domain).collect(),
        (None, "queue") => (0..policy.queues.items.len()).map(Object::Queue).collect(),
        _ => Vec::new(),
    };
    if section == Some("weakness") || section.is_none() && FIXED.contains(&name) {
        return fixed;
    }
    let of = |word: &str| section.is_none_or(|section| section == word);
    let found = [
        policy.regions.index(bare).filter(|_| of("region")).map(Object::Region),
        policy.ports.index(bare).filter(|_| of("port")).map(Object::Port),
        policy.grants.index(bare).filter(|_| of("grant")).map(Object::Grant),
        policy.queues.index(bare).filter(|_| of("queue")).map(Object::Queue),
        policy.domains.index(bare).filter(|_| of("domain")).map(Object::Domain),
    ];
    found.into_iter().flatten().collect()
}

fn kind(object: Object) -> &'static str {
    match object {
        Object::Region(_) => "region",
        Object::Port(_) => "port",
        Object::Grant(_) => "grant",
        Object::Queue(_) => "queue",
        Object::Domain(_) => "domain",
        _ => "",
    }
}

fn unknown_object(policy: &Policy, name: &str) -> String {
    let regions = policy.regions.names.iter().chain(&policy.ports.names);
    let mut known: Vec<&str> =
        regions.chain(&policy.grants.names).chain(&policy.queues.names).map(|name| name.value.as_str()).collect();
    known.extend(policy.domains.names.iter().map(|name| name.value.as_str()));
    known.extend(FIXED);
    let near = did_you_mean(name, &known);
    format!("there is no object `{name}`;{near} there are {}", shortened(&known))
}

/// Returns the path rules that a path stands for. If there is none, every node of XenStore is what is
/// asked about: whoever can do that to each can do it to this one.
fn path_rules(policy: &Policy, path: &str, op: Op, scope: PathScope) -> Targets {
    let mut found = Vec::new();
    for (entry, item) in policy.xenstore.items.iter().enumerate() {
        for (position, right) in item.body.iter().enumerate() {
            let rule = right.path.value.as_str();
            let overlaps = scope == PathScope::Overlapping && paths::overlap(rule, path);
            if overlaps || paths::covers(rule, path) {
                found.push((Object::Path(entry, position), op));
            }
        }
    }
    if found.is_empty() {
        found.push((Object::AnyPath, op));
    }
    found
}

/// Returns the operations for which the kernel makes a hypercall.
fn causes(policy: &Policy, hypercall: Hypercall) -> Targets {
    let fixed = [Object::Console, Object::Power, Object::Image, Object::Itself];
    let ports = (0..policy.ports.items.len()).map(Object::Port);
    let mut found = Vec::new();
    for object in fixed.into_iter().chain(ports) {
        for op in Op::ALL.iter().copied().filter(|op| op.applies_to(object)) {
            if Hypercall::of(object, op).contains(&hypercall) {
                found.push((object, op));
            }
        }
    }
    found
}
