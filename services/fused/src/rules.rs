//! What two of the services enforce for the others: as the policy compiler makes it of `policy/default.toml`.

use alloc::vec::Vec;

use cloister_interfaces::rules::{self, GrantRuleFor, Granted, PathRule, Rule};

/// Clients of the XenStore service.
const CONTROL: u8 = 0;
const NETFRONT: u8 = 1;

/// Client, path, and whether it may read, write and watch it.
const PATHS: [(u8, &str, [bool; 3]); 4] = [
    (CONTROL, "control", [true, true, true]),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0", [true, false, true]),
    (NETFRONT, "device/vif/0", [true, true, true]),
    (NETFRONT, "error/device/vif/0", [false, true, false]),
];
/// The domains that may be the back end's.
const BACK_END: (u16, u16) = (0, 32_751);

/// The paths of the XenStore service's clients.
pub(crate) fn paths() -> &'static [u8] {
    blob(&PATHS.map(|(client, path, [read, write, watch])| PathRule { client, read, write, watch, path }))
}

/// What the grant manager's client may ask for.
pub(crate) fn grants(granted: &[Granted]) -> &'static [u8] {
    let (peer_first, peer_last) = BACK_END;
    let rule =
        |granted: &Granted| GrantRuleFor { client: 0, rule: granted.rule, count: granted.pages, peer_first, peer_last };
    blob(&granted.iter().map(rule).collect::<Vec<_>>())
}

/// A blob of rules, for ever; without rules if they are no blob.
fn blob<R: Rule<'static>>(rules: &[R]) -> &'static [u8] {
    rules::blob(rules).unwrap_or_default().leak()
}
