//! Tests the pin of a domain set: all ports and grants that name the set have one peer, and a
//! service that has not the pin does not choose it.

use std::collections::BTreeSet;

use cloister_caps::{Operation, Status};
use cloister_kernel_core::Outcome;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::machine::{Bench, pinned, tables};
use crate::noninterference::islands::islands;

fn pin(bench: &mut Bench, domain: u64) -> Status {
    bench.status("xenstore", "netback", Operation::DomainPin, [domain, 0, 0, 0])
}

fn open(bench: &mut Bench, port: &str, peer: u64) -> Status {
    bench.status("netfront", port, Operation::PortOpen, [peer, 0, 0, 0])
}

fn issue(bench: &mut Bench, rule: &str, page: u64, peer: u64) -> Status {
    bench.status("grant-manager", rule, Operation::GrantIssue, [page, peer, 0, 0])
}

fn end(bench: &mut Bench, rule: &str, page: u64) -> Status {
    bench.status("grant-manager", rule, Operation::GrantEnd, [page, 0, 0, 0])
}

#[test]
fn without_a_pin_nothing_is_shared() {
    let mut bench = Bench::new(&pinned());
    for peer in 0..12 {
        let expected = if (3..=9).contains(&peer) { Status::WrongState } else { Status::NotPermitted };
        assert_eq!(open(&mut bench, "tx-events", peer), expected);
        assert_eq!(issue(&mut bench, "rx-pages", 0, peer), expected);
    }
    assert!(bench.machine.granted.is_empty() && bench.machine.peers.is_empty());
}

#[test]
fn only_the_pinned_domain_is_a_peer() {
    let mut bench = Bench::new(&pinned());
    for outside in [0, 2, 10, 32_752, 0x7FF0, 1 << 16 | 5, u64::MAX] {
        assert_eq!(pin(&mut bench, outside), Status::NotPermitted, "{outside}");
    }
    assert_eq!(pin(&mut bench, 5), Status::Done);
    for other in [3, 4, 6, 9] {
        assert_eq!(open(&mut bench, "tx-events", other), Status::NotPermitted);
        assert_eq!(issue(&mut bench, "rx-pages", 0, other), Status::NotPermitted);
    }
    assert_eq!(open(&mut bench, "tx-events", 5), Status::Done);
    assert_eq!(issue(&mut bench, "rx-pages", 0, 5), Status::Done);
}

#[test]
fn another_domain_is_pinned_only_when_nothing_is_shared_with_the_first() {
    let mut bench = Bench::new(&pinned());
    assert_eq!(pin(&mut bench, 5), Status::Done);
    assert_eq!(open(&mut bench, "rx-events", 5), Status::Done);
    let logged = bench.machine.log.len();
    assert_eq!((pin(&mut bench, 6), pin(&mut bench, 5)), (Status::InUse, Status::Done));
    assert_eq!(bench.machine.log.len(), logged, "the caller did nothing wrong");
    let close = bench.status("netfront", "rx-events", Operation::PortClose, [0; 4]);
    assert_eq!((close, pin(&mut bench, 6)), (Status::Done, Status::Done));
    // The last page of the last rule.
    assert_eq!(issue(&mut bench, "tx-pages", 127, 6), Status::Done);
    assert_eq!(pin(&mut bench, 5), Status::InUse);
    bench.machine.in_use.extend(bench.machine.granted.keys().copied().collect::<Vec<_>>());
    assert_eq!((end(&mut bench, "tx-pages", 127), pin(&mut bench, 5)), (Status::InUse, Status::InUse));
    bench.machine.in_use.clear();
    assert_eq!((end(&mut bench, "tx-pages", 127), pin(&mut bench, 5)), (Status::Done, Status::Done));
    // A page of the peer that is mapped, as a back end's kernel can.
    bench.machine.back_end = true;
    assert_eq!(bench.status("grant-manager", "rx-pages", Operation::GrantIssue, [0, 5, 77, 0]), Status::Done);
    assert_eq!(pin(&mut bench, 6), Status::InUse);
    assert_eq!((end(&mut bench, "rx-pages", 0), pin(&mut bench, 6)), (Status::Done, Status::Done));
}

/// The references of the rules follow each other, so a page too many would be another set's.
#[test]
fn what_is_shared_under_one_set_does_not_hold_the_pin_of_another() {
    let mut bench = Bench::of(islands(0));
    let pin = |bench: &mut Bench, island: u8, domain| {
        bench.status(&format!("store-{island}"), &format!("peer-{island}"), Operation::DomainPin, [domain, 0, 0, 0])
    };
    for (island, other) in [(0, 1), (1, 0)] {
        assert_eq!([pin(&mut bench, island, 1), pin(&mut bench, other, 1)], [Status::Done; 2]);
        let (manager, rule) = (format!("manager-{island}"), format!("pages-of-{island}"));
        assert_eq!(bench.status(&manager, &rule, Operation::GrantIssue, [0, 1, 0, 2]), Status::Done);
        assert_eq!([pin(&mut bench, other, 2), pin(&mut bench, island, 2)], [Status::Done, Status::InUse]);
        for page in 0..3 {
            assert_eq!(bench.status(&manager, &rule, Operation::GrantEnd, [page, 0, 0, 0]), Status::Done);
        }
    }
}

