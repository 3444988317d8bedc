//! What a right to exactly one node gives, and what it does not.

use super::*;

/// Client 1 has all rights to this node, and none to what is below.
const NODE: &str = "data/one";
/// Client 1 has all rights to what is below this node, and none to the node itself.
const ABOVE: &str = "data/two";

fn watch(text: &str, token: u16) -> Action {
    Action::Watch(path(text), token)
}

fn remove(text: &str) -> Action {
    Action::Remove(path(text))
}

/// The daemon allows the domain 1,000 nodes: who could make nodes below its own would leave none to
/// the others.
#[test]
fn who_may_write_a_node_makes_none_below_it() {
    let mut world = World::new(0, 8);
    assert_eq!(world.ask(1, write(NODE, "x")), Ok(vec![]));
    let before = world.daemon.requests.len();
    for number in 0..1100 {
        assert_eq!(world.ask(1, write(&format!("{NODE}/{number}"), "x")), Err(StoreError::Policy));
        assert_eq!(world.ask(1, write(&format!("/local/domain/7/{NODE}/a/{number}"), "x")), Err(StoreError::Policy));
    }
    assert_eq!(world.daemon.requests.len(), before);
    assert_eq!(world.ask(0, write("control/feature-poweroff", "1")), Ok(vec![]));
}

/// A node goes with all that is below it, so the right to write it is not enough.
#[test]
fn to_remove_a_node_takes_the_right_to_all_below() {
    let mut world = World::new(0, 8);
    world.daemon.set(&world.daemon.own("data/one/others"), "x");
    assert_eq!(world.ask(1, write(NODE, "x")), Ok(vec![]));
    assert_eq!(world.ask(1, remove(NODE)), Err(StoreError::Policy));
    assert_eq!(world.ask(1, remove("/local/domain/7/data/one")), Err(StoreError::Policy));
    assert_eq!(world.daemon.text("/local/domain/7/data/one/others").as_deref(), Some("x"));
    let log = world.system.console();
    assert!(log.contains("refused client 1: no path rule lets it write data/one and all below"), "{log}");
    // Below a node, both rights are in one rule; at the node itself there is none.
    assert_eq!(world.ask(1, write("data/two/a/b", "x")), Ok(vec![]));
    for above in [ABOVE, "data"] {
        assert_eq!(world.ask(1, remove(above)), Err(StoreError::Policy), "{above}");
    }
    assert_eq!(world.ask(1, remove("data/two/a")), Ok(vec![]));
    assert_eq!(world.daemon.text("/local/domain/7/data/two/a/b"), None);
}

#[test]
fn a_watch_of_one_node_does_not_tell_what_is_below() {
    let mut world = World::new(0, 8);
    world.daemon.set(&world.daemon.own(NODE), "x");
    let absolute = format!("/local/domain/7/{NODE}");
    assert_eq!(world.ask(1, watch(NODE, 1)), Ok(vec![]));
    assert_eq!(world.ask(1, watch(&absolute, 2)), Ok(vec![]));
    assert_eq!(world.changes(1), [1, 2], "a watch fires when it is made");
    let mut changes = |node: String, present: bool| {
        match present {
            true => world.daemon.set(&world.daemon.own(&node), "y"),
            false => world.daemon.delete(&world.daemon.own(&node)),
        }
        world.settle();
        world.changes(1)
    };
    for below in [format!("{NODE}/a"), format!("{NODE}/a/b"), format!("{NODE}s"), format!("{NODE}/{}", "c".repeat(250))]
    {
        assert_eq!(changes(below.clone(), true), [0; 0], "{below}");
    }
    assert_eq!(changes(format!("{NODE}/a"), false), [0; 0]);
    assert_eq!(changes(NODE.into(), true), [1, 2]);
    assert_eq!(changes(NODE.into(), false), [1, 2]);
    assert_eq!(changes(NODE.into(), true), [1, 2]);
    assert_eq!(changes("data".into(), false), [1, 2], "the node goes with what is above it");
}

#[test]
fn a_watch_of_what_is_below_a_node_tells_all_of_it() {
    let mut world = World::new(0, 8);
    assert_eq!(world.ask(1, watch(ABOVE, 1)), Err(StoreError::Policy));
    assert_eq!(world.ask(1, watch("data/two/a", 1)), Ok(vec![]));
    assert_eq!(world.changes(1), [1]);
    for node in ["data/two/a", "data/two/a/b", "data/two/a/b/c", &format!("data/two/a/{}", "c".repeat(250))] {
        world.daemon.set(&world.daemon.own(node), "x");
        world.settle();
        assert_eq!(world.changes(1), [1], "{node}");
    }
}
