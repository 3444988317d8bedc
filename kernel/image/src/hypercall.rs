//! Makes the hypercalls that the kernel uses, each with its structure.
//!
//! Structures and numbers are those of Xen's public headers, which are named at each. Pointers are
//! to objects in the kernel's memory, which every address space maps.

use core::arch::asm;

use cloister_caps::{DomId, EvtchnPort, Gfn};
use static_assertions::const_assert_eq;

use crate::count::{self, Count, count};
use crate::hypercall_page::{self, HYPERCALL};
use crate::processor;

/// Describes a hypercall that failed.
#[derive(Clone, Copy, Debug)]
pub struct HypercallError {
    /// Xen's name of the operation.
    pub what: &'static str,
    /// Xen's result: `-errno`.
    pub code: i64,
}

impl core::fmt::Display for HypercallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Xen refused {} ({})", self.what, self.code)
    }
}

const MEMORY_OP: u64 = 12;
const SET_TIMER_OP: u64 = 15;
const XEN_VERSION: u64 = 17;
pub(crate) const GRANT_TABLE_OP: u64 = 20;
const SCHED_OP: u64 = 29;
pub(crate) const EVENT_CHANNEL_OP: u64 = 32;
const HVM_OP: u64 = 34;

/// Makes the hypercall `number` with three arguments, and returns Xen's result.
///
/// # Safety
/// The hypercall must not write other memory than what the arguments point to, nor after it
/// returns.
pub(crate) unsafe fn raw(number: u64, first: u64, second: u64, third: u64) -> i64 {
    count(Count::Hypercall);
    let start = processor::counter();
    let result;
    // SAFETY: by the caller's promise. The convention clobbers RAX and the argument registers. What
    // is called is the instruction and `ret`.
    unsafe {
        asm!("call [rip + {at}]", at = sym HYPERCALL, inlateout("rax") number => result, inlateout("rdi") first => _,
            inlateout("rsi") second => _, inlateout("rdx") third => _, lateout("r10") _, lateout("r8") _);
    }
    count::add_hypercall_ticks(processor::counter().wrapping_sub(start));
    result
}

/// Makes a hypercall whose arguments are an operation and a structure.
pub(crate) fn operate<T>(
    number: u64,
    operation: u64,
    argument: &mut T,
    what: &'static str,
) -> Result<i64, HypercallError> {
    // SAFETY: every caller in this file passes the structure that the operation takes, exclusively
    // borrowed.
    let code = unsafe { raw(number, operation, core::ptr::from_mut(argument) as u64, 0) };
    if code < 0 { Err(HypercallError { what, code }) } else { Ok(code) }
}

/// Returns Xen's version (`XENVER_version`): major in the upper 16 bits, minor in the lower.
pub fn version() -> Result<u32, HypercallError> {
    // SAFETY: the operation takes no structure.
    let code = unsafe { raw(XEN_VERSION, 0, 0, 0) };
    if code < 0 { Err(HypercallError { what: "XENVER_version", code }) } else { Ok(code as u32) }
}

/// `struct xen_feature_info` (`version.h`).
#[repr(C)]
struct FeatureInfo {
    submap_index: u32,
    submap: u32,
}

/// Returns Xen's features (`XENVER_get_features`, sub-map 0).
pub fn features() -> Result<u32, HypercallError> {
    let mut info = FeatureInfo { submap_index: 0, submap: 0 };
    operate(XEN_VERSION, 6, &mut info, "XENVER_get_features")?;
    Ok(info.submap)
}

/// `struct xen_hvm_param` (`hvm/hvm_op.h`).
#[repr(C)]
struct HvmParam {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}
const_assert_eq!(size_of::<HvmParam>(), 16);

/// Names a parameter of `hvm/params.h`.
#[derive(Clone, Copy)]
pub enum Param {
    /// `HVM_PARAM_CALLBACK_IRQ`.
    CallbackIrq = 0,
    /// `HVM_PARAM_STORE_PFN`.
    StorePfn = 1,
    /// `HVM_PARAM_STORE_EVTCHN`.
    StoreEvtchn = 2,
    /// `HVM_PARAM_CONSOLE_PFN`.
    ConsolePfn = 17,
    /// `HVM_PARAM_CONSOLE_EVTCHN`.
    ConsoleEvtchn = 18,
}

