//! Makes the tables of the page.

use std::collections::BTreeMap;

use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::weakness::Weakness;

use super::page::Table;
use super::sums::table;
use crate::authority::{Hypercall, Rule, Subject, index, names};
use crate::model::{Peer, Source};
use crate::printable::hexadecimal;
use crate::prove::queue_pages;
use crate::read::render_size;
use crate::sound::Sound;

pub(super) fn tables(sound: &Sound) -> Vec<Table> {
    vec![
        super::sums::trusted(sound),
        super::matrix::matrix(sound),
        super::sums::warnings(sound),
        super::sums::sums(sound),
        domains(sound),
        sharing(sound),
        regions(sound),
        hypercalls(sound),
        channels(sound),
        queues(sound),
        paths(sound),
        services(sound),
        processor(sound),
        super::sums::addresses(sound),
    ]
}

fn line(sound: &Sound, rule: Rule) -> String {
    let span = index::span(&sound.policy, rule);
    span.map_or(String::new(), |span| sound.lines.line(span.start).to_string())
}

fn ids(first: u16, last: u16) -> String {
    if first == last { format!("domain {first}") } else { format!("domains {first} to {last}") }
}

fn domains(sound: &Sound) -> Table {
    let rows = sound.policy.domains.items.iter().map(|item| {
        let body = &item.body;
        let (peer, span) = match &body.pin {
            Some(pin) => (format!("the one that {} pins, by {}", pin.by.value, pin.node.value), &pin.span),
            None => ("any of them, at any time".into(), &item.name.span),
        };
        let line = sound.lines.line(span.start).to_string();
        vec![item.name.value.clone(), ids(body.first, body.last), peer, line]
    });
    table(
        "domains",
        "Other domains",
        "A pinned domain is the only peer of every grant and channel of its row, until nothing is shared with it any more.",
        &["name", "ids", "peer", "line"],
        rows.collect(),
    )
}

fn sharing(sound: &Sound) -> Table {
    let policy = &sound.policy;
    let mut rows = Vec::new();
    for (position, item) in policy.grants.items.iter().enumerate() {
        let body = &item.body;
        let range =
            policy.domains.get(&body.peer.value).map_or(String::new(), |peer| ids(peer.body.first, peer.body.last));
        let access = if body.access.value == Access::Read { "read" } else { "read and write" };
        rows.push(vec![
            format!("{} ({range})", body.peer.value),
            body.region.value.clone(),
            body.pages.value.to_string(),
            access.into(),
            "from the connection with the peer to its end".into(),
            format!("{} asks, {} issues", body.on_behalf_of.value, body.held_by.value),
            line(sound, Rule::Grant(position)),
        ]);
    }
    for (position, item) in policy.regions.items.iter().enumerate() {
        let (who, access) = match item.body.source.value {
            Source::XenStoreRing => ("the XenStore daemon", "read and write"),
            Source::Module | Source::CommandLine => ("the toolstack", "write, before the boot"),
            Source::Fixed { .. } | Source::Share { .. } => continue,
        };
        rows.push(vec![
            who.into(),
            item.name.value.clone(),
            if item.body.source.value == Source::Module { "as given".into() } else { "1".into() },
            access.into(),
            if access == "read and write" { "as long as the domain lives".into() } else { "at boot".into() },
            "the toolstack".into(),
            line(sound, Rule::Region(position)),
        ]);
    }
    table(
        "sharing",
        "Memory shared with other domains",
        "Except for the console ring, which is the kernel's, no other memory of this image is shared or granted. The control domain can map any guest's memory, and is trusted not to.",
        &["with", "region", "pages", "access of the other", "how long", "by whom", "line"],
        rows,
    )
}

fn regions(sound: &Sound) -> Table {
    let rows = sound.policy.regions.items.iter().enumerate().map(|(position, item)| {
        let source = match item.body.source.value {
            Source::Fixed { pages } => names::counted(u64::from(pages), "page"),
            Source::Share { weight, minimum, maximum } => {
                format!("{weight} parts of the rest, {} to {}", render_size(minimum), render_size(maximum))
            }
            Source::Module => "the boot module".into(),
            Source::CommandLine => "the command line".into(),
            Source::XenStoreRing => "the XenStore ring".into(),
        };
        let how = |writes: bool| {
            let own = item.body.map.iter().filter(|entry| entry.how.value.writes() == writes);
            own.map(|entry| entry.service.value.as_str()).collect::<Vec<_>>().join(", ")
        };
        let after = if sound.index.cleared_on_restart(&sound.policy, position) { "cleared" } else { "kept" };
        vec![item.name.value.clone(), source, how(true), how(false), after.into(), line(sound, Rule::Region(position))]
    });
    table(
        "regions",
        "Who maps what",
        "No region is executable. In addition, each service has its program, its stack and its ends of queues.",
        &["region", "memory", "written by", "only read by", "at a restart", "line"],
        rows.collect(),
    )
}

