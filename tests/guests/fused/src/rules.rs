//! The rules that two of the services enforce for the others, as the policy compiler makes them
//! from `policy/default.toml`.

use alloc::vec::Vec;

use cloister_interfaces::rules::{self, ClientGrantRule, ClientIndex, GrantPermission, PathRule, Rule, RuleIndex};

/// Clients of the XenStore service.
const CONTROL: u8 = 0;
const NETFRONT: u8 = 1;

/// The client, the path, and `true` for each of read, write and watch that is allowed.
const PATHS: [(u8, &str, [bool; 3]); 26] = [
    (CONTROL, "control/feature-poweroff", WRITE),
    (CONTROL, "control/feature-reboot", WRITE),
    (CONTROL, "control/feature-suspend", WRITE),
    (CONTROL, "control/shutdown", [true, true, true]),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/feature-gso-tcpv4", READ),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/feature-rx-copy", READ),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/feature-sg", READ),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/feature-split-event-channels", READ),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/online", READ),
    (NETFRONT, "/local/domain/*/backend/vif/{self}/0/state", [true, false, true]),
    (NETFRONT, "device/vif/0/backend", [true, false, true]),
    (NETFRONT, "device/vif/0/backend-id", READ),
    (NETFRONT, "device/vif/0/event-channel", WRITE),
    (NETFRONT, "device/vif/0/event-channel-rx", WRITE),
    (NETFRONT, "device/vif/0/event-channel-tx", WRITE),
    (NETFRONT, "device/vif/0/feature-gso-tcpv4", WRITE),
    (NETFRONT, "device/vif/0/feature-no-csum-offload", WRITE),
    (NETFRONT, "device/vif/0/feature-rx-notify", WRITE),
    (NETFRONT, "device/vif/0/feature-sg", WRITE),
    (NETFRONT, "device/vif/0/mac", READ),
    (NETFRONT, "device/vif/0/mtu", READ),
    (NETFRONT, "device/vif/0/request-rx-copy", WRITE),
    (NETFRONT, "device/vif/0/rx-ring-ref", WRITE),
    (NETFRONT, "device/vif/0/state", [true, true, false]),
    (NETFRONT, "device/vif/0/tx-ring-ref", WRITE),
    (NETFRONT, "error/device/vif/0/error", WRITE),
];
/// The rights of a path that may only be read.
const READ: [bool; 3] = [true, false, false];
/// The rights of a path that may only be written.
const WRITE: [bool; 3] = [false, true, false];

/// The paths of the XenStore service's clients.
pub(crate) fn paths() -> &'static [u8] {
    blob(&PATHS.map(|(client, path, [read, write, watch])| PathRule {
        client: ClientIndex(client),
        read,
        write,
        watch,
        below: false,
        path,
    }))
}

/// The grants that the grant manager's client may request.
pub(crate) fn grants(granted: &[GrantPermission]) -> &'static [u8] {
    let rule = |granted: &GrantPermission| {
        let GrantPermission { rule, pages: count, peer_first, peer_last } = *granted;
        ClientGrantRule { client: ClientIndex(0), rule: RuleIndex(rule), count, peer_first, peer_last }
    };
    blob(&granted.iter().map(rule).collect::<Vec<_>>())
}

/// Returns a static blob of rules. It is empty if the rules do not make a blob.
fn blob<R: Rule<'static>>(rules: &[R]) -> &'static [u8] {
    rules::encode_rules(rules).unwrap_or_default().leak()
}
