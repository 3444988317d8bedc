//! The time of the processor: periods, of which the promise of docs/scheduling.md speaks.

use crate::diagnostic::{Diagnostic, Log};
use crate::model::{Named, Policy, Service};

/// A service's period is a multiple of the period of each that goes before it. Else one that goes before could take several of
/// its periods whole.
pub(super) fn check(policy: &Policy, log: &mut Log) {
    let services = &policy.services.items;
    for service in services {
        let period = &service.body.period_us;
        let Some(before) = services
            .iter()
            .find(|other| goes_before(other, service) && !period.value.is_multiple_of(other.body.period_us.value))
        else {
            continue;
        };
        let (name, other, length) = (&service.name.value, &before.name.value, before.body.period_us.value);
        log.push(
            Diagnostic::at(&period.span, format!("the period of service `{name}` is no multiple of that of `{other}`"))
                .label(format!("{} µs", period.value))
                .related(&before.body.period_us.span, format!("{length} µs, and `{other}` goes before `{name}`"))
                .help(format!("give them the same period, or `{name}` a multiple of {length}")),
        );
    }
}

/// Whether `one` runs first if both can: by its priority, or of equal ones by its name.
fn goes_before(one: &Named<Service>, other: &Named<Service>) -> bool {
    let (own, its) = (one.body.priority, other.body.priority);
    own > its || own == its && one.name.value < other.name.value
}
