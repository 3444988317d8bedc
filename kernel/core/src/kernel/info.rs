//! Info: facts about the image and the caller's own history.

use cloister_caps::abi::info;
use cloister_caps::{ServiceId, Status};

use super::Kernel;
use super::answer::{Answer, answer};

impl Kernel<'_> {
    /// Returns one item of facts that `info` names.
    pub(super) fn read_info(&self, service: ServiceId, item: u64) -> Result<Answer, Status> {
        let hash = self.tables.policy_hash();
        let word = |index: usize| u64::from_be_bytes(core::array::from_fn(|byte| hash[index * 8 + byte]));
        // A minimum, because the compiler may turn this match into a jump table; see `Clamped`.
        match item.min(info::SPECULATION + 1) {
            info::POLICY_HASH_LOW => Ok(answer(word(0), word(1))),
            info::POLICY_HASH_HIGH => Ok(answer(word(2), word(3))),
            info::BOOT => Ok(answer(self.boot_time, self.memory)),
            info::HISTORY => Ok(answer(u64::from(self.restarts[service]), self.refusals_of[service])),
            info::SPECULATION => {
                let [states, isolation] = self.exposures.words();
                Ok(answer(states, isolation))
            }
            _ => Err(Status::BadArgument),
        }
    }
}
