//! Reads a policy file into a [`Policy`]: checks the shape of the file, and every value by itself.
//!
//! What values mean together is the task of [`crate::check`].

mod assertions;
mod entries;
mod names;
pub(crate) mod text;
mod value;

use cloister_caps::weakness::{Weakness, Weaknesses};
use toml_edit::{Document, Item, TableLike, Value};

use crate::diagnostic::{Diagnostic, Log, Report, Span};
use crate::model::{Image, Named, Policy, Section};
use crate::printable::is_plain;
pub(crate) use names::RESERVED;
use names::{checked_name, unreserved};
use text::{Size, hidden_character, readable};
use value::{Field, Key, Table};

pub(crate) use value::{list, render_size};

/// The format of the policy language that this compiler reads.
///
/// In format 1, a path of `[xenstore.SERVICE]` stood for its node and everything below.
const FORMAT: u32 = 2;

const SECTIONS: [Key; 10] = [
    Key::new("format", "format = 2"),
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

/// Reads the text of a policy file. Mistakes go to `log`; entries with mistakes are left out of the
/// result.
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

/// Logs each key and string with a character that is not plain, such as `"\u202e"`.
///
/// A printed policy must look like what it means.
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

fn read_image(field: &Field<'_>, log: &mut Log) -> Option<Image> {
    let name = Key::new("name", "name = \"cloister\"");
    let isolation = Key::new("isolation", "isolation = \"strict\"");
    let refuse = Key::new("refuse-weakness", "refuse-weakness = [\"meltdown\", \"mds\"]");
    let table = field.table("`image`".into(), log)?;
    table.only(&[name, isolation, refuse], log);
    let text = table.require(name, log)?.text(log)?;
    let strict = table.find(isolation).and_then(|field| field.choice(&Image::ISOLATION, log));
    let refused = table.find(refuse).map_or(Weaknesses::NONE, |field| read_weaknesses(&field, log));
    checked_name(&text, "image", log).then(|| Image {
        name: text.value,
        strict: strict.is_some_and(|strict| strict.value),
        refused,
        span: table.span.clone(),
    })
}

/// Reads a list of weaknesses. An unknown word is logged and left out.
fn read_weaknesses(field: &Field<'_>, log: &mut Log) -> Weaknesses {
    let mut refused = Weaknesses::NONE;
    for word in field.words(log).unwrap_or_default() {
        match Weakness::from_name(&word.value) {
            Some(weakness) => refused = refused.with(weakness),
            None => {
                let known: Vec<&str> = Weakness::ALL.iter().map(|weakness| weakness.name()).collect();
                log.push(
                    Diagnostic::at(&word.span, format!("there is no weakness `{}`", word.value))
                        .label("unknown weakness")
                        .help(format!("the weaknesses are {}", list(&known))),
                );
            }
        }
    }
    refused
}

/// Reads each entry of a section with `read`.
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
