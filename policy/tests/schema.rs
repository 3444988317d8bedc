//! The JSON Schema accepts what the compiler accepts, and refuses mistakes in shape or in single
//! values.

use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&cloister_policy::schema()).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

/// Converts TOML to JSON.
fn json(text: &str) -> Value {
    table(text.parse::<toml_edit::DocumentMut>().unwrap().as_table())
}

fn table(table: &toml_edit::Table) -> Value {
    table.iter().map(|(key, found)| (key.to_owned(), item(found))).collect()
}

fn item(item: &toml_edit::Item) -> Value {
    match item {
        toml_edit::Item::Value(found) => value(found),
        toml_edit::Item::Table(found) => table(found),
        toml_edit::Item::ArrayOfTables(tables) => tables.iter().map(table).collect(),
        toml_edit::Item::None => Value::Null,
    }
}

fn value(found: &toml_edit::Value) -> Value {
    match found {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::from(*flag.value()),
        toml_edit::Value::Datetime(time) => Value::from(time.to_string()),
        toml_edit::Value::Array(list) => list.iter().map(value).collect(),
        toml_edit::Value::InlineTable(table) => {
            table.iter().map(|(key, found)| (key.to_owned(), value(found))).collect()
        }
    }
}

#[test]
fn the_shipped_policies_are_valid() {
    let validator = validator();
    for file in [
        "default.toml",
        "../tests/guests/prober.toml",
        "../tests/guests/selftest.toml",
        "../tests/guests/strict.toml",
        "../tests/guests/refusing.toml",
        "tests/good.toml",
        "src/init.toml",
    ] {
        let policy = json(&std::fs::read_to_string(folder().join(file)).unwrap());
        let errors: Vec<String> =
            validator.iter_errors(&policy).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{file}: {errors:?}");
    }
}

#[test]
fn mistakes_of_shape_are_invalid() {
    let validator = validator();
    for name in [
        "assertion-stray-key",
        "assertion-unknown-kind",
        "assertion-without-why",
        "budget-missing",
        "empty-rights",
        "grant-unknown-access",
        "grant-unknown-lifetime",
        "image-name-missing",
        "image-unknown-key",
        "isolation-not-a-word",
        "isolation-unknown-word",
        "keep-not-a-flag",
        "missing-format",
        "missing-program",
        "name-not-lower-case",
        "name-reserved",
        "pin-node-absolute",
        "pin-node-pattern",
        "pin-not-a-table",
        "pin-without-node",
        "port-no-peer",
        "port-two-peers",
        "priority-is-text",
        "priority-zero",
        "program-not-a-crate",
        "program-sha256-number",
        "program-sha256-short",
        "queue-depth-not-a-power",
        "queue-depth-too-large",
        "queue-unknown-interface",
        "refuse-weakness-empty",
        "refuse-weakness-twice",
        "refuse-weakness-unknown",
        "region-executable",
        "region-pages-zero",
        "region-stray-minimum",
        "region-two-sources",
        "region-unknown-access",
        "region-unknown-kind",
        "region-without-source",
        "repeated-right",
        "restart-limit-negative",
        "restart-unknown-word",
        "right-not-a-word",
        "rights-not-a-list",
        "section-not-a-table",
        "share-without-maximum",
        "unknown-key",
        "unknown-right",
        "unknown-section",
        "wrong-format",
        "xenstore-path-empty-component",
        "xenstore-path-too-long",
        "xenstore-unknown-right",
    ] {
        let policy = json(&std::fs::read_to_string(folder().join(format!("tests/bad/{name}.toml"))).unwrap());
        assert!(!validator.is_valid(&policy), "{name}");
    }
}
