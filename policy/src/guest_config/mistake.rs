//! A mistake in a guest's configuration.

use crate::verify::Finding;

/// The part of an image that the findings are about.
pub(super) const ABOUT: &str = "configuration";

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(crate) struct Mistake {
    /// The line, from 1; 0 for the whole file.
    pub(super) line: usize,
    /// What is wrong, and what to do.
    pub(super) message: String,
}

impl Mistake {
    pub(super) fn at(line: usize, message: impl Into<String>) -> Self {
        Mistake { line, message: message.into() }
    }

    pub(super) fn finding(&self) -> Finding {
        match self.line {
            0 => Finding::error(ABOUT, &self.message),
            _ => Finding::error(ABOUT, self.to_string()),
        }
    }
}
