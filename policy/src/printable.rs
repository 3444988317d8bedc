//! Characters that change how the text round them is shown: no file of ours may have them, and none reaches a terminal,
//! a page or a picture.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `true` if `c` is shown as itself and leaves the text round it alone.
///
/// It is not if it is a control character (C0, DEL, C1), a format character for the direction of text (UAX 9), one
/// without width, a separator of lines, or one of the tag characters that nothing shows.
#[must_use]
pub fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// Returns the first character of `text` that is not plain, with its position in bytes. Spaces and ends of lines
/// are allowed.
pub(crate) fn first_hidden(text: &str) -> Option<(usize, char)> {
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let end_of_line = c == '\n' || c == '\r' && rest.peek().is_some_and(|(_, next)| *next == '\n');
        if !is_plain(c) && c != '\t' && !end_of_line {
            return Some((at, c));
        }
    }
    None
}

/// Returns `text` with each character that is not plain escaped: for strings within a line.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_plain)
}

/// Returns `text` with each character that is not plain escaped, but for ends of lines and tabs.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    if first_hidden(text).is_none() {
        return Cow::Borrowed(text);
    }
    escaped(text, |c| is_plain(c) || c == '\n' || c == '\t')
}

pub(crate) fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&keep) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if keep(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    Cow::Owned(out)
}

/// Returns a text of JSON with each character that is not plain written as `\uXXXX`. Such a character can only stand
/// within a string.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    if json.chars().all(|c| is_plain(c) || c == '\n') {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if is_plain(c) || c == '\n' {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` never fails.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_text_round_is_escaped_and_nothing_else() {
        let hidden = ['\0', '\u{7}', '\u{1b}', '\r', '\u{7f}', '\u{9b}', '\u{61c}', '\u{200b}', '\u{200f}', '\u{2028}'];
        let directions = ['\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{feff}', '\u{e0041}'];
        for c in hidden.into_iter().chain(directions) {
            let text = format!("a{c}b");
            assert_eq!(printable(&text), format!("a{}b", c.escape_default()));
            assert_eq!(first_hidden(&text), Some((1, c)));
            assert!(printable_lines(&text).chars().all(is_plain));
            let json = serde_json::to_string(&text).unwrap();
            assert!(printable_json(&json).chars().all(is_plain), "{json}");
            assert_eq!(serde_json::from_str::<String>(&printable_json(&json)).unwrap(), text);
        }
        for text in ["", "plain", "größer – 中文, 🦀", "a \"quote\" and a \\"] {
            assert_eq!((printable(text), first_hidden(text)), (Cow::Borrowed(text), None));
        }
        assert_eq!(first_hidden("a\r\n\tb\n"), None);
        assert_eq!(printable_lines("a\n\tb\r\n"), "a\n\tb\r\n");
        assert_eq!(printable("a\nb"), "a\\nb");
    }
}
