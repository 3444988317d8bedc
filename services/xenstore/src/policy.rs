//! Decides which client may access which path in which way.
//!
//! A relative path is one below `/local/domain/<own domid>`. So both forms are compared as absolute
//! ones. Otherwise a client could reach by one form what its rules forbid by the other.

use core::fmt;

use arrayvec::ArrayVec;
use cloister_interfaces::rules::{ClientIndex, MAX_PATH_RULES, PathRule, decode_rules};

/// The access of a request to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Read the value, or the names of the nodes below.
    Read,
    /// Write or remove the node.
    Write,
    /// Watch the node.
    Watch,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Watch => "watch",
        })
    }
}

/// The domid of this domain, in decimal. It is empty while it is not known, and then equals no
/// component of a path.
pub type OwnDomid<'a> = &'a str;

/// Returns `true` if `path` may be sent to the daemon at all. All its characters are legal (dots
/// are not), no component is empty (so there is no trailing slash), and it is none of the special
/// names that begin with `@`.
#[must_use]
pub fn is_well_formed(path: &str) -> bool {
    let below = path.strip_prefix('/').unwrap_or(path);
    let mut before = b'/';
    // Each byte is checked once, together with the one before it.
    let legal = |byte: u8| match (core::mem::replace(&mut before, byte), byte) {
        (before, b'/') => before != b'/',
        (_, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@') => true,
        _ => false,
    };
    !path.starts_with('@') && below.bytes().all(legal) && before != b'/'
}

/// Returns the components of a path without a leading slash. Splits by bytes, which is correct in
/// UTF-8: decoding characters would be most of the cost of a request.
fn split(path: &str) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/')
}

/// Returns the components of the absolute form of a path.
fn components<'a>(path: &'a str, own: OwnDomid<'a>) -> impl Iterator<Item = &'a [u8]> {
    let (directory, below) = match path.strip_prefix('/') {
        Some(below) => ([None; 3], below),
        None => ([Some("local"), Some("domain"), Some(own)], path),
    };
    // The rule "/" has no component.
    directory.into_iter().flatten().map(str::as_bytes).chain(split(below).filter(move |_| !below.is_empty()))
}

/// Returns `true` if a component of a rule matches a component of a path: `*` any decimal number,
/// `{self}` the own domid, anything else itself.
fn component_matches(rule: &[u8], component: &[u8], own: OwnDomid<'_>) -> bool {
    match rule {
        b"*" => is_decimal(component),
        b"{self}" => !own.is_empty() && component == own.as_bytes(),
        _ => component == rule,
    }
}

/// Returns `true` if the text is a decimal number without leading zeros. Two spellings of one
/// number would be two nodes.
fn is_decimal(text: &[u8]) -> bool {
    let leading_zero = text.len() > 1 && text.starts_with(b"0");
    !text.is_empty() && text.len() <= 10 && !leading_zero && text.iter().all(u8::is_ascii_digit)
}

/// Returns `true` if `path` is the path of the rule, or below it.
fn covers(rule: &str, path: &str, own: OwnDomid<'_>) -> bool {
    let mut below = components(path, own);
    components(rule, own).all(|rule| below.next().is_some_and(|component| component_matches(rule, component, own)))
}

/// Returns `true` if two paths without patterns name the same node.
#[must_use]
pub fn is_same(one: &str, other: &str, own: OwnDomid<'_>) -> bool {
    let same_form = one.starts_with('/') == other.starts_with('/');
    one == other || !same_form && components(one, own).eq(components(other, own))
}

/// Does the same as [`covers`], by comparing bytes, for a rule without patterns and a path of the
/// same form, relative or absolute. For nearly every rule that does not cover the path the length
/// decides.
fn covers_literally(rule: &str, path: &str) -> bool {
    matches!(path.as_bytes().get(rule.len()), None | Some(b'/')) && path.starts_with(rule)
}

/// A rule. It is `literal` if its path has no patterns.
struct Entry {
    rule: PathRule<'static>,
    literal: bool,
}

impl Entry {
    fn new(rule: PathRule<'static>) -> Self {
        let is_pattern = |component: &[u8]| component.is_empty() || matches!(component, b"*" | b"{self}");
        let below = rule.path.strip_prefix('/').unwrap_or(rule.path);
        Entry { rule, literal: !split(below).any(is_pattern) }
    }

