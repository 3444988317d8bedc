//! Samples where services spend their time: the timer interrupts the running service, and the
//! address of its instruction is stored.
//!
//! The kernel that ships is built without this file, because a sample observes a service without a
//! rule of the policy.

use cloister_caps::ServiceId;
use cloister_caps::tables::Tables;
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

/// Returns when the next sample is due.
///
/// The interval counts from the clock's start. If it counted from when a service began to run, what
/// the service does first would never be met.
pub fn next_sample(now: u64) -> u64 {
    (now / INTERVAL + 1) * INTERVAL
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
