//! The rules that a service enforces itself, in the format in which the policy compiler puts them
//! into the service's read-only rules region.
//!
//! The format is a `u16` count, followed by that many rules of a fixed size. The XenStore service
//! receives two such lists, one after the other: the path rules and the pin rules.

use alloc::vec::Vec;
use core::fmt;

use cloister_caps::DomId;

use crate::message::{Defect, Malformed, Message, Reader, Writer};

/// The largest number of path rules in the XenStore service, over all clients.
pub const MAX_PATH_RULES: usize = 32;

/// A client of a service: the index of its queue among those of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientIndex(pub u8);

impl ClientIndex {
    /// Returns an iterator over the first `count` clients.
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(count).map(ClientIndex)
    }

    /// Returns the index into a list of clients.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ClientIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// A grant rule of the grant manager: the index of its capability among those for grants. The
/// number by which a client names the rule is another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleIndex(pub u8);

impl RuleIndex {
    /// Returns the index into a list of rules.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A kind of rule.
pub trait Rule<'a>: Sized {
    /// The size of an encoded rule in bytes.
    const SIZE: usize;

    /// Encodes the rule into `out`, which has [`Self::SIZE`] bytes, all of them zero. Returns
    /// `None` if the rule does not fit.
    fn write(&self, out: &mut [u8]) -> Option<()>;

    /// Decodes a rule from [`Self::SIZE`] bytes.
    ///
    /// # Errors
    /// The bytes are not a rule of this kind.
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed>;
}

/// The rights of a client of the XenStore service to a node, or to every node below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathRule<'a> {
    /// The client of the XenStore service.
    pub client: ClientIndex,
    /// The client may read nodes and list their children.
    pub read: bool,
    /// The client may write nodes. To remove one takes this right to it and to all below it.
    pub write: bool,
    /// The client may watch nodes.
    pub watch: bool,
    /// The rights are to every node below the path, and not to the node at the path.
    pub below: bool,
    /// The path, of at most [`MAX_PATH`](Self::MAX_PATH) bytes. A component `*` stands for any one
    /// decimal number, and the text `{self}` for the domain's own id.
    pub path: &'a str,
}

impl PathRule<'_> {
    /// The length of the longest path in bytes.
    pub const MAX_PATH: usize = 96;
    /// The end of a path in a policy that gives the rights to every node below.
    pub const ALL_BELOW: &'static str = "/**";
}

/// The size of an encoded rule with a path.
const PATH_RULE_SIZE: usize = 8 + PathRule::MAX_PATH;

/// Writes `head`, the path, and leaves the zeros up to the end.
fn write_path_rule(head: &[u8], path: &str, out: &mut [u8]) -> Option<()> {
    if path.len() > PathRule::MAX_PATH {
        return None;
    }
    out.get_mut(..head.len())?.copy_from_slice(head);
    out.get_mut(head.len()..head.len() + path.len())?.copy_from_slice(path.as_bytes());
    Some(())
}

/// Reads the path of a rule: `length` bytes after the first `head`, and zeros up to the end.
fn read_path(bytes: &[u8], head: usize, length: u16) -> Result<&str, Malformed> {
    let length = usize::from(length);
    let text = bytes.get(head..).unwrap_or_default();
    let (path, rest) = text.split_at_checked(length).ok_or(Malformed::at(2, Defect::Length))?;
    if bytes.len() != PATH_RULE_SIZE || length > PathRule::MAX_PATH {
        return Err(Malformed::at(2, Defect::Length));
    }
    // Words first: each rule is read at boot, and most of its bytes are these zeros.
    let (words, end) = rest.as_chunks::<8>();
    if words.iter().any(|word| u64::from_ne_bytes(*word) != 0) || end.iter().any(|byte| *byte != 0) {
        let at = rest.iter().position(|byte| *byte != 0).unwrap_or(0);
        return Err(Malformed::at(head + length + at, Defect::Padding));
    }
    core::str::from_utf8(path).map_err(|_| Malformed::at(head, Defect::Text))
}

/// Encoded as the client, the flags, the length of the path in two bytes, the path, and zeros up
/// to the end.
impl<'a> Rule<'a> for PathRule<'a> {
    const SIZE: usize = PATH_RULE_SIZE;

    fn write(&self, out: &mut [u8]) -> Option<()> {
        let rights = u8::from(self.read) | u8::from(self.write) << 1 | u8::from(self.watch) << 2;
        let flags = rights | u8::from(self.below) << 3;
        let [low, high] = u16::try_from(self.path.len()).ok()?.to_le_bytes();
        write_path_rule(&[self.client.0, flags, low, high], self.path, out)
    }

    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let Some(&[client, flags, low, high]) = bytes.first_chunk() else {
            return Err(Malformed::at(bytes.len(), Defect::Truncated));
        };
        let path = read_path(bytes, 4, u16::from_le_bytes([low, high]))?;
        if flags > 15 {
            return Err(Malformed::at(1, Defect::Flags));
        }
        Ok(PathRule {
            client: ClientIndex(client),
            read: flags & 1 != 0,
            write: flags & 2 != 0,
            watch: flags & 4 != 0,
            below: flags & 8 != 0,
            path,
        })
    }
}

