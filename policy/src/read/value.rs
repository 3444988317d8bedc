//! Typed access to the parsed TOML. Every function returns a value, or logs why there is none.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use cloister_caps::PAGE_SIZE;
use toml_edit::{Item, TableLike};

use crate::diagnostic::{Diagnostic, Log, Span, Spanned};

/// A key that an entry may have.
#[derive(Clone, Copy)]
pub(crate) struct Key {
    /// The key.
    pub name: &'static str,
    /// A line that an author could write.
    pub example: &'static str,
}

impl Key {
    pub(crate) const fn new(name: &'static str, example: &'static str) -> Self {
        Key { name, example }
    }
}

/// A table of the file.
pub(crate) struct Table<'a> {
    table: &'a dyn TableLike,
    /// The name of the thing that it describes, for messages.
    pub what: String,
    /// Its position in the file.
    pub span: Span,
}

/// A key of a table, with its value.
pub(crate) struct Field<'a> {
    /// The key.
    pub name: Spanned<String>,
    item: &'a Item,
    /// The position of the value.
    pub span: Span,
    example: &'static str,
}

impl<'a> Table<'a> {
    /// Returns the root of a file.
    pub(crate) fn root(table: &'a dyn TableLike) -> Self {
        Table { table, what: "a policy".into(), span: 0..0 }
    }

    /// Logs every key that is not among `known`.
    pub(crate) fn only(&self, known: &[Key], log: &mut Log) {
        for (name, _) in self.table.iter() {
            if !known.iter().any(|key| key.name == name) {
                let names: Vec<&str> = known.iter().map(|key| key.name).collect();
                log.push(
                    Diagnostic::at(&self.key_span(name), format!("{} has no key `{name}`", self.what))
                        .label("unknown key")
                        .help(format!("the keys are {}", list(&names))),
                );
            }
        }
    }

    /// Returns the field of a key, if there is one.
    pub(crate) fn find(&self, key: Key) -> Option<Field<'a>> {
        self.field(key.name, key.example)
    }

    /// Returns the field of a key that must be there.
    pub(crate) fn require(&self, key: Key, log: &mut Log) -> Option<Field<'a>> {
        let field = self.find(key);
        if field.is_none() {
            log.push(
                Diagnostic::at(&self.span, format!("{} has no `{}`", self.what, key.name))
                    .label("missing key")
                    .help(format!("write, for example, `{}`", key.example)),
            );
        }
        field
    }

    /// Returns every field, in the order of the names; `example` shows the form of a value.
    pub(crate) fn fields(&self, example: &'static str) -> Vec<Field<'a>> {
        let mut names: Vec<&str> = self.table.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.into_iter().filter_map(|name| self.field(name, example)).collect()
    }

    fn field(&self, name: &str, example: &'static str) -> Option<Field<'a>> {
        let item = self.table.get(name)?;
        let key_span = self.key_span(name);
        // For a table with its own header, the position is that of the header's name.
        let span = if item.is_value() { item.span().unwrap_or(key_span.clone()) } else { key_span.clone() };
        Some(Field { name: Spanned::new(name.to_owned(), key_span), item, span, example })
    }

    fn key_span(&self, name: &str) -> Span {
        self.table.key(name).and_then(toml_edit::Key::span).unwrap_or(self.span.clone())
    }
}

impl<'a> Field<'a> {
    /// Logs that the value is of another type.
    fn mistyped(&self, expected: &str, log: &mut Log) {
        let name = &self.name.value;
        let found = self.item.type_name();
        log.push(
            Diagnostic::at(&self.span, format!("`{name}` must be {expected}"))
                .label(format!("this is {} {found}", article(found)))
                .help(format!("write, for example, `{}`", self.example)),
        );
    }

    /// Logs that the value is out of range.
    pub(crate) fn refuse(&self, expected: &str, log: &mut Log) {
        log.push(
            Diagnostic::at(&self.span, format!("`{}` must be {expected}", self.name.value))
                .label("not allowed")
                .help(format!("write, for example, `{}`", self.example)),
        );
    }

    /// Reads a table.
    pub(crate) fn table(&self, what: String, log: &mut Log) -> Option<Table<'a>> {
        let table = self.item.as_table_like();
        if table.is_none() {
            self.mistyped("a table", log);
        }
        table.map(|table| Table { table, what, span: self.name.span.clone() })
    }

    /// Reads a list of tables, written as `[[name]]`.
    pub(crate) fn tables(&self, what: &str, log: &mut Log) -> Vec<Table<'a>> {
        let Some(list) = self.item.as_array_of_tables() else {
            self.mistyped("a list of tables", log);
            return Vec::new();
        };
        let span = |table: &toml_edit::Table| table.span().unwrap_or(self.span.clone());
        list.iter().map(|table| Table { table, what: what.to_owned(), span: span(table) }).collect()
    }

    /// Reads a text.
    pub(crate) fn text(&self, log: &mut Log) -> Option<Spanned<String>> {
        match self.item.as_str() {
            Some(text) => Some(Spanned::new(text.to_owned(), self.span.clone())),
            None => {
                self.mistyped("a string", log);
                None
            }
        }
    }

    /// Reads a whole number within a range.
    pub(crate) fn integer(&self, range: RangeInclusive<u32>, log: &mut Log) -> Option<Spanned<u32>> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = self.item.as_integer() else {
            self.mistyped(&expected, log);
            return None;
        };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Some(Spanned::new(number, self.span.clone())),
            _ => {
                self.refuse(&expected, log);
                None
            }
        }
    }

    /// Reads `true` or `false`.
    pub(crate) fn flag(&self, log: &mut Log) -> Option<Spanned<bool>> {
        match self.item.as_bool() {
            Some(flag) => Some(Spanned::new(flag, self.span.clone())),
            None => {
                self.mistyped("true or false", log);
                None
            }
        }
    }

    /// Reads a size in whole pages, written as `"16K"`, `"1M"` or `"1G"`; `range` is in pages.
    pub(crate) fn size(&self, range: RangeInclusive<u32>, log: &mut Log) -> Option<Spanned<u32>> {
        let text = self.text(log)?;
        match parse_size(&text.value) {
            Some(pages) if range.contains(&pages) => Some(Spanned::new(pages, text.span)),
            _ => {
                let (low, high) = (render_size(*range.start()), render_size(*range.end()));
                self.refuse(&format!("a size from \"{low}\" to \"{high}\" that is a multiple of 4K"), log);
                None
            }
        }
    }

    /// Reads one of the words.
    pub(crate) fn choice<T: Copy>(&self, words: &[(&str, T)], log: &mut Log) -> Option<Spanned<T>> {
        let text = self.text(log)?;
        let found = words.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            log.push(
                Diagnostic::at(&text.span, format!("`{}` cannot be \"{}\"", self.name.value, text.value))
                    .label("unknown word")
                    .help(format!("write {}", alternatives(&names))),
            );
        }
        found.map(|(_, value)| Spanned::new(*value, text.span))
    }

    /// Reads a list of different words. A repeated word is logged and left out.
    pub(crate) fn words(&self, log: &mut Log) -> Option<Vec<Spanned<String>>> {
        let Some(array) = self.item.as_array() else {
            self.mistyped("a list of words", log);
            return None;
        };
        let mut words: Vec<Spanned<String>> = Vec::new();
        let mut known = BTreeSet::new();
        let mut whole = true;
        for value in array {
            let span = value.span().unwrap_or(self.span.clone());
            match value.as_str() {
                Some(word) if !known.insert(word) => {
                    log.push(
                        Diagnostic::at(&span, format!("`{}` lists \"{word}\" twice", self.name.value))
                            .label("a repetition")
                            .help("leave it out"),
                    );
                    whole = false;
                }
                Some(word) => words.push(Spanned::new(word.to_owned(), span)),
                None => {
                    log.push(
                        Diagnostic::at(&span, format!("`{}` must be a list of words", self.name.value))
                            .label(format!("this is {} {}", article(value.type_name()), value.type_name()))
                            .help(format!("write, for example, `{}`", self.example)),
                    );
                    whole = false;
                }
            }
        }
        if words.is_empty() && whole {
            log.push(
                Diagnostic::at(&self.span, format!("`{}` is empty", self.name.value))
                    .label("has no effect")
                    .help(format!("leave the key out, or write, for example, `{}`", self.example)),
            );
            return None;
        }
        whole.then_some(words)
    }
}

