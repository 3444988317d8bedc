//! Which domain may be the back end.

use super::*;

/// Nothing is granted to it, no channel is opened with it, and none of its nodes is read.
#[test]
fn a_back_end_that_the_policy_does_not_allow_is_logged_and_not_used() {
    for (first, last) in [(0, 0), (1, 3), (5, 6), (5, 3)] {
        let mut walk = Walk::allowing(first, last);
        walk.nodes.push(("/backend-id", Ok("4")));
        walk.run();
        let notes: Vec<String> = walk.handshake.take_notes().iter().map(ToString::to_string).collect();
        assert!(
            matches!(&notes[..], [note] if note.starts_with("backend-id: domain 4 is not a back end")),
            "{notes:?}"
        );
        // It is logged once, however long that goes on.
        for _ in 0..100 {
            walk.pass(ABSENT_TIME);
            walk.run();
        }
        assert_eq!(walk.logged(), [""; 0]);
        let watches = |command: &Command| matches!(command, Command::Store(Action::Watch(_, DEVICE_TOKEN)));
        let others: Vec<_> =
            walk.done.iter().filter(|command| !watches(command) && !is_read(command, "/backend-id")).collect();
        assert!(others.is_empty() && walk.done.len() > 100, "{first} to {last}: {others:?}");
    }
}

#[test]
fn an_allowed_back_end_is_used_when_the_device_gets_it() {
    for (first, last) in [(3, 3), (0, 3), (3, 32_751)] {
        let mut walk = Walk::allowing(first, last);
        walk.nodes.push(("/backend-id", Ok("2")));
        walk.backend = "/local/domain/2/backend/vif/7/0";
        walk.run();
        assert_eq!(walk.handshake.is_up(), first == 0, "{first} to {last}");
        walk.nodes[0].1 = Ok("3");
        walk.backend = "/local/domain/3/backend/vif/7/0";
        walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
        walk.run();
        walk.pass(Duration::from_secs(1));
        walk.run();
        assert!(walk.handshake.is_up(), "{first} to {last}: {:?}", walk.done);
        let mut peers = walk.done.iter().filter_map(|command| match command {
            Command::Grants(grants::Request::Issue { peer, .. }) => Some(peer.0),
            _ => None,
        });
        assert_eq!(peers.next_back(), Some(3));
    }
}

/// What an earlier run of this service has left, or an earlier back end still maps, is ended first.
#[test]
fn another_back_end_while_an_earlier_one_is_in_use_is_used_when_that_has_ended() {
    for held in [0, 2] {
        let mut walk = Walk::new();
        walk.nodes.push(("/backend-id", Err(StoreError::InUse)));
        walk.held = [held, 0, 0];
        walk.run();
        let note = "backend-id: the device has another back end, and an earlier one is still in use";
        assert_eq!((walk.logged(), walk.handshake.phase), (vec![note], Phase::Paused));
        let ends = |walk: &Walk, rule: u8| {
            let end = Command::Grants(grants::Request::End { rule });
            walk.done.iter().filter(|command| **command == end).count()
        };
        assert!(walk.done.contains(&Command::Stop), "{:?}", walk.done);
        assert_eq!([0, 1, 2].map(|rule| ends(&walk, rule)), [1; 3]);
        for _ in 0..3 {
            walk.pass(Duration::from_secs(30));
            walk.run();
        }
        // Only what is still mapped is ended once more, in case the grant manager has forgotten it.
        assert_eq!([0, 1, 2].map(|rule| ends(&walk, rule)), [if held > 0 { 4 } else { 1 }, 1, 1]);
        assert_eq!((walk.logged(), walk.handshake.phase), (vec![], Phase::Paused));
        let shared = |command: &Command| {
            matches!(command, Command::OpenPorts { .. } | Command::Grants(grants::Request::Issue { .. }))
        };
        assert!(!walk.done.iter().any(shared), "{:?}", walk.done);
        walk.nodes.clear();
        walk.held = [0; 3];
        // The grant manager reports it.
        walk.handshake.grants_answered(grants::Reply::Ended { rule: 0, still_mapped: 0 }, walk.now);
        walk.pass(Duration::from_secs(30));
        walk.run();
        assert!(walk.handshake.is_up(), "{:?}", walk.done);
    }
}
