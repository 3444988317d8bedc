//! Rules that a service enforces itself, as the policy compiler puts them into its read-only rules region.
//!
//! A blob is a `u16` count, then that many messages of a fixed size.

use arrayvec::ArrayString;

use crate::message::{Malformed, Message, Reader, Writer};

/// The most path rules that the XenStore service has room for, those of all clients together.
pub const MAX_PATH_RULES: usize = 32;

/// What a client of the XenStore service may do below a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathRule {
    /// The client: the index of the XenStore service's queue, in the order of its capabilities structure.
    pub client: u8,
    /// Read and list.
    pub read: bool,
    /// Write and remove.
    pub write: bool,
    /// Watch.
    pub watch: bool,
    /// The path, and with it everything below. A component `*` stands for one decimal number; the text `{self}`
    /// for the domain's own id.
    pub path: ArrayString<96>,
}

impl Message for PathRule {
    const SIZE: usize = 104;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.client);
        writer.u8(u8::from(self.read) | u8::from(self.write) << 1 | u8::from(self.watch) << 2);
        writer.counted(self.path.as_bytes());
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (client, rights) = (reader.u8()?, reader.u8()?);
        if rights > 7 {
            return Err(Malformed);
        }
        Ok(PathRule {
            client,
            read: rights & 1 != 0,
            write: rights & 2 != 0,
            watch: rights & 4 != 0,
            path: reader.text()?,
        })
    }
}

/// A grant rule that the grant manager applies on behalf of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantRuleFor {
    /// The client: the index of the grant manager's queue.
    pub client: u8,
    /// The index of the rule's capability among the grant manager's grant capabilities.
    pub rule: u8,
    /// The pages that may be granted, from the region's first.
    pub count: u16,
    /// The lowest domain id allowed as peer.
    pub peer_first: u16,
    /// The highest domain id allowed as peer.
    pub peer_last: u16,
}

impl Message for GrantRuleFor {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.client);
        writer.u8(self.rule);
        writer.u16(self.count);
        writer.u16(self.peer_first);
        writer.u16(self.peer_last);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(GrantRuleFor {
            client: reader.u8()?,
            rule: reader.u8()?,
            count: reader.u16()?,
            peer_first: reader.u16()?,
            peer_last: reader.u16()?,
        })
    }
}

/// The rules of a blob, in order; those that do not decode are left out, which gives no right.
pub fn rules<R: Message>(blob: &[u8]) -> impl Iterator<Item = R> + '_ {
    let count = blob.get(..2).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    blob.get(2..).unwrap_or_default().chunks_exact(R::SIZE).take(count).filter_map(|bytes| R::from_bytes(bytes).ok())
}

/// A grant rule as its client knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The number of the rule in a [`grants::Request`](crate::grants::Request).
    pub rule: u8,
    /// Pages that the rule covers.
    pub pages: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{malformed, round_trips};

    fn path_rule(path: &str) -> PathRule {
        PathRule { client: 1, read: true, write: false, watch: true, path: ArrayString::from(path).unwrap() }
    }

    #[test]
    fn rules_are_read_back() {
        let all = PathRule { client: 255, read: true, write: true, watch: true, path: ArrayString::new() };
        round_trips(&[path_rule("device/vif/0"), path_rule(&"x".repeat(96)), all]);
        round_trips(&[GrantRuleFor { client: 1, rule: 2, count: 3, peer_first: 4, peer_last: u16::MAX }]);
        malformed::<PathRule>(&[&[0, 8], &[0, 0, 97], &[0, 0, 1, 0, 0xff]]);
    }

    #[test]
    fn a_blob_gives_the_rules_that_decode_and_no_more_than_it_counts() {
        let mut blob = vec![2, 0];
        for rule in [path_rule("a"), path_rule("b"), path_rule("c")] {
            let mut bytes = [0; PathRule::SIZE];
            rule.to_bytes(&mut bytes);
            blob.extend(bytes);
        }
        let names = |blob: &[u8]| rules::<PathRule>(blob).map(|rule| rule.path.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&blob), ["a", "b"]);
        assert_eq!(names(&blob[..2 + PathRule::SIZE * 2 - 1]), ["a"]);
        blob[3] = 0xff;
        assert_eq!(names(&blob), ["b"]);
        assert_eq!((names(&[]).len(), names(&[9]).len(), names(&[9, 0]).len()), (0, 0, 0));
    }
}