/// Parses a size such as `16K`, and returns its pages. `None` if it is not a size, or not whole
/// pages.
fn parse_size(text: &str) -> Option<u32> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit: u64 = match unit {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    let bytes = digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(unit)?;
    let pages = bytes / PAGE_SIZE as u64;
    if bytes.is_multiple_of(PAGE_SIZE as u64) { u32::try_from(pages).ok() } else { None }
}

/// Returns a number of pages as a size, in the largest unit that divides it.
pub(crate) fn render_size(pages: u32) -> String {
    let kibibytes = u64::from(pages) * (PAGE_SIZE as u64 / 1024);
    match kibibytes {
        k if k > 0 && k.is_multiple_of(1 << 20) => format!("{}G", k >> 20),
        k if k > 0 && k.is_multiple_of(1 << 10) => format!("{}M", k >> 10),
        k => format!("{k}K"),
    }
}

/// Returns a list such as: `a`, `b` and `c`.
pub(crate) fn list(words: &[&str]) -> String {
    joined(words, "and", '`')
}

/// Returns a list such as: "a", "b" or "c".
pub(crate) fn alternatives(words: &[&str]) -> String {
    joined(words, "or", '"')
}

fn joined(words: &[&str], conjunction: &str, quote: char) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{quote}{word}{quote}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {conjunction} {last}", rest.join(", ")),
        None => String::new(),
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_pages() {
        assert_eq!(parse_size("4K"), Some(1));
        assert_eq!(parse_size("1M"), Some(256));
        assert_eq!(parse_size("4G"), Some(1 << 20));
        for wrong in
            ["", "K", "4", "4k", "6K", "04K", "-4K", "+4K", " 4K", "4KB", "1.5M", "99999999999999999999G", "4ü"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_rendered_size_is_read_back() {
        for pages in [1, 3, 255, 256, 257, 1 << 18, 1 << 20, (1 << 18) + 1] {
            assert_eq!(parse_size(&render_size(pages)), Some(pages));
        }
    }

    #[test]
    fn words_are_listed_as_in_a_sentence() {
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(alternatives(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
    }
}
