//! Names of subjects, objects and rules in questions and in sentences.

use super::{Object, Op, Rule, Subject, paths};
use crate::model::{Named, Policy, Source};

/// Words for objects that are not entries of the policy, and for all entries of a section.
pub(crate) const FIXED: [&str; 15] = [
    "console",
    "clock",
    "entropy",
    "power",
    "info",
    "image",
    "self",
    "predictors",
    "region",
    "port",
    "grant",
    "queue",
    "program",
    "domain",
    "weakness",
];

/// The XenStore daemon, as a subject.
pub(crate) const DAEMON: &str = "xenstore-daemon";
/// The toolstack, which creates the domain, as a subject.
pub(crate) const TOOLSTACK: &str = "toolstack";

fn name<T>(items: &[Named<T>], position: usize) -> &str {
    items.get(position).map_or("?", |item| item.name.value.as_str())
}

/// Returns the name of a subject, as in questions.
pub(crate) fn subject(policy: &Policy, subject: Subject) -> String {
    let taken = |name: &str| policy.services.defines(name) || policy.domains.defines(name);
    match subject {
        Subject::Service(service) => name(&policy.services.items, service).to_owned(),
        Subject::Domain(domain) => {
            let name = name(&policy.domains.items, domain);
            if policy.services.defines(name) { format!("domain:{name}") } else { name.to_owned() }
        }
        Subject::XenStoreDaemon if taken(DAEMON) => format!("outside:{DAEMON}"),
        Subject::XenStoreDaemon => DAEMON.to_owned(),
        Subject::Toolstack if taken(TOOLSTACK) => format!("outside:{TOOLSTACK}"),
        Subject::Toolstack => TOOLSTACK.to_owned(),
    }
}

/// Returns the name of an object, as in questions: with its section if the name alone is ambiguous.
pub(crate) fn object(policy: &Policy, object: Object) -> String {
    let (section, name) = match object {
        Object::Console => return "console".into(),
        Object::Clock => return "clock".into(),
        Object::Entropy => return "entropy".into(),
        Object::Power => return "power".into(),
        Object::Info => return "info".into(),
        Object::Image => return "image".into(),
        Object::Itself => return "self".into(),
        Object::Predictors => return "predictors".into(),
        Object::AnyPath => return "path:/**".into(),
        Object::Weakness(weakness) => return format!("weakness:{}", weakness.name()),
        Object::Region(region) => ("region", name(&policy.regions.items, region)),
        Object::Port(port) => ("port", name(&policy.ports.items, port)),
        Object::Grant(grant) => ("grant", name(&policy.grants.items, grant)),
        Object::Queue(queue) => ("queue", name(&policy.queues.items, queue)),
        Object::Domain(domain) => ("domain", name(&policy.domains.items, domain)),
        Object::Path(entry, path) => {
            let path = policy.xenstore.items.get(entry).and_then(|item| item.body.get(path));
            let path = path.map_or("?", |path| path.path.value.as_str());
            return if path.contains('/') { path.to_owned() } else { format!("path:{path}") };
        }
        Object::Program(service) => {
            let program = policy.services.items.get(service).map_or("?", |item| item.body.program.value.as_str());
            return format!("program:{program}");
        }
    };
    let sections = [
        policy.regions.defines(name),
        policy.ports.defines(name),
        policy.grants.defines(name),
        policy.queues.defines(name),
        policy.domains.defines(name),
    ];
    let alone = sections.iter().filter(|defined| **defined).count() == 1 && !FIXED.contains(&name);
    if alone { name.to_owned() } else { format!("{section}:{name}") }
}

