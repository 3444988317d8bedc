//! Makes the hypercalls that the kernel uses, each with its structure.
//!
//! Structures and numbers are those of Xen's public headers, which are named at each. Pointers are
//! to objects in the kernel's memory, which every address space maps.

use core::marker::PhantomData;

use cloister_caps::{DomId, EvtchnPort, Gfn};
use static_assertions::const_assert_eq;

use crate::count::{Count, count};
use crate::hypercall_page::{Xen, port_number, raw};
use crate::processor::UPCALL_VECTOR;

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

/// `__HYPERVISOR_memory_op`.
const MEMORY_OP: u64 = 12;
/// `__HYPERVISOR_set_timer_op`.
const SET_TIMER_OP: u64 = 15;
/// `__HYPERVISOR_xen_version`.
const XEN_VERSION: u64 = 17;
/// `__HYPERVISOR_grant_table_op`.
pub(crate) const GRANT_TABLE_OP: u64 = 20;
/// `__HYPERVISOR_sched_op`.
const SCHED_OP: u64 = 29;
/// `__HYPERVISOR_event_channel_op`.
pub(crate) const EVENT_CHANNEL_OP: u64 = 32;
/// `__HYPERVISOR_hvm_op`.
const HVM_OP: u64 = 34;

/// Ties a structure to the operation that takes it, and both to the hypercall.
///
/// # Safety
/// For operation `OP` of hypercall `NUMBER`, Xen accesses one structure of `Self`'s layout at the
/// address that it is given. It accesses other memory only where the structure's fields point to,
/// and all that safe code can put into those fields points to memory that Xen may access so. Xen
/// keeps no address after the hypercall.
pub unsafe trait Hypercall {
    /// The hypercall (`__HYPERVISOR_*` of `xen.h`).
    const NUMBER: u64;
    /// The operation, which is the first argument.
    const OP: u64;
    /// Xen's name of the operation.
    const NAME: &'static str;
    /// The size of the structure in bytes, by Xen's header.
    const SIZE: usize;
    /// The third argument. Grant table operations take the number of structures there, and no other
    /// operation takes one.
    const COUNT: u64 = 0;
}

/// Makes the hypercall that takes `argument`. Xen's answer is in its fields.
///
/// # Errors
/// Xen refuses the operation.
pub fn call<T: Hypercall>(xen: Xen, argument: &mut T) -> Result<(), HypercallError> {
    const { assert!(size_of::<T>() == T::SIZE) };
    // SAFETY: the argument is the structure that this operation takes, as `T` promises, and is
    // exclusively borrowed.
    let code = unsafe { raw(xen, T::NUMBER, T::OP, core::ptr::from_mut(argument) as u64, T::COUNT) };
    if code < 0 { Err(HypercallError { what: T::NAME, code }) } else { Ok(()) }
}

/// Implements [`Hypercall`] for a structure of which no field leads Xen to other memory.
macro_rules! hypercall {
    (unsafe $structure:ty: $size:literal bytes, $number:expr, $op:expr, $name:literal $(, count $count:literal)?) => {
        // SAFETY: the structure is that of the operation in Xen's header, which its comment names.
        // No field leads Xen to other memory.
        unsafe impl Hypercall for $structure {
            const NUMBER: u64 = $number;
            const OP: u64 = $op;
            const NAME: &'static str = $name;
            const SIZE: usize = $size;
            $(const COUNT: u64 = $count;)?
        }
    };
}
#[cfg(feature = "back-end")]
pub(crate) use hypercall;

/// `XENVER_version`.
const VERSION: u64 = 0;

/// Returns Xen's version (`XENVER_version`): major in the upper 16 bits, minor in the lower.
pub fn version(xen: Xen) -> Result<u32, HypercallError> {
    // SAFETY: the operation takes no structure.
    let code = unsafe { raw(xen, XEN_VERSION, VERSION, 0, 0) };
    if code < 0 { Err(HypercallError { what: "XENVER_version", code }) } else { Ok(code as u32) }
}

/// `struct xen_feature_info` (`version.h`).
#[repr(C)]
struct FeatureInfo {
    submap_idx: u32,
    submap: u32,
}
hypercall!(unsafe FeatureInfo: 8 bytes, XEN_VERSION, 6, "XENVER_get_features");

/// Returns Xen's features (`XENVER_get_features`, sub-map 0).
pub fn features(xen: Xen) -> Result<u32, HypercallError> {
    let mut info = FeatureInfo { submap_idx: 0, submap: 0 };
    call(xen, &mut info)?;
    Ok(info.submap)
}

