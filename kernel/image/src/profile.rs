//! Where services spend their time: the timer interrupts what runs, and the instruction it stood at
//! is noted.
//!
//! The kernel that ships is built without this file: a sample is an observation of a service that
//! no policy names.

use spin::Mutex;

use crate::console;

/// Time from a sample to the next at least, in ns. Not a round number, or what recurs would be met
/// always or never.
const INTERVAL: u64 = 49_999;
/// Samples that are kept; later ones are counted.
const MAX_SAMPLES: usize = 16_384;
/// A sample is an instruction's address, below 2^56 for every service, and the service in the bits
/// above.
const SERVICE_SHIFT: u32 = 56;

struct Samples {
    taken: [u64; MAX_SAMPLES],
    count: usize,
    lost: u64,
}

static SAMPLES: Mutex<Samples> = Mutex::new(Samples { taken: [0; MAX_SAMPLES], count: 0, lost: 0 });

/// When the next sample is due. Counted from the clock's start and not from when a service began to
/// run, or what it does first would never be met.
pub fn next_sample(now: u64) -> u64 {
    (now / INTERVAL + 1) * INTERVAL
}

/// Notes that `service` was interrupted at `rip`.
pub fn sample(service: u8, rip: u64) {
    let mut samples = SAMPLES.lock();
    let count = samples.count;
    match samples.taken.get_mut(count) {
        Some(entry) => {
            *entry = u64::from(service) << SERVICE_SHIFT | rip;
            samples.count += 1;
        }
        None => samples.lost += 1,
    }
}

/// Prints the samples, equal ones together, and forgets them: `profile: SERVICE ADDRESS TIMES`.
pub fn print<'t>(name: impl Fn(u8) -> &'t str) {
    let mut samples = SAMPLES.lock();
    let count = core::mem::take(&mut samples.count);
    let lost = core::mem::take(&mut samples.lost);
    let taken = &mut samples.taken[..count];
    taken.sort_unstable();
    for same in taken.chunk_by(|one, next| one == next) {
        let (service, rip) = ((same[0] >> SERVICE_SHIFT) as u8, same[0] & ((1 << SERVICE_SHIFT) - 1));
        console::line(format_args!("profile: {} {rip:#x} {}", name(service), same.len()));
        console::drain();
    }
    console::line(format_args!("profile: lost {lost}"));
}
