//! The nodes that a rule for a XenStore path is about, as the XenStore service decides.
//!
//! A rule is about the node at its path. If the path ends in `/**`, it is about every node below,
//! and not about the node itself.

use std::collections::BTreeMap;

use cloister_interfaces::rules::PathRule;

/// The last component of a path that stands for every node below.
const ALL_BELOW: &str = "**";

/// Returns the path of a rule without `/**` at its end, and `true` if it had that.
pub(crate) fn without_stars(path: &str) -> (&str, bool) {
    path.strip_suffix(PathRule::ALL_BELOW).map_or((path, false), |above| (above, true))
}

/// Returns a path with the domain's own directory written out.
pub(crate) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/{{self}}/{path}") }
}

/// Returns `true` if a rule for `rule` is about every node that a rule for `path` is about.
pub(crate) fn covers(rule: &str, path: &str) -> bool {
    let (rule, path) = (absolute(rule), absolute(path));
    let (mut rule, mut path) = (rule.split('/').skip(1), path.split('/').skip(1));
    loop {
        match (rule.next(), path.next()) {
            (Some(ALL_BELOW), Some(_)) | (None, None) => return true,
            (Some(part), Some(component)) if component != ALL_BELOW && part_covers(part, component) => {}
            _ => return false,
        }
    }
}

fn part_covers(rule: &str, component: &str) -> bool {
    // The service accepts a number in its shortest form, of at most ten digits.
    let leading_zero = component.len() > 1 && component.starts_with('0');
    let digits = !component.is_empty() && component.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits && component.len() <= 10 && !leading_zero;
    rule == component || (rule == "*" && (component == "{self}" || number))
}

/// Returns `true` if a rule for one path and a rule for another have a node in common, whatever the
/// domain's own id is.
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (absolute(one), absolute(other));
    let (mut one, mut other) = (one.split('/').skip(1), other.split('/').skip(1));
    loop {
        match (one.next(), other.next()) {
            (Some(ALL_BELOW), Some(_)) | (Some(_), Some(ALL_BELOW)) | (None, None) => return true,
            (Some(part), Some(component)) if parts_meet(part, component) => {}
            _ => return false,
        }
    }
}

/// Returns `true` if a rule for `path` has a node in common with the directory of a domain of these
/// ids: `/local/domain/ID` and what is below.
pub(crate) fn in_directory(path: &str, (first, last): (u16, u16)) -> bool {
    let path = absolute(path);
    let mut parts = path.split('/').skip(1);
    for word in ["local", "domain"] {
        match parts.next() {
            Some(ALL_BELOW) => return true,
            Some(part) if parts_meet(part, word) => {}
            _ => return false,
        }
    }
    // The domain's own directory is not another domain's.
    match parts.next() {
        Some("*" | ALL_BELOW) => true,
        Some("{self}") | None => false,
        Some(id) => id.parse::<u16>().is_ok_and(|id| (first..=last).contains(&id)),
    }
}

/// Returns `true` if two components can be the same word.
fn parts_meet(one: &str, other: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_own = |part: &str, own: &str| own == "{self}" && number(part);
    part_covers(one, other) || part_covers(other, one) || is_own(one, other) || is_own(other, one)
}

/// Path rules by the components of their paths.
#[derive(Default)]
pub(crate) struct Tree {
    rules: Vec<(usize, usize)>,
    below: BTreeMap<String, Tree>,
}

impl Tree {
    /// Adds a rule for a path.
    pub(crate) fn insert(&mut self, path: &str, rule: (usize, usize)) {
        let mut tree = self;
        for part in absolute(path).split('/').skip(1) {
            tree = tree.below.entry(part.to_owned()).or_default();
        }
        tree.rules.push(rule);
    }

    /// Returns the rules that have a node in common with a rule for `path`: see [`overlap`].
    pub(crate) fn overlapping(&self, path: &str) -> Vec<(usize, usize)> {
        let path = absolute(path);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let mut found = Vec::new();
        let mut open = vec![(self, 0)];
        while let Some((tree, depth)) = open.pop() {
            let Some(part) = parts.get(depth) else {
                found.extend_from_slice(&tree.rules);
                continue;
            };
            for (word, below) in &tree.below {
                if *part == ALL_BELOW || word == ALL_BELOW {
                    below.add_all(&mut found);
                } else if parts_meet(word, part) {
                    open.push((below, depth + 1));
                }
            }
        }
        found
    }

    /// Adds all rules of the tree.
    fn add_all(&self, found: &mut Vec<(usize, usize)>) {
        let mut open = vec![self];
        while let Some(tree) = open.pop() {
            found.extend_from_slice(&tree.rules);
            open.extend(tree.below.values());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_may_be_about_a_node_by_the_number_of_the_own_domain() {
        let node = "device/vif/0/backend-id";
        for rule in [
            node,
            "device/**",
            "device/vif/*/**",
            "device/vif/*/backend-id",
            "/local/**",
            "/local/domain/*/**",
            "/local/domain/7/device/**",
            "/local/domain/{self}/device/vif/0/**",
            "/local/domain/*/device/vif/*/backend-id",
        ] {
            assert!(overlap(rule, node) && overlap(node, rule), "{rule}");
        }
        for rule in [
            "device",
            "device/vif/0",
            "device/vif/1/**",
            "device/vif/0/backend-id/x",
            "device/vif/0/backend-id/**",
            "/local/domain/x/device/**",
            "backend-id",
            "/device/**",
        ] {
            assert!(!overlap(rule, node) && !overlap(node, rule), "{rule}");
        }
        for (one, other) in [("a/**", "a/**"), ("a/**", "a/b/**"), ("a/*/c", "a/**")] {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in [("a/**", "a"), ("a/**", "b/**"), ("a/b/c", "a/b")] {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
    }

    #[test]
    fn a_rule_covers_itself_and_what_its_words_stand_for() {
        for (rule, path) in [
            ("control", "control"),
            ("control", "/local/domain/{self}/control"),
            ("control/**", "control/shutdown"),
            ("control/**", "control/**"),
            ("control/**", "control/a/**"),
            ("/local/domain/*/backend/**", "/local/domain/{self}/backend/vif"),
            ("/local/domain/*/backend", "/local/domain/0/backend"),
            ("/local/domain/*/**", "device"),
        ] {
            assert!(covers(rule, path), "{rule} {path}");
        }
        for (rule, path) in [
            ("control/shutdown", "control"),
            ("control", "control/shutdown"),
            ("control", "control/**"),
            ("control/**", "control"),
            ("control/*", "control/**"),
            ("control/a/**", "control/**"),
            ("control", "controls"),
            ("control/**", "controls/x"),
            ("/control", "control"),
            ("/local/domain/{self}/backend", "/local/domain/*/backend"),
            ("/local/domain/*", "/local/domain/x"),
            ("/local/domain/*", "/local/domain/00"),
        ] {
            assert!(!covers(rule, path), "{rule} {path}");
        }
    }
}
