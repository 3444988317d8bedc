//! The rules of docs/policy.md, "Authority", R1 to R6.

mod facts;
mod leak;

use std::collections::{BTreeMap, BTreeSet};

use ascent::ascent;
use facts::{Facts, Ports, Row};
pub use leak::{leaks, regions_and_subjects};

/// What an attacker can have: a party wholly, or one input.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Has {
    Service(usize),
    Domain(usize),
    Daemon,
    Toolstack,
    /// The requests of a queue.
    Requests(usize),
    /// The answers of a queue.
    Answers(usize),
    /// What comes to a service from outside the image, or by memory that others write.
    Outside(usize),
}

/// What an operation is to the rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// It stays with the service itself.
    Own,
    /// Who has the party wholly does it, and no input makes a known program do it.
    Whole,
    Console,
    Power,
    Pin,
    /// An operation on a port to a domain, which needs this of a row.
    Port(Ports),
    /// `send` on the port to the daemon.
    DaemonPort,
    /// `issue` or `end` of a grant on behalf of this client.
    Grant(usize),
    /// The peer's choice by a port that the service can open.
    ChoiceByPort,
    /// The peer's choice by a grant on behalf of this client.
    ChoiceByGrant(usize),
    /// A request or an answer, on a queue of this interface.
    Request(&'static str),
    Reply(&'static str),
}

/// An operation that a party does itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Act {
    pub name: String,
    pub class: Class,
}

/// Returns `true` if this row of R4 has the operation for a request of `client`.
fn driven(row: &Row, class: Class, client: Option<usize>) -> bool {
    let granted = |on_behalf: usize| row.all_grants || (row.client_grants && Some(on_behalf) == client);
    match class {
        Class::Own | Class::Whole => false,
        Class::Console => true,
        Class::Power => row.power,
        Class::Pin => row.pins,
        Class::Port(Ports::Send) => row.ports != Ports::None,
        Class::Port(Ports::Close) => row.ports == Ports::Close || row.ports == Ports::All,
        Class::Port(_) => row.ports == Ports::All,
        Class::DaemonPort => row.daemon,
        Class::Grant(on_behalf) | Class::ChoiceByGrant(on_behalf) => granted(on_behalf),
        Class::ChoiceByPort => row.ports == Ports::All,
        Class::Request(interface) => row.asks.contains(&interface) || (row.ends && interface == "grants"),
        Class::Reply(interface) => row.answers.contains(&interface),
    }
}

/// These messages carry bytes of the attacker's choice through a known program (R5).
fn bytes(interface: &str, answer: bool) -> bool {
    interface == "socket" || interface == "store" || interface == "net" && answer
}

