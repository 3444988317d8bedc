//! `grants`: a driver (client) and the grant manager (server).

use cloister_caps::{DomId, GrantRef};

use crate::message::{Malformed, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Grants;
impl Interface for Grants {
    const NAME: &'static str = "grants";
    type Request = Request;
    type Reply = Reply;
}

/// What the driver asks. `rule` is the index of a rule among those that the policy gives this client, in the
/// order of the policy file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Grant pages `first .. first + count` under `rule` to `peer`.
    Issue {
        /// Which rule.
        rule: u8,
        /// The first page.
        first: u16,
        /// How many pages.
        count: u16,
        /// To whom.
        peer: DomId,
    },
    /// End every grant of the rule.
    End {
        /// Which rule.
        rule: u8,
    },
}

/// What the grant manager answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The pages are granted; page `first + n` has reference `reference + n`.
    Issued {
        /// Which rule.
        rule: u8,
        /// The reference of the first page.
        reference: GrantRef,
        /// How many pages.
        count: u16,
    },
    /// The policy does not allow it, or the kernel refused. Nothing is granted.
    Refused {
        /// Which rule.
        rule: u8,
    },
    /// The grants of the rule were ended, but for `held` pages that the peer still maps; the manager tries
    /// those again by itself, and answers once more when none is left.
    Ended {
        /// Which rule.
        rule: u8,
        /// Pages that the peer still holds.
        held: u16,
    },
}

impl Message for Request {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Issue { rule, first, count, peer } => {
                writer.u8(1);
                writer.u8(rule);
                writer.u16(first);
                writer.u16(count);
                writer.u16(peer.0);
            }
            Request::End { rule } => {
                writer.u8(2);
                writer.u8(rule);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8()? {
            1 => Ok(Request::Issue {
                rule: reader.u8()?,
                first: reader.u16()?,
                count: reader.u16()?,
                peer: DomId(reader.u16()?),
            }),
            2 => Ok(Request::End { rule: reader.u8()? }),
            _ => Err(Malformed),
        }
    }
}

impl Message for Reply {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Reply::Issued { rule, reference, count } => {
                writer.u8(1);
                writer.u8(rule);
                writer.u16(count);
                writer.u32(reference.0);
            }
            Reply::Refused { rule } => {
                writer.u8(2);
                writer.u8(rule);
            }
            Reply::Ended { rule, held } => {
                writer.u8(3);
                writer.u8(rule);
                writer.u16(held);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        match reader.u8()? {
            1 => {
                let (rule, count) = (reader.u8()?, reader.u16()?);
                Ok(Reply::Issued { rule, count, reference: GrantRef(reader.u32()?) })
            }
            2 => Ok(Reply::Refused { rule: reader.u8()? }),
            3 => Ok(Reply::Ended { rule: reader.u8()?, held: reader.u16()? }),
            _ => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        check_round_trip(&[
            Request::Issue { rule: 1, first: 2, count: 3, peer: DomId(4) },
            Request::Issue { rule: u8::MAX, first: u16::MAX, count: u16::MAX, peer: DomId(u16::MAX) },
            Request::End { rule: 7 },
        ]);
        check_round_trip(&[
            Reply::Issued { rule: 1, reference: GrantRef(u32::MAX), count: 3 },
            Reply::Refused { rule: 2 },
            Reply::Ended { rule: 3, held: 4 },
        ]);
        check_malformed::<Request>(&[&[], &[9], &[2, 7, 1]]);
        check_malformed::<Reply>(&[&[], &[9], &[2, 7, 1]]);
    }
}