/// Returns a parameter (`HVMOP_get_param`). It is `None` if Xen refuses, or has 0 or all ones
/// there.
pub fn get_param(param: Param) -> Option<u64> {
    let mut argument = HvmParam { domid: DomId::SELF.0, pad: 0, index: param as u32, value: 0 };
    operate(HVM_OP, 1, &mut argument, "HVMOP_get_param").ok()?;
    Some(argument.value).filter(|value| *value != 0 && *value != u64::MAX)
}

/// Sets a parameter (`HVMOP_set_param`).
pub fn set_param(param: Param, value: u64) -> Result<(), HypercallError> {
    let mut argument = HvmParam { domid: DomId::SELF.0, pad: 0, index: param as u32, value };
    operate(HVM_OP, 0, &mut argument, "HVMOP_set_param").map(|_| ())
}

/// `struct xen_add_to_physmap` (`memory.h`).
#[repr(C)]
struct AddToPhysmap {
    domid: u16,
    size: u16,
    space: u32,
    index: u64,
    frame: u64,
}
const_assert_eq!(size_of::<AddToPhysmap>(), 24);

/// Names what `XENMEM_add_to_physmap` puts at a frame.
#[derive(Clone, Copy)]
pub enum Space {
    /// `XENMAPSPACE_shared_info`.
    SharedInfo = 0,
    /// `XENMAPSPACE_grant_table`.
    GrantTable = 1,
    /// `XENMAPSPACE_gmfn`: a frame of the domain itself, which moves.
    GuestFrame = 2,
}

/// Puts a page at `frame` (`XENMEM_add_to_physmap`).
pub fn add_to_physmap(space: Space, index: u64, frame: Gfn) -> Result<(), HypercallError> {
    let mut argument = AddToPhysmap { domid: DomId::SELF.0, size: 0, space: space as u32, index, frame: frame.0 };
    operate(MEMORY_OP, 7, &mut argument, "XENMEM_add_to_physmap").map(|_| ())
}

/// `struct xen_memory_map` (`memory.h`).
#[repr(C)]
struct MemoryMap {
    entries: u32,
    pad: u32,
    buffer: u64,
}

/// Describes a range of the memory map: `struct e820entry`, 20 bytes, packed.
#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
pub struct E820Entry {
    /// Physical address of the first byte.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// 1 for RAM (`E820_RAM`).
    pub kind: u32,
}
const_assert_eq!(size_of::<E820Entry>(), 20);

/// Reads the memory map (`XENMEM_memory_map`). Returns the number of entries.
pub fn memory_map(into: &mut [E820Entry]) -> Result<usize, HypercallError> {
    let mut argument = MemoryMap { entries: into.len() as u32, pad: 0, buffer: into.as_mut_ptr() as u64 };
    operate(MEMORY_OP, 9, &mut argument, "XENMEM_memory_map")?;
    Ok((argument.entries as usize).min(into.len()))
}

/// `struct gnttab_query_size` (`grant_table.h`).
#[repr(C)]
struct QuerySize {
    dom: u16,
    pad: u16,
    frames: u32,
    max_frames: u32,
    status: i16,
    pad2: u16,
}
const_assert_eq!(size_of::<QuerySize>(), 16);

/// Returns the most frames that the grant table may have (`GNTTABOP_query_size`).
pub fn grant_frames() -> Result<u32, HypercallError> {
    let mut argument = QuerySize { dom: DomId::SELF.0, pad: 0, frames: 0, max_frames: 0, status: 0, pad2: 0 };
    // SAFETY: one structure of the operation's type, exclusively borrowed.
    let code = unsafe { raw(GRANT_TABLE_OP, 6, core::ptr::from_mut(&mut argument) as u64, 1) };
    let code = if code < 0 { code } else { i64::from(argument.status) };
    if code < 0 { Err(HypercallError { what: "GNTTABOP_query_size", code }) } else { Ok(argument.max_frames) }
}