ascent! {
    /// R1 to R6. A fact or a rule that is missing here is missing in the page.
    struct Rules;

    relation start(Has);
    relation known(usize);
    // Queue, client, server, interface.
    relation queue(usize, usize, usize, &'static str);
    // Writer and reader of a region.
    relation shared(usize, usize);
    // A service with granted memory or a port, and a domain that may be at the other end.
    relation to_domain(usize, usize);
    relation from_domain(usize, usize);
    relation domain(usize);
    // The daemon or the toolstack, and a service that it reaches from outside.
    relation boot(Has, usize);
    relation ring(usize);
    relation any_path(Has);
    relation sees_ring(usize);
    relation has_path(usize);
    relation writes_path(usize);
    relation reads_path(usize);
    // Writer and reader of a path; a domain and the reader of its directory.
    relation relay(usize, usize);
    relation directory(usize, usize);
    relation row(Has, Row);
    relation act(Has, Act);
    // The client of a path rule, and the operation.
    relation path_act(usize, Act);
    // The client of a grant, and its end.
    relation end_act(usize, Act);

    // The party of an input.
    relation of(Has, usize);
    of(Has::Requests(*q), *to) <-- queue(q, _, to, _);
    of(Has::Answers(*q), *from) <-- queue(q, from, _, _);
    of(Has::Outside(*s), *s) <-- boot(_, s);
    of(Has::Outside(*s), *s) <-- from_domain(_, s);
    of(Has::Outside(*s), *s) <-- shared(_, s);
    of(Has::Outside(*s), *s) <-- sees_ring(s);

    // R3, R5: who has the first has the second; `true` if it carries the attacker's bytes.
    relation next(Has, Has, bool);
    next(Has::Service(*from), Has::Requests(*q), true) <-- queue(q, from, _, _);
    next(Has::Service(*to), Has::Answers(*q), true) <-- queue(q, _, to, _);
    next(*input, Has::Requests(*q), *b && bytes(i, false)) <--
        row(input, row), of(input, s), brings(input, b), queue(q, s, _, i), if row.asks.contains(i);
    next(*input, Has::Answers(*q), *b && bytes(i, true)) <--
        row(input, row), of(input, s), brings(input, b), queue(q, _, s, i), if row.answers.contains(i);
    next(*input, Has::Requests(*q), false) <--
        row(input, row), of(input, s), queue(q, s, holder, i), if row.ends && *i == "grants", !known(holder);
    // `true` if an input brings bytes of the attacker's choice.
    relation brings(Has, bool);
    brings(Has::Requests(*q), *i != "net") <-- queue(q, _, _, i);
    brings(Has::Answers(*q), true) <-- queue(q, _, _, _);
    brings(Has::Outside(*s), true) <-- of(?Has::Outside(s), _);
    next(Has::Domain(*d), Has::Outside(*s), true) <-- from_domain(d, s);
    next(*has, Has::Outside(*s), true) <-- boot(has, s);

    // Data to domains: of a service that is had wholly, and of inputs that pass it on.
    relation passes(Has, usize);
    passes(Has::Service(*s), *s) <-- act(?Has::Service(s), _);
    passes(*input, *s) <-- row(input, row), of(input, s), if row.outside;
    next(*has, Has::Domain(*d), true) <-- passes(has, s), to_domain(s, d);
    next(*has, Has::Outside(*reader), true) <-- passes(has, s), shared(s, reader);
    // A grant that is issued or ended is a bit for its peer. Holder, client, peer.
    relation grant(usize, usize, usize);
    next(Has::Service(*s), Has::Domain(*d), true) <-- grant(s, _, d);
    next(*input, Has::Domain(*d), true) <-- row(input, row), of(input, s), grant(s, _, d), if row.all_grants;
    next(Has::Requests(*q), Has::Domain(*d), true) <--
        queue(q, client, s, _), row(Has::Requests(*q), row), grant(s, client, d), if row.client_grants;
    next(*input, Has::Domain(*d), true) <-- row(input, row), of(input, s), grant(_, s, d), if row.ends;
    // Who may write what a path holds, as which client.
    relation writes(Has, usize);
    writes(*has, *s) <-- passes(has, s);
    writes(Has::Requests(*q), *from) <-- queue(q, from, _, i), if *i == "store";
    next(*has, Has::Domain(*d), true) <-- writes(has, s), writes_path(s), domain(d);
    relation reaches(Has, usize);
    reaches(*has, *reader) <-- writes(has, s), relay(s, reader);
    reaches(Has::Domain(*d), *reader) <-- directory(d, reader);
    reaches(*has, *reader) <-- any_path(has), reads_path(reader);
    reaches(*has, *reader) <-- passes(has, s), ring(s), reads_path(reader);
    next(*has, Has::Domain(*d), true) <-- any_path(has), domain(d);
    next(*has, Has::Domain(*d), true) <-- passes(has, s), ring(s), domain(d);
    next(*has, Has::Answers(*q), true) <-- reaches(has, reader), queue(q, reader, _, i), if *i == "store";
    // Who maps the ring sees what the server asks for a client, and what it is told.
    next(*has, Has::Outside(*spy), true) <--
        writes(has, client), has_path(client), queue(_, client, server, i), if *i == "store", sees_ring(spy), if spy != server;
    next(*has, Has::Outside(*spy), true) <--
        reaches(has, client), queue(_, client, server, i), if *i == "store", sees_ring(spy), if spy != server;

    // R6: who can be taken over, or is unknown and does what is wanted.
    relation attacks(Has, usize);
    attacks(*has, *s) <-- next(has, input, carries), of(input, s), if *carries;
    attacks(*has, *s) <-- next(has, input, _), of(input, s), !known(s);
    attacks(*has, *server) <-- reaches(has, reader), queue(_, reader, server, i), if *i == "store";

    relation has(Has, Has, u32);
    has(*s, *s, 0) <-- start(s);
    has(*s, *to, *c) <-- has(s, from, c), next(from, to, _);
    has(*s, Has::Service(*to), *c) <-- has(s, from, c), attacks(from, to), !known(to);
    has(*s, Has::Service(*to), *c + 1) <-- has(s, from, c), if *c < 3, attacks(from, to), known(to);

    // R1 and R4: what is done.
    relation done(Has, Has, Act);
    done(*has, *has, act.clone()) <-- act(has, act);
    done(Has::Requests(*q), Has::Service(*s), act.clone()) <--
        queue(q, client, s, _), row(Has::Requests(*q), row), act(Has::Service(*s), act),
        if driven(row, act.class, Some(*client));
    done(*input, Has::Service(*s), act.clone()) <--
        row(input, row), of(input, s), if !matches!(input, Has::Requests(_)), act(Has::Service(*s), act),
        if driven(row, act.class, None);
    done(*input, Has::Service(*s), act.clone()) <-- row(input, row), of(input, s), if row.ends, end_act(s, act);
    done(Has::Requests(*q), Has::Service(*client), act.clone()) <--
        queue(q, client, _, i), if *i == "store", path_act(client, act);

    relation can(Has, Act, u32);
    can(*s, act.clone(), *c) <-- has(s, has, c), done(has, _, act), if act.class != Class::Own || s == has;
}

/// Returns, for each subject and operation, the least number of takeovers, up to 3.
pub fn within(text: &str) -> BTreeMap<(String, String), u32> {
    let facts = Facts::read(text);
    let each = |set: &BTreeSet<usize>| set.iter().map(|one| (*one,)).collect();
    let mut rules = Rules {
        start: facts.subjects.keys().map(|subject| (*subject,)).collect(),
        known: each(&facts.known),
        queue: facts.queue,
        shared: facts.shared,
        to_domain: facts.to_domain,
        from_domain: facts.from_domain,
        domain: each(&facts.domains),
        boot: facts.boot,
        ring: each(&facts.ring),
        sees_ring: each(&facts.sees_ring),
        has_path: each(&facts.path_any),
        grant: facts.grant,
        any_path: facts.any_path.iter().map(|has| (*has,)).collect(),
        writes_path: each(&facts.path_write),
        reads_path: each(&facts.path_read),
        relay: facts.relay,
        directory: facts.directory,
        row: facts.row,
        act: facts.act,
        path_act: facts.path_act,
        end_act: facts.end_act,
        ..Rules::default()
    };
    rules.run();
    let mut least = BTreeMap::new();
    for (subject, act, takeovers) in rules.can {
        let entry = least.entry((facts.subjects[&subject].clone(), act.name)).or_insert(takeovers);
        *entry = takeovers.min(*entry);
    }
    least
}
