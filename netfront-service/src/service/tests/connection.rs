//! Making and ending connections.

use cloister_interfaces::store::{Action, StoreError};

use super::*;

#[test]
fn a_device_that_comes_later_is_found() {
    let mut world = World::bare(64);
    world.settle();
    assert_eq!(world.replies(), []);
    assert!(world.system.console().contains("no network device"));
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_back_end_that_is_slow_to_connect_is_waited_for() {
    let mut world = World::bare(64);
    world.back.ignores_states = true;
    world.back.create(&mut world.daemon);
    for second in 0..50 {
        world.pass(1_000);
        assert_eq!(world.front("state").as_deref(), Some("4"), "{second}");
    }
    assert_eq!(world.replies(), []);
    world.back.ignores_states = false;
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_state_without_a_watch_event_is_found_by_polling() {
    let mut world = World::bare(64);
    world.back.ignores_states = true;
    world.back.create(&mut world.daemon);
    world.settle();
    world.store.lose_watches();
    world.back.ignores_states = false;
    world.settle();
    assert_eq!((world.replies(), world.back.connection.is_some()), (vec![], true));
    world.pass(5_000);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn requests_before_tcpip_knew_of_the_connection_are_void() {
    let mut world = World::bare(64);
    world.back.ignores_states = true;
    world.back.create(&mut world.daemon);
    world.settle();
    world.transmit(0, &[1; 60]);
    world.ask(return_pages(RxPage(0), 1));
    world.settle();
    world.back.ignores_states = false;
    world.settle();
    assert_eq!((world.replies(), world.sent().len()), (vec![UP], 0));
    world.transmit(0, &[2; 60]);
    world.settle();
    assert_eq!(world.sent(), [[2; 60]]);
    assert!(!world.system.console().contains("violation"));
}

#[test]
fn the_first_request_is_not_waited_for_without_end() {
    let mut world = World::bare(64);
    world.service.notified(Notifications::ALL);
    let limit = world.service.deadline().expect("the answer has a limit");
    assert!(limit > Instant(world.now));
    world.system.set_now(limit.0);
    world.service.notified(Notifications::ALL);
    assert!(world.system.console().contains("no answer from a service"));
}

#[test]
fn a_back_end_that_never_connects_is_abandoned_and_tried_again() {
    let mut world = World::bare(64);
    world.back.ignores_states = true;
    world.back.create(&mut world.daemon);
    world.settle();
    world.pass(61_000);
    assert_eq!(world.front("state").as_deref(), Some("5"));
    world.pass(6_000);
    assert_eq!(world.front("state").as_deref(), Some("6"));
    assert!(world.grants.granted.is_empty());
    world.back.ignores_states = false;
    world.settle();
    world.pass(2_000);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_back_end_without_rx_copy_is_not_used() {
    let mut world = World::bare(64);
    world.back.features.retain(|(name, _)| name != "feature-rx-copy");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!((world.replies(), world.front("tx-ring-ref")), (vec![], None));
    assert!(world.system.console().contains("does not copy"));
    assert!(world.service.deadline().is_some());
}

#[test]
fn conflicts_of_the_transaction_are_tried_again() {
    let mut world = World::bare(64);
    world.store.conflicts = 5;
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_closing_back_end_is_followed_and_connected_to_again() {
    for state in ["5", "6"] {
        let mut world = World::connected();
        world.transmit(0, &[1; 60]);
        world.settle();
        world.replies();
        world.back.connection = None;
        world.back.set_state(&mut world.daemon, state);
        world.settle_with(false);
        assert_eq!((world.replies().pop(), world.front("state").as_deref()), (Some(Reply::Down), Some("6")));
        assert!(world.grants.granted.is_empty());
        assert!(!world.system.console().contains("lost by"), "{}", world.system.console());
        world.pass(1_100);
        assert_eq!(world.replies(), [UP]);
        world.transmit(0, &[2; 60]);
        world.settle();
        assert_eq!(world.sent().pop(), Some(vec![2; 60]));
    }
}

#[test]
fn a_device_that_vanishes_is_not_written_to_and_found_again() {
    let mut world = World::connected();
    world.back.destroy(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [Reply::Down]);
    world.pass(5_000);
    assert_eq!(world.front("state"), None, "no node of the device comes to life again");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

/// XSA-465: however far a connection was made when the device goes, its nodes are not read again,
/// and the next device is connected to.
#[test]
fn a_device_may_vanish_at_any_moment() {
    for moment in (0..120).step_by(if cfg!(miri) { 29 } else { 1 }) {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        for _ in 0..moment {
            world.service.notified(Notifications::ALL);
            let granted = &world.grants.granted;
            world.back.run(&mut world.daemon, &|reference| granted.get(&reference).cloned());
            world.grants.run();
            world.store.run(&mut world.daemon);
        }
        world.back.destroy(&mut world.daemon);
        world.settle();
        assert!(world.grants.granted.is_empty(), "moment {moment}");
        world.replies();
        world.back.create(&mut world.daemon);
        let up = (0..30).any(|_| {
            world.pass(5_000);
            !world.replies().is_empty()
        });
        assert!(up, "moment {moment}: {}", world.system.console());
    }
}

#[test]
fn a_device_on_its_way_out_is_left_alone() {
    let mut world = World::connected();
    world.daemon.set(&format!("{}/online", world.back.directory()), "0");
    world.back.connection = None;
    world.back.set_state(&mut world.daemon, "5");
    world.settle();
    world.pass(10_000);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
}

#[test]
fn pages_that_an_earlier_back_end_still_maps_are_waited_for() {
    let mut world = World::connected();
    world.grants.held = vec![0];
    world.back.connection = None;
    world.back.set_state(&mut world.daemon, "6");
    world.rings.write(100, b"still mapped");
    world.settle();
    world.pass(2_000);
    world.pass(60_000);
    assert_eq!(world.replies(), [Reply::Down]);
    assert!(world.system.console().contains("still maps pages"));
    assert_eq!(world.rings.bytes(100, 12), b"still mapped");
    world.grants.release(0);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    assert_eq!(world.rings.bytes(100, 12), [0; 12]);
}

#[test]
fn a_refused_grant_is_undone_and_tried_again() {
    let mut world = World::bare(64);
    world.grants.refused = vec![2];
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!((world.replies(), world.grants.granted.len()), (vec![], 0));
    world.grants.refused.clear();
    world.pass(1_100);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn failures_make_the_pauses_longer() {
    let mut world = World::bare(64);
    world.store.refuse =
        Some(|action| matches!(action, Action::Read(path) if path.ends_with("mac")).then_some(StoreError::Timeout));
    world.back.create(&mut world.daemon);
    world.settle();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let next = world.service.deadline().expect("another attempt").0;
        pauses.push((next - world.now) / 1_000_000_000);
        world.pass((next - world.now) / 1_000_000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn a_malformed_state_is_waited_out_and_logged_once() {
    let mut world = World::connected();
    for state in ["garbage", "-1", "9", "", "04"] {
        world.back.set_state(&mut world.daemon, state);
        world.settle();
        world.pass(6_000);
    }
    assert_eq!(world.replies(), []);
    assert_eq!(world.system.console().matches("state is malformed").count(), 1);
    world.back.set_state(&mut world.daemon, "4");
    world.settle();
    world.transmit(0, &[7; 60]);
    world.settle();
    assert_eq!(world.sent(), [vec![7; 60]]);
}

#[test]
fn another_back_end_is_connected_to_at_once_whatever_the_last_one_did() {
    let mut world = World::bare(64);
    world.back.create(&mut world.daemon);
    for _ in 0..6 {
        world.settle();
        world.rings.store(8, 500);
        world.storm();
        world.settle();
        // The attempts fail, in the end with a pause of many seconds.
        let next = world.service.deadline().map_or(0, |next| next.0.saturating_sub(world.now));
        if next > 10_000_000_000 {
            break;
        }
        world.pass(next / 1_000_000 + 1);
    }
    assert!(world.service.deadline().expect("a pause").0 > world.now + 10_000_000_000);
    let _ = world.replies();
    world.back.destroy(&mut world.daemon);
    world.settle();
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn close_sends_waiting_frames_closes_in_order_and_is_answered() {
    let mut world = World::connected();
    world.back.hold_tx = true;
    world.transmit(0, &[1; 60]);
    world.ask(Request::Close);
    world.settle();
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("4")));
    world.back.hold_tx = false;
    world.settle();
    assert_eq!(world.replies(), [Reply::Transmitted { page: TxPage(0) }, Reply::Down]);
    assert_eq!((world.sent().len(), world.front("state").as_deref()), (1, Some("6")));
    assert!(world.grants.granted.is_empty());
    assert_eq!(world.service.deadline(), None);
}

#[test]
fn close_ends_within_its_timeout() {
    let mut world = World::connected();
    (world.back.hold_tx, world.back.ignores_states) = (true, true);
    world.transmit(0, &[1; 60]);
    world.ask(Request::Close);
    world.settle();
    world.pass(500);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("5")));
    world.pass(5_000);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
}

/// tcpip, which requested the close, is told when it is complete and not before, whatever the back
/// end does meanwhile.
#[test]
fn close_is_answered_once() {
    let mut world = World::connected();
    (world.back.hold_tx, world.back.ignores_states) = (true, true);
    world.transmit(0, &[1; 60]);
    world.ask(Request::Close);
    world.settle();
    world.rings.store(8, 500);
    world.storm();
    world.settle();
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("5")));
    world.pass(5_000);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
}

#[test]
fn close_without_a_device_is_answered_too() {
    let mut world = World::bare(64);
    world.settle();
    world.ask(Request::Close);
    world.settle();
    assert_eq!(world.replies(), [Reply::Down]);
    assert!(!world.system.console().contains("closing"), "there is nothing to close");
}

#[test]
fn nodes_out_of_form_are_refused() {
    for (name, bad) in [
        ("backend-id", "32752"),
        ("backend", "/local/domain/1/backend/vif/7/0"),
        ("backend", "/local/domain/0/backend/vif/7/0/../../../../3"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
        ("mtu", "9 000"),
    ] {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.daemon.set(&format!("{}/{name}", world.back.front_directory()), bad);
        world.settle();
        assert_eq!(world.replies(), [], "{name}");
        assert!(world.system.console().contains("malformed"), "{name}");
    }
}

#[test]
fn a_restarted_service_closes_what_its_earlier_run_left_open() {
    let mut world = World::connected();
    let mut next = World::bare(64);
    std::mem::swap(&mut world.daemon, &mut next.daemon);
    next.back.connection = world.back.connection.take();
    next.settle();
    assert_eq!(next.front("state").as_deref(), Some("6"));
    next.pass(1_100);
    assert_eq!(next.replies(), [UP]);
}

#[test]
fn netfront_connects_with_split_channels_and_uses_every_known_feature() {
    let world = World::connected();
    let expected = [
        ("state", "4"),
        ("tx-ring-ref", "1000"),
        ("rx-ring-ref", "1001"),
        ("event-channel-tx", "10"),
        ("event-channel-rx", "11"),
        ("request-rx-copy", "1"),
        ("feature-rx-notify", "1"),
        ("feature-no-csum-offload", "0"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
    ];
    for (name, value) in expected {
        assert_eq!(world.front(name).as_deref(), Some(value), "{name}");
    }
    let opened: Vec<_> = world.system.take_calls().into_iter().filter(|call| call.1 == Operation::PortOpen).collect();
    assert_eq!(opened, [(TX_PORT, Operation::PortOpen, [0; 4]), (RX_PORT, Operation::PortOpen, [0; 4])]);
}

#[test]
fn without_split_channels_one_port_serves_both_ways() {
    let mut world = World::bare(64);
    world.back.features.retain(|(name, _)| name != "feature-split-event-channels");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    assert_eq!(world.front("event-channel").as_deref(), Some("10"));
    assert_eq!(world.front("event-channel-rx"), None);
    world.transmit(0, &[7; 60]);
    world.settle();
    assert_eq!(world.sent(), [[7; 60]]);
    assert!(world.system.take_calls().iter().all(|call| call.0 != RX_PORT));
}

/// Mini-OS and Unikraft do not recover from this.
#[test]
fn a_device_that_is_detached_and_attached_again_under_load_serves_again() {
    let mut world = World::connected();
    for round in 0..5u8 {
        for page in 0..20 {
            world.transmit(page, &[round; 60]);
        }
        world.back.keep_pages = true;
        world.back.waiting.extend((0..10).map(|_| vec![round; 60].into()));
        world.settle();
        world.back.destroy(&mut world.daemon);
        world.back.waiting.clear();
        world.settle();
        assert_eq!(world.replies().last(), Some(&Reply::Down));
        world.back.keep_pages = false;
        world.back.sent.clear();
        world.pass(3_000);
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), [UP], "round {round}");
        world.transmit(0, &[round; 61]);
        world.back.waiting.push_back(vec![round; 62].into());
        world.settle();
        assert_eq!((world.sent(), world.received()), (vec![vec![round; 61]], vec![(vec![round; 62], false)]));
        world.settle();
    }
}

#[test]
fn tcpip_is_offered_only_what_the_back_end_offers() {
    for (missing, offloads) in [
        ("feature-sg", Offloads::CHECKSUM),
        ("feature-gso-tcpv4", Offloads::CHECKSUM),
        ("feature-split-event-channels", Offloads::all()),
    ] {
        for value in [None, Some("0"), Some("2"), Some("yes")].into_iter().step_by(if cfg!(miri) { 3 } else { 1 }) {
            let mut world = World::bare(64);
            world.back.features.retain(|(name, _)| name != missing);
            world.back.features.extend(value.map(|value| (missing.to_string(), value.to_string())));
            world.back.create(&mut world.daemon);
            world.settle();
            assert_eq!(world.replies(), [Reply::Up { mac: MAC, mtu: 1500, offloads }], "{missing} {value:?}");
        }
    }
}

/// A node that cannot be read is logged by name, once however often it is tried.
#[test]
fn the_reason_for_an_unreadable_device_node_is_logged_once() {
    fn at_mac(action: &Action, failure: StoreError) -> Option<StoreError> {
        matches!(action, Action::Read(path) if path.ends_with("mac")).then_some(failure)
    }
    type Refuse = fn(&Action) -> Option<StoreError>;
    let cases: [(Refuse, &str); 6] = [
        (|action| at_mac(action, StoreError::Access), "mac: XenStore refuses it"),
        (|action| at_mac(action, StoreError::Policy), "mac: the policy refuses it"),
        (|action| at_mac(action, StoreError::TooLong), "mac: longer than any valid value"),
        (|action| at_mac(action, StoreError::Timeout), "mac: XenStore does not answer"),
        (|action| at_mac(action, StoreError::Quota), "mac: XenStore fails to read it"),
        (|action| at_mac(action, StoreError::Other), "mac: XenStore fails to read it"),
    ];
    for (refuse, text) in cases {
        let mut world = World::bare(64);
        world.store.refuse = Some(refuse);
        world.back.create(&mut world.daemon);
        (0..if cfg!(miri) { 6 } else { 60 }).for_each(|_| world.pass(10_000));
        assert_eq!(world.system.console().matches(text).count(), 1, "{}", world.system.console());
        assert_eq!(world.system.console().lines().count(), 1, "{}", world.system.console());
        world.store.refuse = None;
        world.pass(31_000);
        assert_eq!(world.replies(), [UP]);
    }
}

/// The XenStore service permits no read until a transaction that it has lost is aborted.
#[test]
fn a_transaction_that_an_earlier_run_left_is_aborted() {
    let mut world = World::bare(64);
    world.store.refuse = Some(|action| matches!(action, Action::Read(_)).then_some(StoreError::Again));
    world.back.create(&mut world.daemon);
    world.settle();
    assert!(world.store.actions.contains(&Action::Abort), "{:?}", world.store.actions);
    assert!(world.system.console().contains("a transaction was left open"));
    world.store.refuse = None;
    world.pass(1_100);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_connected_back_end_is_left_when_the_device_gets_another() {
    let mut world = World::connected();
    // The back end ignores the front end's nodes, and its own stay as they are.
    world.back = Netback::new(3, 7);
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [Reply::Down, UP], "{}", world.system.console());
    assert!(world.system.console().contains("another back end"));
    world.transmit(0, &[1; 60]);
    world.settle();
    assert_eq!(world.sent(), [[1; 60]]);
}

#[test]
fn a_removed_device_is_noticed_whatever_its_back_end_publishes() {
    for ignores_states in [false, true] {
        let mut world = World::bare(64);
        world.back.ignores_states = ignores_states;
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), if ignores_states { vec![] } else { vec![UP] });
        let front = world.back.front_directory();
        world.back.connection = None;
        world.daemon.delete(&front);
        world.settle();
        world.pass(5_000);
        assert_eq!((world.front("state"), world.grants.granted.len()), (None, 0), "{}", world.system.console());
        assert!(world.system.console().contains("the network device is gone"));
        world.back.ignores_states = false;
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies().last(), Some(&UP));
    }
}

/// A restarted grant manager does not know that netfront waits for a page.
#[test]
fn held_pages_are_requested_again() {
    let mut world = World::connected();
    world.grants.held = vec![0];
    world.back.connection = None;
    world.back.set_state(&mut world.daemon, "6");
    world.settle();
    world.pass(2_000);
    assert!(world.system.console().contains("still maps pages"));
    world.pass(30_000);
    world.grants.held.clear();
    world.pass(20_000);
    assert_eq!(world.replies(), [Reply::Down], "not again and again");
    world.pass(280_000);
    assert_eq!(world.replies(), [UP]);
    assert_eq!(world.system.console().matches("still maps pages").count(), 1);
}

#[test]
fn a_directory_that_comes_and_goes_is_read_at_growing_intervals() {
    let mut world = World::bare(64);
    world.back.create(&mut world.daemon);
    world.daemon.delete(&world.back.directory());
    world.settle();
    world.store.actions.clear();
    (0..600).for_each(|_| world.pass(1_000));
    assert!(world.store.actions.len() < 600, "{} requests in ten minutes", world.store.actions.len());
    assert_eq!(world.system.console().lines().count(), 1, "{}", world.system.console());
}

#[test]
fn a_malformed_feature_is_logged() {
    for name in ["feature-sg", "feature-gso-tcpv4", "feature-split-event-channels"] {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.daemon.set(&format!("{}/{name}", world.back.directory()), "yes");
        world.settle();
        let line = format!("{name}: malformed; taken as not offered");
        assert!(world.system.console().contains(&line), "{}", world.system.console());
    }
}
