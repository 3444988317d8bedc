//! What one pass does, and when the next is due.

use super::*;

/// One pass does all that there is to do: nothing else would wake the service for the rest.
#[test]
fn an_answer_the_next_request_and_a_change_are_handled_in_one_pass() {
    let mut world = World::new(0, 8);
    world.ask(1, Action::Watch(path("device/vif/0"), 9)).expect("a watch");
    world.changes(1);
    let first = world.send(0, read("control/shutdown"));
    world.service.notified(Notifications::ALL);
    world.daemon.run();
    world.daemon.set("/local/domain/7/device/vif/0/x", "1");
    world.daemon.run();
    world.send(0, read("control/shutdown"));
    let before = world.daemon.requests.len();
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert!(world.take(0, first).is_some());
    assert_eq!(world.changes(1), [9]);
    world.daemon.run();
    assert_eq!(world.daemon.requests.len(), before + 1);
}

#[test]
fn while_the_daemon_is_silent_all_requests_fail_in_one_pass() {
    let mut world = World::new(0, 8);
    world.settle();
    world.daemon.silent = true;
    world.send(1, read("device/vif/0/mac"));
    world.settle();
    world.pass(5);
    world.settle();
    let ids = [0, 0, 0].map(|client| world.send(client, read("control/shutdown")));
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert_eq!(ids.map(|id| world.take(0, id)), [const { Some(Err(StoreError::Timeout)) }; 3]);
    assert_eq!(world.system.console().matches("no answer from the daemon in 5 s").count(), 1);
}

#[test]
fn room_for_an_own_request_does_not_end_a_pass_while_the_daemon_is_silent() {
    let mut world = World::new(0, 8);
    world.settle();
    world.daemon.silent = true;
    world.ring.store(2048, world.ring.load(2052).wrapping_sub(1024));
    world.send(1, read("device/vif/0/mac"));
    world.settle();
    world.pass(5);
    world.settle();
    // The greeting waits for room, which there is now.
    world.ring.store(2048, world.ring.load(2052));
    let ids = [0, 0, 0].map(|client| world.send(client, read("control/shutdown")));
    world.service.notified(Notifications::ALL);
    world.settle_clients();
    assert_eq!(ids.map(|id| world.take(0, id)), [const { Some(Err(StoreError::Timeout)) }; 3]);
    assert_ne!(world.ring.load(2048), world.ring.load(2052), "it was sent");
}

/// The toolstack starts the guest while the daemon still connects: a state of the ring, not a fault.
#[test]
fn a_service_that_starts_before_the_daemon_waits_for_it_and_then_fails_requests() {
    let mut world = World::new(0, 8);
    world.ring.store(2068, 1);
    (world.service, world.clients) = service(&world.system, &world.ring, &world.memory);
    let id = world.send(1, read("device/vif/0/mac"));
    world.settle();
    assert_eq!(world.take(1, id), None);
    assert_eq!(world.service.deadline(), Some(Instant(world.service_now() + 1_000_000_000)));
    world.pass(1);
    world.settle();
    assert_eq!(world.take(1, id), Some(Err(StoreError::Timeout)));
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Err(StoreError::Timeout), "at once");
    world.ring.store(2068, 0);
    world.settle();
    assert!(world.ask(1, read("device/vif/0/mac")).is_ok());
}

#[test]
fn a_connection_that_dies_before_the_own_id_is_known_leaves_nothing_to_wait_for() {
    let mut world = World::new(0, 8);
    world.daemon.silent = true;
    world.service.notified(Notifications::ALL);
    world.ring.store(2060, 5_000);
    world.settle();
    assert!(world.system.console().contains("is dead"));
    assert_eq!(world.service.deadline(), None);
}

/// An open transaction is looked at once the outstanding request is answered.
#[test]
fn while_a_request_is_outstanding_its_deadline_alone_counts() {
    let mut world = World::new(0, 8);
    world.ask(0, Action::Begin).expect("a transaction");
    world.pass(9);
    world.daemon.silent = true;
    world.send(0, write("control/x", "1"));
    world.settle();
    assert_eq!(world.service.deadline(), Some(Instant(world.service_now() + 5_000_000_000)));
}
