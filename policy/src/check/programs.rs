//! Checks the names of programs.

use crate::authority::catalogue::PROGRAMS;
use crate::diagnostic::{Diagnostic, Log};
use crate::model::Policy;
use crate::nearest::nearest;

/// Checks that no program has a name that could be mistaken for one of the catalogue, or was meant
/// to be one.
pub(super) fn check(policy: &Policy, log: &mut Log) {
    let known: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
    let unknown = policy.services.items.iter().filter(|item| !known.contains(&item.body.program.value.as_str()));
    for item in unknown {
        let program = &item.body.program;
        if let Some(near) = nearest(&program.value, &known) {
            log.push(
                Diagnostic::at(&program.span, format!("there is no program `{}`", program.value))
                    .label("not in the catalogue of programs")
                    .help(format!("did you mean `{near}`? Give a program of your own a name that is less alike")),
            );
        }
    }
}
