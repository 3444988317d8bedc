//! Info: facts about the image and the caller's own history.

use cloister_caps::Status;
use cloister_caps::abi::info;

use super::{Answer, Kernel, answer};

impl Kernel<'_> {
    /// Returns one item of facts that `info` names.
    pub(super) fn read_info(&self, service: u8, item: u64) -> Result<Answer, Status> {
        let hash = self.tables.policy_hash();
        let word = |index: usize| {
            hash.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        // A minimum, because the compiler may turn this match into a jump table; see `Clamped`.
        match item.min(info::HISTORY + 1) {
            info::POLICY_HASH_LOW => Ok(answer(word(0), word(1))),
            info::POLICY_HASH_HIGH => Ok(answer(word(2), word(3))),
            info::BOOT => Ok(answer(self.boot_time, self.memory)),
            info::HISTORY => {
                let restarts = self.restarts.get(usize::from(service)).copied().unwrap_or(0);
                let refusals = self.refusals_of.get(usize::from(service)).copied().unwrap_or(0);
                Ok(answer(u64::from(restarts), refusals))
            }
            _ => Err(Status::BadArgument),
        }
    }
}
