//! What an image needs of its guest, from its segments and its policy.

use super::image::{Image, PAGE};
use crate::guest_config::Needs;
use crate::model::{Policy, Source};
use crate::sound::analyse_text;

/// Grant references that the toolstack keeps (`GNTTAB_NR_RESERVED_ENTRIES`, `grant_table.h`).
const RESERVED_GRANTS: u64 = 8;
/// Event channels besides the policy's: number 0, the console's, the timer's.
const OWN_CHANNELS: u64 = 3;

/// Returns what the image needs; `policy` is the text that it carries and that holds.
pub(super) fn needs(image: &Image<'_>, policy: &str) -> Needs {
    let loaded = image.loads.iter().fold(0_u64, |sum, load| sum.saturating_add(load.memory));
    match analyse_text("embedded policy", policy) {
        Ok(sound) => of_policy(&sound.policy, loaded),
        // The verdict has the reason as an error.
        Err(_) => {
            Needs { bytes: loaded, domains: Vec::new(), module: true, command_line: true, grants: 0, channels: 0 }
        }
    }
}

fn of_policy(policy: &Policy, loaded: u64) -> Needs {
    let regions = policy.regions.items.iter().map(|item| match item.body.source.value {
        Source::Fixed { pages } => u64::from(pages),
        Source::Share { minimum, .. } => u64::from(minimum),
        _ => 0,
    });
    let stacks = policy.services.items.iter().map(|item| u64::from(item.body.stack_pages.value));
    let pages: u64 = regions.chain(stacks).sum();
    let has = |kind: &str| policy.regions.items.iter().any(|item| item.body.source.value.word() == kind);
    Needs {
        bytes: loaded.saturating_add(pages.saturating_mul(PAGE)),
        domains: policy.domains.items.iter().map(|item| (item.body.first, item.body.last)).collect(),
        module: has("module"),
        command_line: has("command-line"),
        grants: RESERVED_GRANTS + policy.grants.items.iter().map(|item| u64::from(item.body.pages.value)).sum::<u64>(),
        channels: OWN_CHANNELS + policy.ports.items.len() as u64,
    }
}
