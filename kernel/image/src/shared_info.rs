//! Reads and writes the shared info page: event channels and time (`xen.h`).

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use cloister_caps::EvtchnPort;
use cloister_caps::xen::event::PORTS;
use cloister_kernel_core::clock::{TimeInfo, WallClock};

use crate::{hypercall, paging, processor};

/// Offsets in the page. The one virtual processor is the first.
mod field {
    use core::mem::offset_of;

    use cloister_caps::xen::event::{SharedInfo, VcpuInfo};

    const VCPU: usize = offset_of!(SharedInfo, vcpu_info);
    pub const UPCALL_PENDING: usize = VCPU + offset_of!(VcpuInfo, upcall_pending);
    pub const PENDING_SELECTOR: usize = VCPU + offset_of!(VcpuInfo, pending_selector);
    pub const TIME_VERSION: usize = VCPU + offset_of!(VcpuInfo, time.version);
    pub const TSC_TIMESTAMP: usize = VCPU + offset_of!(VcpuInfo, time.tsc_timestamp);
    pub const SYSTEM_TIME: usize = VCPU + offset_of!(VcpuInfo, time.system_time);
    pub const TSC_MULTIPLIER: usize = VCPU + offset_of!(VcpuInfo, time.tsc_to_system_mul);
    pub const TSC_SHIFT: usize = VCPU + offset_of!(VcpuInfo, time.tsc_shift);
    pub const PENDING: usize = offset_of!(SharedInfo, pending);
    pub const MASK: usize = offset_of!(SharedInfo, mask);
    pub const WALL_VERSION: usize = offset_of!(SharedInfo, wc_version);
    pub const WALL_SECONDS: usize = offset_of!(SharedInfo, wc_sec);
    pub const WALL_NANOSECONDS: usize = offset_of!(SharedInfo, wc_nsec);
    pub const WALL_SECONDS_HIGH: usize = offset_of!(SharedInfo, wc_sec_hi);
}

/// Words with the ports of the 2-level ABI. Each has 64.
const PORT_WORDS: usize = PORTS / 64;
/// Times that a record is read again while Xen is changing it. Then it is taken as it is.
const RETRIES: usize = 1_000;

macro_rules! shared {
    ($name:ident, $atomic:ty) => {
        fn $name(offset: usize) -> &'static $atomic {
            // SAFETY: the shared-info page is mapped at `SHARED_INFO` from boot on, the offset is
            // that of an aligned field in it, and an atomic may be changed by Xen at any time.
            unsafe { <$atomic>::from_ptr((paging::SHARED_INFO as usize + offset) as *mut _) }
        }
    };
}
shared!(byte, AtomicU8);
shared!(word, AtomicU32);
shared!(long, AtomicU64);

/// Returns the words with a port's pending and mask bits, and the bit.
fn pending(port: EvtchnPort) -> Option<(&'static AtomicU64, &'static AtomicU64, u64)> {
    let index = port.0 as usize / 64;
    (index < PORT_WORDS).then(|| (long(field::PENDING + index * 8), long(field::MASK + index * 8), 1 << (port.0 % 64)))
}

/// Masks every port. Xen starts a domain with all of them unmasked.
pub fn mask_all() {
    for index in 0..PORT_WORDS {
        long(field::MASK + index * 8).store(u64::MAX, Ordering::SeqCst);
    }
}

/// Unmasks a port. If an event came while it was masked, asks Xen to deliver it.
pub fn unmask(port: EvtchnPort) {
    let Some((pending, mask, bit)) = pending(port) else { return };
    mask.fetch_and(!bit, Ordering::SeqCst);
    if pending.load(Ordering::SeqCst) & bit != 0 {
        mask.fetch_or(bit, Ordering::SeqCst);
        // Refused only for a port that does not exist, which has no events.
        let _ = hypercall::unmask(port);
    }
}

/// Takes every event that is pending and not masked: masks its port, clears the event, and calls
/// `handle` with the port.
///
/// The number of ports bounds the work, because a port that was handled is masked.
pub fn take_events(mut handle: impl FnMut(EvtchnPort)) {
    while byte(field::UPCALL_PENDING).swap(0, Ordering::SeqCst) != 0 {
        let mut selector = long(field::PENDING_SELECTOR).swap(0, Ordering::SeqCst);
        while selector != 0 {
            let index = selector.trailing_zeros() as usize;
            selector &= selector - 1;
            let (pending, mask) = (long(field::PENDING + index * 8), long(field::MASK + index * 8));
            let mut bits = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
            mask.fetch_or(bits, Ordering::SeqCst);
            pending.fetch_and(!bits, Ordering::SeqCst);
            while bits != 0 {
                let port = index as u32 * 64 + bits.trailing_zeros();
                bits &= bits - 1;
                handle(EvtchnPort(port));
            }
        }
    }
}

/// Reads a record whose version is odd while Xen changes it.
fn consistent<T>(version: usize, read: impl Fn() -> T) -> T {
    let mut retries = RETRIES;
    loop {
        let before = word(version).load(Ordering::Acquire);
        let value = read();
        fence(Ordering::Acquire);
        if before & 1 == 0 && word(version).load(Ordering::Relaxed) == before || retries == 0 {
            return value;
        }
        retries -= 1;
    }
}

fn time_info() -> TimeInfo {
    TimeInfo {
        tsc_timestamp: long(field::TSC_TIMESTAMP).load(Ordering::Relaxed),
        system_time: long(field::SYSTEM_TIME).load(Ordering::Relaxed),
        multiplier: word(field::TSC_MULTIPLIER).load(Ordering::Relaxed),
        shift: byte(field::TSC_SHIFT).load(Ordering::Relaxed) as i8,
    }
}

/// Returns Xen's system time in ns.
pub fn now() -> u64 {
    consistent(field::TIME_VERSION, || time_info().nanoseconds(processor::counter()))
}

/// Converts ticks of the processor's counter to ns.
pub fn nanoseconds(ticks: u64) -> u64 {
    let rate = consistent(field::TIME_VERSION, time_info);
    TimeInfo { tsc_timestamp: 0, system_time: 0, ..rate }.nanoseconds(ticks)
}

/// Returns UTC in ns since 1970, or `None` until Xen sets the wall clock.
pub fn wall() -> Option<u64> {
    let clock = consistent(field::WALL_VERSION, || WallClock {
        seconds: u64::from(word(field::WALL_SECONDS).load(Ordering::Relaxed))
            | u64::from(word(field::WALL_SECONDS_HIGH).load(Ordering::Relaxed)) << 32,
        nanoseconds: word(field::WALL_NANOSECONDS).load(Ordering::Relaxed),
    });
    clock.at(now())
}
