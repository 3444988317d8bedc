//! The names of entries and programs.

use super::value::{Table, list};
use crate::diagnostic::{Diagnostic, Log, Span, Spanned};

/// The length of the longest name. The kernel puts a service's name before each of its lines on the
/// console.
const MAX_NAME: usize = 32;

/// Names that the kernel and the compiler use for themselves. With the words from `fault` on, the
/// kernel's own lines of the log begin; a service's begin with its name.
pub(crate) const RESERVED: [&str; 11] =
    ["cloister", "kernel", "policy", "self", "xen", "fault", "profile", "refused", "restart", "stopped", "use"];

/// Checks the characters and the length of a name. Returns `false` if it logged a mistake.
pub(super) fn checked_name(name: &Spanned<String>, what: &str, log: &mut Log) -> bool {
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

pub(super) fn unreserved(name: &Spanned<String>, what: &str, log: &mut Log) -> bool {
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

/// Checks that a program can be the name of a crate. Returns `false` if it logged a mistake.
pub(super) fn checked_program(program: &Spanned<String>, log: &mut Log) -> bool {
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

/// Returns the position of a table.
pub(super) fn at(table: &Table<'_>) -> Span {
    table.span.clone()
}