/// Sets the timer to an absolute system time in ns (`set_timer_op`).
///
/// Its arguments point to nothing, which makes it cheaper than `VCPUOP_set_singleshot_timer`. A
/// failure would be a defect of Xen, and the next event sets the timer again.
pub fn set_timer(at: u64) {
    count(Count::Timer);
    // 0 would cancel it.
    // SAFETY: the operation takes a number.
    unsafe { raw(SET_TIMER_OP, at.max(1), 0, 0) };
}

/// Names a reason of `SCHEDOP_shutdown` (`sched.h`).
#[derive(Clone, Copy)]
pub enum Shutdown {
    /// `SHUTDOWN_poweroff`.
    PowerOff = 0,
    /// `SHUTDOWN_reboot`.
    Reboot = 1,
    /// `SHUTDOWN_crash`.
    Crash = 3,
}

/// Ends the domain (`SCHEDOP_shutdown`). Returns only if Xen refuses.
pub fn shutdown(reason: Shutdown) {
    let mut argument = reason as u32;
    let _ = operate(SCHED_OP, 2, &mut argument, "SCHEDOP_shutdown");
}

/// Yields the processor to other domains (`SCHEDOP_yield`).
pub fn yield_now() {
    // SAFETY: the operation takes no structure.
    unsafe { raw(SCHED_OP, 0, 0, 0) };
}

/// `struct evtchn_alloc_unbound` (`event_channel.h`).
#[repr(C)]
struct AllocUnbound {
    dom: u16,
    remote_dom: u16,
    port: u32,
}

/// Allocates an event channel that `peer` may bind (`EVTCHNOP_alloc_unbound`).
pub fn alloc_unbound(peer: DomId) -> Result<EvtchnPort, HypercallError> {
    let mut argument = AllocUnbound { dom: DomId::SELF.0, remote_dom: peer.0, port: 0 };
    operate(EVENT_CHANNEL_OP, 6, &mut argument, "EVTCHNOP_alloc_unbound")?;
    Ok(EvtchnPort(argument.port))
}

/// `struct evtchn_bind_virq` (`event_channel.h`).
#[repr(C)]
struct BindVirq {
    virq: u32,
    vcpu: u32,
    port: u32,
}

/// Binds the timer of vCPU 0 to a port (`EVTCHNOP_bind_virq` of `VIRQ_TIMER`).
pub fn bind_timer() -> Result<EvtchnPort, HypercallError> {
    let mut argument = BindVirq { virq: 0, vcpu: 0, port: 0 };
    operate(EVENT_CHANNEL_OP, 1, &mut argument, "EVTCHNOP_bind_virq")?;
    Ok(EvtchnPort(argument.port))
}

/// Makes an event channel operation whose structure is a port number that Xen only reads.
fn port_operation(operation: u64, port: EvtchnPort, what: &'static str) -> Result<(), HypercallError> {
    let argument = hypercall_page::port_number(port).unwrap_or(&raw const port.0 as u64);
    // SAFETY: every caller in this file passes an operation that reads one number and writes
    // nothing.
    let code = unsafe { raw(EVENT_CHANNEL_OP, operation, argument, 0) };
    if code < 0 { Err(HypercallError { what, code }) } else { Ok(()) }
}

/// Closes an event channel (`EVTCHNOP_close`).
pub fn close(port: EvtchnPort) -> Result<(), HypercallError> {
    port_operation(3, port, "EVTCHNOP_close")
}

/// Sends an event (`EVTCHNOP_send`).
pub fn send(port: EvtchnPort) -> Result<(), HypercallError> {
    count(Count::Send);
    port_operation(4, port, "EVTCHNOP_send")
}

/// Has Xen unmask a port and deliver its pending event (`EVTCHNOP_unmask`).
pub fn unmask(port: EvtchnPort) -> Result<(), HypercallError> {
    count(Count::Unmask);
    port_operation(9, port, "EVTCHNOP_unmask")
}
