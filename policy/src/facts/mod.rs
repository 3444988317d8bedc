//! Exports a policy, and an image, as relations: for questions that this tool does not answer.
//! docs/facts.md describes every relation.

mod image;
mod policy;
mod render;

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use image::facts_of_image;
pub use policy::facts_of_policy;

/// The version of the relations. It changes when a relation or a column goes, or means something
/// else; not when one is added at the end.
pub const SCHEMA: u32 = 1;

/// A value of a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// A name, a word, a hash, an address.
    Text(String),
    Number(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value::Text(text.clone())
    }
}

macro_rules! numbers {
    ($($kind:ty),*) => { $(impl From<$kind> for Value {
        fn from(number: $kind) -> Value {
            Value::Number(u64::from(number))
        }
    })* };
}

numbers!(u8, u16, u32, u64);

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::from(if yes { "yes" } else { "no" })
    }
}

/// A relation: what its rows say, its columns, and its rows.
pub(crate) struct Relation {
    pub name: &'static str,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Value>>,
}

/// A column.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub name: &'static str,
    /// `true` if the values are numbers.
    pub number: bool,
}

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
