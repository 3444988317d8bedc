//! Closure, questions, differences and the kernel agree on the same policies.

#[path = "common/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::tables::Tables;
use cloister_caps::{Kind, Operation, Status};
use cloister_kernel_core::kernel::{Kernel, Outcome};
use cloister_kernel_core::placement::Placements;
use cloister_policy::{Answer, Class, Sound, analyse_text, diff, parse};
use cloister_sim::platform::NullPlatform;
use proptest::prelude::*;
use random::{pair, shape};

fn sound(text: &str) -> Sound {
    analyse_text("random.toml", text).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

/// Returns the amount in the answer to a question; 0 means no, or a name that the policy does not
/// have.
fn amount(policy: &Sound, question: &str) -> u64 {
    let answers = policy.explain(question).map(|explanation| explanation.answers).unwrap_or_default();
    answers.iter().filter(|answer| answer.holds).map(|answer| answer.amount).max().unwrap_or(0)
}

fn subjects(policy: &Sound) -> Vec<String> {
    let outside = ["xenstore-daemon", "toolstack"].map(String::from);
    let ids = (0..5).map(|id| format!("domain:{id}"));
    policy.services().map(|service| service.name().to_owned()).chain(ids).chain(outside).collect()
}

fn everything(policy: &Sound, subject: &str) -> Vec<Answer> {
    policy.explain(&format!("what can {subject} do")).unwrap().answers
}

/// Returns every question about one subject and one operation that a policy can answer. Questions
/// about other domains are by their ids: the names have no meaning in another policy.
fn questions(policy: &Sound) -> BTreeSet<(String, String)> {
    let of = |subject: &String| {
        let answers = everything(policy, subject).into_iter().filter(|answer| !answer.operation.ends_with(".pin"));
        let ids = (0..5).map(|id| format!("domain:{id}.pin"));
        answers
            .map(|answer| answer.operation)
            .chain(ids)
            .map(|operation| (subject.clone(), operation))
            .collect::<Vec<_>>()
    };
    subjects(policy).iter().flat_map(of).collect()
}

/// The answer to a question as two policies can be compared by it: a fraction, and the number of
/// steps.
struct Comparable {
    part: u64,
    whole: u64,
    steps: usize,
}

impl Comparable {
    fn of(policy: &Sound, shape: &random::Shape, question: &str) -> Comparable {
        let answers = policy.explain(question).map(|explanation| explanation.answers).unwrap_or_default();
        let held = answers.iter().filter(|answer| answer.holds);
        // One's own memory has the rule of the map and that of the region.
        let own = |text: &str| {
            let from = text.rsplit('.').next().unwrap();
            ["claim", "weigh", "keep"].contains(&from) || from.starts_with("from-")
        };
        let steps = |answer: &Answer| if own(question) { 0 } else { answer.path.len() - 1 };
        let best = held.max_by_key(|answer| (answer.amount, std::cmp::Reverse(steps(answer))));
        let weights = shape.regions.iter().filter(|region| region.0 == 0).map(|region| u64::from(region.1)).sum();
        Comparable {
            part: best.map_or(0, |answer| answer.amount),
            whole: if question.ends_with(".weigh") { weights } else { 1 },
            steps: best.map_or(0, steps),
        }
    }

    fn exceeds(&self, other: &Comparable) -> bool {
        let (one, other_part) = (self.part * other.whole.max(1), other.part * self.whole.max(1));
        one > other_part || self.part > 0 && other.part > 0 && self.steps < other.steps
    }
}

/// What one policy allows more than another, and less: the last reason that was found.
#[derive(Default)]
struct Moves {
    wider: Option<String>,
    narrower: Option<String>,
}

impl Moves {
    /// Compares the answers to every question that one of the policies can answer.
    fn by_questions(
        &mut self,
        (old, old_shape): (&Sound, &random::Shape),
        (new, new_shape): (&Sound, &random::Shape),
        forth: &BTreeMap<String, String>,
    ) {
        let back: BTreeMap<String, String> = forth.iter().map(|(old, new)| (new.clone(), old.clone())).collect();
        let (forth, back) = (&with_queues(old, new, forth), &with_queues(new, old, &back));
        let mut asked: BTreeSet<(String, String)> = BTreeSet::new();
        for (subject, operation) in questions(old) {
            let question = format!("can {subject} reach {operation}");
            asked.insert((translated(&question, forth), question));
        }
        for (subject, operation) in questions(new) {
            let question = format!("can {subject} reach {operation}");
            asked.insert((question.clone(), translated(&question, back)));
        }
        // Priorities count by their order only.
        let apart = |text: &str| text.ends_with(" self.precede");
        for (in_new, in_old) in asked.iter().filter(|(in_new, in_old)| !apart(in_new) && !apart(in_old)) {
            let (before, after) = (Comparable::of(old, old_shape, in_old), Comparable::of(new, new_shape, in_new));
            if after.exceeds(&before) {
                self.wider = Some(in_new.clone());
            }
            if before.exceeds(&after) {
                self.narrower = Some(in_old.clone());
            }
        }
    }

    /// Compares the order of the services that both have, and what follows their restarts.
    fn by_services(&mut self, one: &random::Shape, other: &random::Shape, forth: &BTreeMap<String, String>) {
        let renamed = |number: usize| {
            let name = format!("s{number}");
            forth.get(&name).cloned().unwrap_or(name)[1..].parse::<usize>().unwrap()
        };
        let services = one.services.iter().enumerate();
        let pairs: Vec<_> = services
            .filter_map(|(at, old)| Some(((at, old), (renamed(at), other.services.get(renamed(at))?))))
            .collect();
        // Of equal priorities, the first name goes before.
        let place = |(number, service): (usize, &(u8, u8, u16, u8, bool))| (service.0, std::cmp::Reverse(number));
        let pin = |(number, service): (usize, &(u8, u8, u16, u8, bool))| {
            (service.4 && service.3 % 2 == 1).then_some(number % 2)
        };
        for (before, after) in pairs.iter().copied() {
            let (old, new) = (pin(before), pin(after));
            if old.is_some() && old != new {
                self.wider = Some("pinned program".into());
            }
            if new.is_some() && old != new {
                self.narrower = Some("pinned program".into());
            }
            for (other_before, other_after) in pairs.iter().copied() {
                let change = place(after).cmp(&place(other_after)).cmp(&place(before).cmp(&place(other_before)));
                if change.is_gt() {
                    self.wider = Some("order".into());
                }
                if change.is_lt() {
                    self.narrower = Some("order".into());
                }
            }
            match (before.1.4, after.1.4) {
                (true, false) => self.wider = Some("runs on".into()),
                (false, true) => self.narrower = Some("runs on".into()),
                _ => {}
            }
        }
    }

    /// Compares how the peers of channels and grants are chosen.
    fn by_peers(&mut self, old: &Sound, new: &Sound, forth: &BTreeMap<String, String>) {
        let after = peers(new.canonical());
        let before = peers(old.canonical()).into_iter();
        let before = before.map(|(what, pin)| (translated(&what, forth), translated(&pin, forth)));
        let pairs: Vec<_> = before.filter_map(|(what, pin)| Some((pin, after.get(&what)?.clone()))).collect();
        for (pin, new_pin) in &pairs {
            if !pin.is_empty() && pin != new_pin {
                self.wider = Some("pin".into());
            }
            if !new_pin.is_empty() && pin != new_pin {
                self.narrower = Some("pin".into());
            }
        }
    }
}

/// Returns the pin of the peer of each channel and granted region, or nothing.
fn peers(text: &str) -> BTreeMap<String, String> {
    let blocks = |section: &str| {
        let header = format!("[{section}.");
        let blocks = text.split(&header).skip(1).map(|block| block.split("\n\n").next().unwrap());
        blocks.map(|block| block.split_once("]\n").unwrap()).collect::<Vec<_>>()
    };
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.map(|line| line.trim_matches('"').to_owned())
    };
    let pins: BTreeMap<&str, String> =
        blocks("domains").into_iter().map(|(name, block)| (name, value(block, "pin").unwrap_or_default())).collect();
    let ports = blocks("ports").into_iter().filter_map(|(name, block)| Some((name.to_owned(), value(block, "peer")?)));
    let grants = blocks("grants").into_iter().map(|(_, block)| {
        let [region, peer] = ["region", "peer"].map(|key| value(block, key).unwrap());
        (format!("region:{region}"), peer)
    });
    let found = ports.map(|(name, peer)| (format!("port:{name}"), peer)).chain(grants);
    found.map(|(what, peer)| (what, pins[peer.as_str()].clone())).collect()
}

