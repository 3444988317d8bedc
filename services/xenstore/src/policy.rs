//! Which client may do what to which path.
//!
//! A relative path means one below `/local/domain/<own id>`, so both forms are brought to the absolute one before
//! they are compared; otherwise a client could reach by one what its rules forbid by the other.

use core::fmt;

use arrayvec::ArrayVec;
use cloister_interfaces::rules::{MAX_PATH_RULES, PathRule, decode_rules};

/// What a request does to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Read a value or the names below.
    Read,
    /// Write or remove.
    Write,
    /// Watch.
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

/// The own id, in decimal; empty while it is not known, and then equal to no component of a path.
pub type OwnDomid<'a> = &'a str;

/// Whether `path` is one that may be sent to the daemon at all: legal characters, no empty component (and so no
/// trailing slash), none of dots only (dots are not legal), none of the special names that begin with `@`.
#[must_use]
pub fn is_well_formed(path: &str) -> bool {
    let below = path.strip_prefix('/').unwrap_or(path);
    let mut before = b'/';
    // Each byte is looked at once, and with the one before it.
    let legal = |byte: u8| match (core::mem::replace(&mut before, byte), byte) {
        (before, b'/') => before != b'/',
        (_, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@') => true,
        _ => false,
    };
    !path.starts_with('@') && below.bytes().all(legal) && before != b'/'
}

/// The components of a path without a leading slash. By bytes, of which none but a slash is one: as characters they would be
/// most of what a request costs.
fn split(path: &str) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/')
}

fn components<'a>(path: &'a str, own: OwnDomid<'a>) -> impl Iterator<Item = &'a [u8]> {
    let (directory, below) = match path.strip_prefix('/') {
        Some(below) => ([None; 3], below),
        None => ([Some("local"), Some("domain"), Some(own)], path),
    };
    // The rule "/" has no component.
    directory.into_iter().flatten().map(str::as_bytes).chain(split(below).filter(move |_| !below.is_empty()))
}

fn component_matches(rule: &[u8], component: &[u8], own: OwnDomid<'_>) -> bool {
    match rule {
        b"*" => is_decimal(component),
        b"{self}" => !own.is_empty() && component == own.as_bytes(),
        _ => component == rule,
    }
}

/// A decimal number in its one form: two spellings of one number would be two nodes.
fn is_decimal(text: &[u8]) -> bool {
    let leading_zero = text.len() > 1 && text.starts_with(b"0");
    !text.is_empty() && text.len() <= 10 && !leading_zero && text.iter().all(u8::is_ascii_digit)
}

fn covers(rule: &str, path: &str, own: OwnDomid<'_>) -> bool {
    let mut below = components(path, own);
    components(rule, own).all(|rule| below.next().is_some_and(|component| component_matches(rule, component, own)))
}

/// [`covers`] for a rule in which no component stands for another, and a path of the same form, relative or absolute: a
/// comparison of bytes. Nearly every rule that does not cover the path is refused by its length alone.
fn covers_literally(rule: &str, path: &str) -> bool {
    matches!(path.as_bytes().get(rule.len()), None | Some(b'/')) && path.starts_with(rule)
}

/// A rule, and whether its path stands for itself alone.
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

/// The rules of all clients.
pub struct Rules(ArrayVec<Entry, MAX_PATH_RULES>);

impl Rules {
    /// Those of a blob that decode, as far as there is room: what is left out gives no right.
    #[must_use]
    pub fn parse(blob: &'static [u8]) -> Self {
        Rules(decode_rules(blob).take(MAX_PATH_RULES).map(Entry::new).collect())
    }

    /// Whether a rule gives `client` the right to `path`.
    #[must_use]
    pub fn allows(&self, client: u8, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
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
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cloister_interfaces::rules;
    use proptest::prelude::*;

    /// A blob of rules, each `(client, rights, path)` with rights among the letters `rwn` (n: notify, a watch).
    pub(crate) fn blob(entries: &[(u8, &str, &str)]) -> &'static [u8] {
        let rule = |&(client, rights, path)| PathRule {
            client,
            read: str::contains(rights, 'r'),
            write: rights.contains('w'),
            watch: rights.contains('n'),
            path,
        };
        rules::encode_rules(&entries.iter().map(rule).collect::<Vec<_>>()).expect("short paths").leak()
    }

    fn allowed(blob: &'static [u8], client: u8, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
        Rules::parse(blob).allows(client, right, path, own)
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

        /// The short way says what the long one does, of rules that are written by hand and of any other.
        #[test]
        fn a_comparison_of_bytes_covers_what_the_components_cover(
            rule in "/?(a|b|ab|\\*|\\{self\\}|7)(/(a|b|ab|\\*|\\{self\\}|7)){0,3}/?|[a/*]{0,6}",
            path in "/?(a|b|ab|7)(/(a|b|ab|7)){0,4}",
            below in "(/(a|b|7)|a)?",
        ) {
            // What the rule says itself, too, and what begins alike.
            let rule: &'static str = rule.leak();
            let entry = Entry::new(PathRule { client: 0, read: true, write: true, watch: true, path: rule });
            for path in [path, rule.to_owned(), format!("{rule}{below}")].into_iter().filter(|path| is_well_formed(path)) {
                for own in ["7", ""] {
                    prop_assert_eq!(entry.covers(&path, own), covers(rule, &path, own), "{} {}", rule, path);
                }
            }
        }

        #[test]
        fn any_blob_and_path_are_looked_at_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), path: String) {
            let _ = allowed(bytes.leak(), 0, Right::Read, &path, "7");
        }
    }
}
