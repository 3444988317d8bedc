//! The node that says which domain is the peer: what the service pins, and what it answers.

use super::*;

impl World {
    /// Returns the domains that the service has pinned since the last call.
    fn pinned(&self) -> Vec<u64> {
        let calls = self.system.take_calls().into_iter();
        let pins = calls.filter(|(_, operation, _)| *operation == Operation::DomainPin);
        pins.map(|(slot, _, [domain, rest @ ..])| {
            assert_eq!((slot, rest), (Slot(3), [0; 3]));
            domain
        })
        .collect()
    }

    /// Sets the node to `value`, and lets the client that may read it do so.
    fn read_peer(&mut self, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.daemon.set(&self.daemon.own(PEER_NODE), value);
        self.ask(1, read(PEER_NODE))
    }

    /// Lets the kernel answer each pin with a status.
    fn refuse_pins(&self, status: Status) {
        self.system.answer(move |_, operation, _| {
            let refused = operation == Operation::DomainPin;
            if refused { status.into_result().map(|()| [0; 2]) } else { Ok([0; 2]) }
        });
    }
}

#[test]
fn a_domain_is_pinned_before_its_reader_learns_it() {
    let mut world = World::new(0, 8);
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let pins = seen.clone();
    world.system.answer(move |_, operation, _| {
        pins.set(pins.get() + u32::from(operation == Operation::DomainPin));
        Ok([0; 2])
    });
    world.daemon.set(&world.daemon.own(PEER_NODE), "5");
    world.send(1, read(PEER_NODE));
    for _ in 0..50 {
        world.service.notified(Notifications::ALL);
        world.daemon.run();
        if world.clients[1].replies.pop().is_some() {
            assert_eq!(seen.get(), 1);
            return;
        }
    }
    panic!("no answer");
}

#[test]
fn only_the_answer_for_the_node_pins_and_only_outside_of_a_transaction() {
    let mut world = World::new(0, 8);
    assert_eq!((world.read_peer(b"5"), world.pinned()), (Ok(b"5".to_vec()), vec![5]));
    let absolute = format!("/local/domain/{OWN}/{PEER_NODE}");
    assert_eq!((world.ask(1, read(&absolute)), world.pinned()), (Ok(b"5".to_vec()), vec![5]));
    for other in
        ["device/vif/0/mac", "device/vif/0/backend-id/x", "device/vif/0", "/local/domain/0/backend/vif/7/0/state"]
    {
        world.daemon.set(&world.daemon.own("device/vif/0/backend-id/x"), "6");
        let _ = world.ask(1, read(other));
        assert_eq!(world.pinned(), [], "{other}");
    }
    for action in [Action::List(path(PEER_NODE)), Action::Watch(path(PEER_NODE), 1)] {
        let _ = world.ask(1, action);
    }
    assert_eq!(world.ask(0, read(PEER_NODE)), Err(StoreError::Policy));
    assert_eq!(world.pinned(), []);
    // A transaction may see the value of an earlier time.
    assert_eq!(world.ask(1, Action::Begin), Ok(vec![]));
    assert_eq!(world.ask(1, read(PEER_NODE)), Ok(b"5".to_vec()));
    assert_eq!(world.ask(1, Action::Abort), Ok(vec![]));
    assert_eq!(world.pinned(), []);
    assert_eq!((world.read_peer(b"3"), world.pinned()), (Ok(b"3".to_vec()), vec![3]));
}

#[test]
fn a_value_that_is_no_domain_of_the_set_is_passed_on_and_pins_nothing() {
    let mut world = World::new(0, 8);
    for value in
        [&b""[..], b"0", b"2", b"10", b"05", b"+5", b" 5", b"5 ", b"5\0", b"5x", b"65541", b"4294967301", b"five"]
    {
        assert_eq!(world.read_peer(value), Ok(value.to_vec()));
        assert_eq!(world.pinned(), [], "{value:?}");
    }
    world.daemon.set(&world.daemon.own(PEER_NODE), vec![b'5'; 200]);
    assert_eq!(world.ask(1, read(PEER_NODE)), Err(StoreError::TooLong));
    assert_eq!(world.pinned(), []);
}

#[test]
fn a_set_in_use_is_an_error_of_its_own() {
    let mut world = World::new(0, 8);
    world.refuse_pins(Status::InUse);
    assert_eq!(world.read_peer(b"5"), Err(StoreError::InUse));
    assert_eq!(world.ask(1, read("device/vif/0/mac")), Ok(b"00:16:3e:11:22:33".to_vec()));
    // Without a right to the domain, its number is of no use.
    world.refuse_pins(Status::NotPermitted);
    assert_eq!(world.read_peer(b"5"), Ok(b"5".to_vec()));
}

proptest! {
    /// Whatever the node says, the service pins a domain of the set, written as a number, or none.
    #[test]
    fn only_a_number_of_the_set_is_pinned(value in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        "[0-9+ ]{0,3}".prop_map(String::into_bytes),
    ]) {
        let mut world = World::new(0, 8);
        let _ = world.read_peer(&value);
        let expected: Vec<u64> = (3..=9).filter(|id: &u64| value == id.to_string().as_bytes()).collect();
        prop_assert_eq!(world.pinned(), expected);
    }
}