fn hypercalls(sound: &Sound) -> Table {
    let mut causes: BTreeMap<(Hypercall, Subject), Vec<String>> = BTreeMap::new();
    for right in sound.closure().iter().filter(|right| matches!(right.subject, Subject::Service(_))) {
        for hypercall in Hypercall::of(right.object, right.op) {
            let object = names::object(&sound.policy, right.object);
            let by_request = if right.path.len() > 1 { " through others" } else { "" };
            causes
                .entry((*hypercall, right.subject))
                .or_default()
                .push(format!("{object}.{}{by_request}", right.op.word()));
        }
    }
    // Services that cause it by the same operations share a row.
    let mut alike: BTreeMap<(Hypercall, String), Vec<String>> = BTreeMap::new();
    for ((hypercall, subject), operations) in causes {
        let name = names::subject(&sound.policy, subject);
        alike.entry((hypercall, operations.join(", "))).or_default().push(name);
    }
    let rows =
        alike.into_iter().map(|((hypercall, by), services)| vec![hypercall.name().to_owned(), services.join(", "), by]);
    table(
        "hypercalls",
        "Who can cause which hypercall",
        "Only the kernel makes hypercalls. Issuing and ending a grant makes none: the kernel writes the grant table.",
        &["hypercall", "services", "by"],
        rows.collect(),
    )
}

fn channels(sound: &Sound) -> Table {
    let rows = sound.policy.ports.items.iter().enumerate().map(|(position, item)| {
        let peer = match &item.body.peer {
            Peer::Domain(peer) => peer.value.clone(),
            Peer::XenStore(_) => "the XenStore daemon".into(),
        };
        let rights = item.body.rights.value;
        let held = [
            ("open", cloister_caps::Rights::OPEN),
            ("send", cloister_caps::Rights::SEND),
            ("close", cloister_caps::Rights::CLOSE),
        ];
        let words: Vec<&str> =
            held.iter().filter(|(_, right)| rights.contains(*right)).map(|(word, _)| *word).collect();
        vec![
            item.name.value.clone(),
            item.body.service.value.clone(),
            peer,
            words.join(", "),
            line(sound, Rule::Port(position)),
        ]
    });
    table(
        "channels",
        "Event channels",
        "Through a channel, the peer can wake the service, and nothing more.",
        &["port", "service", "peer", "rights", "line"],
        rows.collect(),
    )
}

fn queues(sound: &Sound) -> Table {
    let rows = sound.policy.queues.items.iter().enumerate().map(|(position, item)| {
        let body = &item.body;
        vec![
            item.name.value.clone(),
            body.from.value.clone(),
            body.to.value.clone(),
            body.interface.value.clone(),
            body.depth.to_string(),
            names::counted(queue_pages(body), "page"),
            line(sound, Rule::Queue(position)),
        ]
    });
    table(
        "queues",
        "Queues",
        "Requests go from the client to the server, replies and events come back. Each side writes only its own pages.",
        &["queue", "client", "server", "interface", "messages", "memory", "line"],
        rows.collect(),
    )
}

fn paths(sound: &Sound) -> Table {
    let mut rows = Vec::new();
    for (entry, item) in sound.policy.xenstore.items.iter().enumerate() {
        for (position, right) in item.body.iter().enumerate() {
            let words = [("read", right.read), ("write", right.write), ("watch", right.watch)];
            let words: Vec<&str> = words.into_iter().filter(|(_, held)| *held).map(|(word, _)| word).collect();
            let path = right.path.value.clone();
            rows.push(vec![item.name.value.clone(), path, words.join(", "), line(sound, Rule::Path(entry, position))]);
        }
    }
    table(
        "paths",
        "XenStore paths",
        "A right is to that node alone; with /** at the end, to everything below the node. The XenStore service enforces it.",
        &["service", "path", "rights", "line"],
        rows,
    )
}

fn services(sound: &Sound) -> Table {
    let rows = sound.policy.services.items.iter().enumerate().map(|(position, item)| {
        let body = &item.body;
        let (budget, period) = (body.budget_us.value, body.period_us.value);
        let share = f64::from(budget) * 100.0 / f64::from(period.max(1));
        let then = if body.after_limit == AfterLimit::StopImage { "the image stops" } else { "it stays stopped" };
        let held: Vec<&str> = body.held.iter().map(|held| held.kind.name()).collect();
        vec![
            item.name.value.clone(),
            match &body.program_hash {
                Some(hash) => format!("{}, only of SHA-256 {}", body.program.value, hexadecimal(hash)),
                None => body.program.value.clone(),
            },
            body.priority.to_string(),
            format!("{share:.0} %: {budget} of {period} µs"),
            render_size(body.stack_pages.value),
            format!("{} restarts, then {then}", body.restart_limit),
            held.join(", "),
            line(sound, Rule::Service(position)),
        ]
    });
    table(
        "services",
        "Services",
        "The larger priority runs first, for at most its part of each period.",
        &["service", "program", "priority", "processor", "stack", "after a fault", "kernel capabilities", "line"],
        rows.collect(),
    )
}

fn processor(sound: &Sound) -> Table {
    let image = &sound.policy.image;
    let line = sound.lines.line(image.span.start).to_string();
    let between = if image.strict {
        "flushed when another service runs; the image refuses a processor that cannot do that"
    } else {
        "not flushed: a service can mislead the next one's predictions"
    };
    let mut rows = vec![vec!["predictions of branches and returns".into(), between.into(), line.clone()]];
    rows.extend(Weakness::ALL.iter().map(|weakness| {
        let refused = image.refused.contains(*weakness);
        let says = if refused { "the image does not boot, unless it is mitigated" } else { "the image boots" };
        vec![format!("{} that may be open", weakness.name()), says.into(), line.clone()]
    }));
    table(
        "processor",
        "Demands on the processor",
        "What the kernel does about each weakness that it finds is on the console at boot.",
        &["of", "then", "line"],
        rows,
    )
}
