//! Checks the periods of services, on which the promise of docs/scheduling.md rests.

use std::cmp::Reverse;

use crate::diagnostic::{Diagnostic, Log};
use crate::model::{Named, Policy, Service};

/// Checks that a service's period is a multiple of the period of each service that goes before it.
///
/// Otherwise a service that goes before could use up several of its periods.
pub(super) fn check(policy: &Policy, log: &mut Log) {
    let mut services: Vec<&Named<Service>> = policy.services.items.iter().collect();
    services.sort_by_key(|service| (Reverse(service.body.priority), &service.name.value));
    // One service of each length; each length is a multiple of those before it, so there are few.
    let mut lengths: Vec<&Named<Service>> = Vec::new();
    for service in services {
        let period = &service.body.period_us;
        match lengths.iter().find(|before| !period.value.is_multiple_of(before.body.period_us.value)) {
            Some(before) => report(service, before, log),
            None if lengths.last().is_some_and(|last| last.body.period_us.value == period.value) => {}
            None => lengths.push(service),
        }
    }
}

fn report(service: &Named<Service>, before: &Named<Service>, log: &mut Log) {
    let (period, length) = (&service.body.period_us, &before.body.period_us);
    let (name, other) = (&service.name.value, &before.name.value);
    log.push(
        Diagnostic::at(&period.span, format!("the period of service `{name}` is not a multiple of that of `{other}`"))
            .label(format!("{} µs", period.value))
            .related(&length.span, format!("{} µs, and `{other}` goes before `{name}`", length.value))
            .help(format!("give them the same period, or `{name}` a multiple of {}", length.value)),
    );
}