/// Returns the operation on an object as the part of a sentence after "can".
pub(crate) fn ability(policy: &Policy, object: Object, op: Op, amount: u64) -> String {
    let name = self::object(policy, object);
    match (object, op) {
        (Object::Console, Op::Log) => "have the kernel write lines about it to the console".into(),
        (Object::Console, _) => "write to the console".into(),
        (Object::Clock, Op::Wall) => "read the wall clock".into(),
        (Object::Clock, _) => "read the monotonic clock".into(),
        (Object::Entropy, _) => "draw random bits".into(),
        (Object::Power, Op::Off) => "power the domain off".into(),
        (Object::Power, _) => "reboot the domain".into(),
        (Object::Info, _) => "read facts about the image".into(),
        (Object::Image, _) => "stop the image by a fault past its restart limit".into(),
        (Object::Itself, Op::Run) => format!("run for up to {:.1} % of the time", amount as f64 / 10_000.0),
        (Object::Itself, Op::Hold) => format!("run {amount} µs without a pause"),
        (Object::Itself, Op::Precede) => format!("come before services of a priority below {amount}"),
        (Object::Itself, Op::Restart) => format!("be restarted {amount} times"),
        (Object::Itself, _) => format!("use a stack of {amount} pages"),
        (Object::Region(_), Op::Read | Op::Write | Op::Claim) => {
            let verb = if op == Op::Claim { "rely on" } else { op.word() };
            let whole = matches!(source(policy, object), Some(Source::Fixed { .. } | Source::Share { .. }));
            let up_to = if matches!(source(policy, object), Some(Source::Share { .. })) && op != Op::Claim {
                "up to "
            } else {
                ""
            };
            if whole { format!("{verb} {name} ({up_to}{})", counted(amount, "page")) } else { format!("{verb} {name}") }
        }
        (Object::Region(_), Op::Weigh) => format!("have {amount} parts of the remaining memory for {name}"),
        (Object::Region(_), Op::Keep) => format!("find the old content of {name} after a restart"),
        (Object::Region(_), _) => {
            format!("see the {} in {name}", op.word().trim_start_matches("from-").replace('-', " "))
        }
        (Object::Port(_), Op::Open) => format!("open the event channel {name}"),
        (Object::Port(_), Op::Receive) => format!("be woken by events over {name}"),
        (Object::Port(_), Op::Close) => format!("close the event channel {name}"),
        (Object::Port(_), _) => format!("send an event over {name}"),
        (Object::Grant(_), Op::Issue) => format!("have {} granted under {name}", counted(amount, "page")),
        (Object::Grant(_), _) => format!("have the grants under {name} ended"),
        (Object::Queue(_), Op::Request) => format!("send requests over {name}"),
        (Object::Queue(_), _) => format!("answer over {name}"),
        (Object::Path(..), _) => match paths::without_stars(&name) {
            (above, true) => format!("{} everything below {above}", op.word()),
            (node, false) => format!("{} {node}", op.word()),
        },
        (Object::AnyPath, _) => format!("{} any node of XenStore", op.word()),
        (Object::Predictors, _) => "leave predictions of branches to the service that runs next".into(),
        (Object::Weakness(weakness), _) => {
            format!("start the image on a processor that may have the weakness {}", weakness.name())
        }
        (Object::Domain(_), _) => format!("choose which domain of {name} is the peer"),
        (Object::Program(_), _) => format!("execute {}", name.trim_start_matches("program:")),
    }
}

fn source(policy: &Policy, object: Object) -> Option<Source> {
    match object {
        Object::Region(region) => Some(policy.regions.items.get(region)?.body.source.value),
        _ => None,
    }
}

/// Returns an amount with its noun: `1 page`, `2 pages`.
pub(crate) fn counted(amount: u64, noun: &str) -> String {
    if amount == 1 { format!("1 {noun}") } else { format!("{amount} {noun}s") }
}

