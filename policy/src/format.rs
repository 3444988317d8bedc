//! Formats a policy: spacing and the order of keys. Comments stay where they are.

use toml_edit::{DocumentMut, Item, KeyMut, RawString, Table, Value};

use crate::diagnostic::{Diagnostic, Report};
use crate::read::text::{Size, readable, text_of};

/// The sections and their keys, in the order in which they are written. Entries keep the author's
/// order.
const KEYS: [(&str, &[&str]); 7] = [
    ("image", &["name", "isolation", "refuse-weakness"]),
    ("domains", &["ids"]),
    (
        "services",
        &[
            "program",
            "program-sha256",
            "priority",
            "cpu",
            "stack",
            "restart",
            "console",
            "clock",
            "entropy",
            "power",
            "info",
        ],
    ),
    ("regions", &["pages", "share", "kind", "minimum", "maximum", "keep", "map"]),
    ("queues", &["from", "to", "interface", "depth"]),
    ("ports", &["service", "peer", "kind", "rights"]),
    ("grants", &["region", "peer", "access", "pages", "lifetime", "held-by", "on-behalf-of"]),
];
const ASSERT: &[&str] = &[
    "name",
    "why",
    "kind",
    "from",
    "to",
    "takeovers",
    "owner",
    "regions",
    "access",
    "what",
    "service",
    "limit",
    "who",
    "may",
    "between",
];

/// Returns the text, formatted. Formatting a formatted text changes nothing.
///
/// # Errors
/// The text is not TOML.
pub fn format(name: &str, text: &str) -> Result<String, Report> {
    let parsed = text.replace("\r\n", "\n").parse::<DocumentMut>();
    let mut document = parsed.map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Report::unusable(name, text, Diagnostic::at(&span, format!("not TOML: {}", error.message())))
    })?;
    for (section, item) in document.iter_mut() {
        let keys = KEYS.iter().find(|(name, _)| *name == section.get()).map_or(&[][..], |(_, keys)| keys);
        match item {
            Item::Table(table) if section.get() == "image" => entry(table, keys),
            Item::Table(table) => table.iter_mut().for_each(|(_, item)| {
                if let Item::Table(table) = item {
                    entry(table, keys);
                }
            }),
            Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| entry(table, ASSERT)),
            Item::Value(value) => tidy(value),
            Item::None => {}
        }
    }
    for (mut key, item) in document.iter_mut() {
        if item.is_value() {
            tidy_key(&mut key);
        }
    }
    Ok(blank_lines(&document.to_string()))
}

/// Orders the keys of an entry and tidies its values.
fn entry(table: &mut Table, keys: &[&str]) {
    let rank = |key: &str| keys.iter().position(|known| *known == key).unwrap_or(keys.len());
    if !keys.is_empty() {
        table.sort_values_by(|one, _, other, _| rank(one.get()).cmp(&rank(other.get())));
    }
    for (mut key, item) in table.iter_mut() {
        tidy_key(&mut key);
        if let Item::Value(value) = item {
            tidy(value);
        }
    }
}

/// Sets one space after the equals sign and one before a comment, and formats lists and inline
/// tables.
///
/// A list with comments or line breaks keeps them.
fn tidy(value: &mut Value) {
    let mut bare = value.clone();
    bare.decor_mut().clear();
    if !bare.to_string().contains(['\n', '#']) {
        match value {
            Value::Array(array) => array.fmt(),
            Value::InlineTable(table) => table.fmt(),
            _ => {}
        }
    }
    let after = value.decor().suffix().and_then(RawString::as_str).unwrap_or_default().trim().to_owned();
    let after = if after.is_empty() { after } else { format!(" {after}") };
    *value.decor_mut() = toml_edit::Decor::new(" ", after);
}

/// Moves a key, and the comment before it, to the margin.
fn tidy_key(key: &mut KeyMut<'_>) {
    let decor = key.leaf_decor_mut();
    let before = decor.prefix().and_then(RawString::as_str).unwrap_or_default();
    // What follows the last line break is the key's own indentation.
    let lines = before.rfind('\n').and_then(|end| before.get(..=end)).unwrap_or_default();
    let before: String = lines.lines().map(|line| format!("{}\n", line.trim())).collect();
    decor.set_prefix(before);
    decor.set_suffix(" ");
}

/// Removes spaces at the ends of lines, and sets one empty line before an entry and its comment.
///
/// A file with multi-line strings is left alone.
fn blank_lines(text: &str) -> String {
    if text.contains("\"\"\"") || text.contains("'''") {
        return text.trim_end().to_owned() + "\n";
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut out: Vec<&str> = Vec::new();
    let mut comment_start = 0;
    for line in lines {
        let is_header = line.trim_start().starts_with('[') && !out.last().is_some_and(|last| is_open_list(last));
        if line.is_empty() && out.last().is_none_or(|last| last.is_empty()) {
            continue;
        }
        let follows_comment = out.last().is_some_and(|last| last.starts_with('#'));
        if !(line.starts_with('#') && follows_comment) {
            if is_header {
                let at = if follows_comment { comment_start } else { out.len() };
                if at > 0 && out.get(at - 1).is_some_and(|before| !before.is_empty()) {
                    out.insert(at, "");
                }
            }
            comment_start = out.len();
        }
        out.push(line);
    }
    out.join("\n").trim_end().to_owned() + "\n"
}

/// Returns `true` if a line leaves a list open, so that a bracket at the start of the next is not a
/// header.
fn is_open_list(line: &str) -> bool {
    let code = line.split('#').next().unwrap_or_default().trim_end();
    code.ends_with('[') || code.ends_with(',')
}

/// Reads the file at `path` and formats it.
///
/// # Errors
/// The file cannot be read, or is not TOML.
pub fn format_file(path: &std::path::Path) -> Result<(String, String), Report> {
    let text = text_of(path)?;
    let name = path.display().to_string();
    // The reader's limits apply before the text is parsed.
    readable(&name, &text, Size::Analysis)?;
    let formatted = format(&name, &text)?;
    Ok((text, formatted))
}
