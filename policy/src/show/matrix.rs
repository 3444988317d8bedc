//! Makes the matrix of subjects and sensitive operations: how many services a subject would have to
//! take over for each.

use std::collections::HashSet;

use super::page::Table;
use crate::authority::closure::closure;
use crate::authority::search::{Influence, reached};
use crate::authority::{Object, Op, Subject, names, target};
use crate::sound::Sound;

/// The largest number of subjects for which the matrix is made. An image has at most 16 services.
const MAX_SUBJECTS: usize = 64;

/// The least number of takeovers after which a subject can do an operation; `None` if no number
/// suffices.
type Takeovers = Option<usize>;

/// A column of the matrix: an operation as in questions, and its targets.
struct Column {
    name: String,
    targets: HashSet<(Object, Op)>,
}

pub(super) fn matrix(sound: &Sound) -> Table {
    let columns = columns(sound);
    let subjects = subjects(sound);
    let rows = if subjects.len() > MAX_SUBJECTS { Vec::new() } else { rows(sound, &subjects, &columns) };
    Table {
        key: "takeovers",
        title: "What it takes",
        note: "The least number of services that a subject must take over for an operation: 0 if it can do it by its own rights or by requests, – if no number suffices. A subject can attack a service to which it passes data. xenstore.write is a write of any path.",
        columns: std::iter::once("subject".to_owned()).chain(columns.into_iter().map(|column| column.name)).collect(),
        rows,
    }
}

fn rows(sound: &Sound, subjects: &[Subject], columns: &[Column]) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> =
        subjects.iter().map(|subject| vec![names::subject(&sound.policy, *subject)]).collect();
    for found in least_takeovers(sound, subjects, columns) {
        for (row, takeovers) in rows.iter_mut().zip(found) {
            row.push(takeovers.map_or("–".to_owned(), |count| count.to_string()));
        }
    }
    rows
}

/// Returns for each column the least number of takeovers of each subject.
fn least_takeovers(sound: &Sound, subjects: &[Subject], columns: &[Column]) -> Vec<Vec<Takeovers>> {
    let rights = closure(&sound.policy, &sound.index);
    let influence = Influence::new(&sound.policy, &sound.index);
    let column = |column: &Column| {
        let reached = reached(&rights, &column.targets);
        let least = |subject: &Subject| {
            let own = reached.contains_key(subject);
            if own { Some(0) } else { influence.takeover(*subject, &reached).map(|takeover| takeover.services.len()) }
        };
        subjects.iter().map(least).collect()
    };
    columns.iter().map(column).collect()
}

fn subjects(sound: &Sound) -> Vec<Subject> {
    let services = (0..sound.policy.services.items.len()).map(Subject::Service);
    let domains = (0..sound.policy.domains.items.len()).map(Subject::Domain);
    services.chain(domains).chain([Subject::XenStoreDaemon, Subject::Toolstack]).collect()
}

/// Returns the sensitive operations that the policy gives to somebody: those that reach out of the
/// image or end it, and access to each region that another domain uses.
fn columns(sound: &Sound) -> Vec<Column> {
    let policy = &sound.policy;
    let fixed = ["grant.issue", "domain.pin", "port.open", "port.send", "power.off", "power.reboot"];
    let of = |name: String| {
        let targets = target::targets(policy, &name).unwrap_or_default().into_iter().collect();
        Column { name, targets }
    };
    let mut columns: Vec<Column> = fixed.into_iter().map(|name| of(name.to_owned())).collect();
    let paths = policy.xenstore.items.iter().enumerate();
    let writable = paths.flat_map(|(entry, item)| {
        let written = item.body.iter().enumerate().filter(|(_, right)| right.write);
        written.map(move |(path, _)| (Object::Path(entry, path), Op::Write))
    });
    columns.push(Column { name: "xenstore.write".into(), targets: writable.collect() });
    for granted in &sound.index.grants {
        let object = Object::Region(granted.region);
        let name = names::object(policy, object);
        for op in [Op::Read, Op::Write] {
            columns.push(Column { name: format!("{name}.{}", op.word()), targets: [(object, op)].into() });
        }
    }
    columns.retain(|column| !column.targets.is_empty());
    columns
}
