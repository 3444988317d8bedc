//! Exports a policy, and an image, as relations: for questions that this tool does not answer.
//! docs/facts.md describes every relation.

mod image;
mod policy;
mod relation;
mod render;

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use image::facts_of_image;
pub use policy::facts_of_policy;
pub use relation::SCHEMA;
pub(crate) use relation::{Column, Relation, Value};

/// Makes a column of text.
pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, number: false }
}

/// Makes a column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, number: true }
}

/// Facts about a policy or an image, as relations.
pub struct Facts {
    relations: Vec<Relation>,
}

impl Facts {
    fn relation(&mut self, name: &'static str, columns: &[Column], rows: Vec<Vec<Value>>) {
        self.relations.push(Relation { name, columns: columns.to_vec(), rows });
    }

    /// Returns the facts in the Datalog of Soufflé.
    #[must_use]
    pub fn datalog(&self) -> String {
        render::datalog(&self.relations)
    }
}

/// Serializes the schema's version, and each relation as a list of objects with the columns as
/// keys.
impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        for relation in &self.relations {
            map.serialize_entry(relation.name, relation)?;
        }
        map.end()
    }
}

impl Serialize for Relation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [Column], &'a [Value]);
        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|column| column.name).zip(self.1))
            }
        }
        serializer.collect_seq(self.rows.iter().map(|row| Row(&self.columns, row)))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Number(number) => serializer.serialize_u64(*number),
        }
    }
}
