//! Reads assertions: the shape of each, and its words. Proving it is the task of
//! [`crate::prove`].

use std::collections::BTreeMap;

use super::names::checked_name;
use super::value::{Field, Key, Table, list};
use crate::authority::Hypercall;
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Assertion, Claim, Exclusive, Measure, Named, Section};

const NAME: Key = Key::new("name", "name = \"no-grants-for-http\"");
const WHY: Key = Key::new("why", "why = \"who takes over http must not open memory to another domain\"");
const KIND: Key = Key::new("kind", "kind = \"cannot-cause\"");
const ALLOW_VACUOUS: Key = Key::new("allow-vacuous", "allow-vacuous = true");
const FROM: Key = Key::new("from", "from = \"http\"");
const TO: Key = Key::new("to", "to = \"grant.issue\"");
const TAKEOVERS: Key = Key::new("takeovers", "takeovers = 1");
const OWNER: Key = Key::new("owner", "owner = \"tcpip\"");
const REGIONS: Key = Key::new("regions", "regions = [\"rx-pool\", \"tx-pool\"]");
const ACCESS: Key = Key::new("access", "access = \"map\"");
const WHAT: Key = Key::new("what", "what = \"granted-pages\"");
const SERVICE: Key = Key::new("service", "service = \"http\"");
const LIMIT: Key = Key::new("limit", "limit = 258");
const WHO: Key = Key::new("who", "who = [\"control\"]");
const MAY: Key = Key::new("may", "may = \"power.off\"");
const UNLESS: Key = Key::new("unless", "unless = [\"netback\"]");
const BESIDES: Key = Key::new("besides", "besides = [\"netback\"]");
const DIRECTLY: Key = Key::new("directly", "directly = true");
const BETWEEN: Key = Key::new("between", "between = [\"http\", \"netfront\"]");

#[derive(Clone, Copy)]
enum Kind {
    CannotCause,
    NoLeak,
    Exclusive,
    AtMost,
    Only,
    ShareNothing,
}

/// The old name of `cannot-cause`, which said more than it proves.
const OLD_NAME: &str = "no-flow";

const KINDS: [(&str, Kind); 6] = [
    ("cannot-cause", Kind::CannotCause),
    ("no-leak", Kind::NoLeak),
    ("exclusive", Kind::Exclusive),
    ("at-most", Kind::AtMost),
    ("only", Kind::Only),
    ("share-nothing", Kind::ShareNothing),
];

/// Reads every `[[assert]]`.
pub(super) fn read(field: Option<Field<'_>>, log: &mut Log) -> Section<Assertion> {
    let (mut names, mut items): (Vec<Spanned<String>>, Vec<Named<Assertion>>) = (Vec::new(), Vec::new());
    let mut first_of = BTreeMap::new();
    for mut table in field.map(|field| field.tables("an assertion", log)).unwrap_or_default() {
        let name = table.require(NAME, log).and_then(|field| field.text(log));
        let Some(name) = name.filter(|name| checked_name(name, "assertion", log)) else { continue };
        table.what = format!("assertion `{}`", name.value);
        if let Some(first) = first_of.get(&name.value) {
            log.push(
                Diagnostic::at(&name.span, format!("two assertions have the name `{}`", name.value))
                    .label("the second")
                    .related(first, "the first")
                    .help("give one of them another name"),
            );
            continue;
        }
        first_of.insert(name.value.clone(), name.span.clone());
        names.push(name.clone());
        if let Some(body) = assertion(&table, log) {
            items.push(Named { name, body });
        }
    }
    items.sort_by(|a, b| a.name.value.cmp(&b.name.value));
    Section::new(names, items)
}

fn assertion(table: &Table<'_>, log: &mut Log) -> Option<Assertion> {
    let why = table.require(WHY, log).and_then(|field| line_of_text(&field, log));
    let kind = table.require(KIND, log).and_then(|field| kind(&field, log))?;
    let keys: &[Key] = match kind {
        Kind::CannotCause => &[FROM, TO, TAKEOVERS, UNLESS],
        Kind::NoLeak => &[REGIONS, TO, TAKEOVERS, UNLESS],
        Kind::Exclusive => &[OWNER, REGIONS, ACCESS, BESIDES],
        Kind::AtMost => &[WHAT, SERVICE, LIMIT],
        Kind::Only => &[WHO, MAY, TAKEOVERS, DIRECTLY, UNLESS],
        Kind::ShareNothing => &[BETWEEN],
    };
    let known: Vec<Key> = [NAME, WHY, KIND, ALLOW_VACUOUS].iter().chain(keys).copied().collect();
    table.only(&known, log);
    let claim = match kind {
        Kind::CannotCause => cannot_cause(table, log),
        Kind::NoLeak => no_leak(table, log),
        Kind::Exclusive => exclusive(table, log),
        Kind::AtMost => at_most(table, log),
        Kind::Only => only(table, log),
        Kind::ShareNothing => share_nothing(table, log),
    };
    let allow_vacuous = flag(table, ALLOW_VACUOUS, log);
    Some(Assertion { why: why?, claim: claim?, allow_vacuous: allow_vacuous? })
}

