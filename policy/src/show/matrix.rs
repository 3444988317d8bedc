//! Makes the table of what it takes: how many services each subject would have to take over for
//! each sensitive operation.

use super::page::Table;
use crate::sound::Sound;

/// The largest number of subjects for which there are rows. An image has at most 16 services.
const MAX_SUBJECTS: usize = 64;

pub(super) fn matrix(sound: &Sound) -> Table {
    let large = sound.authority().subjects().len() > MAX_SUBJECTS;
    let matrix = if large { None } else { Some(sound.matrix()) };
    let (subjects, rows) = matrix.map_or_else(Default::default, |matrix| (matrix.subjects, matrix.rows));
    let row = |row: crate::matrix::MatrixRow| {
        let cells = row.takeovers.into_iter().map(|count| count.map_or("–".to_owned(), |count| count.to_string()));
        std::iter::once(row.operation).chain(cells).collect()
    };
    Table {
        key: "takeovers",
        title: "What it takes",
        note: "The least number of services that each subject must take over for an operation: 0 if it can do it itself or through others, – if no number suffices. Operations that end the domain, share memory with another domain or choose which, open channels, write paths of XenStore, or use its ring.",
        columns: std::iter::once("operation".to_owned()).chain(subjects).collect(),
        rows: rows.into_iter().map(row).collect(),
    }
}
