//! Connections are shared out by address: the address that holds the most gives way to one that
//! holds less, and only to a peer that has answered our SYN.
#![forbid(unsafe_code)]

mod bench;

use std::collections::BTreeMap;

use bench::{ACK, Bench, GATEWAY, Host, PORT, RST, SYN, Segment};
use cloister_interfaces::socket::{ConnectionId, Reply, Request};
use proptest::prelude::*;

const STATIC: &str = "ip=10.0.0.2/16 gw=10.0.0.1";
/// The number of connections of the bench.
const ALL: usize = 64;
/// The number of those that are kept for addresses that hold less than others.
const KEPT: usize = 4;

/// Returns a host beyond the gateway.
fn far(number: u16) -> Host {
    let [high, low] = number.to_be_bytes();
    Host { address: [198, 18, high, low], mac: GATEWAY.mac }
}

/// A bench whose application ends what has ended. It knows which address has which connection from
/// the messages alone.
struct Shared {
    bench: Bench,
    holders: BTreeMap<ConnectionId, [u8; 4]>,
    /// The addresses whose connections were ended by the service, in order.
    ended: Vec<[u8; 4]>,
    port: u16,
    /// The application handles the replies.
    answers: bool,
}

impl Shared {
    fn new() -> Self {
        Self::with(ALL)
    }

    /// The same with another number of connections.
    fn with(connections: usize) -> Self {
        let mut bench = Bench::made(STATIC, 0, connections * 2048, connections * 4096, || ());
        bench.frame(&bench::arp(1, GATEWAY, bench::OURS));
        Shared { bench, holders: BTreeMap::new(), ended: Vec::new(), port: 1000, answers: true }
    }

    /// Handles the replies of the service.
    fn answer(&mut self) {
        if !self.answers {
            return;
        }
        for reply in std::mem::take(&mut self.bench.replies) {
            match reply {
                Reply::Accepted { connection, address, .. } => {
                    assert_eq!(self.holders.insert(connection, address), None, "{connection:?} is in use");
                }
                Reply::Closed { connection } => {
                    self.ended.push(self.holders.remove(&connection).expect("it was accepted"));
                    self.bench.application.requests.send(&Request::Close { connection }).expect("room");
                }
                _ => {}
            }
        }
        self.bench.run();
    }

    /// Sends a SYN from a port that was not used before. Returns the port and the answer.
    fn syn(&mut self, host: Host) -> (u16, Option<Segment>) {
        let answers = self.bench.segment(host, &syn(&mut self.port));
        (self.port, answers.into_iter().find(|answer| answer.to == self.port))
    }

    /// Opens a connection. Returns `true` if the application got it.
    fn open(&mut self, host: Host) -> bool {
        let (port, answer) = self.syn(host);
        answer.is_some_and(|answer| self.complete(host, port, &answer))
    }

    /// Answers a SYN+ACK. Returns `true` if the application got the connection.
    fn complete(&mut self, host: Host, port: u16, answer: &Segment) -> bool {
        assert_eq!((answer.flags, answer.ack), (SYN | ACK, 10));
        let before = self.bench.replies.len();
        let ack = Segment {
            from: port,
            to: PORT,
            seq: 10,
            ack: answer.seq.wrapping_add(1),
            flags: ACK,
            ..Segment::default()
        };
        self.bench.segment(host, &Segment { window: 1000, ..ack });
        let accepted = |reply: &Reply| matches!(reply, Reply::Accepted { port: from, .. } if *from == port);
        let accepted = self.bench.replies[before..].iter().any(accepted);
        self.answer();
        accepted
    }

    /// Opens a connection. Returns the ports of the connections that are reset for it.
    fn reset_by(&mut self, host: Host) -> Vec<u16> {
        let (port, answer) = self.syn(host);
        let ack = answer.expect("there is room").seq.wrapping_add(1);
        let last = Segment { from: port, to: PORT, seq: 10, ack, flags: ACK, window: 1000, ..Segment::default() };
        let sent = self.bench.segment(host, &last);
        self.answer();
        sent.iter().filter(|segment| segment.flags & RST != 0).map(|segment| segment.to).collect()
    }

