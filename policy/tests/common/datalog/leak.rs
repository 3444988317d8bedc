//! Where the bytes of regions can end up: docs/policy.md, "Bytes".

use std::collections::{BTreeMap, BTreeSet};

use ascent::ascent;

use super::facts::Facts;
use super::{Has, bytes};

ascent! {
    /// The rules. A fact or a rule that is missing here is missing in the page.
    struct Bytes;

    // A region, and who holds its bytes from the start.
    relation region(usize, Has);
    relation known(usize);
    relation queue(usize, usize, usize, &'static str);
    relation shared(usize, usize);
    // A service, and a domain that sees what it does with channels and grants, or reads its memory.
    relation seen(usize, usize);
    relation memory(usize, usize);
    relation from_domain(usize, usize);
    relation domain(usize);
    relation ring(usize);
    relation sees_ring(usize);
    relation has_path(usize);
    relation writes_path(usize);
    relation reads_path(usize);
    relation relay(usize, usize);
    relation directory(usize, usize);

    // The pairs of which the first passes bytes to the second; `true` if its interfaces say so.
    relation gives(Has, Has, bool);
    gives(Has::Service(*from), Has::Service(*to), bytes(i, false)) <-- queue(_, from, to, i);
    gives(Has::Service(*to), Has::Service(*from), bytes(i, true)) <-- queue(_, from, to, i);
    gives(Has::Service(*writer), Has::Service(*reader), true) <-- shared(writer, reader);
    gives(Has::Service(*s), Has::Domain(*d), false) <-- seen(s, d);
    gives(Has::Service(*s), Has::Domain(*d), true) <-- memory(s, d);
    gives(Has::Service(*s), Has::Domain(*d), true) <-- writes_path(s), domain(d);
    gives(Has::Service(*s), Has::Domain(*d), true) <-- ring(s), domain(d);
    gives(Has::Domain(*d), Has::Service(*s), true) <-- from_domain(d, s);

    // By a path to a reader: to its server as well, and to who sees the ring.
    relation path(Has, usize);
    path(Has::Service(*writer), *reader) <-- relay(writer, reader);
    path(Has::Service(*s), *reader) <-- ring(s), reads_path(reader);
    path(Has::Domain(*d), *reader) <-- directory(d, reader);
    gives(*from, Has::Service(*reader), true) <-- path(from, reader), queue(_, reader, _, i), if *i == "store";
    gives(*from, Has::Service(*server), true) <-- path(from, reader), queue(_, reader, server, i), if *i == "store";
    gives(*from, Has::Service(*spy), true) <--
        path(from, reader), queue(_, reader, server, i), if *i == "store", sees_ring(spy), if spy != server;
    gives(Has::Service(*s), Has::Service(*spy), true) <--
        has_path(s), queue(_, s, server, i), if *i == "store", sees_ring(spy), if spy != server;

    // Outside, and by the console.
    gives(Has::Service(*s), Has::Daemon, true) <-- ring(s);
    gives(Has::Daemon, Has::Toolstack, true);
    gives(Has::Service(*s), Has::Toolstack, true) <-- service(s);
    gives(Has::Toolstack, Has::Domain(*d), true) <-- domain(d);
    relation service(usize);

    // A region, who holds its bytes, whether it does more than its interfaces say, and takeovers.
    relation holds(usize, Has, bool, u32);
    holds(*r, *has, false, 0) <-- region(r, has);
    holds(*r, *to, false, *c) <-- holds(r, from, more, c), gives(from, to, follows), if *more || *follows;
    holds(*r, Has::Service(*s), true, *c) <-- holds(r, ?Has::Service(s), _, c), !known(s);
    holds(*r, Has::Service(*s), true, *c + 1) <-- holds(r, ?Has::Service(s), more, c), if !*more && *c < 3, known(s);
}

/// Returns, for each region and subject, the least number of takeovers, up to 3.
pub fn leaks(text: &str) -> BTreeMap<(String, String), u32> {
    let facts = Facts::read(text);
    let each = |set: &BTreeSet<usize>| set.iter().map(|one| (*one,)).collect();
    let service = |has: &Has| if let Has::Service(service) = has { Some((*service,)) } else { None };
    let issued = facts.grant.iter().map(|(holder, _, domain)| (*holder, *domain));
    let mut rules = Bytes {
        region: facts.region.clone(),
        known: each(&facts.known),
        service: facts.subjects.keys().filter_map(service).collect(),
        queue: facts.queue.clone(),
        shared: facts.shared.clone(),
        seen: facts.to_domain.iter().copied().chain(issued).collect(),
        memory: facts.writes_granted.clone(),
        from_domain: facts.from_domain.clone(),
        domain: each(&facts.domains),
        ring: each(&facts.ring),
        sees_ring: each(&facts.sees_ring),
        has_path: each(&facts.path_any),
        writes_path: each(&facts.path_write),
        reads_path: each(&facts.path_read),
        relay: facts.relay.clone(),
        directory: facts.directory.clone(),
        ..Bytes::default()
    };
    rules.run();
    let mut least = BTreeMap::new();
    for (region, has, _, takeovers) in rules.holds {
        // A name stands for every entry that may be the same domain.
        let same = if let Has::Domain(domain) = has { facts.same(domain) } else { Vec::new() };
        let all = if same.is_empty() { vec![has] } else { same.into_iter().map(Has::Domain).collect() };
        for has in all {
            let key = (facts.region_names[region].clone(), facts.subjects[&has].clone());
            let entry = least.entry(key).or_insert(takeovers);
            *entry = takeovers.min(*entry);
        }
    }
    least
}

/// Returns every pair of a region and a subject.
pub fn regions_and_subjects(text: &str) -> BTreeSet<(String, String)> {
    let facts = Facts::read(text);
    let pairs = facts.region_names.iter().flat_map(|region| facts.subjects.values().map(move |who| (region, who)));
    pairs.map(|(region, who)| (region.clone(), who.clone())).collect()
}
