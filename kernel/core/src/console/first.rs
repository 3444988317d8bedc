//! The first refusal of each operation on each slot, which is always printed.

use cloister_caps::abi::SYSTEM_CALL_INVOKE;
use cloister_caps::tables::MAX_SLOTS;
use cloister_caps::{Clamped, Operation};

/// What a service was refused: an operation on a slot.
///
/// All slots past the last count as one, so do all numbers that no operation has, and all system
/// calls that there are not. So each service has at most 976 kinds of refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The slot: [`MAX_SLOTS`] for every larger number.
    pub slot: u16,
    /// What was refused.
    pub what: RefusedCall,
}

/// A call that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedCall {
    /// An operation.
    Operation(Operation),
    /// A number that no operation has.
    UnknownOperation,
    /// A system call of a number that there is not.
    UnknownCall,
}

impl Refused {
    /// Returns what a system call asked for, by its number and its first two arguments.
    #[must_use]
    pub fn of(call: u64, slot: u64, operation: u64) -> Refused {
        let last = MAX_SLOTS as u16;
        if call != SYSTEM_CALL_INVOKE {
            return Refused { slot: last, what: RefusedCall::UnknownCall };
        }
        let slot = u16::try_from(slot).unwrap_or(last).min(last);
        let what = Operation::from_number(operation).map_or(RefusedCall::UnknownOperation, RefusedCall::Operation);
        Refused { slot, what }
    }

    /// Returns the bit of its call in the word of its slot.
    fn bit(self) -> u32 {
        match self.what {
            RefusedCall::UnknownOperation => 1,
            RefusedCall::Operation(operation) => 1 << operation as u32,
            RefusedCall::UnknownCall => UNKNOWN_CALL,
        }
    }

    /// Returns what has this slot and the lowest bit of `bits`.
    fn from_bits(slot: u16, bits: u32) -> Option<Refused> {
        let what = match bits.trailing_zeros() {
            32 => return None,
            0 => RefusedCall::UnknownOperation,
            number => Operation::from_number(number.into()).map_or(RefusedCall::UnknownCall, RefusedCall::Operation),
        };
        Some(Refused { slot, what })
    }
}

/// The bit of an unknown call. Operations begin at 1.
const UNKNOWN_CALL: u32 = 1 << 31;
const _: () = assert!(Operation::ALL.len() < 31);

/// The words of all slots, and one for every larger number.
type Words = Clamped<u32, { MAX_SLOTS + 1 }>;

/// Knows which refusals of a service were the first of their kind, and which of those wait to be
/// printed.
#[derive(Clone, Copy, Debug)]
pub struct FirstRefusals {
    seen: Words,
    waiting: Words,
    /// The number of those that wait.
    count: u16,
}

impl FirstRefusals {
    /// Creates the state without refusals.
    #[must_use]
    pub const fn new() -> FirstRefusals {
        FirstRefusals { seen: Words::new([0; _]), waiting: Words::new([0; _]), count: 0 }
    }

    /// Notes a refusal. Returns `true` if it is the first of its kind.
    pub fn note(&mut self, refused: Refused) -> bool {
        let word = self.seen.get_mut(refused.slot.into());
        let first = *word & refused.bit() == 0;
        *word |= refused.bit();
        first
    }

    /// Lets a refusal wait.
    pub fn defer(&mut self, refused: Refused) {
        let word = self.waiting.get_mut(refused.slot.into());
        self.count += u16::from(*word & refused.bit() == 0);
        *word |= refused.bit();
    }

    /// Returns `true` if refusals wait.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.count > 0
    }

    /// Passes the refusals that wait to `print`, by slots, until it returns `false`. Forgets those
    /// that are printed.
    pub fn print_waiting(&mut self, mut print: impl FnMut(Refused) -> bool) {
        for slot in 0..=MAX_SLOTS as u16 {
            if self.count == 0 {
                return;
            }
            let word = self.waiting.get_mut(slot.into());
            while let Some(refused) = Refused::from_bits(slot, *word) {
                if !print(refused) {
                    return;
                }
                *word &= *word - 1;
                self.count -= 1;
            }
        }
    }
}

impl Default for FirstRefusals {
    fn default() -> Self {
        FirstRefusals::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_and_operation_is_a_kind_of_its_own() {
        let mut first = FirstRefusals::new();
        let mut kinds = 0;
        for slot in 0..MAX_SLOTS as u64 + 3 {
            for operation in 0..40 {
                let refused = Refused::of(SYSTEM_CALL_INVOKE, slot, operation);
                kinds += u32::from(first.note(refused));
                assert!(!first.note(refused));
            }
        }
        assert_eq!(kinds as usize, (MAX_SLOTS + 1) * (Operation::ALL.len() + 1));
        assert!(!first.note(Refused::of(SYSTEM_CALL_INVOKE, u64::MAX, u64::MAX)), "it is past the last slot, too");
        assert!(first.note(Refused::of(7, 1, 1)));
        assert!(!first.note(Refused::of(u64::MAX, 2, 2)), "unknown calls are one kind");
    }

    #[test]
    fn what_waits_is_printed_once() {
        let mut first = FirstRefusals::new();
        let all: Vec<Refused> = (0..70)
            .flat_map(|slot| [0, 1, 5, 14].map(|operation| Refused::of(1, slot, operation)))
            .chain([Refused::of(9, 0, 0)])
            .collect();
        for refused in &all {
            first.defer(*refused);
            first.defer(*refused);
        }
        let mut printed: Vec<Refused> = Vec::new();
        while first.is_waiting() {
            let before = printed.len();
            first.print_waiting(|refused| {
                let room = printed.len() < before + 7;
                printed.extend(room.then_some(refused));
                room
            });
        }
        assert_eq!(printed.len(), 65 * 4 + 1);
        assert!(all.iter().all(|refused| printed.contains(refused)));
        first.print_waiting(|_| panic!("nothing waits"));
    }
}
