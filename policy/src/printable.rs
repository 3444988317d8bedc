//! Text that is safe to print. The characters that a policy may contain are printed as they are:
//! they are visible, and do not change the text around them.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns `true` if `c` is visible and does not change the text around it.
///
/// These are the characters of ASCII without control characters, and the ranges below: letters of
/// Latin, Greek and Cyrillic, Han, kana and Hangul, their punctuation, arrows and mathematical
/// signs. So no character of a policy is invisible, combines with another, or reverses the text (as
/// scripts do that are written from right to left).
#[must_use]
pub fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~'
        // Latin: Latin-1 without its space and soft hyphen, Extended-A, Extended-B, Extended
        // Additional.
        | '\u{A1}'..='\u{AC}' | '\u{AE}'..='\u{24F}' | '\u{1E00}'..='\u{1EFF}'
        // Greek and Cyrillic, without unassigned and combining characters.
        | '\u{370}'..='\u{377}' | '\u{37A}'..='\u{37F}' | '\u{384}'..='\u{38A}' | '\u{38C}'
        | '\u{38E}'..='\u{3A1}' | '\u{3A3}'..='\u{482}' | '\u{48A}'..='\u{52F}'
        // Dashes, quotation marks and the like; the euro; arrows and mathematical signs.
        | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{203A}' | '\u{20AC}' | '\u{2190}'..='\u{22FF}'
        // Han, kana and Hangul, and their punctuation without its space.
        | '\u{3001}'..='\u{3020}' | '\u{3041}'..='\u{3096}' | '\u{309B}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}' | '\u{FF01}'..='\u{FF5E}')
}

/// Returns bytes in hexadecimal, two lower-case digits each.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the first character of `text` that is not plain, with its position in bytes. Spaces and
/// ends of lines are allowed.
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

/// Returns `text` with each character that is not plain escaped, for strings within a line.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_plain)
}

/// Returns `text` with each character that is not plain escaped, except ends of lines and tabs.
#[must_use]
pub fn printable_lines(text: &str) -> Cow<'_, str> {
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

/// Returns JSON with each character that is not plain written as `\uXXXX`. Such a character can
/// only be in a string.
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
    use regex::Regex;
    use unicode_bidi::BidiClass;

    use super::*;

    fn all() -> impl Iterator<Item = char> {
        '\0'..=char::MAX
    }

    /// Checked with the tables of two other crates: a plain character is assigned; is a letter,
    /// number, punctuation or symbol; is not ignorable or blank; and has no direction of its own.
    #[test]
    fn plain_characters_are_visible_and_do_not_change_the_direction() {
        let seen =
            Regex::new(r"^[\p{L}\p{N}\p{P}\p{S}&&\P{Default_Ignorable_Code_Point}&&\P{Grapheme_Extend}]$").unwrap();
        let directions = [BidiClass::R, BidiClass::AL, BidiClass::AN, BidiClass::NSM, BidiClass::BN, BidiClass::B];
        // Invisible although they are letters or symbols: fillers, blanks, a note without a head.
        let blank = "\u{115F}\u{1160}\u{2800}\u{3164}\u{FFA0}\u{FFFC}\u{13441}\u{13442}\u{1D159}";
        for c in all().filter(|c| is_plain(*c) && *c != ' ') {
            assert!(seen.is_match(c.encode_utf8(&mut [0; 4])), "{c:?}");
            assert!(!directions.contains(&unicode_bidi::bidi_class(c)), "{c:?}");
            assert!(!blank.contains(c), "{c:?}");
        }
    }

    /// No character is refused without need: people explain rules in their own language.
    #[test]
    fn ascii_and_the_letters_of_the_named_scripts_are_plain() {
        assert!(all().filter(char::is_ascii).all(|c| is_plain(c) != c.is_ascii_control()));
        for text in ["", "plain", "größer – 中文，のカ 한국어, µs → „Ÿ“ Цена €", "a \"quote\" and a \\"]
        {
            assert_eq!((printable(text), first_hidden(text)), (Cow::Borrowed(text), None));
        }
    }

    #[test]
    fn other_characters_are_escaped_everywhere() {
        let others = all().filter(|c| !is_plain(*c) && !matches!(c, '\n' | '\t'));
        for c in
            others.step_by(97).chain("\0\u{7}\u{1b}\r\u{7f}\u{9b}\u{a0}\u{ad}\u{301}\u{202e}\u{fe0f}\u{e0041}א".chars())
        {
            let text = format!("a{c}b");
            assert_eq!(printable(&text), format!("a{}b", c.escape_unicode()).replace(r"\u{d}", r"\r"));
            assert_eq!(first_hidden(&text), Some((1, c)));
            assert!(printable_lines(&text).chars().all(is_plain));
            let json = serde_json::to_string(&text).unwrap();
            assert!(printable_json(&json).chars().all(is_plain), "{json}");
            assert_eq!(serde_json::from_str::<String>(&printable_json(&json)).unwrap(), text);
        }
        assert_eq!(first_hidden("a\r\n\tb\n"), None);
        assert_eq!(printable_lines("a\n\tb\r\n"), "a\n\tb\\r\n");
        assert_eq!(printable("a\nb"), "a\\nb");
    }
}
