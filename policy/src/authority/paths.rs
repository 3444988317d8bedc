//! The paths that a rule for a XenStore path covers, as the XenStore service decides.

use std::collections::BTreeMap;

/// Returns a path with the domain's own directory written out.
pub(crate) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/{{self}}/{path}") }
}

/// Returns `true` if a rule for `rule` covers everything that a rule for `path` covers.
pub(crate) fn covers(rule: &str, path: &str) -> bool {
    let (rule, path) = (absolute(rule), absolute(path));
    let mut below = path.split('/').skip(1);
    rule.split('/').skip(1).all(|part| below.next().is_some_and(|component| part_covers(part, component)))
}

/// Returns `true` if a rule for `rule` may cover the node, whatever the domain's own id is.
pub(crate) fn may_cover(rule: &str, node: &str) -> bool {
    let (rule, node) = (absolute(rule), absolute(node));
    let mut below = node.split('/').skip(1);
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_own = |part: &str, own: &str| own == "{self}" && number(part);
    rule.split('/').skip(1).all(|part| {
        below
            .next()
            .is_some_and(|component| part_covers(part, component) || is_own(part, component) || is_own(component, part))
    })
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
    let mut pairs = one.split('/').skip(1).zip(other.split('/').skip(1));
    pairs.all(|(one, other)| parts_meet(one, other))
}

/// Returns `true` if a rule for `path` has a node in common with the directory of a domain of these
/// ids: `/local/domain/ID`.
pub(crate) fn in_directory(path: &str, (first, last): (u16, u16)) -> bool {
    let path = absolute(path);
    let mut parts = path.split('/').skip(1);
    let meets = |part: Option<&str>, word: &str| part.is_none_or(|part| parts_meet(part, word));
    if !meets(parts.next(), "local") || !meets(parts.next(), "domain") {
        return false;
    }
    // The domain's own directory is not another domain's.
    match parts.next() {
        None | Some("*") => true,
        Some("{self}") => false,
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
            found.extend_from_slice(&tree.rules);
            let meets = |word: &str| parts.get(depth).is_none_or(|part| parts_meet(part, word));
            open.extend(tree.below.iter().filter(|(word, _)| meets(word)).map(|(_, below)| (below, depth + 1)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_may_cover_a_node_by_the_number_of_the_own_domain() {
        let node = "device/vif/0/backend-id";
        for rule in [
            node,
            "device",
            "device/vif/*",
            "/local",
            "/local/domain/*",
            "/local/domain/7/device",
            "/local/domain/{self}/device/vif/0",
            "/local/domain/*/device/vif/*/backend-id",
        ] {
            assert!(may_cover(rule, node), "{rule}");
        }
        for rule in ["device/vif/1", "device/vif/0/backend-id/x", "/local/domain/x/device", "backend-id", "/device"] {
            assert!(!may_cover(rule, node), "{rule}");
        }
    }

    #[test]
    fn a_rule_covers_itself_what_is_below_and_what_its_words_stand_for() {
        for (rule, path) in [
            ("control", "control"),
            ("control", "control/shutdown"),
            ("control", "/local/domain/{self}/control"),
            ("/local/domain/*/backend", "/local/domain/{self}/backend/vif"),
            ("/local/domain/*/backend", "/local/domain/0/backend"),
            ("/local/domain/*", "device"),
        ] {
            assert!(covers(rule, path), "{rule} {path}");
        }
        for (rule, path) in [
            ("control/shutdown", "control"),
            ("control", "controls"),
            ("/control", "control"),
            ("/local/domain/{self}/backend", "/local/domain/*/backend"),
            ("/local/domain/*", "/local/domain/x"),
            ("/local/domain/*", "/local/domain/00"),
        ] {
            assert!(!covers(rule, path), "{rule} {path}");
        }
    }
}
