//! Reads and writes the shared info page: event channels and time (`xen.h`).

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use cloister_caps::{EvtchnPort, Gfn};
use cloister_kernel_core::clock::{TimeInfo, WallClock};
use cloister_kernel_core::events::{EventWords, PORT_WORDS};

use crate::hypercall::{self, HypercallError, Space};
use crate::hypercall_page::Xen;
use crate::{paging, processor};

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

/// The number of times that a record is read again while Xen is changing it. Then it is taken as it
/// is.
const RETRIES: usize = 1_000;

/// Gives access to the shared info page.
///
/// # Holding one proves
/// The page is mapped at `SHARED_INFO`, for good.
#[derive(Clone, Copy)]
pub struct SharedInfo(Xen);

macro_rules! field_of {
    ($name:ident, $atomic:ty) => {
        #[inline]
        fn $name(self, offset: usize) -> &'static $atomic {
            // SAFETY: the page is mapped, as a `SharedInfo` proves. The offset is that of an
            // aligned field in it, and Xen may change an atomic at any time.
            unsafe { <$atomic>::from_ptr((paging::SHARED_INFO as usize + offset) as *mut _) }
        }
    };
}

/// Has Xen share the page at `frame`, maps it, and masks every port. Xen starts a domain with all
/// of them unmasked.
///
/// # Errors
/// Xen refuses to put the page there.
///
/// # Safety
/// Nothing else is at `frame`.
pub unsafe fn map(xen: Xen, frame: Gfn) -> Result<SharedInfo, HypercallError> {
    // SAFETY: by the caller's promise, it is Xen's page alone.
    unsafe {
        hypercall::add_to_physmap(xen, Space::SharedInfo, 0, frame)?;
        paging::map_fixed(paging::SHARED_INFO, frame);
    }
    let shared_info = SharedInfo(xen);
    for index in 0..PORT_WORDS {
        shared_info.u64_at(field::MASK + index * 8).store(u64::MAX, Ordering::SeqCst);
    }
    Ok(shared_info)
}

impl SharedInfo {
    field_of!(u8_at, AtomicU8);
    field_of!(u32_at, AtomicU32);
    field_of!(u64_at, AtomicU64);

    /// Returns the words with a port's pending and mask bits, and the bit.
    fn pending(self, port: EvtchnPort) -> Option<(&'static AtomicU64, &'static AtomicU64, u64)> {
        let index = port.0 as usize / 64;
        (index < PORT_WORDS).then(|| {
            (self.u64_at(field::PENDING + index * 8), self.u64_at(field::MASK + index * 8), 1 << (port.0 % 64))
        })
    }

    /// Unmasks a port. If an event came while it was masked, asks Xen to deliver it.
    pub fn unmask(self, port: EvtchnPort) {
        let Some((pending, mask, bit)) = self.pending(port) else { return };
        mask.fetch_and(!bit, Ordering::SeqCst);
        if pending.load(Ordering::SeqCst) & bit != 0 {
            mask.fetch_or(bit, Ordering::SeqCst);
            // Refused only for a port that does not exist, which has no events.
            let _ = hypercall::unmask(self.0, port);
        }
    }

    /// Reads a record whose version is odd while Xen changes it.
    fn consistent<T>(self, version: usize, read: impl Fn() -> T) -> T {
        let mut retries = RETRIES;
        loop {
            let before = self.u32_at(version).load(Ordering::Acquire);
            let value = read();
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.u32_at(version).load(Ordering::Relaxed) == before || retries == 0 {
                return value;
            }
            retries -= 1;
        }
    }

    fn time_info(self) -> TimeInfo {
        TimeInfo {
            tsc_timestamp: self.u64_at(field::TSC_TIMESTAMP).load(Ordering::Relaxed),
            system_time: self.u64_at(field::SYSTEM_TIME).load(Ordering::Relaxed),
            multiplier: self.u32_at(field::TSC_MULTIPLIER).load(Ordering::Relaxed),
            shift: self.u8_at(field::TSC_SHIFT).load(Ordering::Relaxed) as i8,
        }
    }

    /// Returns Xen's system time in ns.
    pub fn now(self) -> u64 {
        self.consistent(field::TIME_VERSION, || self.time_info().nanoseconds(processor::counter()))
    }

    /// Converts ticks of the processor's counter to ns.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let rate = self.consistent(field::TIME_VERSION, || self.time_info());
        TimeInfo { tsc_timestamp: 0, system_time: 0, ..rate }.nanoseconds(ticks)
    }

    /// Returns UTC in ns since 1970, or `None` until Xen sets the wall clock.
    pub fn wall(self) -> Option<u64> {
        let clock = self.consistent(field::WALL_VERSION, || WallClock {
            seconds: u64::from(self.u32_at(field::WALL_SECONDS).load(Ordering::Relaxed))
                | u64::from(self.u32_at(field::WALL_SECONDS_HIGH).load(Ordering::Relaxed)) << 32,
            nanoseconds: self.u32_at(field::WALL_NANOSECONDS).load(Ordering::Relaxed),
        });
        clock.at(self.now())
    }
}

impl EventWords for SharedInfo {
    #[inline]
    fn take_upcall(&self) -> bool {
        self.u8_at(field::UPCALL_PENDING).swap(0, Ordering::SeqCst) != 0
    }

    #[inline]
    fn take_selector(&self) -> u64 {
        self.u64_at(field::PENDING_SELECTOR).swap(0, Ordering::SeqCst)
    }

    #[inline]
    fn take_ports(&self, index: usize) -> u64 {
        let (pending, mask) = (self.u64_at(field::PENDING + index * 8), self.u64_at(field::MASK + index * 8));
        let ports = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
        mask.fetch_or(ports, Ordering::SeqCst);
        pending.fetch_and(!ports, Ordering::SeqCst);
        ports
    }
}