/// Adds to the names those of the queues: a queue of the other policy with the same ends, or one
/// that there is not.
fn with_queues(from: &Sound, to: &Sound, names: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let there = queues_of(to.canonical());
    let queue = |(ends, name): ([String; 3], String)| {
        let [client, server, interface] = ends;
        let ends = [translated(&client, names), translated(&server, names), interface];
        (name, there.get(&ends).cloned().unwrap_or_else(|| "absent".to_owned()))
    };
    names.clone().into_iter().chain(queues_of(from.canonical()).into_iter().map(queue)).collect()
}

/// Returns the name of each queue, by client, server and interface.
fn queues_of(text: &str) -> BTreeMap<[String; 3], String> {
    let blocks = text.split("[queues.").skip(1);
    let of = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find(|line| line.starts_with(key)).unwrap();
            line.split(" = ").nth(1).unwrap().trim_matches('"').to_owned()
        };
        (["from", "to", "interface"].map(value), block.split(']').next().unwrap().to_owned())
    };
    blocks.map(of).collect()
}

/// Checks that what a witness says of a policy is true: the answer to the question, or that the
/// policy does not have the thing.
fn is_true(policy: &Sound, question: &Option<String>, said: u64, words: &str) -> Result<(), TestCaseError> {
    if let Some(question) = question {
        prop_assert_eq!(amount(policy, question), said, "{}", words);
        prop_assert_eq!(said > 0, words.starts_with(&format!("{question}? yes")), "{}", words);
        return Ok(());
    }
    let text = policy.canonical();
    let word = |after: &str| words.split(after).nth(1).map(|rest| rest.split(' ').next().unwrap().to_owned());
    if let Some(interface) = word("no queue of the interface ") {
        let ends = [word(" from ").unwrap(), word(" to ").unwrap(), interface];
        prop_assert!(!queues_of(text).contains_key(&ends), "{}", words);
    } else if let Some(service) = word("no service ") {
        prop_assert!(!text.contains(&format!("[services.{service}]")), "{}", words);
    } else if let Some((region, _)) = words.split_once(" is not granted") {
        prop_assert!(!text.contains(&format!("region = \"{}\"", region.trim_start_matches("region:"))), "{}", words);
    } else if let Some((one, other)) = words.split_once(" goes before ") {
        let place = |half: &str| {
            let (service, priority) = half.split_once(" of priority ").unwrap();
            let block = text.split(&format!("[services.{service}]")).nth(1).unwrap();
            let own = block.split("\n\n").next().unwrap().contains(&format!("priority = {priority}\n"));
            (own, std::cmp::Reverse(priority.parse::<u8>().unwrap()), service.to_owned())
        };
        let (one, other) = (place(one), place(other));
        prop_assert!(one.0 && other.0 && (one.1, one.2) < (other.1, other.2), "{}", words);
    } else if let Some(rest) = words.strip_prefix("the peer of ") {
        let what = rest.split(' ').next().unwrap();
        let of_grant = || {
            let block = text.split(&format!("[grants.{}]", what.trim_start_matches("grant:"))).nth(1).unwrap();
            format!("region:{}", block.split("region = \"").nth(1).unwrap().split('"').next().unwrap())
        };
        let known = peers(text);
        let port = format!("port:{}", what.trim_start_matches("port:"));
        let pin = known.get(&port).cloned().unwrap_or_else(|| known[&of_grant()].clone());
        let says = match rest.split_once(" is the domain that ") {
            Some((_, by)) => by
                .split_once(" pins by ")
                .map_or(String::new(), |(by, node)| format!("{{ by = \"{by}\", node = \"{node}\" }}")),
            None => String::new(),
        };
        prop_assert_eq!(pin, says, "{}", words);
    } else if words.starts_with("when ") {
        let block = text.split(&format!("[services.{}]", word("when ").unwrap())).nth(1).unwrap();
        let stops = words.ends_with("the image stops");
        let then = if stops { "then = \"stop-image\"" } else { "then = \"stop-service\"" };
        prop_assert!(block.split("\n\n").next().unwrap().contains(then), "{}", words);
    } else {
        prop_assert!(words.starts_with("there is no such "), "{}", words);
    }
    Ok(())
}

