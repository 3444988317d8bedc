//! Renders relations as Datalog.

use std::fmt::Write;

use super::relation::{Relation, SCHEMA, Value};
use crate::printable::printable;

pub(super) fn datalog(relations: &[Relation]) -> String {
    let mut out = format!("// Facts of Cloister, schema {SCHEMA}: docs/facts.md.\n");
    for relation in relations {
        let columns: Vec<String> = relation
            .columns
            .iter()
            .map(|column| format!("{}: {}", column.name, if column.number { "number" } else { "symbol" }))
            .collect();
        let _ = writeln!(out, "\n.decl {}({})", relation.name, columns.join(", "));
        for row in &relation.rows {
            let values: Vec<String> = row.iter().map(value).collect();
            let _ = writeln!(out, "{}({}).", relation.name, values.join(", "));
        }
    }
    out
}

/// Returns a constant. A text has no control characters, and no sign that ends it.
fn value(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Text(text) => {
            let plain = printable(text);
            format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
        }
    }
}