fn kind(field: &Field<'_>, log: &mut Log) -> Option<Kind> {
    let text = field.text(log)?;
    if text.value == OLD_NAME {
        log.push(
            Diagnostic::at(&text.span, format!("the kind `{OLD_NAME}` is now called `cannot-cause`"))
                .label("the old name")
                .help("write `kind = \"cannot-cause\"`; where bytes of a region can end up is proved by `no-leak`"),
        );
        return None;
    }
    field.choice(&KINDS, log).map(|kind| kind.value)
}

/// Reads a key that is `false` if it is left out.
fn flag(table: &Table<'_>, key: Key, log: &mut Log) -> Option<bool> {
    match table.find(key) {
        Some(field) => Some(field.flag(log)?.value),
        None => Some(false),
    }
}

fn takeovers(table: &Table<'_>, log: &mut Log) -> Option<u32> {
    match table.find(TAKEOVERS) {
        Some(field) => Some(field.integer(0..=15, log)?.value),
        None => Some(0),
    }
}

/// Reads a list of words that may be left out.
fn optional_words(table: &Table<'_>, key: Key, log: &mut Log) -> Option<Vec<Spanned<String>>> {
    table.find(key).map_or(Some(Vec::new()), |field| sorted_words(&field, log))
}

/// Reads a text that fits one line of a report.
fn line_of_text(field: &Field<'_>, log: &mut Log) -> Option<String> {
    let text = field.text(log)?.value;
    if text.trim().is_empty() || text.len() > 200 || text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        field.refuse("one line of up to 200 bytes, without \" and \\", log);
        return None;
    }
    Some(text)
}

fn cannot_cause(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let from = table.require(FROM, log).and_then(|field| field.text(log));
    let to = table.require(TO, log).and_then(|field| operation(&field, log));
    let (takeovers, unless) = (takeovers(table, log), optional_words(table, UNLESS, log));
    Some(Claim::CannotCause { from: from?, to: to?, takeovers: takeovers?, unless: unless? })
}

fn no_leak(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let regions = table.require(REGIONS, log).and_then(|field| sorted_words(&field, log));
    let to = table.require(TO, log).and_then(|field| field.text(log));
    let (takeovers, unless) = (takeovers(table, log), optional_words(table, UNLESS, log));
    Some(Claim::NoLeak { regions: regions?, to: to?, takeovers: takeovers?, unless: unless? })
}

fn exclusive(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let owner = table.require(OWNER, log).and_then(|field| field.text(log));
    let regions = table.require(REGIONS, log).and_then(|field| sorted_words(&field, log));
    let access = table.require(ACCESS, log).and_then(|field| field.choice(&Exclusive::WORDS, log));
    let besides = optional_words(table, BESIDES, log);
    Some(Claim::Exclusive { owner: owner?, regions: regions?, access: access?, besides: besides? })
}

fn at_most(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let what = table.require(WHAT, log).and_then(|field| field.choice(&Measure::WORDS, log));
    let limit = table.require(LIMIT, log).and_then(|field| field.integer(0..=u32::MAX, log));
    let service = match table.find(SERVICE) {
        Some(field) => Some(field.text(log)?),
        None => None,
    };
    Some(Claim::AtMost { what: what?, service, limit: limit?.value })
}

fn only(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let who = table.require(WHO, log).and_then(|field| sorted_words(&field, log));
    let may = table.require(MAY, log).and_then(|field| operation(&field, log));
    let (directly, takeovers) = (flag(table, DIRECTLY, log), takeovers(table, log));
    let unless = optional_words(table, UNLESS, log);
    if let (Some(true), Some(field)) = (directly, table.find(TAKEOVERS).or_else(|| table.find(UNLESS))) {
        field.refuse("left out: what a subject does `directly` needs nobody's help", log);
        return None;
    }
    Some(Claim::Only { who: who?, may: may?, takeovers: takeovers?, directly: directly?, unless: unless? })
}

fn share_nothing(table: &Table<'_>, log: &mut Log) -> Option<Claim> {
    let field = table.require(BETWEEN, log)?;
    let between = sorted_words(&field, log)?;
    if between.len() < 2 {
        field.refuse("two services or more", log);
        return None;
    }
    Some(Claim::ShareNothing { between })
}

/// Reads a list of words and sorts it, so that the canonical form does not depend on the order in
/// the file.
fn sorted_words(field: &Field<'_>, log: &mut Log) -> Option<Vec<Spanned<String>>> {
    let mut words = field.words(log)?;
    words.sort_by(|a, b| a.value.cmp(&b.value));
    Some(words)
}

/// Reads `OBJECT.OPERATION`, or the name of a hypercall.
fn operation(field: &Field<'_>, log: &mut Log) -> Option<Spanned<String>> {
    let text = field.text(log)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '*' | '@' | '{' | '}' | ':');
    if Hypercall::ALL.iter().any(|hypercall| hypercall.name() == text.value) {
        return Some(text);
    }
    match text.value.rsplit_once('.') {
        Some((object, word))
            if !object.is_empty() && !word.is_empty() && object.chars().chain(word.chars()).all(plain) =>
        {
            Some(text)
        }
        _ => {
            log.push(
                Diagnostic::at(&text.span, format!("`{}` is not an operation on an object", text.value))
                    .label("unknown operation")
                    .help(format!(
                        "write an object, a dot and an operation, like {}",
                        list(&["grant.issue", "rx-pool.write"])
                    )),
            );
            None
        }
    }
}