/// `struct xen_hvm_param` (`hvm/hvm_op.h`), as operation `OP` takes it.
#[repr(C)]
struct HvmParam<const OP: u64> {
    domid: u16,
    pad: u16,
    index: u32,
    value: u64,
}
/// `HVMOP_set_param`.
const SET_PARAM: u64 = 0;
/// `HVMOP_get_param`.
const GET_PARAM: u64 = 1;
hypercall!(unsafe HvmParam<SET_PARAM>: 16 bytes, HVM_OP, SET_PARAM, "HVMOP_set_param");
hypercall!(unsafe HvmParam<GET_PARAM>: 16 bytes, HVM_OP, GET_PARAM, "HVMOP_get_param");

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
pub fn get_param(xen: Xen, param: Param) -> Option<u64> {
    let mut argument = HvmParam::<GET_PARAM> { domid: DomId::SELF.0, pad: 0, index: param as u32, value: 0 };
    call(xen, &mut argument).ok()?;
    Some(argument.value).filter(|value| *value != 0 && *value != u64::MAX)
}

/// `HVM_PARAM_CALLBACK_TYPE_VECTOR` (`hvm/params.h`).
const CALLBACK_TYPE_VECTOR: u64 = 2;

/// Has Xen deliver events as interrupts with [`UPCALL_VECTOR`] (`HVMOP_set_param` of
/// `HVM_PARAM_CALLBACK_IRQ`).
pub fn set_callback_vector(xen: Xen) -> Result<(), HypercallError> {
    let value = CALLBACK_TYPE_VECTOR << 56 | u64::from(UPCALL_VECTOR);
    let index = Param::CallbackIrq as u32;
    call(xen, &mut HvmParam::<SET_PARAM> { domid: DomId::SELF.0, pad: 0, index, value })
}

/// `struct xen_add_to_physmap` (`memory.h`).
#[repr(C)]
struct AddToPhysmap {
    domid: u16,
    size: u16,
    space: u32,
    idx: u64,
    gpfn: u64,
}
// SAFETY: only `add_to_physmap` makes one. Its caller guarantees that the frame is unused.
unsafe impl Hypercall for AddToPhysmap {
    const NUMBER: u64 = MEMORY_OP;
    const OP: u64 = 7;
    const NAME: &'static str = "XENMEM_add_to_physmap";
    const SIZE: usize = 24;
}

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

/// Puts a page at `frame` (`XENMEM_add_to_physmap`). What was there is lost.
///
/// # Safety
/// Nothing refers to what is at `frame`, nor to the frame `index` of [`Space::GuestFrame`].
pub unsafe fn add_to_physmap(xen: Xen, space: Space, index: u64, frame: Gfn) -> Result<(), HypercallError> {
    call(xen, &mut AddToPhysmap { domid: DomId::SELF.0, size: 0, space: space as u32, idx: index, gpfn: frame.0 })
}

/// `struct xen_memory_map` (`memory.h`), with a buffer that it borrows.
#[repr(C)]
struct MemoryMap<'a> {
    nr_entries: u32,
    pad: u32,
    buffer: *mut E820Entry,
    borrowed: PhantomData<&'a mut [E820Entry]>,
}
// SAFETY: only `over` makes one. Xen writes at most `nr_entries` entries, and `over` borrows as
// many.
unsafe impl Hypercall for MemoryMap<'_> {
    const NUMBER: u64 = MEMORY_OP;
    const OP: u64 = 9;
    const NAME: &'static str = "XENMEM_memory_map";
    const SIZE: usize = 16;
}