/// Returns the key of a rule, and the rule as a sentence.
pub(crate) fn rule(policy: &Policy, rule: Rule) -> (String, String) {
    let services = &policy.services.items;
    match rule {
        Rule::Service(service) => {
            let name = name(services, service);
            (
                format!("services.{name}"),
                format!("{name} is a service with this processor time, stack and restart rule"),
            )
        }
        Rule::Log(service) => {
            let name = name(services, service);
            let says =
                format!("lines of {name}, and the kernel's about its refused calls and faults, are on the console");
            (format!("services.{name}"), says)
        }
        Rule::ConsoleReader(domain) => {
            let key = format!("domains.{}", name(&policy.domains.items, domain));
            (key, format!("the toolstack may let {} read the console", subject(policy, Subject::Domain(domain))))
        }
        Rule::HeldCapability(service, held) => {
            let name = name(services, service);
            let kind =
                services.get(service).and_then(|item| item.body.held.get(held)).map_or("?", |held| held.kind.name());
            (format!("services.{name}.{kind}"), format!("{name} holds {kind}"))
        }
        Rule::Map(region, entry) => {
            let regions = &policy.regions.items;
            let entry = regions.get(region).and_then(|item| item.body.map.get(entry));
            let (service, how) =
                entry.map_or(("?", "?"), |entry| (entry.service.value.as_str(), entry.how.value.word()));
            let region = name(regions, region);
            (format!("regions.{region}.map.{service}"), format!("{service} maps {region} as {how}"))
        }
        Rule::Region(region) => region_rule(policy, region),
        Rule::Queue(queue) => {
            let Some(item) = policy.queues.items.get(queue) else { return Default::default() };
            let body = &item.body;
            let says = format!("{} asks {} by interface {}", body.from.value, body.to.value, body.interface.value);
            (format!("queues.{}", item.name.value), says)
        }
        Rule::Port(port) => {
            let Some(item) = policy.ports.items.get(port) else { return Default::default() };
            let peer = match &item.body.peer {
                crate::model::Peer::Domain(peer) => peer.value.as_str(),
                crate::model::Peer::XenStore(_) => "the XenStore daemon",
            };
            (
                format!("ports.{}", item.name.value),
                format!("{} has an event channel to {peer}", item.body.service.value),
            )
        }
        Rule::Grant(grant) => grant_rule(policy, grant),
        Rule::Isolation => {
            ("image".into(), format!("the isolation of the image is {}", policy.image.isolation().name()))
        }
        Rule::NotRefused(weakness) => ("image".into(), format!("the image does not refuse {}", weakness.name())),
        Rule::Pin(domain) => {
            let Some(item) = policy.domains.items.get(domain) else { return Default::default() };
            let Some(pin) = &item.body.pin else { return Default::default() };
            let (name, by, node) = (&item.name.value, &pin.by.value, &pin.node.value);
            (format!("domains.{name}.pin"), format!("{by} pins the domain of {name} that {node} names"))
        }
        Rule::Path(entry, path) => {
            let (client, path) = path_rule(policy, (entry, path));
            (format!("xenstore.{client}.\"{path}\""), format!("{client} has rights to {path}"))
        }
        Rule::Answer(queue) => {
            let Some(item) = policy.queues.items.get(queue) else { return Default::default() };
            let body = &item.body;
            let says = format!("{} answers {} by interface {}", body.to.value, body.from.value, body.interface.value);
            (format!("queues.{}", item.name.value), says)
        }
        Rule::Shared(region, writer, reader) => {
            let Some(item) = policy.regions.items.get(region) else { return Default::default() };
            let mapper = |entry: usize| item.body.map.get(entry).map_or("?", |entry| entry.service.value.as_str());
            let (name, writer, reader) = (&item.name.value, mapper(writer), mapper(reader));
            (format!("regions.{name}.map.{reader}"), format!("{writer} writes {name}, which {reader} maps"))
        }
        Rule::Relay(written, read) => {
            let ((writer, at), (reader, below)) = (path_rule(policy, written), path_rule(policy, read));
            (format!("xenstore.{reader}.\"{below}\""), format!("{writer} writes {at}, and {reader} reads {below}"))
        }
        Rule::Published(domain, written) => {
            let (writer, at) = path_rule(policy, written);
            let domain = subject(policy, Subject::Domain(domain));
            (format!("xenstore.{writer}.\"{at}\""), format!("{writer} writes {at}, which {domain} may read"))
        }
        Rule::Directory(domain, read) => {
            let (reader, at) = path_rule(policy, read);
            let domain = subject(policy, Subject::Domain(domain));
            (format!("xenstore.{reader}.\"{at}\""), format!("{domain} may write {at}, which {reader} reads"))
        }
    }
}

/// Returns the client and the path of a path rule.
fn path_rule(policy: &Policy, (entry, path): (usize, usize)) -> (&str, &str) {
    let Some(item) = policy.xenstore.items.get(entry) else { return ("?", "?") };
    (&item.name.value, item.body.get(path).map_or("?", |path| path.path.value.as_str()))
}

/// Returns the key that says where a region's memory comes from, and this as a sentence.
fn region_rule(policy: &Policy, region: usize) -> (String, String) {
    let source = policy.regions.items.get(region).map(|item| item.body.source.value);
    let (key, word) = match source {
        Some(Source::Fixed { .. }) => ("pages", "fixed"),
        Some(Source::Share { .. }) => ("share", "share"),
        _ => ("kind", source.map_or("?", Source::word)),
    };
    let region = name(&policy.regions.items, region);
    (format!("regions.{region}.{key}"), format!("{region} is memory of kind {word}"))
}

/// Returns the key of a grant rule, and the rule as a sentence.
fn grant_rule(policy: &Policy, grant: usize) -> (String, String) {
    let Some(item) = policy.grants.items.get(grant) else { return Default::default() };
    let body = &item.body;
    let access = if body.access.value == cloister_caps::tables::Access::Read { "read" } else { "read-write" };
    let pages = counted(u64::from(body.pages.value), "page");
    let says = format!(
        "{} may grant {pages} of {} to {} as {access} when {} asks",
        body.held_by.value, body.region.value, body.peer.value, body.on_behalf_of.value
    );
    (format!("grants.{}", item.name.value), says)
}
