//! A collection is indexed by ids of its own kind.
#![forbid(unsafe_code)]

use cloister_caps::QueueId;
use cloister_caps::tables::PerService;

fn attempt(pending: &PerService<u64>, queue: QueueId) -> u64 {
    pending[queue]
}

fn main() {}
