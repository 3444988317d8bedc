//! Maps pages that another domain grants, and binds event channels that it has allocated, for a
//! back end.
//!
//! The kernel that ships is built without this file
//! (docs/decisions/0006-separate-kernel-for-back-ends.md).

use core::sync::atomic::{AtomicU32, Ordering};

use cloister_caps::tables::MAX_GRANT_REFS;
use cloister_caps::xen::grant::map_flag::{HOST_MAP, READONLY};
use cloister_caps::{DomId, EvtchnPort, GrantRef, PAGE_SIZE};
use cloister_kernel_core::placement::RegionFrame;

use crate::hypercall::{self, EVENT_CHANNEL_OP, GRANT_TABLE_OP, Hypercall, HypercallError, hypercall};
use crate::hypercall_page::Xen;

/// Marks a page without a handle. Xen's handles are indices into a far smaller table.
const NO_HANDLE: u32 = u32::MAX;

/// `struct gnttab_map_grant_ref` (`grant_table.h`).
#[repr(C)]
struct Map {
    host_addr: u64,
    flags: u32,
    reference: u32,
    dom: u16,
    status: i16,
    handle: u32,
    dev_bus_addr: u64,
}
// SAFETY: only `map` makes one. Its caller answers for the frame at `host_addr`.
unsafe impl Hypercall for Map {
    const NUMBER: u64 = GRANT_TABLE_OP;
    const OP: u64 = 0;
    const NAME: &'static str = "GNTTABOP_map_grant_ref";
    const SIZE: usize = 32;
    const COUNT: u64 = 1;
}

/// `struct gnttab_unmap_grant_ref` (`grant_table.h`).
#[repr(C)]
struct Unmap {
    host_addr: u64,
    dev_bus_addr: u64,
    handle: u32,
    status: i16,
    pad: u16,
}
// SAFETY: only `unmap` makes one. Xen unmaps nothing but what `map` has mapped, by the handle.
unsafe impl Hypercall for Unmap {
    const NUMBER: u64 = GRANT_TABLE_OP;
    const OP: u64 = 1;
    const NAME: &'static str = "GNTTABOP_unmap_grant_ref";
    const SIZE: usize = 24;
    const COUNT: u64 = 1;
}

/// `struct evtchn_bind_interdomain` (`event_channel.h`).
#[repr(C)]
struct BindInterdomain {
    remote_dom: u16,
    pad: u16,
    remote_port: u32,
    local_port: u32,
}
hypercall!(unsafe BindInterdomain: 12 bytes, EVENT_CHANNEL_OP, 0, "EVTCHNOP_bind_interdomain");

/// Xen's handle of each peer's page that is mapped, by the reference that names the mapping. It is
/// static because it is too large for a stack.
static HANDLES: [AtomicU32; MAX_GRANT_REFS as usize] = [const { AtomicU32::new(NO_HANDLE) }; MAX_GRANT_REFS as usize];

/// Maps a peer's page at `frame` (`GNTTABOP_map_grant_ref`). Returns `true` if it is mapped.
///
/// The page that was there is lost for good, and after the unmapping there is none. Page tables do
/// not change.
pub fn map(xen: Xen, own_ref: GrantRef, frame: RegionFrame, peer: DomId, peer_ref: GrantRef, writable: bool) -> bool {
    let Some(entry) = HANDLES.get(own_ref.0 as usize).filter(|handle| handle.load(Ordering::Relaxed) == NO_HANDLE)
    else {
        return false;
    };
    let mut argument = Map {
        host_addr: frame.gfn().0 * PAGE_SIZE as u64,
        flags: HOST_MAP | if writable { 0 } else { READONLY },
        reference: peer_ref.0,
        dom: peer.0,
        status: -1,
        handle: NO_HANDLE,
        dev_bus_addr: 0,
    };
    let mapped = hypercall::call(xen, &mut argument).is_ok() && argument.status == 0;
    if mapped {
        entry.store(argument.handle, Ordering::Relaxed);
    }
    mapped
}

/// Unmaps a peer's page (`GNTTABOP_unmap_grant_ref`).
pub fn unmap(xen: Xen, own_ref: GrantRef, frame: RegionFrame) {
    let Some(entry) = HANDLES.get(own_ref.0 as usize) else { return };
    let handle = entry.swap(NO_HANDLE, Ordering::Relaxed);
    let host_addr = frame.gfn().0 * PAGE_SIZE as u64;
    // Xen refuses `NO_HANDLE`.
    let _ = hypercall::call(xen, &mut Unmap { host_addr, dev_bus_addr: 0, handle, status: 0, pad: 0 });
}

/// Binds the event channel that `peer` has allocated as `peer_port` (`EVTCHNOP_bind_interdomain`).
///
/// # Errors
/// Xen refuses: there is no such channel, it is for another domain, or this one may have no more.
pub fn bind_interdomain(xen: Xen, peer: DomId, peer_port: EvtchnPort) -> Result<EvtchnPort, HypercallError> {
    let mut argument = BindInterdomain { remote_dom: peer.0, pad: 0, remote_port: peer_port.0, local_port: 0 };
    hypercall::call(xen, &mut argument)?;
    Ok(EvtchnPort(argument.local_port))
}