    fn held(&self, host: Host) -> usize {
        self.holders.values().filter(|address| **address == host.address).count()
    }

    fn most(&self) -> usize {
        let mut counts = BTreeMap::new();
        self.holders.values().for_each(|address| *counts.entry(*address).or_insert(0) += 1);
        counts.into_values().max().unwrap_or(0)
    }
}

#[test]
fn one_address_gets_all_but_a_few_connections_and_the_next_address_gets_in() {
    let (mut shared, heavy, light) = (Shared::new(), far(1), far(2));
    let opened = (0..ALL + 9).filter(|_| shared.open(heavy)).count();
    assert_eq!((opened, shared.held(heavy)), (ALL - KEPT, ALL - KEPT));
    assert_eq!(shared.ended, [[0; 4]; 0], "nobody was ended for it");
    assert!(shared.syn(heavy).1.is_none(), "its SYN is not answered");
    // As long as another holds more, the next connection of an address is one less of that one.
    for count in 1..=(ALL - KEPT) / 2 {
        assert!(shared.open(light), "{count}");
        assert_eq!((shared.held(light), shared.held(heavy)), (count, ALL - KEPT - count));
    }
    assert!(!shared.open(light) && !shared.open(heavy), "they hold as many");
    assert_eq!(shared.ended, [heavy.address; (ALL - KEPT) / 2]);
}

#[test]
fn the_connection_that_gives_way_is_the_one_that_was_used_least_recently_and_its_peer_is_told() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    let mut numbers = BTreeMap::new();
    for _ in 0..ALL - KEPT {
        let (port, answer) = shared.syn(heavy);
        let answer = answer.expect("there is room");
        assert!(shared.complete(heavy, port, &answer));
        numbers.insert(port, answer.seq.wrapping_add(1));
        shared.bench.pass(1);
    }
    // All but one of the first send something.
    let quiet = *numbers.keys().nth(7).expect("many");
    for (port, ack) in numbers.iter().filter(|(port, _)| **port != quiet) {
        let data = Segment { from: *port, to: PORT, seq: 10, ack: *ack, flags: ACK, window: 1000, data: vec![7] };
        shared.bench.segment(heavy, &data);
    }
    assert_eq!(shared.reset_by(far(2)), [quiet]);
}

/// The address has many connections, and the one that was not used is among the last of them.
#[test]
fn the_one_used_least_recently_gives_way_wherever_it_is() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    let mut numbers = BTreeMap::new();
    for _ in 0..ALL - KEPT {
        let (port, answer) = shared.syn(heavy);
        let answer = answer.expect("there is room");
        assert!(shared.complete(heavy, port, &answer));
        numbers.insert(port, answer.seq.wrapping_add(1));
        shared.bench.pass(1);
    }
    let quiet = *numbers.keys().nth(45).expect("many");
    shared.bench.pass(5000);
    for (port, ack) in numbers.iter().filter(|(port, _)| **port != quiet) {
        let data = Segment { from: *port, to: PORT, seq: 10, ack: *ack, flags: ACK, window: 1000, data: vec![7] };
        shared.bench.segment(heavy, &data);
    }
    assert_eq!(shared.reset_by(far(2)), [quiet]);
}

#[test]
fn a_full_address_replaces_its_own_only_if_nothing_has_happened_on_it_for_a_while() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    while shared.open(heavy) {}
    shared.bench.pass(2800);
    assert!(!shared.open(heavy));
    shared.bench.pass(400);
    assert!(shared.open(heavy));
    assert_eq!((shared.held(heavy), &shared.ended[..]), (ALL - KEPT, &[heavy.address][..]));
}

/// The application does not end what was reset. A stranger still finds a place.
#[test]
fn an_address_that_replaces_its_own_does_not_use_up_what_is_kept() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    while shared.open(heavy) {}
    shared.bench.pass(4000);
    shared.answers = false;
    for _ in 0..20 {
        shared.open(heavy);
    }
    assert!(shared.open(far(2)));
}

