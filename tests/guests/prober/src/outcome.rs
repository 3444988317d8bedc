//! The outcomes of attempts.

use core::fmt;

/// The outcome of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It was a fault of the service.
    Faulted,
    /// The kernel or a peer refused it.
    Refused,
    /// It had no effect outside the service.
    NoEffect,
    /// The peer consumed it and still runs.
    Consumed,
    /// It succeeded, although it must not.
    Breach(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Faulted => write!(f, "faulted"),
            Outcome::Refused => write!(f, "refused"),
            Outcome::NoEffect => write!(f, "no effect"),
            Outcome::Consumed => write!(f, "taken in, no effect"),
            Outcome::Breach(what) => write!(f, "BREACH: {what}"),
        }
    }
}

/// The state of an attempt that was made.
pub(crate) enum AttemptState {
    /// It has its outcome.
    Ended(Outcome),
    /// The peer has to consume it.
    AwaitingPeer,
}

impl From<Option<&'static str>> for AttemptState {
    fn from(breach: Option<&'static str>) -> AttemptState {
        AttemptState::Ended(breach.map_or(Outcome::Refused, Outcome::Breach))
    }
}
