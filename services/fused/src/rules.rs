//! What two of the services enforce for the others: as the policy compiler makes it of `policy/default.toml`.

use alloc::vec;
use alloc::vec::Vec;

use arrayvec::ArrayString;
use cloister_interfaces::Message;
use cloister_interfaces::rules::{GrantRuleFor, Granted, PathRule};

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
    let rules = PATHS.into_iter().filter_map(|(client, path, [read, write, watch])| {
        Some(PathRule { client, read, write, watch, path: ArrayString::from(path).ok()? })
    });
    blob(&rules.collect::<Vec<_>>())
}

/// What the grant manager's client may ask for.
pub(crate) fn grants(granted: &[Granted]) -> &'static [u8] {
    let (peer_first, peer_last) = BACK_END;
    let rule =
        |granted: &Granted| GrantRuleFor { client: 0, rule: granted.rule, count: granted.pages, peer_first, peer_last };
    blob(&granted.iter().map(rule).collect::<Vec<_>>())
}

/// Rules as [`cloister_interfaces::rules::rules`] reads them, for ever.
fn blob<R: Message>(rules: &[R]) -> &'static [u8] {
    let mut bytes = (rules.len() as u16).to_le_bytes().to_vec();
    for rule in rules {
        let mut encoded = vec![0; R::SIZE];
        rule.to_bytes(&mut encoded);
        bytes.append(&mut encoded);
    }
    bytes.leak()
}
