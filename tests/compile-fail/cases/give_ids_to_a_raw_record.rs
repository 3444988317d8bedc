//! A record that is in no checked tables cannot become one with ids.
#![forbid(unsafe_code)]

use cloister_caps::tables::{Access, GrantRule, raw};

fn attempt() -> GrantRule {
    let raw = raw::GrantRule {
        name: raw::Name::default(),
        region: 3,
        access: Access::ReadWrite,
        first_ref: 8,
        count: 1,
        peers: 0,
    };
    GrantRule::proven(raw)
}

fn main() {}
