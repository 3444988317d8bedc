//! Samples where services spend their time: the timer interrupts the running service, and the
//! address of its instruction is stored.
//!
//! The kernel that ships is built with `no_profile.rs` instead, because a sample observes a service
//! without a rule of the policy.

use cloister_caps::ServiceId;
use cloister_caps::tables::Tables;
use cloister_kernel_core::Costs;
use cloister_kernel_core::schedule::{Alarm, Next};
use spin::Mutex;

use crate::console;

/// The least time between two samples, in ns. It is not a round number: periodic work would be met
/// always or never.
const INTERVAL: u64 = 49_999;
/// The largest number of samples that are kept. Later ones are only counted.
const MAX_SAMPLES: usize = 16_384;
/// The bit of a sample at which the service's number begins. Below it is the instruction's address,
/// which is less than 2^56 for every service.
const SERVICE_SHIFT: u32 = 56;

struct Samples {
    taken: [u64; MAX_SAMPLES],
    count: usize,
    lost: u64,
}

static SAMPLES: Mutex<Samples> = Mutex::new(Samples { taken: [0; MAX_SAMPLES], count: 0, lost: 0 });

/// Returns the costs with which the scheduler allows samples more often than the grain would.
pub fn costs(costs: Costs) -> Costs {
    Costs { grain: 0, ..costs }
}

/// Returns the scheduler's choice with an alarm when the next sample is due, if a service runs.
///
/// The interval counts from the clock's start. If it counted from when a service began to run, what
/// the service does first would never be met.
pub fn until_sample(next: &Next, now: u64) -> Option<Next> {
    let budget = Alarm { at: (now / INTERVAL + 1) * INTERVAL, owner: next.service };
    next.service.map(|_| Next { budget, ..*next })
}

/// Stores a sample: `service` was interrupted at `rip`.
pub fn sample(service: ServiceId, rip: u64) {
    let mut samples = SAMPLES.lock();
    let count = samples.count;
    match samples.taken.get_mut(count) {
        Some(entry) => {
            *entry = (service.index() as u64) << SERVICE_SHIFT | rip;
            samples.count += 1;
        }
        None => samples.lost += 1,
    }
}

/// Prints and clears the samples, equal ones on one line: `profile: SERVICE ADDRESS TIMES`.
pub fn print(tables: &Tables<'_>) {
    let mut samples = SAMPLES.lock();
    let count = core::mem::take(&mut samples.count);
    let lost = core::mem::take(&mut samples.lost);
    let taken = &mut samples.taken[..count];
    taken.sort_unstable();
    for same in taken.chunk_by(|one, next| one == next) {
        let (service, rip) = ((same[0] >> SERVICE_SHIFT) as usize, same[0] & ((1 << SERVICE_SHIFT) - 1));
        let Some(service) = tables.services().id(service) else { continue };
        console::line(format_args!("profile: {} {rip:#x} {}", tables.service_name(service), same.len()));
        console::drain();
    }
    console::line(format_args!("profile: lost {lost}"));
}
