//! The two sides of a comparison, in numbers that both have in common.

use std::collections::HashMap;

use super::facts::{Common, Facts, facts};
use super::matching::Numbers;
use crate::sound::Sound;

/// One side of a comparison.
pub(super) struct Side<'a> {
    pub sound: &'a Sound,
    pub common: &'a Common,
    pub numbers: Numbers,
    pub facts: Facts<'a>,
    pub positions: Positions,
}

impl<'a> Side<'a> {
    pub fn new(sound: &'a Sound, numbers: Numbers, common: &'a Common) -> Side<'a> {
        let (facts, positions) = (facts(sound, &numbers, common), Positions::new(sound, &numbers));
        Side { sound, common, numbers, facts, positions }
    }

    pub fn service(&self, number: usize) -> Option<usize> {
        self.positions.services.get(&number).copied()
    }
}

/// Where a policy has what the common numbers stand for.
pub(super) struct Positions {
    pub services: HashMap<usize, usize>,
    pub regions: HashMap<usize, usize>,
    pub ports: HashMap<usize, usize>,
    /// The queues, by the positions of client and server.
    pub queues: HashMap<(usize, usize), Vec<usize>>,
}

impl Positions {
    fn new(sound: &Sound, numbers: &Numbers) -> Positions {
        let of = |numbers: &[usize]| numbers.iter().enumerate().map(|(position, number)| (*number, position)).collect();
        let mut queues: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
        for (queue, ends) in sound.index.queues.iter().enumerate() {
            queues.entry((ends.from, ends.to)).or_default().push(queue);
        }
        let [services, regions, ports] = [&numbers.services, &numbers.regions, &numbers.ports].map(|own| of(own));
        Positions { services, regions, ports, queues }
    }
}

/// The two policies.
pub(super) struct Comparison<'a> {
    pub old: Side<'a>,
    pub new: Side<'a>,
}
