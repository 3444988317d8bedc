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
fn check(
    name: &str,
    budget: Budget,
    fault: Option<Fault>,
    (depth, least): (usize, usize),
) -> Vec<(&'static str, String)> {
    let found = broken(name, Handshakes { budget, fault }, depth, least);
    assert!(fault.is_some() || found.iter().any(|(name, _)| *name == "the link is up"));
    found.into_iter().filter(|(name, _)| *name != "the link is up").collect()
}

const NOTHING: Budget = Budget { hostile: 0, front_crashes: 0, back_crashes: 0, conflicts: 0, late: 0 };

/// No bound on the number of actions: the states are finite.
const ANY: usize = 10_000;

#[test]
fn a_hostile_act_and_a_conflict_are_survived() {
    let budget = Budget { hostile: 1, conflicts: 1, ..NOTHING };
    assert_eq!(check("a hostile act and a conflict", budget, None, (ANY, 50_000)), []);
}

#[test]
fn two_hostile_acts_are_survived() {
    let budget = Budget { hostile: 2, ..NOTHING };
    assert_eq!(check("two hostile acts, 60 actions", budget, None, (60, 50_000)), []);
}

#[test]
fn crashes_of_both_ends_are_survived() {
    let budget = Budget { front_crashes: 1, back_crashes: 1, ..NOTHING };
    assert_eq!(check("a crash of each end", budget, None, (ANY, 50_000)), []);
}

#[test]
fn a_hostile_act_and_a_crash_are_survived() {
    let budget = Budget { hostile: 1, front_crashes: 1, ..NOTHING };
    assert_eq!(check("a hostile act and a crash, 60 actions", budget, None, (60, 50_000)), []);
}

#[test]
fn a_hostile_act_and_a_late_answer_are_survived() {
    let budget = Budget { hostile: 1, late: 1, ..NOTHING };
    assert_eq!(check("a hostile act and a late answer", budget, None, (ANY, 50_000)), []);
}

/// Each property is seen to fail, in a world in which one rule does not hold.
#[test]
fn each_property_fails_where_a_rule_of_the_world_is_broken() {
    let budget = Budget { hostile: 1, ..NOTHING };
    for (fault, property) in [
        (Fault::ManagerHidesMappings, "rings are reset while nobody maps them"),
        (Fault::ManagerGrantsNothing, "pages are used and published only while granted"),
        (Fault::ManagerForgetsToEnd, "after Closed nothing is granted but what the peer still maps"),
        (Fault::BackEndKeepsPages, "once all behave, the link comes up"),
    ] {
        let found = check("a broken rule", budget, Some(fault), (ANY, 0));
        assert!(found.iter().any(|(name, _)| *name == property), "{fault:?}: {found:?}");
    }
}