#[test]
fn an_address_that_replaces_its_own_opens_one_connection_at_a_time() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    while shared.open(heavy) {}
    shared.bench.pass(4000);
    let (port, answer) = shared.syn(heavy);
    assert!((0..9).all(|_| shared.syn(heavy).1.is_none()));
    assert!(shared.complete(heavy, port, &answer.expect("the first is answered")));
    assert!(shared.syn(heavy).1.is_some(), "the next one follows");
}

#[test]
fn addresses_with_one_connection_each_get_all_of_them() {
    let mut shared = Shared::new();
    assert!((0..ALL as u16).all(|number| shared.open(far(number))));
    assert_eq!((shared.holders.len(), shared.ended.len()), (ALL, 0));
    assert!(!shared.open(far(0)) && !shared.open(far(500)));
}

#[test]
fn a_syn_alone_ends_no_connection() {
    let (mut shared, heavy) = (Shared::new(), far(1));
    while shared.open(heavy) {}
    for number in 0..3000 {
        shared.syn(far(1000 + number % 700));
    }
    shared.answer();
    assert_eq!((shared.held(heavy), shared.ended.len()), (ALL - KEPT, 0));
}

/// The flood comes from one address: with connections of its own, and without; beside a full table
/// and an empty one. A handshake takes as long as a thousand SYNs.
#[test]
fn a_flood_of_syns_of_one_address_delays_nobody_else() {
    for (full, flooder) in [(true, far(1)), (true, far(3)), (false, far(3))] {
        let mut shared = Shared::new();
        while full && shared.open(far(1)) {}
        let flood = |shared: &mut Shared| (0..1000).for_each(|_| drop(shared.syn(flooder)));
        flood(&mut shared);
        for _ in 0..3 {
            let (port, answer) = shared.syn(far(2));
            let answer = answer.expect("it is answered");
            flood(&mut shared);
            assert!(shared.complete(far(2), port, &answer), "full: {full}, by {flooder:?}");
        }
    }
}

fn syn(port: &mut u16) -> Segment {
    *port += 1;
    Segment { from: *port, to: PORT, seq: 9, flags: SYN, window: 1000, ..Segment::default() }
}

/// Delivers `inner` of `host` between two SYNs of another address, before the service runs again.
fn among_syns(shared: &mut Shared, flooder: Host, host: Host, inner: &Segment) -> Vec<Segment> {
    for (of, segment) in [(flooder, &syn(&mut shared.port)), (host, inner), (flooder, &syn(&mut shared.port))] {
        shared.bench.deliver(&segment.frame(of.mac, of.address));
    }
    bench::segments(shared.bench.run())
}

/// Handshakes beside the SYNs of an address that holds many connections.
#[derive(Clone, Copy, Debug)]
struct Handshakes {
    /// The number of all connections, and of those that the address holds.
    all: usize,
    held: usize,
    /// The number of other addresses, which make a handshake each, all at once.
    others: u16,
    /// They have a connection each.
    known: bool,
    /// The address has done nothing for so long that it may replace its own.
    rested: bool,
}

impl Handshakes {
    /// Asserts that all handshakes succeed: SYNs come before, between and together with each
    /// segment.
    fn succeed(self) {
        let (mut shared, heavy) = (Shared::with(self.all), far(1));
        if self.known {
            assert!((0..self.others).all(|number| shared.open(far(50 + number))), "{self:?}");
        }
        (0..self.held).for_each(|_| {
            shared.open(heavy);
        });
        shared.bench.pass(if self.rested { 4000 } else { 1 });
        let flood = |shared: &mut Shared| (0..70).for_each(|_| drop(shared.syn(heavy)));
        flood(&mut shared);
        let mut handshakes = Vec::new();
        for number in 0..self.others {
            let (host, first) = (far(50 + number), syn(&mut shared.port));
            let answers = among_syns(&mut shared, heavy, host, &first);
            let answer = answers.into_iter().find(|answer| answer.to == first.from && answer.flags == SYN | ACK);
            let ack = answer.unwrap_or_else(|| panic!("SYN {number} has no answer: {self:?}")).seq.wrapping_add(1);
            handshakes.push((host, Segment { seq: 10, ack, flags: ACK, ..first }));
        }
        flood(&mut shared);
        for (host, last) in handshakes {
            among_syns(&mut shared, heavy, host, &last);
            let from = |reply: &Reply| matches!(reply, Reply::Accepted { port, .. } if *port == last.from);
            assert!(shared.bench.replies.iter().any(from), "{host:?} is not accepted: {self:?}");
            shared.answer();
        }
    }
}

