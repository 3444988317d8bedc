//! Netfront's handshake with XenStore, the grant manager and a back end that may do anything.
//!
//! The state machine is the one that ships. Everything around it is a model, written from Xen's
//! `io/xenbus.h` and `io/netif.h`: nodes and watches, a transaction, grants, the back end.
#![forbid(unsafe_code)]

mod world;

use cloister_models::broken;
use stateright::{Model, Property};

use world::{Action, Budget, Fault, World};

/// The handshake in a world with these bounds, and perhaps one rule of it broken.
struct Handshakes {
    budget: Budget,
    fault: Option<Fault>,
}

impl Model for Handshakes {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.budget, self.fault)]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        state.actions(actions);
    }

    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        let mut next = state.clone();
        next.act(action);
        next.settle();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let holds = |rule: &'static str| move |state: &World| state.violation != Some(rule);
        let _ = holds;
        vec![
            Property::always("rings are reset while nobody maps them", |_, state: &World| {
                state.violation != Some(world::RESET)
            }),
            Property::always("pages are used and published only while granted", |_, state: &World| {
                state.violation != Some(world::UNGRANTED)
            }),
            Property::always("after Closed nothing is granted but what the peer still maps", |_, state: &World| {
                state.violation != Some(world::LEFT)
            }),
            Property::always("once all behave, the link comes up", |_, state: &World| state.recovers()),
            Property::sometimes("the link is up", |_, state: &World| state.is_up()),
        ]
    }
}

/// Tries the handshake, and returns the properties that do not hold.
fn check(name: &str, budget: Budget, fault: Option<Fault>, least: usize) -> Vec<(&'static str, String)> {
    let found = broken(name, Handshakes { budget, fault }, least);
    assert!(fault.is_some() || found.iter().any(|(name, _)| *name == "the link is up"));
    found.into_iter().filter(|(name, _)| *name != "the link is up").collect()
}

#[test]
fn a_hostile_back_end_is_survived() {
    let budget = Budget { hostile: 0, front_crashes: 0, back_crashes: 0, conflicts: 0 };
    assert_eq!(check("two hostile acts", budget, None, 1), []);
}

#[test]
fn crashes_of_both_ends_are_survived() {
    let budget = Budget { hostile: 0, front_crashes: 0, back_crashes: 1, conflicts: 0 };
    assert_eq!(check("crashes", budget, None, 1), []);
}

#[test]
fn a_hostile_back_end_and_a_crash_are_survived() {
    let budget = Budget { hostile: 1, front_crashes: 1, back_crashes: 0, conflicts: 0 };
    assert_eq!(check("a hostile act and a crash", budget, None, 1), []);
}

/// Each property is seen to fail, in a world in which one rule does not hold.
#[test]
fn each_property_fails_where_a_rule_of_the_world_is_broken() {
    let budget = Budget { hostile: 1, front_crashes: 0, back_crashes: 0, conflicts: 0 };
    for (fault, property) in [
        (Fault::ManagerHidesMappings, "rings are reset while nobody maps them"),
        (Fault::ManagerGrantsNothing, "pages are used and published only while granted"),
        (Fault::ManagerForgetsToEnd, "after Closed nothing is granted but what the peer still maps"),
        (Fault::BackEndKeepsPages, "once all behave, the link comes up"),
    ] {
        let found = check("a broken rule", budget, Some(fault), 0);
        assert!(found.iter().any(|(name, _)| *name == property), "{fault:?}: {found:?}");
    }
}
