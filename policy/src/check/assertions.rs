//! Checks that everything that assertions name is defined. They are proved later, on a sound
//! policy.

use crate::authority::target::{self, PathScope};
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Claim, Measure, Policy};
use crate::nearest::nearest;

pub(super) fn check(policy: &Policy, log: &mut Log) {
    for item in &policy.assertions.items {
        match &item.body.claim {
            Claim::CannotCause { from, to, unless, .. } => {
                subject(policy, from, log);
                operation(policy, to, log);
                unless.iter().for_each(|who| subject(policy, who, log));
            }
            Claim::NoLeak { regions: of, to, unless, .. } => {
                regions(policy, of, log);
                subject(policy, to, log);
                unless.iter().for_each(|who| subject(policy, who, log));
            }
            Claim::Exclusive { owner, regions: of, besides, .. } => {
                service(policy, owner, log);
                regions(policy, of, log);
                besides.iter().for_each(|who| subject(policy, who, log));
            }
            Claim::AtMost { what, service: of, .. } => {
                if let Some(of) = of {
                    service(policy, of, log);
                } else if what.value == Measure::Restarts {
                    log.push(
                        Diagnostic::at(&what.span, "`restarts` is counted for one service")
                            .label("no service is named")
                            .help("write, for example, `service = \"http\"`"),
                    );
                }
            }
            Claim::Only { who, may, unless, .. } => {
                who.iter().chain(unless).for_each(|who| subject(policy, who, log));
                operation(policy, may, log);
            }
            Claim::ShareNothing { between } => between.iter().for_each(|name| service(policy, name, log)),
        }
    }
}

fn regions(policy: &Policy, names: &[Spanned<String>], log: &mut Log) {
    let known: Vec<&str> = policy.regions.names.iter().map(|name| name.value.as_str()).collect();
    for region in names.iter().filter(|region| !policy.regions.defines(&region.value)) {
        let mistake = Diagnostic::at(&region.span, format!("there is no region `{}`", region.value));
        log.push(suggesting(mistake.label("unknown region"), &region.value, &known));
    }
}

/// Adds the name that a mistyped one was meant to be.
fn suggesting(mistake: Diagnostic, name: &str, known: &[&str]) -> Diagnostic {
    match nearest(name, known) {
        Some(near) => mistake.help(format!("did you mean `{near}`?")),
        None => mistake,
    }
}

fn service(policy: &Policy, name: &Spanned<String>, log: &mut Log) {
    if !policy.services.defines(&name.value) {
        let known: Vec<&str> = policy.services.names.iter().map(|name| name.value.as_str()).collect();
        let mistake = Diagnostic::at(&name.span, format!("there is no service `{}`", name.value));
        log.push(suggesting(mistake.label("unknown service"), &name.value, &known));
    }
}

/// Checks that a subject is defined. A malformed entry that defines it has been reported there.
fn subject(policy: &Policy, name: &Spanned<String>, log: &mut Log) {
    let defined = policy.services.defines(&name.value) || policy.domains.defines(&name.value);
    if let (false, Err(problem)) = (defined, target::subjects(policy, &name.value)) {
        log.push(Diagnostic::at(&name.span, problem).label("unknown subject"));
    }
}

fn operation(policy: &Policy, text: &Spanned<String>, log: &mut Log) {
    let complete = policy.regions.is_complete()
        && policy.ports.is_complete()
        && policy.grants.is_complete()
        && policy.queues.is_complete();
    if let (true, Err(problem)) = (complete, target::targets(policy, &text.value, PathScope::Overlapping)) {
        log.push(Diagnostic::at(&text.span, problem).label("unknown operation"));
    }
}