#[test]
fn syns_of_an_address_delay_nobody_who_holds_less_whatever_it_holds() {
    for (all, kept) in [(16, 2), (ALL, KEPT)] {
        for (held, rested) in (0..=all - kept).flat_map(|held| [(held, false), (held, true)]) {
            for others in 1..=kept as u16 {
                if usize::from(others) <= kept / 2 {
                    Handshakes { all, held, others, known: false, rested }.succeed();
                }
                if held > 1 {
                    Handshakes { all, held, others, known: true, rested }.succeed();
                }
            }
        }
    }
}

/// Half-open connections of strangers are in the places that are kept for them.
#[test]
fn strangers_that_complete_no_handshake_take_no_place_of_an_address_with_many_connections() {
    for strangers in 1..=KEPT as u16 {
        let (mut shared, heavy) = (Shared::new(), far(1));
        assert!((0..ALL - KEPT - 1).all(|_| shared.open(heavy)));
        assert!((0..strangers).all(|number| shared.syn(far(50 + number)).1.is_some()));
        assert!(shared.open(heavy), "beside {strangers}");
    }
}

/// A handshake that is complete is no longer half open, even before the service has looked at it.
#[test]
fn a_complete_handshake_gives_way_to_no_syn() {
    for full in [true, false] {
        let mut shared = Shared::new();
        while full && shared.open(far(1)) {}
        let first = syn(&mut shared.port);
        let answer = shared.bench.segment(far(2), &first).pop().expect("it is answered");
        let last = Segment { seq: 10, ack: answer.seq.wrapping_add(1), flags: ACK, ..first };
        shared.bench.deliver(&last.frame(GATEWAY.mac, far(2).address));
        let data = Segment { data: b"hello".to_vec(), ..last };
        shared.bench.deliver(&data.frame(GATEWAY.mac, far(2).address));
        for number in 0..100 {
            let forged = syn(&mut shared.port);
            shared.bench.deliver(&forged.frame(GATEWAY.mac, far(1000 + number).address));
        }
        shared.bench.run();
        assert!(shared.bench.replies.iter().any(|reply| matches!(reply, Reply::Received { length: 5, .. })), "{full}");
    }
}

/// The addresses of the flood are all different. An address that has a connection gets another,
/// although its handshake takes as long as a thousand SYNs.
#[test]
fn a_flood_of_forged_syns_does_not_delay_an_address_that_has_a_connection() {
    for full in [true, false] {
        let mut shared = Shared::new();
        assert!(shared.open(far(2)));
        while full && shared.open(far(1)) {}
        let mut forged = (0..).map(|number| far(1000 + number));
        let mut flood = |shared: &mut Shared| forged.by_ref().take(1000).for_each(|host| drop(shared.syn(host)));
        flood(&mut shared);
        for _ in 0..3 {
            let (port, answer) = shared.syn(far(2));
            let answer = answer.expect("it is answered");
            flood(&mut shared);
            assert!(shared.complete(far(2), port, &answer), "full: {full}");
        }
    }
}

/// More addresses than a search would look at are in the middle of a handshake.
#[test]
fn a_flood_of_one_address_takes_its_own_places_and_no_other() {
    for flooder in [far(1), far(100)] {
        let mut shared = Shared::new();
        let pending: Vec<_> = (0..40)
            .map(|number| {
                let host = far(100 + number);
                let (port, answer) = shared.syn(host);
                (host, port, answer.expect("there is room"))
            })
            .collect();
        (0..200).for_each(|_| drop(shared.syn(flooder)));
        let others = pending.into_iter().filter(|(host, ..)| host.address != flooder.address);
        let lost = others.filter(|(host, port, answer)| !shared.complete(*host, *port, answer)).count();
        assert_eq!(lost, 0, "handshakes of others gave way to a flood of {flooder:?}");
    }
}

