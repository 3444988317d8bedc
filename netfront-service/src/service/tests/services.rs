//! Late or unexpected answers of the XenStore service, the grant manager and the kernel.

use cloister_caps::{DomId, Status};
use cloister_interfaces::capability::Port;

use super::*;

/// Runs everything until there is no more work, except that the XenStore service does not answer.
fn settle_without_store(world: &mut World) {
    assert!((0..1000).any(|_| !(world.wake() | world.grants.run())), "it does not come to rest");
}

/// The request is given up after a time, and another one is made before its answer comes.
#[test]
fn a_late_answer_does_not_answer_a_later_request() {
    for moment in (1..20).step_by(if cfg!(miri) { 7 } else { 1 }) {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        for _ in 0..moment {
            world.turn(false);
        }
        settle_without_store(&mut world);
        for _ in 0..20 {
            world.now += 1_000_000_000;
            world.system.set_now(world.now);
            settle_without_store(&mut world);
        }
        for _ in 0..10 {
            world.pass(1_000);
        }
        assert_eq!(world.replies(), [UP], "moment {moment}: {}", world.system.console());
        for line in world.system.console().lines() {
            assert!(
                line.contains("no answer from a service") || line.contains("connected,"),
                "moment {moment}: {line}"
            );
        }
    }
}

/// Returns the invocations on ports.
fn port_calls(world: &World) -> Vec<(cloister_caps::Slot, Operation)> {
    let calls = world.system.take_calls().into_iter().map(|(slot, operation, _)| (slot, operation));
    calls.filter(|call| matches!(call.1, Operation::PortOpen | Operation::PortClose)).collect()
}

#[test]
fn ports_that_an_earlier_run_left_open_are_closed_and_opened() {
    let mut world = World::bare(64);
    for (slot, bit) in [(TX_PORT, TX_BIT), (RX_PORT, RX_BIT)] {
        Port::new(world.system.clone(), slot, bit).open(DomId(0)).expect("a port");
    }
    world.back.create(&mut world.daemon);
    port_calls(&world);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    let opened_again = |slot| [(slot, Operation::PortOpen), (slot, Operation::PortClose), (slot, Operation::PortOpen)];
    assert_eq!(port_calls(&world), [opened_again(TX_PORT), opened_again(RX_PORT)].concat());
}

#[test]
fn ports_that_cannot_be_opened_end_the_attempt() {
    let mut world = World::bare(64);
    world.back.create(&mut world.daemon);
    let fault = Status::NotPermitted.into_result().expect_err("a fault");
    world.system.answer(move |_, operation, _| if operation == Operation::PortOpen { Err(fault) } else { Ok([0; 2]) });
    for _ in 0..100 {
        world.pending.set(u64::MAX);
        world.turn(true);
    }
    assert!(world.system.console().contains("the event channels could not be opened"), "{}", world.system.console());
    assert_eq!((world.replies(), port_calls(&world)), (vec![], vec![(TX_PORT, Operation::PortOpen)]));
    assert!(world.grants.granted.is_empty());
}
