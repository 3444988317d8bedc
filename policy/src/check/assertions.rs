//! Checks that everything that assertions name is defined. They are proved later, on a sound
//! policy.

use crate::authority::target;
use crate::diagnostic::{Diagnostic, Log, Spanned};
use crate::model::{Claim, Measure, Policy};

pub(super) fn check(policy: &Policy, log: &mut Log) {
    for item in &policy.assertions.items {
        match &item.body.claim {
            Claim::NoFlow { from, to, .. } => {
                subject(policy, from, log);
                operation(policy, to, log);
            }
            Claim::Exclusive { owner, regions, .. } => {
                service(policy, owner, log);
                for region in regions.iter().filter(|region| !policy.regions.defines(&region.value)) {
                    log.push(
                        Diagnostic::at(&region.span, format!("there is no region `{}`", region.value))
                            .label("unknown region"),
                    );
                }
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
            Claim::Only { who, may } => {
                who.iter().for_each(|who| subject(policy, who, log));
                operation(policy, may, log);
            }
            Claim::ShareNothing { between } => between.iter().for_each(|name| service(policy, name, log)),
        }
    }
}

fn service(policy: &Policy, name: &Spanned<String>, log: &mut Log) {
    if !policy.services.defines(&name.value) {
        log.push(Diagnostic::at(&name.span, format!("there is no service `{}`", name.value)).label("unknown service"));
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
    if let (true, Err(problem)) = (complete, target::targets(policy, &text.value)) {
        log.push(Diagnostic::at(&text.span, problem).label("unknown operation"));
    }
}