/// As many addresses as are kept free have connections and repeat SYNs. A newcomer gets in.
#[test]
fn known_addresses_with_half_open_connections_do_not_lock_out_strangers() {
    let mut shared = Shared::new();
    let known = [1, 2, 3, 4, 5, 6].map(far);
    while known.iter().any(|host| shared.open(*host)) {}
    let flood = |shared: &mut Shared| (0..600).for_each(|number| drop(shared.syn(known[number % known.len()])));
    flood(&mut shared);
    for number in 0..3 {
        let (port, answer) = shared.syn(far(50 + number));
        let answer = answer.expect("it is answered");
        flood(&mut shared);
        assert!(shared.complete(far(50 + number), port, &answer));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One address has all it can get, and uses its connections at random. The one that it used
    /// least recently gives way. It ends connections, too, and opens others.
    #[test]
    fn the_one_used_least_recently_gives_way(
        acts in prop::collection::vec((0usize..ALL, prop_oneof![8 => Just(0u8), 1 => Just(1), 3 => Just(2)]), 0..200),
    ) {
        let (mut shared, heavy) = (Shared::new(), far(1));
        // For each port: when it was last used, and the numbers of its next segment.
        let mut uses = BTreeMap::new();
        for (time, (choice, act)) in (0..).zip((0..ALL - KEPT).map(|_| (0, 3)).chain(acts)) {
            // Longer than the interval within which uses are not distinguished.
            shared.bench.pass(11);
            let chosen = uses.iter().nth(choice % uses.len().max(1)).map(|(port, _)| *port);
            match act {
                0 | 1 => {
                    let port = chosen.expect("it has more than others");
                    let (used, seq, ack) = uses.get_mut(&port).expect("it has it");
                    let flags = if act == 0 { ACK } else { ACK | RST };
                    let data = vec![7; usize::from(act == 0)];
                    let segment = Segment { from: port, to: PORT, seq: *seq, ack: *ack, flags, window: 1000, data };
                    shared.bench.segment(heavy, &segment);
                    (*used, *seq) = (time, *seq + 1);
                    if act == 1 {
                        uses.remove(&port);
                        shared.answer();
                    }
                }
                2 if uses.len() > ALL / 2 && shared.holders.len() == ALL - KEPT => {
                    let least = uses.iter().min_by_key(|(_, (used, ..))| *used).map(|(port, _)| *port);
                    prop_assert_eq!(shared.reset_by(far(2)), Vec::from_iter(least));
                    least.map(|port| uses.remove(&port));
                }
                _ if shared.holders.len() < ALL - KEPT => {
                    let (port, answer) = shared.syn(heavy);
                    let answer = answer.expect("there is room");
                    prop_assert!(shared.complete(heavy, port, &answer));
                    uses.insert(port, (time, 10, answer.seq.wrapping_add(1)));
                }
                _ => {}
            }
        }
    }

    /// Addresses send SYNs at random and complete no handshake until the end; some of them have
    /// connections. Then it shows whose SYNs lost their places: of each half only if it is not the
    /// smaller one, and of each address only if none of its half has more left. Of an address, its
    /// last ones are left.
    #[test]
    fn the_half_open_ones_of_the_address_with_the_most_give_way(
        known in 0u16..6,
        hosts in prop::collection::vec(prop_oneof![Just(0u16), 0u16..6, 6u16..12, 0u16..200], 0..250),
    ) {
        let mut shared = Shared::new();
        prop_assert!((0..known).all(|number| shared.open(far(number))));
        let mut sent = BTreeMap::<u16, Vec<(u16, Segment, usize)>>::new();
        for (time, number) in hosts.iter().enumerate() {
            let (port, answer) = shared.syn(far(*number));
            sent.entry(*number).or_default().push((port, answer.expect("it is answered"), time));
        }
        let room = ALL - KEPT - usize::from(known);
        let mut left = BTreeMap::new();
        for (number, syns) in &sent {
            let done = |(port, answer, _): &(u16, Segment, usize)| shared.complete(far(*number), *port, answer);
            let done: Vec<bool> = syns.iter().map(done).collect();
            let count = done.iter().filter(|done| **done).count();
            prop_assert!(done[syns.len() - count..].iter().all(|done| *done), "{number} lost one of its last");
            left.insert(*number, count);
        }
        let all: usize = left.values().sum();
        // What is kept free is for strangers, too, if somebody holds a connection.
        let kept = if known > 0 { KEPT } else { 0 };
        prop_assert!((hosts.len().min(room)..=room + kept).contains(&all), "{all} are left");
        let halves = [0..known, known..u16::MAX].map(|half| Vec::from_iter(left.range(half)));
        let totals = halves.each_ref().map(|half| half.iter().map(|(_, count)| **count).sum::<usize>());
        for (half, total) in halves.iter().zip(totals) {
            let losers: Vec<_> = half.iter().filter(|(number, count)| **count < sent[number].len()).collect();
            prop_assert!(losers.is_empty() || 2 * total + 1 >= all, "the smaller half lost some: {totals:?}");
            let most = half.iter().map(|(_, count)| **count).max().unwrap_or(0);
            // The halves take turns with the last place.
            prop_assert!(losers.iter().all(|(_, count)| **count + 2 >= most), "{half:?} of {sent:?}");
            prop_assert!(known > 0 || losers.iter().all(|(_, count)| **count + 1 >= most), "{half:?} of {sent:?}");
            let last = |number: &u16| sent[number].last().map(|(.., time)| *time);
            let lost = losers.iter().filter(|(_, count)| **count == 0).filter_map(|(number, _)| last(number)).max();
            let oldest = half.iter().filter(|(_, count)| **count > 0).filter_map(|(number, _)| last(number)).min();
            prop_assert!(most > 1 || lost < oldest || oldest.is_none(), "an older one than that of {oldest:?} is left");
        }
    }

    /// Addresses open connections and applications close them, at random. What is ended is one of an
    /// address that held more than the one that got in, and only while few are free; and who holds
    /// less than another always gets in.
    #[test]
    fn the_one_with_the_most_gives_way_and_nobody_else(
        acts in prop::collection::vec((prop_oneof![3 => Just(0u16), 1 => 0u16..4, 1 => 0u16..40], 0u8..10), 50..400),
    ) {
        let mut shared = Shared::new();
        for (number, act) in acts {
            let host = far(number);
            if act == 0 {
                let own = shared.holders.iter().find(|(_, address)| **address == host.address).map(|(id, _)| *id);
                if let Some(connection) = own {
                    shared.holders.remove(&connection);
                    shared.bench.application.requests.send(&Request::Abort { connection }).expect("room");
                    shared.bench.run();
                    shared.bench.replies.retain(|reply| *reply != Reply::Closed { connection });
                }
                continue;
            }
            let (held, most, all) = (shared.held(host), shared.most(), shared.holders.len());
            let before = shared.holders.clone();
            let accepted = shared.open(host);
            let ended = std::mem::take(&mut shared.ended);
            if all < ALL - KEPT {
                prop_assert!(accepted && ended.is_empty(), "{all} are in use");
            } else if held + 1 < most {
                prop_assert!(accepted, "{host:?} holds {held}, another {most}");
                prop_assert_eq!(ended.len(), 1);
                let of_ended = before.values().filter(|address| **address == ended[0]).count();
                prop_assert_eq!(of_ended, most, "{:?} gave way", ended[0]);
            } else {
                prop_assert_eq!(ended.len(), 0);
                prop_assert_eq!(accepted, held == 0 && all < ALL, "{:?} holds {}, another {}", host, held, most);
            }
        }
    }
}
