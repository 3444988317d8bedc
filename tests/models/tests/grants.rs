//! The life of grants: the grant manager and the kernel that ship, a driver that requests anything
//! at any time, a peer that maps, keeps and unmaps, and crashes of the manager at every point.
//!
//! Neither the manager nor the kernel can be cloned, because capabilities cannot. So a state keeps
//! the actions that lead to it, and the next one is made by doing them again.
#![forbid(unsafe_code)]

mod manager;

use std::hash::{Hash, Hasher};

use cloister_models::broken;
use stateright::{Model, Property};

use manager::{Action, Budget, Fault, World};

/// What is known of a world, and the actions that lead there.
#[derive(Clone, Debug)]
struct State {
    actions: Vec<Action>,
    budget: Budget,
    /// All that decides what happens next.
    name: String,
    broken: Option<&'static str>,
    manager_knows: bool,
}

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        (&self.name, self.budget, self.broken) == (&other.name, other.budget, other.broken)
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.name, self.budget, self.broken).hash(hasher);
    }
}

struct Grants {
    budget: Budget,
    fault: Option<Fault>,
}

impl Grants {
    fn state(&self, actions: Vec<Action>) -> State {
        let world = World::after(&actions, self.fault);
        let budget = actions.iter().fold(self.budget, Budget::after);
        let name = world.name();
        State { budget, name, broken: world.broken(), manager_knows: world.manager_knows(), actions }
    }
}

impl Model for Grants {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.state(Vec::new())]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            actions.extend(Action::ALL.into_iter().filter(|action| state.budget.allows(action)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut actions = last.actions.clone();
        actions.push(action);
        let next = self.state(actions);
        // An action that changes nothing, such as a second unmapping, is none.
        (next.name != last.name).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no page is granted twice, ended, cleared or reused while a peer maps it",
                |_, state: &State| state.broken.is_none(),
            ),
            Property::always("a manager that has not crashed knows every grant", |_, state: &State| {
                state.manager_knows
            }),
            Property::always(
                "once the peer unmaps, every page can be granted and ended",
                |model: &Grants, state: &State| {
                    state.broken.is_some() || World::after(&state.actions, model.fault).recovers()
                },
            ),
        ]
    }
}

fn check(name: &str, budget: Budget, fault: Option<Fault>, least: usize) -> Vec<&'static str> {
    let mut names: Vec<_> = broken(name, Grants { budget, fault }, 10_000, least).into_iter().collect();
    names.iter().filter(|_| fault.is_none()).for_each(|(name, path)| println!("{name}: {path}"));
    names.sort_unstable();
    names.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn grants_outlive_crashes_of_the_manager_and_are_never_lost() {
    let budget = Budget { requests: 3, crashes: 1, maps: 2 };
    assert_eq!(check("three requests, a crash, two mappings", budget, None, 500), [""; 0]);
}

#[test]
fn each_property_fails_where_a_rule_of_the_world_is_broken() {
    let budget = Budget { requests: 3, crashes: 0, maps: 1 };
    for (fault, property) in [
        (Fault::EndsMappedGrants, "no page is granted twice, ended, cleared or reused while a peer maps it"),
        (Fault::LosesEnds, "a manager that has not crashed knows every grant"),
        (Fault::PeerKeepsPages, "once the peer unmaps, every page can be granted and ended"),
    ] {
        let found = check("a broken rule", budget, Some(fault), 0);
        assert!(found.contains(&property), "{fault:?}: {found:?}");
    }
}
