//! The relations of a policy: its rules, and its closure.

use cloister_caps::Operation;
use cloister_caps::rights::{Kind, Rights};
use cloister_caps::tables::{Access, AfterLimit};
use cloister_caps::weakness::Weakness;

use super::{Facts, Value, number, text};
use crate::authority::closure::steps;
use crate::authority::{Hypercall, Subject, names};
use crate::model::{Peer, Source};
use crate::printable::hexadecimal;
use crate::prove::queue_pages;
use crate::sound::Sound;

macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Value::from($value)),*] };
}

/// Returns the facts of a policy.
#[must_use]
pub fn facts_of_policy(policy: &Sound) -> Facts {
    let mut facts = Facts { relations: Vec::new() };
    image(policy, &mut facts);
    domains(policy, &mut facts);
    services(policy, &mut facts);
    regions(policy, &mut facts);
    wiring(policy, &mut facts);
    grants_and_paths(policy, &mut facts);
    assertions(policy, &mut facts);
    authority(policy, &mut facts);
    takeovers(policy, &mut facts);
    facts
}

fn image(sound: &Sound, facts: &mut Facts) {
    let image = &sound.policy.image;
    let rows = vec![row![&image.name, image.isolation().name(), hexadecimal(&sound.hash)]];
    facts.relation("image", &[text("name"), text("isolation"), text("policy_sha256")], rows);
    let refused = Weakness::ALL.iter().filter(|weakness| image.refused.contains(**weakness));
    facts.relation("refused_weakness", &[text("weakness")], refused.map(|weakness| row![weakness.name()]).collect());
}

fn domains(sound: &Sound, facts: &mut Facts) {
    let items = &sound.policy.domains.items;
    let rows = items.iter().map(|item| row![&item.name.value, item.body.first, item.body.last]).collect();
    facts.relation("domain", &[text("name"), number("first"), number("last")], rows);
    let pins = items.iter().filter_map(|item| Some((&item.name.value, item.body.pin.as_ref()?)));
    let rows = pins.map(|(name, pin)| row![name, &pin.by.value, &pin.node.value]).collect();
    facts.relation("pin", &[text("domain"), text("service"), text("node")], rows);
}

fn services(sound: &Sound, facts: &mut Facts) {
    let items = &sound.policy.services.items;
    let rows = items.iter().map(|item| {
        let body = &item.body;
        let then = match body.after_limit {
            AfterLimit::StopImage => "stop-image",
            AfterLimit::StopService => "stop-service",
        };
        row![
            &item.name.value,
            &body.program.value,
            body.priority,
            body.budget_us.value,
            body.period_us.value,
            body.stack_pages.value,
            body.restart_limit,
            then,
        ]
    });
    let columns = &[
        text("name"),
        text("program"),
        number("priority"),
        number("budget_us"),
        number("period_us"),
        number("stack_pages"),
        number("restarts"),
        text("then"),
    ];
    facts.relation("service", columns, rows.collect());
    let pinned = items.iter().filter_map(|item| Some((item, item.body.program_hash.as_ref()?)));
    let rows = pinned.map(|(item, hash)| row![&item.name.value, hexadecimal(hash)]).collect();
    facts.relation("pinned_program", &[text("service"), text("sha256")], rows);
    let held = items.iter().flat_map(|item| {
        let kinds = item.body.held.iter();
        kinds.flat_map(move |held| words(held.kind, held.rights).map(move |word| (item, held.kind, word)))
    });
    let rows = held.map(|(item, kind, word)| row![&item.name.value, kind.name(), word]).collect();
    facts.relation("holds", &[text("service"), text("kind"), text("right")], rows);
}

/// Returns the words of rights to a kind of object.
fn words(kind: Kind, rights: Rights) -> impl Iterator<Item = &'static str> {
    let held =
        Operation::ALL.iter().filter(move |operation| operation.applies_to(kind) && rights.contains(operation.right()));
    held.map(|operation| operation.name())
}

fn regions(sound: &Sound, facts: &mut Facts) {
    let items = &sound.policy.regions.items;
    let rows = items.iter().map(|item| {
        let (minimum, maximum, weight) = match item.body.source.value {
            Source::Fixed { pages } => (pages, pages, 0),
            Source::Share { weight, minimum, maximum } => (minimum, maximum, weight),
            Source::Module | Source::CommandLine | Source::XenStoreRing => (0, 0, 0),
        };
        let kept = item.body.keep.is_some();
        row![&item.name.value, item.body.source.value.word(), minimum, maximum, weight, kept]
    });
    let columns =
        &[text("name"), text("source"), number("least_pages"), number("most_pages"), number("weight"), text("kept")];
    facts.relation("region", columns, rows.collect());
    let maps = items.iter().flat_map(|item| item.body.map.iter().map(move |entry| (&item.name.value, entry)));
    let rows = maps.map(|(name, entry)| row![name, &entry.service.value, entry.how.value.word()]).collect();
    facts.relation("map", &[text("region"), text("service"), text("access")], rows);
}

