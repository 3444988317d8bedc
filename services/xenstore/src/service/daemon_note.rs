//! The kinds of lines about the daemon.

/// What the daemon did.
#[derive(Clone, Copy)]
pub(super) enum DaemonNote {
    UnknownAnswer,
    EarlyAnswer,
    WrongType,
    NoReset,
    NoDomid,
    AnswersAgain,
    LostWatch,
    NoToken,
    Reconnecting,
    Dead,
    Silent,
}

/// What is said of each note, by its number, before its details.
pub(super) const NOTES: [&str; 11] = [
    "dropped an answer with an unknown request id",
    "violation by the daemon: an answer to a request that was not sent yet",
    "violation by the daemon: an answer of the wrong type",
    "the daemon did not reset; earlier watches and transactions may remain",
    "the daemon did not return this domain's id; asking again",
    "the daemon answers again",
    "lost the watch",
    "violation by the daemon: a watch event without a token (dropped)",
    "violation by the daemon",
    "violation by the daemon",
    "no answer from the daemon",
];
