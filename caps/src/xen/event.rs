//! Event channels and time in the shared info page (`xen.h`, layout of 64-bit guests).

use core::mem::offset_of;

use static_assertions::const_assert_eq;

/// A virtual processor's part of the shared info page (`vcpu_info`).
#[repr(C)]
pub struct VcpuInfo {
    /// Not 0 if an event is pending.
    pub upcall_pending: u8,
    _upcall_mask: u8,
    _padding: [u8; 6],
    /// Bit n is set if word n of [`SharedInfo::pending`] is not 0.
    pub pending_selector: u64,
    _arch: [u64; 2],
    /// Time.
    pub time: TimeInfo,
}
const_assert_eq!(size_of::<VcpuInfo>(), 64);
const_assert_eq!(offset_of!(VcpuInfo, time), 32);

/// System time at a moment, and the rate of the time-stamp counter
/// (`vcpu_time_info`).
#[repr(C)]
pub struct TimeInfo {
    /// Odd while Xen is changing the record.
    pub version: u32,
    _padding: u32,
    /// The counter at that moment.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the machine started.
    pub system_time: u64,
    /// Nanoseconds for each tick, in units of 2^-32, after the shift.
    pub tsc_to_system_mul: u32,
    /// The shift of the ticks: to the left, or to the right if it is negative.
    pub tsc_shift: i8,
    _flags: u8,
    _end: [u8; 2],
}
const_assert_eq!(size_of::<TimeInfo>(), 32);

/// The number of ports of the 2-level interface (`EVTCHN_2L_NR_CHANNELS`).
pub const PORTS: usize = 4096;

/// The shared info page (`shared_info`).
#[repr(C)]
pub struct SharedInfo {
    /// `XEN_LEGACY_MAX_VCPUS` of them.
    pub vcpu_info: [VcpuInfo; 32],
    /// One bit for each port (`evtchn_pending`).
    pub pending: [u64; PORTS / 64],
    /// One bit for each port (`evtchn_mask`).
    pub mask: [u64; PORTS / 64],
    /// Odd while Xen is changing the wall clock.
    pub wc_version: u32,
    /// Seconds from 1970 to the start of the machine.
    pub wc_sec: u32,
    /// Nanoseconds beyond them.
    pub wc_nsec: u32,
    /// The upper half of the seconds.
    pub wc_sec_hi: u32,
}
const_assert_eq!(offset_of!(SharedInfo, pending), 0x800);
const_assert_eq!(offset_of!(SharedInfo, mask), 0xA00);
const_assert_eq!(offset_of!(SharedInfo, wc_version), 0xC00);
