//! Lets services, peers and faults do anything, in any order. The machine under the kernel panics
//! on every grant, port or event that no rule allows.

use cloister_caps::{EvtchnPort, Status};
use cloister_kernel_core::Outcome;
use cloister_kernel_core::schedule::State;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::machine::{Bench, narrow, tables, with};

#[derive(Clone, Debug)]
pub enum Act {
    Call(u8, u64, [u64; 6]),
    /// An operation that the kind of one of the service's capabilities has.
    Likely(u8, usize, [u64; 3]),
    Event(u32),
    Resume(u8),
    Fault(u8),
    Use(u32),
    Release,
    Run(u64),
    Refuse(bool),
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..12, 3 => 0_u64..140, 1 => 32_700_u64..33_000, 1 => any::<u64>()]
}

pub fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u8..6, prop_oneof![1 => Just(0), 8 => Just(1), 1 => any::<u64>()], prop::array::uniform6(word()))
            .prop_map(|(service, number, arguments)| Act::Call(service, number, arguments)),
        12 => (0_u8..6, any::<usize>(), (word(), word(), prop_oneof![3 => Just(0), 1 => word()]))
            .prop_map(|(service, pick, arguments)| Act::Likely(service, pick, arguments.into())),
        2 => (0_u32..12).prop_map(Act::Event),
        1 => (0_u8..6).prop_map(Act::Resume),
        1 => (0_u8..6).prop_map(Act::Fault),
        1 => (8_u32..300).prop_map(Act::Use),
        1 => Just(Act::Release),
        1 => (0_u64..20_000_000).prop_map(Act::Run),
        1 => any::<bool>().prop_map(Act::Refuse),
    ]
}

/// Returns the slot of a capability of the service, and the number of an operation of its kind.
fn likely(bench: &Bench, service: u8, pick: usize) -> (u64, u64) {
    let own = &bench.operations[usize::from(service)];
    own[pick % own.len()]
}

/// Returns `true` if the service of this number is not stopped: one that is makes no calls.
fn runs(bench: &Bench, service: u8) -> bool {
    bench.kernel.state(bench.tables.services().id(usize::from(service)).unwrap()) != State::Stopped
}

pub fn act_on(bench: &mut Bench, act: Act) {
    if let Act::Call(service, ..) | Act::Likely(service, ..) | Act::Resume(service) | Act::Fault(service) = act
        && !runs(bench, service)
    {
        return;
    }
    let machine = &mut bench.machine;
    match act {
        Act::Event(port) => {
            let known = bench.kernel.event(EvtchnPort(port)).is_some();
            assert!(!known || machine.open.contains(&port));
        }
        Act::Resume(service) => {
            let service = bench.tables.services().id(usize::from(service)).unwrap();
            bench.kernel.take_answer(service, machine.time);
        }
        Act::Fault(service) => {
            let service = bench.tables.services().id(usize::from(service)).unwrap();
            bench.kernel.fault(&mut bench.machine, service);
        }
        Act::Use(reference) => {
            if machine.granted.contains_key(&reference) {
                machine.in_use.insert(reference);
            }
        }
        Act::Release => machine.in_use.clear(),
        Act::Run(took) => {
            let now = machine.time;
            let next = bench.kernel.next(now);
            assert!(next.time() > now);
            machine.time = next.time().min(now + took);
            if let Some(service) = next.service {
                bench.kernel.charge(service, machine.time - now, machine.time);
            }
        }
        Act::Refuse(refuses) => {
            machine.refuses_ports = refuses;
            machine.back_end = !refuses;
            machine.random = (!refuses).then_some([1, 2]);
        }
        Act::Call(service, number, arguments) => check_call(bench, service, number, arguments),
        Act::Likely(service, pick, [first, second, third]) => {
            let (slot, number) = likely(bench, service, pick);
            check_call(bench, service, 1, [slot, number, first, second, third, 0]);
        }
    }
}

fn check_call(bench: &mut Bench, service: u8, number: u64, arguments: [u64; 6]) {
    let (logged, refusals) = (bench.machine.log.len(), bench.kernel.refusals());
    let service = bench.tables.services().id(usize::from(service)).unwrap();
    let Outcome::Answer(answer) = bench.call(service, number, arguments) else { return };
    let refused = !matches!(answer.status, Status::Done | Status::InUse);
    assert_eq!(bench.machine.log.len() - logged, usize::from(refused));
    assert_eq!(bench.kernel.refusals() - refusals, u64::from(refused));
    if refused {
        assert_eq!(answer.words, [0; 2], "a refusal returns no data");
        let line = &bench.machine.log[logged];
        let words = ["refused: service=", " operation=", " object=", " missing=\""];
        assert!(words.iter().all(|word| line.contains(word)) && line.ends_with('"'), "{line}");
    }
}

proptest! {
    #[test]
    fn no_sequence_of_calls_reaches_past_the_rules(acts in prop::collection::vec(act(), 0..400)) {
        thread_local! {
            static TABLES: cloister_caps::tables::Tables<'static> = tables(&narrow());
        }
        let mut bench = Bench::of(TABLES.with(|tables| *tables));
        for act in acts {
            act_on(&mut bench, act);
        }
    }

    #[test]
    fn no_sequence_with_restarts_reaches_past_the_rules(acts in prop::collection::vec(act(), 0..200)) {
        thread_local! {
            static TABLES: cloister_caps::tables::Tables<'static> =
                tables(&with("restart = { limit = 0,", "restart = { limit = 3,"));
        }
        let mut bench = Bench::of(TABLES.with(|tables| *tables));
        for act in acts {
            act_on(&mut bench, act);
        }
    }
}

/// The tests above prove something only if grants are issued and ports opened.
#[test]
fn random_acts_reach_the_machine() {
    let mut bench = Bench::new(&narrow());
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut granted, mut mapped, mut opened, mut in_use) = (0, 0, 0, 0);
    for _ in 0..20_000 {
        let act = act().new_tree(&mut runner).unwrap().current();
        act_on(&mut bench, act);
        granted = granted.max(bench.machine.granted.len());
        mapped = mapped.max(bench.machine.mapped.len());
        in_use = in_use.max(bench.machine.in_use.len());
        opened = opened.max(bench.machine.open.len());
    }
    assert!(granted > 15 && mapped > 2 && in_use > 1 && opened == 3, "{granted} {mapped} {in_use} {opened}");
}
