//! What the service says of its clients, each in a log of its own.

use core::fmt::{self, Display};

use cloister_interfaces::rules::ClientIndex;

use crate::MAX_RULES;

/// The reason why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// The policy gives the client no such rule.
    NoRule,
    /// Another client uses the rule.
    Used,
    /// The pages are out of the rule's range.
    Range,
    /// The rule does not allow the peer.
    Peer,
    /// There would be too many pages.
    Count,
    /// A page is granted already.
    Granted,
    /// Grants of the rule are still ending.
    Ending,
    /// The kernel refused.
    Kernel,
}

/// All reasons, in the order of their numbers.
const DENIALS: [Denial; 8] = [
    Denial::NoRule,
    Denial::Used,
    Denial::Range,
    Denial::Peer,
    Denial::Count,
    Denial::Granted,
    Denial::Ending,
    Denial::Kernel,
];

impl Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Denial::NoRule => "the policy gives it no such rule",
            Denial::Used => "another client uses the rule",
            Denial::Range => "the pages are out of range",
            Denial::Peer => "the rule does not allow this peer",
            Denial::Count => "too many pages for the rule",
            Denial::Granted => "a page of these is granted already",
            Denial::Ending => "grants of the rule are still ending",
            Denial::Kernel => "the kernel refused",
        })
    }
}

/// The kind of a line about a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineKind {
    /// A refused request for the rule with this number. All numbers that no rule has are one.
    Refused(u8, Denial),
    /// The peer still maps pages of the client's rule with this number.
    StillMapped(u8),
    /// The peer has unmapped them.
    Unmapped(u8),
    /// A message that does not decode.
    Malformed,
}

/// The number of rules that are told apart, with one for all numbers beyond.
const RULES: usize = MAX_RULES + 1;
const STILL_MAPPED: usize = RULES * DENIALS.len();
const UNMAPPED: usize = STILL_MAPPED + RULES;
const MALFORMED: usize = UNMAPPED + RULES;
const _: () = assert!(MALFORMED < cloister_interfaces::log::PeerLog::KINDS);

impl LineKind {
    /// Returns the number of the kind.
    pub fn number(self) -> usize {
        let rule = |number: u8| usize::from(number).min(MAX_RULES);
        match self {
            LineKind::Refused(number, denial) => rule(number) * DENIALS.len() + denial as usize,
            LineKind::StillMapped(number) => STILL_MAPPED + rule(number),
            LineKind::Unmapped(number) => UNMAPPED + rule(number),
            LineKind::Malformed => MALFORMED,
        }
    }

    /// Returns the kind with this number.
    pub fn from_number(number: usize) -> LineKind {
        let rule = |number: usize| (number % RULES) as u8;
        match number {
            ..STILL_MAPPED => LineKind::Refused((number / DENIALS.len()) as u8, DENIALS[number % DENIALS.len()]),
            STILL_MAPPED..UNMAPPED => LineKind::StillMapped(rule(number - STILL_MAPPED)),
            UNMAPPED..MALFORMED => LineKind::Unmapped(rule(number - UNMAPPED)),
            _ => LineKind::Malformed,
        }
    }
}

/// A line about a client that the console may have dropped, without what its kind does not say.
pub struct Late {
    /// The client.
    pub client: ClientIndex,
    /// The kind of the line.
    pub kind: LineKind,
}

impl Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Late { client, kind } = self;
        match kind {
            LineKind::Refused(rule, denial) => {
                let beyond = if usize::from(*rule) < MAX_RULES { "" } else { " or above" };
                write!(f, "refused {client}, rule {rule}{beyond}: {denial}")
            }
            LineKind::StillMapped(rule) => write!(f, "the peer still maps pages of rule {rule} of {client}"),
            LineKind::Unmapped(rule) => write!(f, "the peer has unmapped all pages of rule {rule} of {client}"),
            LineKind::Malformed => write!(f, "violation by {client}: a malformed message"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_of_one_kind() {
        for number in 0..=MALFORMED {
            assert_eq!(LineKind::from_number(number).number(), number);
        }
        for (number, denial) in DENIALS.into_iter().enumerate() {
            assert_eq!(denial as usize, number);
        }
        let beyond = LineKind::Refused(MAX_RULES as u8, Denial::NoRule).number();
        assert_eq!(LineKind::Refused(u8::MAX, Denial::NoRule).number(), beyond);
    }
}
