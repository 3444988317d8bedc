//! The answers to system calls.

use cloister_caps::Status;

/// Answers a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status of the system call.
    pub status: Status,
    /// Two words of result. Both are zero unless the operation returns something.
    pub words: [u64; 2],
}

/// The answer of an operation that succeeded and returns nothing.
pub(super) const DONE: Answer = Answer { status: Status::Done, words: [0; 2] };

/// Returns the answer of an operation that succeeded and returns these words.
pub(super) fn answer(first: u64, second: u64) -> Answer {
    Answer { status: Status::Done, words: [first, second] }
}