fn wiring(sound: &Sound, facts: &mut Facts) {
    let rows = sound.policy.queues.items.iter().map(|item| {
        let body = &item.body;
        let (name, pages) = (&item.name.value, queue_pages(body));
        row![name, &body.from.value, &body.to.value, &body.interface.value, body.depth, pages]
    });
    let columns = &[text("name"), text("client"), text("server"), text("interface"), number("depth"), number("pages")];
    facts.relation("queue", columns, rows.collect());
    let ports = &sound.policy.ports.items;
    let rows = ports.iter().map(|item| {
        let peer = match &item.body.peer {
            Peer::Domain(peer) => peer.value.clone(),
            Peer::XenStore(_) => names::subject(&sound.policy, Subject::XenStoreDaemon),
        };
        row![&item.name.value, &item.body.service.value, peer]
    });
    facts.relation("port", &[text("name"), text("service"), text("peer")], rows.collect());
    let rights = ports
        .iter()
        .flat_map(|item| words(Kind::Port, item.body.rights.value).map(move |word| row![&item.name.value, word]));
    facts.relation("port_right", &[text("port"), text("right")], rights.collect());
}

fn grants_and_paths(sound: &Sound, facts: &mut Facts) {
    let rows = sound.policy.grants.items.iter().map(|item| {
        let body = &item.body;
        let access = if body.access.value == Access::ReadWrite { "read-write" } else { "read" };
        let (holder, client) = (&body.held_by.value, &body.on_behalf_of.value);
        row![&item.name.value, &body.region.value, &body.peer.value, access, body.pages.value, holder, client]
    });
    let columns = &[
        text("name"),
        text("region"),
        text("domain"),
        text("access"),
        number("pages"),
        text("holder"),
        text("client"),
    ];
    facts.relation("grant", columns, rows.collect());
    let paths = sound.policy.xenstore.items.iter().flat_map(|item| {
        item.body.iter().flat_map(move |right| {
            let words = [("read", right.read), ("write", right.write), ("watch", right.watch)];
            let held = words.into_iter().filter(|(_, held)| *held);
            held.map(move |(word, _)| row![&item.name.value, &right.path.value, word])
        })
    });
    facts.relation("path", &[text("service"), text("path"), text("right")], paths.collect());
}

fn assertions(sound: &Sound, facts: &mut Facts) {
    let items = sound.policy.assertions.items.iter().zip(sound.verdicts());
    let rows = items.map(|(item, verdict)| {
        let vacuous = item.body.allow_vacuous;
        row![&verdict.name, item.body.sentence(), &verdict.claim, &verdict.why, verdict.holds, vacuous]
    });
    let columns = &[text("name"), text("sentence"), text("claim"), text("why"), text("holds"), text("allow_vacuous")];
    facts.relation("assertion", columns, rows.collect());
}

fn authority(sound: &Sound, facts: &mut Facts) {
    let policy = &sound.policy;
    let rights = sound.closure();
    let rows = rights.iter().map(|right| {
        let steps = steps(right) as u64;
        let object = names::object(policy, right.object);
        row![names::subject(policy, right.subject), object, right.op.word(), right.amount, steps]
    });
    let columns = &[text("subject"), text("object"), text("operation"), number("amount"), number("steps")];
    facts.relation("can", columns, rows.collect());
    let causes = rights.iter().filter(|right| matches!(right.subject, Subject::Service(_))).flat_map(|right| {
        Hypercall::of(right.object, right.op).iter().map(|hypercall| {
            row![
                names::subject(policy, right.subject),
                hypercall.name(),
                names::object(policy, right.object),
                right.op.word()
            ]
        })
    });
    let columns = &[text("service"), text("hypercall"), text("object"), text("operation")];
    facts.relation("causes", columns, causes.collect());
}

fn takeovers(sound: &Sound, facts: &mut Facts) {
    let least = sound.within(u32::MAX).into_iter();
    let rows = least.map(|least| row![least.subject, least.operation, least.takeovers]).collect();
    facts.relation("least_takeovers", &[text("subject"), text("operation"), number("takeovers")], rows);
}
