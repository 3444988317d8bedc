//! From the file to a [`Policy`]: the shape of the file, and every value by itself. What values mean
//! together is the checker's.

mod assertions;
mod entries;
mod value;

use toml_edit::{Document, Item, TableLike, Value};

use crate::diagnostic::{Diagnostic, Log, Report, Span, Spanned};
use crate::model::{Named, Policy, Section};
use crate::printable::{first_hidden, is_plain};
use crate::verify::limits::MAX_POLICY;
use value::{Field, Key, Table};

pub(crate) use value::{list, render_size};

/// The format of the policy language that this compiler reads.
const FORMAT: u32 = 1;

/// How large a policy file may be. The shipped ones have about ten thousand bytes; one with 100,000 rules has five million.
/// Parsing can take more than a hundred times the file's size in memory.
#[derive(Clone, Copy)]
pub(crate) enum Size {
    /// As large as an image has room for.
    Image,
    /// As large as can be analysed.
    Analysis,
}

impl Size {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Size::Image => MAX_POLICY as usize,
            Size::Analysis => 8 << 20,
        }
    }

    /// What is said of a file that is larger.
    pub(crate) fn exceeded(self) -> String {
        let what = match self {
            Size::Image => "an image has room for",
            Size::Analysis => "can be analysed",
        };
        format!("the file has more than {} bytes, which is the largest policy that {what}", self.bytes())
    }
}

/// The longest name. The kernel prefixes the service's to each of its lines on the console.
const MAX_NAME: usize = 32;

/// Names that the kernel and the checker use for themselves.
const RESERVED: [&str; 5] = ["cloister", "kernel", "policy", "self", "xen"];

const SECTIONS: [Key; 10] = [
    Key::new("format", "format = 1"),
    Key::new("image", "[image]"),
    Key::new("domains", "[domains.netback]"),
    Key::new("services", "[services.http]"),
    Key::new("regions", "[regions.rx-pool]"),
    Key::new("queues", "[queues.net]"),
    Key::new("ports", "[ports.tx-events]"),
    Key::new("grants", "[grants.rx-pages]"),
    Key::new("xenstore", "[xenstore.netfront]"),
    Key::new("assert", "[[assert]]"),
];

/// Reads the text of a policy file. Mistakes go to `log`; what they are in is left out of the answer.
pub(crate) fn read(file: &str, text: &str, size: Size, log: &mut Log) -> Result<Policy, Report> {
    readable(file, text, size)?;
    let document = Document::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        Report::unusable(file, text, Diagnostic::at(&span, format!("not TOML: {}", error.message())))
    })?;
    hidden_in_table(document.as_table(), &(0..0), log);
    let root = Table::root(document.as_table());
    root.only(&SECTIONS, log);
    let [format, image, domains, services, regions, queues, ports, grants, xenstore, assert] = SECTIONS;
    if let Some(field) = root.require(format, log)
        && field.integer(0..=u32::MAX, log).is_some_and(|number| number.value != FORMAT)
    {
        field.refuse(&format!("{FORMAT}, the format that this compiler reads"), log);
    }
    Ok(Policy {
        image: root.require(image, log).and_then(|field| read_image(&field, log)).unwrap_or_default(),
        domains: section(root.find(domains), "domain", log, entries::domain),
        services: section(root.require(services, log), "service", log, entries::service),
        regions: section(root.find(regions), "region", log, entries::region),
        queues: section(root.find(queues), "queue", log, entries::queue),
        ports: section(root.find(ports), "port", log, entries::port),
        grants: section(root.find(grants), "grant", log, entries::grant),
        xenstore: section(root.find(xenstore), "xenstore", log, entries::paths),
        assertions: assertions::read(root.find(assert), log),
    })
}

/// Logs each key and string that says a character that is not plain, as `"\u202e"` does: what is printed of the policy
/// must be what it says.
fn hidden_in_table(table: &dyn TableLike, span: &Span, log: &mut Log) {
    for (name, item) in table.iter() {
        let key = table.key(name).and_then(toml_edit::Key::span).unwrap_or(span.clone());
        hidden(name, &key, log);
        match item {
            Item::Value(value) => hidden_in_value(value, &key, log),
            Item::Table(table) => hidden_in_table(table, &key, log),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|table| hidden_in_table(table, &key, log)),
            Item::None => {}
        }
    }
}