/// The node that says which domain of a set is the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinRule<'a> {
    /// The index of the set's capability among the service's pins.
    pub pin: u8,
    /// The lowest domain id of the set.
    pub first: u16,
    /// The highest domain id of the set.
    pub last: u16,
    /// The node, whose value is a domain id: a path without patterns, relative to the domain's own
    /// directory, of at most [`PathRule::MAX_PATH`] bytes.
    pub node: &'a str,
}

/// Encoded as the index, 0, the length of the path and the two ids in two bytes each, the path, and
/// zeros up to the end.
impl<'a> Rule<'a> for PinRule<'a> {
    const SIZE: usize = PATH_RULE_SIZE;

    fn write(&self, out: &mut [u8]) -> Option<()> {
        let [a, b] = u16::try_from(self.node.len()).ok()?.to_le_bytes();
        let ([c, d], [e, f]) = (self.first.to_le_bytes(), self.last.to_le_bytes());
        write_path_rule(&[self.pin, 0, a, b, c, d, e, f], self.node, out)
    }

    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let Some(&[pin, zero, a, b, c, d, e, f]) = bytes.first_chunk() else {
            return Err(Malformed::at(bytes.len(), Defect::Truncated));
        };
        if zero != 0 {
            return Err(Malformed::at(1, Defect::Padding));
        }
        let node = read_path(bytes, 8, u16::from_le_bytes([a, b]))?;
        Ok(PinRule { pin, first: u16::from_le_bytes([c, d]), last: u16::from_le_bytes([e, f]), node })
    }
}

/// A grant rule as the grant manager applies it for one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientGrantRule {
    /// The client of the grant manager.
    pub client: ClientIndex,
    /// The rule.
    pub rule: RuleIndex,
    /// The number of pages that may be granted, from the region's first.
    pub count: u16,
    /// The lowest domain id allowed as peer.
    pub peer_first: u16,
    /// The highest domain id allowed as peer.
    pub peer_last: u16,
}

impl Message for ClientGrantRule {
    const SIZE: usize = 8;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.client.0);
        writer.u8(self.rule.0);
        writer.u16(self.count);
        writer.u16(self.peer_first);
        writer.u16(self.peer_last);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        Ok(ClientGrantRule {
            client: ClientIndex(reader.u8()?),
            rule: RuleIndex(reader.u8()?),
            count: reader.u16()?,
            peer_first: reader.u16()?,
            peer_last: reader.u16()?,
        })
    }
}

impl Rule<'_> for ClientGrantRule {
    const SIZE: usize = <Self as Message>::SIZE;

    fn write(&self, out: &mut [u8]) -> Option<()> {
        self.to_bytes(out);
        Some(())
    }

    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_bytes(bytes)
    }
}

/// Encodes rules. Returns `None` if there are too many, or if one is too large.
#[must_use]
pub fn encode_rules<'a, R: Rule<'a>>(rules: &[R]) -> Option<Vec<u8>> {
    let mut bytes = u16::try_from(rules.len()).ok()?.to_le_bytes().to_vec();
    for rule in rules {
        let start = bytes.len();
        bytes.resize(start + R::SIZE, 0);
        rule.write(bytes.get_mut(start..)?)?;
    }
    Some(bytes)
}

