//! The link address of a frame's next hop.

use cloister_interfaces::Instant;
use cloister_interfaces::net::{Offload, TxPage};

use super::frame::unresolved_destination;
use super::neighbours::{Neighbours, Route};

/// The largest number of frames that wait for the link address of their next hop.
pub(super) const MAX_PARKED: usize = 32;
/// A frame of one page that waits for a link address.
#[derive(Clone, Copy)]
pub(super) struct ParkedFrame {
    pub(super) page: TxPage,
    pub(super) length: u16,
    pub(super) offload: Offload,
    pub(super) since: Instant,
}

/// The state of the link address in a frame.
#[derive(Clone, Copy)]
pub(super) enum Resolution {
    /// The link address is written in the frame.
    Resolved,
    /// As `Resolved`, but the address is old, and a request that confirms it is due.
    Refresh(Route),
    /// The link address of the next hop is not known.
    Unresolved(Route),
    /// No route leads to the destination.
    NoRoute,
}

/// Writes the link address of the next hop into a frame that smoltcp built.
#[inline]
pub(super) fn resolve(frame: &mut [u8], neighbours: &mut Neighbours) -> Resolution {
    let Some(to) = unresolved_destination(frame) else { return Resolution::Resolved };
    if let (Some(mac), Some(space)) = (neighbours.cached(to), frame.first_chunk_mut()) {
        *space = mac;
        return Resolution::Resolved;
    }
    resolve_by_route(frame, to, neighbours)
}

#[inline(never)]
fn resolve_by_route(frame: &mut [u8], to: [u8; 4], neighbours: &mut Neighbours) -> Resolution {
    let Some(route) = neighbours.route(to) else { return Resolution::NoRoute };
    let (Some(mac), Some(space)) = (route.mac, frame.first_chunk_mut()) else {
        return Resolution::Unresolved(route);
    };
    *space = mac;
    if route.request_to.is_some() { Resolution::Refresh(route) } else { Resolution::Resolved }
}
