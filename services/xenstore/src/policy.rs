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
    /// Read the value, or the names of the node's children.
    Read,
    /// Write the node.
    Write,
    /// Be told of changes.
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

/// Returns the part of a path below the domain's own directory. Returns `None` if the path is
/// elsewhere, or the directory itself.
fn local<'a>(path: &'a str, own: OwnDomid<'_>) -> Option<&'a str> {
    if !path.starts_with('/') {
        return Some(path);
    }
    let below = path.strip_prefix("/local/domain/")?.strip_prefix(own).filter(|_| !own.is_empty())?;
    below.strip_prefix('/')
}

/// Returns `true` if a path names the node that `node` names. `node` is relative to the domain's own
/// directory and has no patterns.
#[must_use]
pub fn is_node(path: &str, node: &str, own: OwnDomid<'_>) -> bool {
    local(path, own) == Some(node)
}

/// Returns the components of a path without a leading slash. Splits by bytes, which is correct in
/// UTF-8: decoding characters would be most of the cost of a request.
fn split(path: &str) -> impl Iterator<Item = &[u8]> {
    path.as_bytes().split(|byte| *byte == b'/')
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

/// The position of a path relative to the path of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Position {
    At,
    Below,
}

/// Compares the components of a path with those of a rule. Returns `None` if the path is neither the
/// rule's nor below it.
fn compare<'a>(rule: &str, mut path: impl Iterator<Item = &'a [u8]>, own: OwnDomid<'_>) -> Option<Position> {
    if !split(rule).all(|rule| path.next().is_some_and(|component| component_matches(rule, component, own))) {
        return None;
    }
    Some(if path.next().is_some() { Position::Below } else { Position::At })
}

/// Does the same as [`compare`] for a rule without patterns, by comparing bytes. For nearly every
/// rule the length or the next byte decides.
fn compare_literally(rule: &str, path: &str) -> Option<Position> {
    let position = match path.as_bytes().get(rule.len()) {
        None => Position::At,
        Some(b'/') => Position::Below,
        Some(_) => return None,
    };
    path.starts_with(rule).then_some(position)
}

/// A rule.
struct Entry {
    rule: PathRule<'static>,
    /// The path has no patterns and is relative.
    literal: bool,
}

impl Entry {
    fn new(rule: PathRule<'static>) -> Self {
        let mut bytes = rule.path.bytes();
        let is_pattern = |byte| matches!(byte, b'*' | b'{');
        Entry { rule, literal: !rule.path.starts_with('/') && !bytes.any(is_pattern) }
    }

    /// Returns the position of a path, of which `local` is the part below the own directory.
    #[inline]
    fn position(&self, path: &str, local: Option<&str>, own: OwnDomid<'_>) -> Option<Position> {
        let rule = self.rule.path;
        // By bytes, and not by `strip_prefix`: this runs for each rule at each request.
        if rule.as_bytes().first() != Some(&b'/') {
            let path = local?;
            return if self.literal { compare_literally(rule, path) } else { compare(rule, split(path), own) };
        }
        let rule = rule.get(1..)?;
        match path.strip_prefix('/') {
            Some(path) => compare(rule, split(path), own),
            None => {
                let directory = ["local", "domain", own].map(str::as_bytes);
                compare(rule, directory.into_iter().chain(split(path)), own)
            }
        }
    }

    /// Returns `true` if the rule may be about the node at `path`: a quick test for most of those
    /// that it is not about.
    fn may_be_about(&self, path: &str) -> bool {
        let last = self.rule.path.as_bytes().last();
        self.rule.below || matches!(last, Some(b'*' | b'}')) || last == path.as_bytes().last()
    }

