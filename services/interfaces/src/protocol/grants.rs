//! `grants`: granting pages. A driver is the client, the grant manager the server.
//!
//! | who is hostile | what it can do | what it must not | target |
//! |---|---|---|---|
//! | a driver or the grant manager | send any request or reply | have a page granted that its rules do not give; touch another client's grants | `grant-manager-grants`, `netfront-grants` |

use cloister_caps::{DomId, GrantRef};

use crate::message::{Defect, Message, Reader, Writer};
use crate::pages::PageRun;
use crate::queue::Interface;

/// The interface.
pub struct Grants;
impl Interface for Grants {
    const NAME: &'static str = "grants";
    type Request = Request;
    type Reply = Reply;
}

/// The requests of the driver. `rule` is the index of a rule among those that the policy gives this
/// client, in the order of the policy file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Grant `pages` to `peer` under `rule`.
    Issue {
        /// The index of the rule.
        rule: u8,
        /// The pages, by their numbers among those of the rule.
        pages: PageRun,
        /// The domain that may use the pages.
        peer: DomId,
    },
    /// End every grant of the rule.
    End {
        /// The index of the rule.
        rule: u8,
    },
}

/// The replies of the grant manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The pages are granted. The `n`-th of them has reference `reference + n`, counted from 0.
    Issued {
        /// The index of the rule.
        rule: u8,
        /// The reference of the first page.
        reference: GrantRef,
        /// The number of pages.
        count: u16,
    },
    /// The policy does not allow the request, or the kernel refused it. Nothing is granted.
    Refused {
        /// The index of the rule.
        rule: u8,
    },
    /// The grants of the rule were ended, except those of the pages that the peer still maps.
    /// The manager tries to end those again by itself, and replies once more when none is left.
    Ended {
        /// The index of the rule.
        rule: u8,
        /// The number of pages that the peer still maps.
        still_mapped: u16,
    },
}

impl Message for Request {
    const SIZE: usize = 16;
    fn encode(&self, writer: &mut Writer<'_>) {
        match *self {
            Request::Issue { rule, pages, peer } => {
                writer.u8(1);
                writer.u8(rule);
                pages.encode(writer);
                writer.u16(peer.0);
            }
            Request::End { rule } => {
                writer.u8(2);
                writer.u8(rule);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match reader.u8()? {
            1 => Ok(Request::Issue { rule: reader.u8()?, pages: PageRun::decode(reader)?, peer: DomId(reader.u16()?) }),
            2 => Ok(Request::End { rule: reader.u8()? }),
            _ => Err(reader.reject(0, Defect::Tag)),
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
            Reply::Ended { rule, still_mapped } => {
                writer.u8(3);
                writer.u8(rule);
                writer.u16(still_mapped);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match reader.u8()? {
            1 => {
                let (rule, count) = (reader.u8()?, reader.u16()?);
                Ok(Reply::Issued { rule, count, reference: GrantRef(reader.u32()?) })
            }
            2 => Ok(Reply::Refused { rule: reader.u8()? }),
            3 => Ok(Reply::Ended { rule: reader.u8()?, still_mapped: reader.u16()? }),
            _ => Err(reader.reject(0, Defect::Tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        let pages = |first, count| PageRun::new(first, count).expect("a run");
        check_round_trip(&[
            Request::Issue { rule: 1, pages: pages(2, 3), peer: DomId(4) },
            Request::Issue { rule: u8::MAX, pages: pages(u16::MAX, 1), peer: DomId(u16::MAX) },
            Request::Issue { rule: 0, pages: pages(1, u16::MAX), peer: DomId(0) },
            Request::End { rule: 7 },
        ]);
        check_round_trip(&[
            Reply::Issued { rule: 1, reference: GrantRef(u32::MAX), count: 3 },
            Reply::Refused { rule: 2 },
            Reply::Ended { rule: 3, still_mapped: 4 },
        ]);
        check_malformed::<Request>(&[
            (&[], 0, Defect::Tag),
            (&[9], 0, Defect::Tag),
            (&[2, 7, 1], 2, Defect::Padding),
            (&[1, 0, 3, 0, 0, 0, 4], 2, Defect::Range),
            (&[1, 0, 0xff, 0xff, 2, 0, 4], 2, Defect::Range),
            (&[1, 0, 2, 0, 0xff, 0xff, 4], 2, Defect::Range),
        ]);
        check_malformed::<Reply>(&[(&[], 0, Defect::Tag), (&[9], 0, Defect::Tag), (&[2, 7, 1], 2, Defect::Padding)]);
    }
}
