//! The text of a policy file: its size and its characters.

use std::io::Read;
use std::path::Path;

use crate::diagnostic::{Diagnostic, Report, Span};
use crate::image_limits::MAX_POLICY;
use crate::printable::first_hidden;

/// The largest size of a policy file, by its use.
///
/// The shipped policies have about ten thousand bytes; one with 100,000 rules has five million.
/// Parsing can take more than a hundred times the file's size in memory.
#[derive(Clone, Copy)]
pub(crate) enum Size {
    /// The size that an image has room for.
    Image,
    /// The size that can be analysed.
    Analysis,
}

impl Size {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Size::Image => MAX_POLICY as usize,
            Size::Analysis => 8 << 20,
        }
    }

    /// Returns the message for a larger file.
    pub(crate) fn exceeded(self) -> String {
        let limit = match self {
            Size::Image => "an image has room for",
            Size::Analysis => "can be analysed",
        };
        format!("the file has more than {} bytes, which is the largest policy that {limit}", self.bytes())
    }
}

/// Reads the text of a policy file.
///
/// # Errors
/// The file cannot be read, is too large, or is not text.
pub fn text_of(path: &Path) -> Result<String, Report> {
    text_within(path, Size::Analysis)
}

pub(crate) fn text_within(path: &Path, size: Size) -> Result<String, Report> {
    let name = path.display().to_string();
    let unusable = |problem: String| Report::unusable(&name, "", Diagnostic::of_file(problem));
    let file = std::fs::File::open(path).map_err(|error| unusable(format!("cannot open the file: {error}")))?;
    let mut bytes = Vec::new();
    // One byte more than allowed shows that the file is too large, whatever its size.
    file.take(size.bytes() as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(format!("cannot read the file: {error}")))?;
    if bytes.len() > size.bytes() {
        return Err(unusable(size.exceeded()));
    }
    String::from_utf8(bytes).map_err(|error| {
        unusable(format!("the file is not text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    })
}

pub(super) fn hidden_character(c: char, span: &Span) -> Diagnostic {
    let name = c.escape_unicode();
    Diagnostic::at(span, format!("`{name}` is not a character that a policy can contain"))
        .label("not ASCII, nor a letter or sign of Latin, Greek, Cyrillic, Han, kana or Hangul")
        .help("leave it out: a reader must see what the policy says, on any terminal")
}

/// Checks that a text can be a policy: not too long, not empty, and without hidden characters.
pub(crate) fn readable(file: &str, text: &str, size: Size) -> Result<(), Report> {
    if text.len() > size.bytes() {
        return Err(Report::unusable(file, "", Diagnostic::of_file(size.exceeded())));
    }
    if text.trim().is_empty() {
        let problem = Diagnostic::of_file("the file is empty").help("a policy starts with `format = 2`");
        return Err(Report::unusable(file, "", problem));
    }
    if let Some((at, c)) = first_hidden(text) {
        return Err(Report::unusable(file, text, hidden_character(c, &(at..at + c.len_utf8()))));
    }
    Ok(())
}
