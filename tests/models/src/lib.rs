//! What the two models share: running the checker, and names of states that time does not change.
//!
//! README.md says what is modelled, to which bounds, and what is not.
#![forbid(unsafe_code)]

use std::fmt::Debug;
use std::hash::Hash;
use std::thread::available_parallelism;

use stateright::{Checker, Model};

/// Tries every state of a model that can be reached by at most `depth` actions, and prints how many
/// there are. Returns the
/// names of the properties that do not hold, with the actions that show it.
///
/// # Panics
/// The checker has not come to an end, or there are fewer than `least` states: the model would show
/// less than it says.
pub fn broken<M>(name: &str, model: M, depth: usize, least: usize) -> Vec<(&'static str, String)>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Debug + Clone + PartialEq + Send + Sync + 'static,
{
    let threads = available_parallelism().map_or(1, usize::from);
    let checker = model.checker().threads(threads).target_max_depth(depth).spawn_bfs().join();
    let found: Vec<_> =
        checker.discoveries().into_iter().map(|(name, path)| (name, format!("{:?}", path.into_actions()))).collect();
    println!("{name}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    assert!(checker.is_done() && checker.unique_state_count() >= least, "{name} is too small");
    found
}

/// Returns the text of a state in which each `Instant(n)` is replaced by whether it has come.
///
/// How long a time is until then does not matter in a model in which any deadline may come next.
#[must_use]
pub fn untimed(text: &str, now: u64) -> String {
    let mut parts = text.split("Instant(");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(')').unwrap_or((part, ""));
        out += if number.parse().is_ok_and(|at: u64| at > now) { "later" } else { "due" };
        out += rest;
    }
    out
}

/// Returns the latest time in the text that has not come.
#[must_use]
pub fn latest(text: &str, now: u64) -> Option<u64> {
    let numbers = text.split("Instant(").skip(1).filter_map(|part| part.split_once(')')?.0.parse().ok());
    numbers.filter(|at| *at > now).max()
}
