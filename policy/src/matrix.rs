//! The least number of takeovers with which each subject does each operation.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::authority::{Object, Op, names};
use crate::model::Source;
use crate::sound::Sound;

/// An operation that a subject can do, and what it takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Least {
    /// The subject.
    pub subject: String,
    /// The operation: `OBJECT.OPERATION`.
    pub operation: String,
    /// The least number of services that the subject has to take over; 0 for none.
    pub takeovers: u32,
}

/// The least number of takeovers of each subject for each sensitive operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// The subjects: the columns.
    pub subjects: Vec<String>,
    /// The rows, in the order of the objects.
    pub rows: Vec<MatrixRow>,
}

/// A sensitive operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MatrixRow {
    /// The operation: `OBJECT.OPERATION`.
    pub operation: String,
    /// For each subject the least number of takeovers, or `None` if no number is enough.
    pub takeovers: Vec<Option<u32>>,
}

impl Sound {
    /// Returns everything that each subject can do with up to `takeovers` services taken over, in
    /// the order of the subjects and operations.
    #[must_use]
    pub fn within(&self, takeovers: u32) -> Vec<Least> {
        let authority = self.authority();
        let mut found: BTreeMap<(String, String), u32> = BTreeMap::new();
        for subject in authority.subjects() {
            let name = names::subject(&self.policy, *subject);
            for ((object, op), count) in authority.least(*subject, takeovers) {
                let operation = format!("{}.{}", names::object(&self.policy, object), op.word());
                let least = found.entry((name.clone(), operation)).or_insert(count);
                *least = count.min(*least);
            }
        }
        let least = |((subject, operation), takeovers)| Least { subject, operation, takeovers };
        found.into_iter().map(least).collect()
    }

    /// Returns the matrix of subjects and sensitive operations: those that end the domain, share
    /// memory with another or choose which, open channels, write paths of XenStore, or use its
    /// ring.
    #[must_use]
    pub fn matrix(&self) -> Matrix {
        let authority = self.authority();
        let subjects = authority.subjects();
        let mut rows: BTreeMap<(Object, Op), Vec<Option<u32>>> = BTreeMap::new();
        for (column, subject) in subjects.iter().enumerate() {
            for (target, count) in authority.least(*subject, u32::MAX) {
                if self.is_sensitive(target) {
                    let row = rows.entry(target).or_insert_with(|| vec![None; subjects.len()]);
                    if let Some(cell) = row.get_mut(column) {
                        *cell = Some(count);
                    }
                }
            }
        }
        let row = |((object, op), takeovers): ((Object, Op), Vec<Option<u32>>)| MatrixRow {
            operation: format!("{}.{}", names::object(&self.policy, object), op.word()),
            takeovers,
        };
        Matrix {
            subjects: subjects.iter().map(|subject| names::subject(&self.policy, *subject)).collect(),
            rows: rows.into_iter().map(row).collect(),
        }
    }

    fn is_sensitive(&self, (object, op): (Object, Op)) -> bool {
        match (object, op) {
            (Object::Power | Object::Domain(_), _) => true,
            (Object::Grant(_), Op::Issue)
            | (Object::Port(_), Op::Open)
            | (Object::Path(..) | Object::AnyPath, Op::Write) => true,
            (Object::Region(region), Op::Read | Op::Write) => {
                let source = self.policy.regions.items.get(region).map(|item| item.body.source.value);
                source == Some(Source::XenStoreRing)
            }
            _ => false,
        }
    }
}