fn hidden_in_value(value: &Value, span: &Span, log: &mut Log) {
    let span = value.span().unwrap_or(span.clone());
    match value {
        Value::String(text) => hidden(text.value(), &span, log),
        Value::Array(array) => array.iter().for_each(|value| hidden_in_value(value, &span, log)),
        Value::InlineTable(table) => hidden_in_table(table, &span, log),
        _ => {}
    }
}

fn hidden(text: &str, span: &Span, log: &mut Log) {
    if let Some(c) = text.chars().find(|c| !is_plain(*c)) {
        log.push(hidden_character(c, span));
    }
}

fn hidden_character(c: char, span: &Span) -> Diagnostic {
    let name = c.escape_unicode();
    Diagnostic::at(span, format!("`{name}` is not a character that a policy has"))
        .label("not ASCII, nor a letter or sign of Latin, Greek, Cyrillic, Han, kana or Hangul")
        .help("leave it out: who reads the policy must see what it says, on any terminal")
}

/// Whether a text is one that a policy could be: not too long, not empty, and all of it visible.
pub(crate) fn readable(file: &str, text: &str, size: Size) -> Result<(), Report> {
    if text.len() > size.bytes() {
        return Err(Report::unusable(file, "", Diagnostic::of_file(size.exceeded())));
    }
    if text.trim().is_empty() {
        let problem = Diagnostic::of_file("the file is empty").help("a policy starts with `format = 1`");
        return Err(Report::unusable(file, "", problem));
    }
    if let Some((at, c)) = first_hidden(text) {
        return Err(Report::unusable(file, text, hidden_character(c, &(at..at + c.len_utf8()))));
    }
    Ok(())
}

fn read_image(field: &Field<'_>, log: &mut Log) -> Option<String> {
    let name = Key::new("name", "name = \"cloister\"");
    let table = field.table("`image`".into(), log)?;
    table.only(&[name], log);
    let text = table.require(name, log)?.text(log)?;
    checked_name(&text, "image", log).then_some(text.value)
}

/// Reads each entry of a section by `read`.
fn section<T>(
    field: Option<Field<'_>>,
    what: &str,
    log: &mut Log,
    read: impl Fn(&Table<'_>, &mut Log) -> Option<T>,
) -> Section<T> {
    let (mut names, mut items) = (Vec::new(), Vec::new());
    let Some(table) = field.and_then(|field| field.table(format!("the section of {what}s"), log)) else {
        return Section::new(names, items);
    };
    for entry in table.fields("a table") {
        let well_named = checked_name(&entry.name, what, log) && unreserved(&entry.name, what, log);
        names.push(entry.name.clone());
        let body = entry.table(format!("{what} `{}`", entry.name.value), log).and_then(|table| read(&table, log));
        if let (true, Some(body)) = (well_named, body) {
            items.push(Named { name: entry.name, body });
        }
    }
    Section::new(names, items)
}

/// Whether a name has the characters that names have.
fn checked_name(name: &Spanned<String>, what: &str, log: &mut Log) -> bool {
    let text = &name.value;
    let ends = text.starts_with(|c: char| c.is_ascii_lowercase()) && !text.ends_with('-');
    let body = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if ends && body && text.len() <= MAX_NAME {
        return true;
    }
    log.push(
        Diagnostic::at(&name.span, format!("`{text}` cannot be the name of {}", with_article(what)))
            .label("not a name")
            .help(format!(
                "a name has up to {MAX_NAME} characters of a-z, 0-9 and -, starts with a letter and does not end with -"
            )),
    );
    false
}

fn unreserved(name: &Spanned<String>, what: &str, log: &mut Log) -> bool {
    if !RESERVED.contains(&name.value.as_str()) {
        return true;
    }
    log.push(
        Diagnostic::at(&name.span, format!("`{}` cannot be the name of {}", name.value, with_article(what)))
            .label("reserved")
            .help(format!("choose another name; {} mean something else", list(&RESERVED))),
    );
    false
}

fn with_article(noun: &str) -> String {
    if noun.starts_with(['a', 'i']) { format!("an {noun}") } else { format!("a {noun}") }
}

/// Whether a program names a crate.
fn checked_program(program: &Spanned<String>, log: &mut Log) -> bool {
    let text = &program.value;
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
    let body = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if starts && body && text.len() <= 64 {
        return true;
    }
    log.push(
        Diagnostic::at(&program.span, format!("`{text}` cannot be the name of a crate"))
            .label("not a crate name")
            .help("write, for example, `program = \"cloister-http\"`"),
    );
    false
}

/// A span that covers nothing but shows where a table is.
fn at(table: &Table<'_>) -> Span {
    table.span.clone()
}
