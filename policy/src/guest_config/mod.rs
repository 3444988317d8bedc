//! Judges the `xl` configuration of a guest: it must give the image what it needs, and nothing that
//! the policy does not speak of.
//!
//! The text becomes settings at the edge (`parse`), in a part of xl's language: each setting once,
//! by `=`. Every key must be one that is judged, so that neither a device nor a mistyped key goes
//! unseen (`judge`).

mod command_line;
mod judge;
mod parse;
mod vif;

use crate::verify::Finding;

pub use judge::Needs;

/// The size of the largest configuration, in bytes.
pub const MAX_CONFIGURATION: u64 = 64 << 10;

/// The part of an image that the findings are about.
const ABOUT: &str = "configuration";

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct Mistake {
    /// The line, from 1; 0 for the whole file.
    line: usize,
    /// What is wrong, and what to do.
    message: String,
}

impl Mistake {
    fn at(line: usize, message: impl Into<String>) -> Self {
        Mistake { line, message: message.into() }
    }

    fn finding(&self) -> Finding {
        match self.line {
            0 => Finding::error(ABOUT, &self.message),
            _ => Finding::error(ABOUT, self.to_string()),
        }
    }
}

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
