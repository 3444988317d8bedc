//! The form of the facts: relations of columns and rows.

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