/// Returns the text with other names. A name is delimited by characters other than letters and
/// digits.
fn translated(text: &str, names: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
        } else {
            out.push_str(names.get(&word).unwrap_or(&word));
            word.clear();
            out.push(c);
        }
    }
    out.trim_end().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Forward from the rules and backward from the question give the same result.
    #[test]
    fn the_closure_agrees_with_the_answers(shape in shape()) {
        let policy = sound(&shape.plain());
        let all = questions(&policy);
        let by_id = |operation: &&String| operation.starts_with("domain:") && operation.ends_with(".pin");
        let pins = ["d0.pin", "d1.pin"].map(String::from);
        let of_domains = pins.iter().filter(|pin| policy.canonical().contains(&format!("[domains.{}]", &pin[..2])));
        let operations: BTreeSet<&String> =
            all.iter().map(|(_, operation)| operation).filter(|operation| !by_id(operation)).chain(of_domains).collect();
        for subject in subjects(&policy) {
            let mut own: BTreeMap<String, u64> = BTreeMap::new();
            for answer in everything(&policy, &subject) {
                let most = own.entry(answer.operation).or_default();
                *most = answer.amount.max(*most);
            }
            for operation in &operations {
                // A rule for a path gives the paths below, which stand under another rule's name in
                // the closure.
                let listed = own.get(*operation).copied();
                let found = policy.explain(&format!("can {subject} reach {operation}")).unwrap();
                let found = found.answers.iter().filter(|answer| answer.holds).map(|answer| answer.amount).max();
                if operation.contains('/') || operation.starts_with("path:") {
                    prop_assert!(listed.is_none() || found.is_some(), "{subject} {operation}");
                } else {
                    prop_assert_eq!(listed, found, "{} {}", subject, operation);
                }
            }
        }
    }

    /// The difference is a widening if and only if some question has a larger answer, or one with
    /// fewer steps, or a service goes before more others, or the image runs on without one, or a
    /// peer or a program is less bound; and a narrowing if and only if the opposite is true of
    /// something.
    #[test]
    fn a_widening_is_a_question_with_a_larger_answer((one, other) in pair()) {
        let (old, new) = (sound(&one.plain()), sound(&other.plain()));
        let difference = diff(&old, &new);
        let forth: BTreeMap<String, String> =
            difference.renamed.iter().map(|(_, old, new)| (old.clone(), new.clone())).collect();
        let mut moves = Moves::default();
        moves.by_questions((&old, &one), (&new, &other), &forth);
        moves.by_services(&one, &other, &forth);
        moves.by_peers(&old, &new, &forth);
        let Moves { wider, narrower } = moves;
        let expected = match (&wider, &narrower) {
            (None, None) => Class::Equivalent,
            (Some(_), None) => Class::Widening,
            (None, Some(_)) => Class::Narrowing,
            (Some(_), Some(_)) => Class::Incomparable,
        };
        prop_assert_eq!(difference.class, expected, "wider {:?} narrower {:?}\n{}", wider, narrower, difference);
        for change in &difference.changes {
            is_true(&old, &change.witness.old_question, change.witness.old_amount, &change.witness.old)?;
            is_true(&new, &change.witness.new_question, change.witness.new_amount, &change.witness.new)?;
            prop_assert_ne!(&change.witness.old, &change.witness.new, "{:?}", change);
        }
    }

    /// Other names and another order change nothing, where no two services have the same priority.
    #[test]
    fn names_do_not_matter(mut shape in shape(), turn in 1usize..7) {
        for (number, service) in (0..).zip(&mut shape.services) {
            service.0 = service.0 * 8 + number;
        }
        let old = sound(&shape.plain());
        let count = shape.services.len();
        // Names that are in use are given to others, and all are given in another order.
        let text = shape.text(
            |index| format!("s{}", (index + turn) % count),
            |index| format!("room-{}", 90 - index),
            |index| format!("way-{}", 90 - index),
        );
        let difference = diff(&old, &sound(&text));
        prop_assert_eq!(difference.class, Class::Equivalent, "{}", difference);
    }

    /// The kernel accepts what the compiler accepts, and lets each service do exactly what the
    /// policy gives it.
    #[test]
    fn the_kernel_allows_what_the_policy_gives(shape in shape()) {
        let policy = parse("random.toml", &shape.plain()).unwrap();
        let blob = policy.tables().unwrap();
        let tables = Tables::parse(&blob).unwrap();
        let mut kernel = Kernel::new(tables, Placements::default(), 0, 0);
        for (id, service) in tables.services().ids().zip(policy.services()) {
            let mut allowed: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            for slot in 0..64 {
                for operation in Operation::ALL {
                    let call = [slot, *operation as u64, 0, 0, 0, 0];
                    let outcome = kernel.system_call(&mut NullPlatform, id, 1, &call);
                    let refused = matches!(&outcome, Outcome::Answer(answer) if matches!(
                        answer.status,
                        Status::NoCapability | Status::WrongOperation | Status::MissingRight
                    ));
                    if !refused {
                        *allowed.entry((kind_of(*operation), operation.name())).or_default() += 1;
                    }
                }
            }
            // Queues and regions are objects of the closure of another kind: ends and mappings.
            allowed.retain(|(kind, _), _| !kind.is_empty());
            let mut given: BTreeMap<(&str, &str), usize> = BTreeMap::new();
            let answers = everything(&policy, service.name());
            for answer in answers.iter().filter(|answer| answer.path.len() == 1) {
                let (object, word) = answer.operation.rsplit_once('.').unwrap();
                let kind = match object.split(['-', ':']).next().unwrap() {
                    // The kernel logs by itself.
                    "console" if word == "log" => continue,
                    "console" | "clock" | "entropy" | "power" | "info" => object,
                    "g" => "grant",
                    // A service chooses the peer of its ports and grants by their own operations.
                    "d0" | "d1" if answer.path[0].rule.ends_with(".pin") => "domain",
                    name if name.starts_with('p') && name[1..].parse::<u8>().is_ok() && word != "receive" => "port",
                    _ => continue,
                };
                *given.entry((kind, word)).or_default() += 1;
            }
            prop_assert_eq!(allowed, given, "{}", service.name());
        }
    }
}

fn kind_of(operation: Operation) -> &'static str {
    use Kind::{Clock, Console, Domain, Entropy, Grant, Info, Port, Power};
    let kinds = [Console, Clock, Entropy, Power, Info, Port, Grant, Domain];
    kinds.into_iter().find(|kind| operation.applies_to(*kind)).map_or("", Kind::name)
}