    fn gives(&self, client: ClientIndex, right: Right) -> bool {
        let rule = &self.rule;
        rule.client == client
            && match right {
                Right::Read => rule.read,
                Right::Write => rule.write,
                Right::Watch => rule.watch,
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

    /// Returns `true` if a rule gives `client` the right to the node at `path`.
    #[must_use]
    pub fn allows(&self, client: ClientIndex, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
        let local = local(path, own);
        self.0.iter().any(|entry| {
            let below = entry.rule.below;
            let wanted = if below { Position::Below } else { Position::At };
            // The compiler takes rules with well-formed paths only. A path that matches one component
            // by component is well-formed, too, unless it is a special name.
            entry.gives(client, right)
                && entry.may_be_about(path)
                && entry.position(path, local, own) == Some(wanted)
                && (!below && !path.starts_with('@') || is_well_formed(path))
        })
    }

    /// Returns `true` if a rule gives `client` the right to every node below `path`.
    #[must_use]
    pub fn allows_all_below(&self, client: ClientIndex, right: Right, path: &str, own: OwnDomid<'_>) -> bool {
        let local = local(path, own);
        let mut rules = self.0.iter().filter(|entry| entry.rule.below && entry.gives(client, right));
        rules.any(|entry| entry.position(path, local, own).is_some() && is_well_formed(path))
    }

    /// Returns the index of the first rule, of any client and for any right, with a path at or above
    /// `path`.
    #[must_use]
    pub fn covering(&self, path: &str, own: OwnDomid<'_>) -> Option<usize> {
        let local = local(path, own);
        let first = || self.0.iter().position(|entry| entry.position(path, local, own).is_some());
        is_well_formed(path).then(first).flatten()
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
    /// a watch). A path may end in `/**`.
    pub(crate) fn blob<'a>(entries: &[(u8, &str, &'a str)]) -> &'static [u8] {
        let rule = |&(client, rights, path): &(u8, &str, &'a str)| PathRule {
            client: ClientIndex(client),
            read: rights.contains('r'),
            write: rights.contains('w'),
            watch: rights.contains('n'),
            below: path.ends_with("/**"),
            path: path.trim_end_matches("/**"),
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

    const FOREIGN: [&str; 5] = ["device/vif", "device/vif/00", "device/vif/01", "device/vif/1", "evil/device/vif/0"];

    #[test]
    fn a_rule_is_about_its_node_alone() {
        let rules = blob(&[(1, "r", "device/vif/0")]);
        assert!(allowed(rules, 1, Right::Read, "device/vif/0", "7"));
        for path in FOREIGN.into_iter().chain(["device/vif/0/mac", "device/vif/0/a/b"]) {
            assert!(!allowed(rules, 1, Right::Read, path, "7"), "{path}");
        }
        assert!(!allowed(rules, 0, Right::Read, "device/vif/0", "7"));
        assert!(!allowed(rules, 1, Right::Write, "device/vif/0", "7"));
        assert!(!allowed(rules, 1, Right::Watch, "device/vif/0", "7"));
        assert!(!Rules::parse(rules).allows_all_below(ClientIndex(1), Right::Read, "device/vif/0", "7"));
    }

    #[test]
    fn two_stars_are_what_is_below_and_not_the_node_itself() {
        let rules = blob(&[(1, "r", "device/vif/0/**")]);
        for path in ["device/vif/0/mac", "device/vif/0/a/b", "/local/domain/7/device/vif/0/mac"] {
            assert!(allowed(rules, 1, Right::Read, path, "7"), "{path}");
        }
        for path in FOREIGN.into_iter().chain(["device/vif/0", "device/vif/0x/mac"]) {
            assert!(!allowed(rules, 1, Right::Read, path, "7"), "{path}");
        }
        let all_below =
            |client, right, path| Rules::parse(rules).allows_all_below(ClientIndex(client), right, path, "7");
        for path in ["device/vif/0", "device/vif/0/mac", "/local/domain/7/device/vif/0"] {
            assert!(all_below(1, Right::Read, path), "{path}");
            assert!(!all_below(0, Right::Read, path) && !all_below(1, Right::Write, path), "{path}");
        }
        for path in FOREIGN.into_iter().chain(["device/vif/0/", "device/vif/0/ä"]) {
            assert!(!all_below(1, Right::Read, path), "{path}");
        }
    }

    #[test]
    fn relative_and_absolute_forms_of_the_own_directory_are_one() {
        let relative = blob(&[(0, "r", "device/vif/0/mac")]);
        let absolute = blob(&[(0, "r", "/local/domain/{self}/device/vif/0/mac")]);
        for rules in [relative, absolute] {
            assert!(allowed(rules, 0, Right::Read, "device/vif/0/mac", "7"));
            assert!(allowed(rules, 0, Right::Read, "/local/domain/7/device/vif/0/mac", "7"));
            assert!(!allowed(rules, 0, Right::Read, "/local/domain/8/device/vif/0/mac", "7"));
            assert!(!allowed(rules, 0, Right::Read, "/local/domain/77/device/vif/0/mac", "7"));
            assert!(!allowed(rules, 0, Right::Read, "local/domain/7/device/vif/0/mac", "7"));
        }
    }

    #[test]
    fn a_node_is_the_same_in_both_forms() {
        let node = "device/vif/0/backend-id";
        assert!(is_node(node, node, "7") && is_node(node, node, ""));
        assert!(is_node("/local/domain/7/device/vif/0/backend-id", node, "7"));
        for other in ["device/vif/0", "device/vif/0/backend-id/x", "/device/vif/0/backend-id", "backend-id"] {
            assert!(!is_node(other, node, "7"), "{other}");
        }
        assert!(!is_node("/local/domain/8/device/vif/0/backend-id", node, "7"));
        assert!(!is_node("/local/domain/7/device/vif/0/backend-id", node, ""));
        assert!(!is_node("/local/domain//device/vif/0/backend-id", node, ""));
    }

    /// A name that begins with `@` is a special watch of the daemon, but only as a whole path.
    #[test]
    fn no_rule_gives_a_special_watch() {
        let rules = blob(&[(0, "n", "/local/domain/7/@a"), (0, "n", "/local/domain/7/**"), (0, "n", "@a")]);
        assert!(allowed(rules, 0, Right::Watch, "/local/domain/7/@a", "7"));
        assert!(!allowed(rules, 0, Right::Watch, "@a", "7"));
    }

    #[test]
    fn a_star_is_one_decimal_number() {
        let rules = blob(&[(0, "r", "/local/domain/*/backend/vif/{self}/0")]);
        assert!(allowed(rules, 0, Right::Read, "/local/domain/0/backend/vif/7/0", "7"));
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

    /// Returns the names on the way to a node, from the root. Written apart from what it checks.
    fn names(path: &str) -> Vec<String> {
        let full = if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/7/{path}") };
        full[1..].split('/').map(str::to_owned).collect()
    }

    fn is_one(pattern: &str, name: &str) -> bool {
        match pattern {
            "*" => name.parse::<u64>().is_ok_and(|number| number.to_string() == name && number < 10_000_000_000),
            "{self}" => name == "7",
            _ => pattern == name,
        }
    }

    proptest! {
        #[test]
        fn nothing_outside_the_rule_is_ever_allowed(path in "[a-z0-9/*.@{}]{0,24}") {
            let below = path.strip_prefix("/local/domain/7/").unwrap_or(&path);
            for (rule, named) in [("a/b", below == "a/b"), ("a/b/**", below.starts_with("a/b/"))] {
                let rules = blob(&[(0, "rwn", rule)]);
                prop_assert_eq!(allowed(rules, 0, Right::Read, &path, "7"), is_well_formed(&path) && named);
            }
        }

        /// A rule gives what its names give one by one, for rules as people write them.
        #[test]
        fn a_rule_gives_what_its_names_say(
            rule in "(/local/domain/7/|/)?(a|b|ab|\\*|\\{self\\}|7)(/(a|b|ab|\\*|\\{self\\}|7)){0,3}(/\\*\\*)?",
            path in "(/local/domain/7/|/)?(a|b|ab|7)(/(a|b|ab|7)){0,4}",
            below in "(/(a|b|7)|a)?",
        ) {
            let own_rule = rule.replace("{self}", "7").replace("/**", "").replace('*', "7");
            let rule: &'static str = rule.leak();
            let rules = Rules::parse(blob(&[(0, "w", rule)]));
            let pattern = names(rule.trim_end_matches("/**"));
            let subtree = rule.ends_with("/**");
            // The rule's own path, too, and paths that begin with it.
            for path in [path, own_rule.clone(), format!("{own_rule}{below}"), own_rule.replace("/local/domain/7/", "")] {
                let names = names(&path);
                let leads = names.len() >= pattern.len() && pattern.iter().zip(&names).all(|(one, name)| is_one(one, name));
                let further = names.len() > pattern.len();
                let gives = leads && further == subtree;
                prop_assert_eq!(rules.allows(ClientIndex(0), Right::Write, &path, "7"), gives, "{} {}", rule, path);
                let all_below = rules.allows_all_below(ClientIndex(0), Right::Write, &path, "7");
                prop_assert_eq!(all_below, leads && subtree, "{} {}", rule, path);
                prop_assert_eq!(rules.covering(&path, "7").is_some(), leads, "{} {}", rule, path);
            }
        }

        #[test]
        fn any_blob_and_path_are_checked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), path: String) {
            let _ = allowed(bytes.leak(), 0, Right::Read, &path, "7");
        }
    }
}
