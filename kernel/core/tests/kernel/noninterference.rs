//! Checks that a service cannot observe another with which it shares no queue and no pinned domain
//! set: two runs that differ only in what the other does give it the same answers.
//!
//! Time is not part of this: how long something takes, and when a service runs, depends on the
//! others. Nor are the numbers of ports, which Xen chooses.

use cloister_caps::tables::{Object, PortPeer, Tables};
use cloister_caps::{DomainSetId, Kind, ServiceId};
use cloister_kernel_core::{FaultAction, Outcome};
use proptest::prelude::*;

use crate::machine::{Bench, pinned, tables, with};

/// Names what a service does.
#[derive(Clone, Debug)]
enum Act {
    Call(u64, [u64; 6]),
    /// It invokes an operation that the kind of one of its capabilities has.
    Likely(usize, [u64; 3]),
    /// It waits, and runs on at once.
    Wait(u64, u64),
    Fault,
}

/// Names an act of the observer, or of the service whose acts it must not observe.
#[derive(Clone, Debug)]
enum Turn {
    Observer(Act),
    Other(Act),
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..12, 2 => 0_u64..140, 1 => any::<u64>()]
}

fn act() -> impl Strategy<Value = Act> {
    let number = prop_oneof![9 => Just(1), 1 => any::<u64>()];
    prop_oneof![
        4 => (number, prop::array::uniform6(word())).prop_map(|(number, arguments)| Act::Call(number, arguments)),
        8 => (any::<usize>(), prop::array::uniform3(word())).prop_map(|(pick, arguments)| Act::Likely(pick, arguments)),
        2 => (word(), word()).prop_map(|(deadline, hold)| Act::Wait(deadline, hold)),
        1 => Just(Act::Fault),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![act().prop_map(Turn::Observer), act().prop_map(Turn::Other)]
}

/// Holds what a service sees of its own act.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Outcome(Outcome),
    Notifications(u64),
    Restarted(FaultAction),
}

/// Performs an act of a service, and returns what the service sees.
fn does(bench: &mut Bench, service: ServiceId, act: &Act) -> Seen {
    match *act {
        Act::Call(number, arguments) => Seen::Outcome(bench.call(service, number, arguments)),
        Act::Likely(pick, [first, second, third]) => {
            let own = &bench.operations[service.index()];
            let (slot, number) = own[pick % own.len()];
            Seen::Outcome(bench.call(service, 1, [slot, number, first, second, third, 0]))
        }
        Act::Wait(deadline, hold) => {
            bench.call(service, 0, [deadline, hold, 0, 0, 0, 0]);
            Seen::Notifications(bench.kernel.take_answer(service, bench.machine.time).unwrap().words[0])
        }
        Act::Fault => Seen::Restarted(bench.kernel.fault(service)),
    }
}

/// Returns what the observer sees in a run. The other acts only if `both` is `true`.
fn seen(tables: Tables<'static>, (observer, other): (ServiceId, ServiceId), turns: &[Turn], both: bool) -> Vec<Seen> {
    let mut bench = Bench::of(tables);
    let mut seen = Vec::new();
    for turn in turns {
        match turn {
            Turn::Observer(act) => seen.push(does(&mut bench, observer, act)),
            Turn::Other(act) if both => drop(does(&mut bench, other, act)),
            Turn::Other(_) => {}
        }
    }
    seen
}

/// Returns `true` if two services share a queue, or a pinned domain set.
fn share(tables: &Tables<'_>, one: ServiceId, other: ServiceId) -> bool {
    let ends = |queue: cloister_caps::tables::Queue| [queue.sender, queue.receiver];
    let queue = tables.queues().iter().map(ends).any(|ends| ends.contains(&one) && ends.contains(&other));
    queue || tables.domains().ids().any(|set| uses(tables, set, one) && uses(tables, set, other))
}

/// Returns `true` if a service pins a domain of the set, or has a port or grant of which the pinned
/// domain is the peer.
fn uses(tables: &Tables<'_>, set: DomainSetId, service: ServiceId) -> bool {
    let own = tables.capabilities().iter().filter(|capability| capability.service == service);
    tables.domain_set(set).pinned
        && own.map(|capability| capability.object).any(|object| match object {
            Object::Domain(pinned) => pinned == set,
            Object::Port(rule) => tables.port(rule).peer == PortPeer::Domains(set),
            Object::Grant(rule) => tables.grant(rule).peers == set,
            _ => false,
        })
}

fn restarting() -> Tables<'static> {
    tables(&with("restart = { limit = 0,", "restart = { limit = 400,"))
}

fn restarting_and_pinned() -> Tables<'static> {
    tables(&pinned().replace("restart = { limit = 0,", "restart = { limit = 400,"))
}

/// Returns the pairs of services that share no queue.
fn strangers(tables: &Tables<'_>) -> Vec<(ServiceId, ServiceId)> {
    let services = || tables.services().ids();
    let pairs = services().flat_map(|one| services().map(move |other| (one, other)));
    pairs.filter(|(one, other)| one != other && !share(tables, *one, *other)).collect()
}

#[test]
fn there_are_strangers_and_one_of_them_holds_info() {
    let tables = restarting();
    let pairs = strangers(&tables);
    assert!(pairs.len() >= 10, "{pairs:?}");
    let asks = |service: ServiceId| {
        tables.capabilities().iter().any(|held| held.service == service && held.kind() == Kind::Info)
    };
    assert!(pairs.iter().any(|(observer, _)| asks(*observer)));
}

/// The grant manager learns from its own answers whether xenstore has pinned, and xenstore from its
/// own whether the grant manager has granted: a pinned set is the one object that services share
/// without a queue.
#[test]
fn who_pins_and_who_grants_are_no_strangers() {
    let (plain, pinned) = (restarting(), restarting_and_pinned());
    let named = |tables: &Tables<'static>| {
        let pairs = strangers(tables).into_iter();
        pairs.map(|(one, other)| (tables.service_name(one), tables.service_name(other))).collect::<Vec<_>>()
    };
    let (plain, pinned) = (named(&plain), named(&pinned));
    let lost: Vec<_> = plain.iter().filter(|pair| !pinned.contains(pair)).collect();
    assert_eq!(lost, [&("grant-manager", "xenstore"), &("xenstore", "grant-manager")]);
}

proptest! {
    #[test]
    fn the_acts_of_a_stranger_are_not_observed_with_a_pinned_set(
        pick in any::<prop::sample::Index>(),
        turns in prop::collection::vec(turn(), 0..120),
    ) {
        thread_local! {
            static TABLES: Tables<'static> = restarting_and_pinned();
        }
        let tables = TABLES.with(|tables| *tables);
        let pair = *pick.get(&strangers(&tables));
        prop_assert_eq!(seen(tables, pair, &turns, true), seen(tables, pair, &turns, false));
    }

    #[test]
    fn the_acts_of_a_stranger_are_not_observed(
        pick in any::<prop::sample::Index>(),
        turns in prop::collection::vec(turn(), 0..120),
    ) {
        thread_local! {
            static TABLES: Tables<'static> = restarting();
        }
        let tables = TABLES.with(|tables| *tables);
        let pair = *pick.get(&strangers(&tables));
        prop_assert_eq!(seen(tables, pair, &turns, true), seen(tables, pair, &turns, false));
    }
}