    fn covers(&self, path: &str, own: OwnDomid<'_>) -> bool {
        let rule = self.rule.path;
        if self.literal && rule.starts_with('/') == path.starts_with('/') {
            covers_literally(rule, path)
        } else {
            covers(rule, path, own)
        }
    }
}

/// The path rules of all clients.
pub struct Rules(ArrayVec<Entry, MAX_PATH_RULES>);

impl Rules {
    /// Decodes the rules of a blob, as far as there is room. A rule that is left out gives no
    /// right.
    #[must_use]
    pub fn parse(blob: &'static [u8]) -> Self {
        Rules(decode_rules(blob).take(MAX_PATH_RULES).map(Entry::new).collect())
    }

    /// Returns `true` if a rule gives `client` the right to `path`.
    #[must_use]
    pub fn allows(&self, client: ClientIndex, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
        is_well_formed(path)
            && self.0.iter().any(|entry| {
                let rule = &entry.rule;
                let has = match right {
                    Right::Read => rule.read,
                    Right::Write => rule.write,
                    Right::Watch => rule.watch,
                };
                rule.client == client && has && entry.covers(path, own)
            })
    }

    /// Returns the index of the first rule, of any client and for any right, that covers `path`.
    #[must_use]
    pub fn covering(&self, path: &str, own: OwnDomid<'_>) -> Option<usize> {
        is_well_formed(path).then(|| self.0.iter().position(|entry| entry.covers(path, own))).flatten()
    }

    /// Returns the path of the rule with this index.
    #[must_use]
    pub fn path(&self, index: usize) -> Option<&'static str> {
        self.0.get(index).map(|entry| entry.rule.path)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cloister_interfaces::rules;
    use proptest::prelude::*;