impl<'a> MemoryMap<'a> {
    fn over(buffer: &'a mut [E820Entry]) -> Self {
        MemoryMap { nr_entries: buffer.len() as u32, pad: 0, buffer: buffer.as_mut_ptr(), borrowed: PhantomData }
    }
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
pub fn memory_map(xen: Xen, into: &mut [E820Entry]) -> Result<usize, HypercallError> {
    let mut argument = MemoryMap::over(into);
    call(xen, &mut argument)?;
    Ok((argument.nr_entries as usize).min(into.len()))
}

/// `struct gnttab_query_size` (`grant_table.h`).
#[repr(C)]
struct QuerySize {
    dom: u16,
    pad: u16,
    nr_frames: u32,
    max_nr_frames: u32,
    status: i16,
    pad2: u16,
}
hypercall!(unsafe QuerySize: 16 bytes, GRANT_TABLE_OP, 6, "GNTTABOP_query_size", count 1);

/// Returns the most frames that the grant table may have (`GNTTABOP_query_size`).
pub fn grant_frames(xen: Xen) -> Result<u32, HypercallError> {
    let mut argument = QuerySize { dom: DomId::SELF.0, pad: 0, nr_frames: 0, max_nr_frames: 0, status: 0, pad2: 0 };
    call(xen, &mut argument)?;
    let code = i64::from(argument.status);
    if code < 0 { Err(HypercallError { what: QuerySize::NAME, code }) } else { Ok(argument.max_nr_frames) }
}

/// Sets the timer to an absolute system time in ns (`set_timer_op`).
///
/// Its arguments point to nothing, which makes it cheaper than `VCPUOP_set_singleshot_timer`. A
/// failure would be a defect of Xen, and the next event sets the timer again.
pub fn set_timer(xen: Xen, at: u64) {
    count(Count::Timer);
    // 0 would cancel it.
    // SAFETY: the operation takes a number.
    unsafe { raw(xen, SET_TIMER_OP, at.max(1), 0, 0) };
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

/// `struct sched_shutdown` (`sched.h`).
#[repr(C)]
struct SchedShutdown {
    reason: u32,
}
hypercall!(unsafe SchedShutdown: 4 bytes, SCHED_OP, 2, "SCHEDOP_shutdown");

/// Ends the domain (`SCHEDOP_shutdown`). Returns only if Xen refuses.
pub fn shutdown(xen: Xen, reason: Shutdown) {
    let _ = call(xen, &mut SchedShutdown { reason: reason as u32 });
}

/// `SCHEDOP_yield`.
const YIELD: u64 = 0;

/// Yields the processor to other domains (`SCHEDOP_yield`).
pub fn yield_now(xen: Xen) {
    // SAFETY: the operation takes no structure.
    unsafe { raw(xen, SCHED_OP, YIELD, 0, 0) };
}

/// `struct evtchn_alloc_unbound` (`event_channel.h`).
#[repr(C)]
struct AllocUnbound {
    dom: u16,
    remote_dom: u16,
    port: u32,
}
hypercall!(unsafe AllocUnbound: 8 bytes, EVENT_CHANNEL_OP, 6, "EVTCHNOP_alloc_unbound");

/// Allocates an event channel that `peer` may bind (`EVTCHNOP_alloc_unbound`).
pub fn alloc_unbound(xen: Xen, peer: DomId) -> Result<EvtchnPort, HypercallError> {
    let mut argument = AllocUnbound { dom: DomId::SELF.0, remote_dom: peer.0, port: 0 };
    call(xen, &mut argument)?;
    Ok(EvtchnPort(argument.port))
}

/// `struct evtchn_bind_virq` (`event_channel.h`).
#[repr(C)]
struct BindVirq {
    virq: u32,
    vcpu: u32,
    port: u32,
}
hypercall!(unsafe BindVirq: 12 bytes, EVENT_CHANNEL_OP, 1, "EVTCHNOP_bind_virq");

/// `VIRQ_TIMER` (`xen.h`).
const TIMER: u32 = 0;

/// Binds the timer of vCPU 0 to a port (`EVTCHNOP_bind_virq` of `VIRQ_TIMER`).
pub fn bind_timer(xen: Xen) -> Result<EvtchnPort, HypercallError> {
    let mut argument = BindVirq { virq: TIMER, vcpu: 0, port: 0 };
    call(xen, &mut argument)?;
    Ok(EvtchnPort(argument.port))
}

/// Names an event channel operation whose structure is one port number, which Xen only reads
/// (`struct evtchn_close`, `evtchn_send` and `evtchn_unmask` of `event_channel.h`).
#[derive(Clone, Copy)]
enum PortOperation {
    /// `EVTCHNOP_close`.
    Close = 3,
    /// `EVTCHNOP_send`.
    Send = 4,
    /// `EVTCHNOP_unmask`.
    Unmask = 9,
}

impl PortOperation {
    /// Returns Xen's name of the operation.
    fn name(self) -> &'static str {
        match self {
            PortOperation::Close => "EVTCHNOP_close",
            PortOperation::Send => "EVTCHNOP_send",
            PortOperation::Unmask => "EVTCHNOP_unmask",
        }
    }

    /// Performs the operation on a port.
    fn on(self, xen: Xen, port: EvtchnPort) -> Result<(), HypercallError> {
        let argument = port_number(port).unwrap_or(&raw const port.0 as u64);
        // SAFETY: the argument is the address of a port number, which Xen reads. It writes nothing.
        let code = unsafe { raw(xen, EVENT_CHANNEL_OP, self as u64, argument, 0) };
        if code < 0 { Err(HypercallError { what: self.name(), code }) } else { Ok(()) }
    }
}

/// Closes an event channel (`EVTCHNOP_close`).
pub fn close(xen: Xen, port: EvtchnPort) -> Result<(), HypercallError> {
    PortOperation::Close.on(xen, port)
}

/// Sends an event (`EVTCHNOP_send`).
pub fn send(xen: Xen, port: EvtchnPort) -> Result<(), HypercallError> {
    count(Count::Send);
    PortOperation::Send.on(xen, port)
}

/// Has Xen unmask a port and deliver its pending event (`EVTCHNOP_unmask`).
pub fn unmask(xen: Xen, port: EvtchnPort) -> Result<(), HypercallError> {
    count(Count::Unmask);
    PortOperation::Unmask.on(xen, port)
}
