//! Judges the `xl` configuration of a guest: it must give the image what it needs, and nothing that
//! the policy does not speak of.
//!
//! The text becomes settings at the edge (`parse`), in a part of xl's language: each setting once,
//! by `=`. Every key must be one that is judged, so that neither a device nor a mistyped key goes
//! unseen (`judge`).

mod command_line;
mod judge;
mod mistake;
mod parse;
mod vif;

use crate::verify::Finding;

pub use judge::Needs;

/// The size of the largest configuration, in bytes.
pub const MAX_CONFIGURATION: u64 = 64 << 10;

/// Returns what is wrong with the text of a configuration, and what is worth knowing about it.
#[must_use]
pub fn check(text: &str, needs: &Needs) -> Vec<Finding> {
    match parse::parse(text) {
        Ok(settings) => judge::judge(&settings, needs),
        Err(mistake) => vec![mistake.finding()],
    }
}

#[cfg(test)]
mod tests;