/// Returns an iterator over the encoded rules, in order. Malformed ones are skipped: they give no
/// right.
pub fn decode_rules<'a, R: Rule<'a>>(blob: &'a [u8]) -> impl Iterator<Item = R> + 'a {
    let rules = blob.get(2..).unwrap_or_default().chunks_exact(R::SIZE);
    rules.take(rule_count(blob)).filter_map(|bytes| R::read(bytes).ok())
}

/// Returns what follows the list of rules of kind `R` at the start of `blob`.
#[must_use]
pub fn after_rules<'a, R: Rule<'a>>(blob: &'a [u8]) -> &'a [u8] {
    blob.get(2 + rule_count(blob) * R::SIZE..).unwrap_or_default()
}

/// Returns the number of rules in the list at the start of `blob`.
fn rule_count(blob: &[u8]) -> usize {
    blob.first_chunk().map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
}

/// A grant rule as its client sees it.
///
/// It is plain data, which the bindings fill in. The grant manager and the kernel check each
/// request against rules of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrantPermission {
    /// The number of the rule in a [`grants::Request`](crate::grants::Request).
    pub rule: u8,
    /// The number of pages that the rule covers.
    pub pages: u16,
    /// The lowest domain id allowed as peer.
    pub peer_first: u16,
    /// The highest domain id allowed as peer.
    pub peer_last: u16,
}

impl GrantPermission {
    /// Returns `true` if the rule allows this peer, so that the client need not request what would
    /// be refused.
    #[must_use]
    pub fn allows(&self, peer: DomId) -> bool {
        (self.peer_first..=self.peer_last).contains(&peer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::check_round_trip;

    fn path_rule(path: &str) -> PathRule<'_> {
        PathRule { client: ClientIndex(1), read: true, write: false, watch: true, below: false, path }
    }

    #[test]
    fn rules_round_trip() {
        let long = "x".repeat(PathRule::MAX_PATH);
        let all = PathRule { client: ClientIndex(255), read: true, write: true, watch: true, below: true, path: "" };
        let none = PathRule { client: ClientIndex(0), read: false, write: false, watch: false, below: false, path: "" };
        let paths = [path_rule("device/vif/0"), path_rule(&long), all, none];
        assert_eq!(decode_rules::<PathRule<'_>>(&encode_rules(&paths).unwrap()).collect::<Vec<_>>(), paths);
        assert_eq!(encode_rules(&[path_rule(&"x".repeat(PathRule::MAX_PATH + 1))]), None);
        let grants = [ClientGrantRule {
            client: ClientIndex(1),
            rule: RuleIndex(2),
            count: 3,
            peer_first: 4,
            peer_last: u16::MAX,
        }];
        check_round_trip(&grants);
        assert_eq!(decode_rules::<ClientGrantRule>(&encode_rules(&grants).unwrap()).collect::<Vec<_>>(), grants);
        // The sizes that images have.
        assert_eq!((encode_rules(&paths).unwrap().len(), encode_rules(&grants).unwrap().len()), (2 + 4 * 104, 2 + 8));
    }

    #[test]
    fn one_list_of_rules_follows_another() {
        let paths = [path_rule("a"), path_rule("b/c")];
        let long = "x".repeat(PathRule::MAX_PATH);
        let pins = [
            PinRule { pin: 3, first: 0, last: 32_751, node: "d/e" },
            PinRule { pin: 0, first: 9, last: 9, node: &long },
        ];
        let blob = [encode_rules(&paths).unwrap(), encode_rules(&pins).unwrap()].concat();
        assert_eq!(decode_rules::<PathRule<'_>>(&blob).collect::<Vec<_>>(), paths);
        let rest = after_rules::<PathRule<'_>>(&blob);
        assert_eq!(decode_rules::<PinRule<'_>>(rest).collect::<Vec<_>>(), pins);
        assert!(after_rules::<PinRule<'_>>(rest).is_empty());
        for short in [&[][..], &[1], &[1, 0], &[0xFF, 0xFF, 1]] {
            assert!(after_rules::<PathRule<'_>>(short).is_empty(), "{short:?}");
        }
        let mut bytes = [0; <PinRule<'_> as Rule<'_>>::SIZE];
        pins[0].write(&mut bytes).unwrap();
        assert_eq!(PinRule::read(&bytes), Ok(pins[0]));
        bytes[1] = 1;
        assert!(PinRule::read(&bytes).is_err(), "a byte that has no meaning");
    }

    #[test]
    fn a_permission_knows_its_peers() {
        let allowed = |peer_first, peer_last| {
            let granted = GrantPermission { rule: 0, pages: 1, peer_first, peer_last };
            (0..8).filter(|id| granted.allows(DomId(*id))).collect::<Vec<_>>()
        };
        assert_eq!((allowed(0, 0), allowed(2, 4), allowed(4, 2)), (vec![0], vec![2, 3, 4], vec![]));
    }

    #[test]
    fn malformed_path_rules_are_refused() {
        let mut bytes = [0; <PathRule<'_> as Rule<'_>>::SIZE];
        path_rule("a/b").write(&mut bytes).unwrap();
        assert_eq!(PathRule::read(&bytes), Ok(path_rule("a/b")));
        let with = |at: usize, byte: u8| {
            let mut other = bytes;
            other[at] = byte;
            PathRule::read(&other).is_ok()
        };
        assert!(with(0, 255) && with(1, 15) && with(4, b'z'));
        assert!(!with(1, 16), "a right that does not exist");
        assert!(!with(2, 2), "a byte after the path that is not zero");
        assert!(!with(2, 97) && !with(2, 255) && !with(3, 1), "a path that is too long");
        assert!(!with(4, 0xff), "a path that is not UTF-8");
        assert!(!with(7, 1) && !with(bytes.len() - 1, 1), "a byte after the path that is not zero");
        assert!((0..bytes.len()).all(|length| PathRule::read(&bytes[..length]).is_err()), "cut short");
        assert!(PathRule::read(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn decoding_skips_malformed_rules_and_stops_at_the_count() {
        let mut bytes = encode_rules(&["a", "b", "c"].map(path_rule)).unwrap();
        bytes[0] = 2;
        let names =
            |blob: &[u8]| decode_rules::<PathRule<'_>>(blob).map(|rule| rule.path.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&bytes), ["a", "b"]);
        assert_eq!(names(&bytes[..2 + <PathRule<'_> as Rule<'_>>::SIZE * 2 - 1]), ["a"]);
        bytes[3] = 0xff;
        assert_eq!(names(&bytes), ["b"]);
        assert_eq!((names(&[]).len(), names(&[9]).len(), names(&[9, 0]).len()), (0, 0, 0));
    }
}
