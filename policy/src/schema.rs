//! The policy language as a JSON Schema (draft 2020-12): the shape of the file, and every value by
//! itself.
//!
//! What values mean together is the task of [`crate::check`].

use cloister_caps::Operation;
use cloister_caps::rights::Kind;
use cloister_caps::weakness::Weakness;
use cloister_interfaces::CATALOG;
use serde_json::{Value, json};

use crate::model::{Exclusive, HOLDABLE, Image, MapAccess, Measure};
use crate::read::RESERVED;

/// Returns the schema as text.
#[must_use]
pub fn schema() -> String {
    let size = json!({ "type": "string", "pattern": "^[1-9][0-9]*[KMG]$", "description": "a size in whole pages, like \"16K\"" });
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Cloister policy",
        "description": "The whole authority of an image.",
        "type": "object",
        "required": ["format", "image", "services"],
        "additionalProperties": false,
        "properties": {
            "format": { "const": 2 },
            "image": object(&["name"], json!({
                "name": name(),
                "isolation": { "enum": Image::ISOLATION.map(|(word, _)| word) },
                "refuse-weakness": words(&Weakness::ALL.iter().map(|weakness| weakness.name()).collect::<Vec<_>>()),
            })),
            "domains": entries(object(&["ids"], json!({
                "ids": { "type": "string", "pattern": "^(0|[1-9][0-9]{0,4})(-(0|[1-9][0-9]{0,4}))?$" },
                "pin": object(&["by", "node"], json!({
                    "by": name(),
                    "node": { "type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9_@-]*(/[A-Za-z0-9_@-]+)*$", "maxLength": 99 },
                })),
            }))),
            "services": entries(service(&size)),
            "regions": entries(region(&size)),
            "queues": entries(object(&["from", "to", "interface", "depth"], json!({
                "from": name(),
                "to": name(),
                "interface": { "enum": CATALOG.iter().map(|(name, _, _)| *name).collect::<Vec<_>>() },
                "depth": { "enum": (1..=15).map(|power| 1 << power).collect::<Vec<u32>>() },
            }))),
            "ports": entries(port()),
            "grants": entries(object(&["region", "peer", "access", "pages", "lifetime", "held-by", "on-behalf-of"], json!({
                "region": name(),
                "peer": name(),
                "access": { "enum": ["read", "read-write"] },
                "pages": integer(1, 65536),
                "lifetime": { "enum": ["session"] },
                "held-by": name(),
                "on-behalf-of": name(),
            }))),
            "xenstore": entries(json!({
                "type": "object",
                "propertyNames": { "pattern": "^/?[^/@][^/]*(/[^/]+)*$", "maxLength": 96 },
                "additionalProperties": words(&["read", "write", "watch"]),
            })),
            "assert": { "type": "array", "items": { "oneOf": assertions() } },
        },
    });
    // Writing a value of strings and numbers never fails.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

fn name() -> Value {
    json!({ "type": "string", "pattern": "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$" })
}

fn integer(low: u32, high: u32) -> Value {
    json!({ "type": "integer", "minimum": low, "maximum": high })
}

/// Returns the schema of a list of different words that is not empty.
fn words(words: &[&str]) -> Value {
    json!({ "type": "array", "items": { "enum": words }, "minItems": 1, "uniqueItems": true })
}

fn names() -> Value {
    json!({ "type": "array", "items": name(), "minItems": 1, "uniqueItems": true })
}

/// Returns the schema of a table without other keys.
fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
}

/// Returns the schema of a section: entries by their names.
fn entries(entry: Value) -> Value {
    json!({
        "type": "object",
        "propertyNames": { "allOf": [name(), { "not": { "enum": RESERVED } }] },
        "additionalProperties": entry,
    })
}

fn rights(kind: Kind) -> Value {
    let operations = Operation::ALL.iter().filter(|operation| operation.applies_to(kind));
    words(&operations.map(|operation| operation.name()).collect::<Vec<_>>())
}

