//! An id comes from checked tables only.
#![forbid(unsafe_code)]

use cloister_caps::GrantRuleId;

fn attempt() -> GrantRuleId {
    GrantRuleId(3)
}

fn main() {}