#[test]
fn nobody_else_can_pin() {
    let mut bench = Bench::new(&pinned());
    let xenstore = bench.service("xenstore");
    for service in bench.tables.services().ids().filter(|id| *id != xenstore) {
        for slot in 0..64 {
            let outcome = bench.call(service, 1, [slot, Operation::DomainPin as u64, 5, 0, 0, 0]);
            let Outcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
            assert!(matches!(answer.status, Status::NoCapability | Status::WrongOperation), "{answer:?}");
        }
    }
    assert_eq!(open(&mut bench, "tx-events", 5), Status::WrongState);
}

/// Names an act of a service, or of the peer that maps granted pages.
#[derive(Clone, Debug)]
enum Act {
    /// The service pins, opens, closes, issues or ends: a pick among its operations, and arguments.
    Call(&'static str, usize, [u64; 4]),
    Use(u32),
    Release,
    /// netfront closes its ports, and the grant manager ends all grants that are not in use.
    EndAll,
}

fn act() -> impl Strategy<Value = Act> {
    let service = prop_oneof![Just("xenstore"), Just("netfront"), Just("grant-manager")];
    let word = || prop_oneof![8 => 3_u64..6, 2 => 0_u64..12, 1 => any::<u64>()];
    let arguments = (word(), word(), prop_oneof![4 => Just(0), 1 => word()], prop_oneof![4 => Just(0), 1 => 0_u64..4]);
    prop_oneof![
        16 => (service, any::<usize>(), arguments).prop_map(|(service, pick, arguments)| Act::Call(service, pick, arguments.into())),
        1 => (8_u32..20).prop_map(Act::Use),
        1 => Just(Act::Release),
        1 => Just(Act::EndAll),
    ]
}

/// Counts what happened in a run.
#[derive(Default, Debug)]
struct Counts {
    shared: usize,
    pins: usize,
    in_use: usize,
}

/// Acts, and checks against a model that has nothing but the last pin that the kernel accepted.
fn act_on(bench: &mut Bench, pin: &mut Option<u16>, act: Act, counts: &mut Counts) {
    match act {
        Act::Use(reference) => {
            if bench.machine.granted.contains_key(&reference) {
                bench.machine.in_use.insert(reference);
            }
        }
        Act::Release => bench.machine.in_use.clear(),
        Act::EndAll => {
            for port in ["rx-events", "tx-events"] {
                bench.status("netfront", port, Operation::PortClose, [0; 4]);
            }
            let references: Vec<u32> =
                bench.machine.granted.keys().chain(bench.machine.mapped.keys()).copied().collect();
            for rule in bench.tables.grants().iter() {
                let name = bench.tables.name(rule.name);
                let own = references.iter().filter_map(|reference| reference.checked_sub(rule.first_ref));
                for page in own.filter(|page| *page < rule.count) {
                    end(bench, name, page.into());
                }
            }
        }
        Act::Call(service, pick, [a, b, c, d]) => {
            let id = bench.service(service);
            let sharing = [
                Operation::PortOpen,
                Operation::PortClose,
                Operation::GrantIssue,
                Operation::GrantEnd,
                Operation::DomainPin,
            ];
            let own: Vec<(u64, u64)> = bench.operations[id.index()]
                .iter()
                .copied()
                .filter(|(_, number)| sharing.iter().any(|operation| *operation as u64 == *number))
                .collect();
            let (slot, number) = own[pick % own.len()];
            let outcome = bench.call(id, 1, [slot, number, a, b, c, d]);
            let Outcome::Answer(answer) = outcome else { panic!("{outcome:?}") };
            if number == Operation::DomainPin as u64 {
                if answer.status == Status::Done {
                    counts.pins += usize::from(*pin != Some(a as u16));
                    *pin = Some(a as u16);
                }
                counts.in_use += usize::from(answer.status == Status::InUse);
            }
        }
    }
    let machine = &bench.machine;
    let granted = machine.granted.values().map(|(_, peer, _)| *peer);
    let mapped = machine.mapped.values().map(|(_, peer, ..)| *peer);
    let peers: BTreeSet<u16> = granted.chain(mapped).chain(machine.peers.values().copied()).collect();
    counts.shared += usize::from(!peers.is_empty());
    assert!(peers.iter().all(|peer| Some(*peer) == *pin), "shared with {peers:?}, and {pin:?} is pinned");
}

proptest! {
    #[test]
    fn everything_is_shared_with_the_pinned_domain_alone(
        acts in prop::collection::vec(act(), 0..400),
        back_end: bool,
    ) {
        thread_local! {
            static TABLES: cloister_caps::tables::Tables<'static> = tables(&pinned());
        }
        let mut bench = Bench::of(TABLES.with(|tables| *tables));
        bench.machine.back_end = back_end;
        let (mut pin, mut counts) = (None, Counts::default());
        for act in acts {
            act_on(&mut bench, &mut pin, act, &mut counts);
        }
    }
}

/// The property proves something only if much is shared, and pins change.
#[test]
fn random_acts_share_and_pin() {
    let mut bench = Bench::new(&pinned());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut pin, mut counts) = (None, Counts::default());
    for _ in 0..20_000 {
        let act = act().new_tree(&mut runner).unwrap().current();
        act_on(&mut bench, &mut pin, act, &mut counts);
    }
    assert!(counts.shared > 1_000 && counts.pins > 10 && counts.in_use > 100, "{counts:?}");
}