fn service(size: &Value) -> Value {
    let mut properties = json!({
        "program": { "type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$" },
        "program-sha256": { "type": "string", "pattern": "^[0-9a-f]{64}$" },
        "priority": integer(1, 255),
        "cpu": object(&["budget_us", "period_us"], json!({
            "budget_us": integer(1, 1_000_000),
            "period_us": integer(1000, 1_000_000),
        })),
        "stack": size,
        "restart": object(&["limit", "then"], json!({
            "limit": integer(0, u32::from(u16::MAX)),
            "then": { "enum": ["stop-image", "stop-service"] },
        })),
    });
    if let Some(properties) = properties.as_object_mut() {
        properties.extend(HOLDABLE.map(|kind| (kind.name().to_owned(), rights(kind))));
    }
    object(&["program", "priority", "cpu", "stack", "restart"], properties)
}

fn region(size: &Value) -> Value {
    let mut region = object(
        &["map"],
        json!({
            "pages": integer(1, 65536),
            "share": integer(1, 1000),
            "minimum": size,
            "maximum": size,
            "kind": { "enum": ["module", "command-line", "xenstore-ring"] },
            "keep": { "type": "boolean" },
            "map": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": name(),
                "additionalProperties": { "enum": MapAccess::WORDS.map(|(word, _)| word) },
            },
        }),
    );
    if let Some(region) = region.as_object_mut() {
        region.insert(
            "oneOf".into(),
            json!([{ "required": ["pages"] }, { "required": ["share"] }, { "required": ["kind"] }]),
        );
        region.insert(
            "dependentRequired".into(),
            json!({
                "share": ["minimum", "maximum"], "minimum": ["share"], "maximum": ["share"],
            }),
        );
    }
    region
}

fn port() -> Value {
    let mut port = object(
        &["service", "rights"],
        json!({ "service": name(), "peer": name(), "kind": { "enum": ["xenstore"] }, "rights": rights(Kind::Port) }),
    );
    if let Some(port) = port.as_object_mut() {
        port.insert("oneOf".into(), json!([{ "required": ["peer"] }, { "required": ["kind"] }]));
    }
    port
}

fn assertions() -> Vec<Value> {
    let operation = json!({ "type": "string", "description": "OBJECT.OPERATION, or the name of a hypercall" });
    let subject = json!({ "type": "string" });
    let subjects = json!({ "type": "array", "items": subject, "minItems": 1, "uniqueItems": true });
    let assertion = |kind: &str, required: &[&str], own: Value| {
        let mut properties = json!({
            "name": name(),
            "why": { "type": "string", "minLength": 1, "maxLength": 200, "description": "the threat that it answers" },
            "kind": { "const": kind },
            "allow-vacuous": { "type": "boolean" },
        });
        if let (Some(properties), Some(own)) = (properties.as_object_mut(), own.as_object()) {
            properties.extend(own.clone());
        }
        let required: Vec<&str> = ["name", "why", "kind"].iter().chain(required).copied().collect();
        object(&required, properties)
    };
    vec![
        assertion(
            "cannot-cause",
            &["from", "to"],
            json!({ "from": subject, "to": operation, "takeovers": integer(0, 15), "unless": subjects }),
        ),
        assertion(
            "no-leak",
            &["regions", "to"],
            json!({ "regions": names(), "to": subject, "takeovers": integer(0, 15), "unless": subjects }),
        ),
        assertion(
            "exclusive",
            &["owner", "regions", "access"],
            json!({
                "owner": name(), "regions": names(), "access": { "enum": Exclusive::WORDS.map(|(word, _)| word) },
                "besides": subjects,
            }),
        ),
        assertion(
            "at-most",
            &["what", "limit"],
            json!({
                "what": { "enum": Measure::WORDS.map(|(word, _)| word) }, "service": name(), "limit": integer(0, u32::MAX),
            }),
        ),
        assertion(
            "only",
            &["who", "may"],
            json!({
                "who": subjects, "may": operation, "takeovers": integer(0, 15), "directly": { "type": "boolean" },
                "unless": subjects,
            }),
        ),
        assertion("share-nothing", &["between"], json!({ "between": names() })),
    ]
}