    /// Encodes rules, each `(client, rights, path)` with rights among the letters `rwn` (n: notify,
    /// a watch).
    pub(crate) fn blob(entries: &[(u8, &str, &str)]) -> &'static [u8] {
        let rule = |&(client, rights, path)| PathRule {
            client: ClientIndex(client),
            read: str::contains(rights, 'r'),
            write: rights.contains('w'),
            watch: rights.contains('n'),
            path,
        };
        rules::encode_rules(&entries.iter().map(rule).collect::<Vec<_>>()).expect("short paths").leak()
    }

    fn allowed(blob: &'static [u8], client: u8, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
        Rules::parse(blob).allows(ClientIndex(client), right, path, own)
    }

    #[test]
    fn as_many_rules_as_there_is_room_for() {
        let paths: Vec<String> = (0..=MAX_PATH_RULES).map(|number| format!("a{number}")).collect();
        let rules = blob(&paths.iter().map(|path| (0, "r", path.as_str())).collect::<Vec<_>>());
        for (number, path) in paths.iter().enumerate() {
            assert_eq!(allowed(rules, 0, Right::Read, path, "7"), number < MAX_PATH_RULES, "{path}");
        }
    }

    #[test]
    fn a_star_is_one_decimal_number_of_up_to_ten_digits() {
        for number in ["0", "7", "10", "4294967295", "9999999999"] {
            assert!(is_decimal(number.as_bytes()), "{number}");
        }
        for other in ["", "00", "07", "-1", "1a", "a", "12345678901"] {
            assert!(!is_decimal(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn malformed_paths() {
        for good in ["device/vif/0", "/local/domain/0", "a", "/a", "a-b_c@d"] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a/",
            "a//b",
            "//a",
            "..",
            "a/../b",
            ".",
            "a b",
            "a\0",
            "a\nb",
            "@releaseDomain",
            "ä",
            "a*",
        ] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_rule_covers_its_path_and_what_is_below() {
        let rules = blob(&[(1, "r", "device/vif/0")]);
        assert!(allowed(rules, 1, Right::Read, "device/vif/0", "7"));
        assert!(allowed(rules, 1, Right::Read, "device/vif/0/mac", "7"));
        for path in ["device/vif", "device/vif/00", "device/vif/01", "device/vif/1", "evil/device/vif/0"] {
            assert!(!allowed(rules, 1, Right::Read, path, "7"), "{path}");
        }
        assert!(!allowed(rules, 0, Right::Read, "device/vif/0", "7"));
        assert!(!allowed(rules, 1, Right::Write, "device/vif/0", "7"));
        assert!(!allowed(rules, 1, Right::Watch, "device/vif/0", "7"));
    }

    #[test]
    fn relative_and_absolute_forms_of_the_own_directory_are_one() {
        let relative = blob(&[(0, "r", "device/vif/0")]);
        let absolute = blob(&[(0, "r", "/local/domain/{self}/device/vif/0")]);
        for rules in [relative, absolute] {
            assert!(allowed(rules, 0, Right::Read, "device/vif/0/mac", "7"));
            assert!(allowed(rules, 0, Right::Read, "/local/domain/7/device/vif/0/mac", "7"));
            assert!(!allowed(rules, 0, Right::Read, "/local/domain/8/device/vif/0/mac", "7"));
            assert!(!allowed(rules, 0, Right::Read, "local/domain/7/device/vif/0/mac", "7"));
        }
    }

    #[test]
    fn a_node_is_the_same_in_both_forms() {
        let node = "device/vif/0/backend-id";
        assert!(is_same(node, node, "7") && is_same(node, node, ""));
        assert!(is_same(node, "/local/domain/7/device/vif/0/backend-id", "7"));
        for other in ["device/vif/0", "device/vif/0/backend-id/x", "/device/vif/0/backend-id", "backend-id"] {
            assert!(!is_same(node, other, "7"), "{other}");
        }
        assert!(!is_same(node, "/local/domain/8/device/vif/0/backend-id", "7"));
        assert!(!is_same(node, "/local/domain/7/device/vif/0/backend-id", ""));
    }

    #[test]
    fn a_star_is_one_decimal_number() {
        let rules = blob(&[(0, "r", "/local/domain/*/backend/vif/{self}/0")]);
        assert!(allowed(rules, 0, Right::Read, "/local/domain/0/backend/vif/7/0/state", "7"));
        assert!(allowed(rules, 0, Right::Read, "/local/domain/31/backend/vif/7/0", "7"));
        for path in [
            "/local/domain/x/backend/vif/7/0",
            "/local/domain/00/backend/vif/7/0",
            "/local/domain/0/backend/vif/8/0",
            "/local/domain/backend/vif/7/0",
            "/local/domain/0/0/backend/vif/7/0",
        ] {
            assert!(!allowed(rules, 0, Right::Read, path, "7"), "{path}");
        }
    }

    #[test]
    fn an_unknown_own_id_gives_no_absolute_path() {
        let rules = blob(&[(0, "r", "/local/domain/{self}/a"), (0, "r", "b")]);
        assert!(!allowed(rules, 0, Right::Read, "/local/domain/7/a", ""));
        assert!(!allowed(rules, 0, Right::Read, "/local/domain/7/b", ""));
        assert!(allowed(rules, 0, Right::Read, "b", ""));
    }

    proptest! {
        #[test]
        fn nothing_outside_the_rule_is_ever_allowed(path in "[a-z0-9/*.@{}]{0,24}") {
            let rules = blob(&[(0, "rwn", "a/b")]);
            let below = path.strip_prefix("/local/domain/7/").unwrap_or(&path);
            let expected = is_well_formed(&path) && (below == "a/b" || below.starts_with("a/b/"));
            prop_assert_eq!(allowed(rules, 0, Right::Read, &path, "7"), expected);
        }

        /// The comparison of bytes agrees with that of components, for rules as people write them
        /// and for any others.
        #[test]
        fn a_comparison_of_bytes_covers_what_the_components_cover(
            rule in "/?(a|b|ab|\\*|\\{self\\}|7)(/(a|b|ab|\\*|\\{self\\}|7)){0,3}/?|[a/*]{0,6}",
            path in "/?(a|b|ab|7)(/(a|b|ab|7)){0,4}",
            below in "(/(a|b|7)|a)?",
        ) {
            // The rule's own path, too, and paths that begin with it.
            let rule: &'static str = rule.leak();
            let entry = Entry::new(PathRule { client: ClientIndex(0), read: true, write: true, watch: true, path: rule });
            for path in [path, rule.to_owned(), format!("{rule}{below}")].into_iter().filter(|path| is_well_formed(path)) {
                for own in ["7", ""] {
                    prop_assert_eq!(entry.covers(&path, own), covers(rule, &path, own), "{} {}", rule, path);
                }
            }
        }

        #[test]
        fn any_blob_and_path_are_checked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), path: String) {
            let _ = allowed(bytes.leak(), 0, Right::Read, &path, "7");
        }
    }
}
