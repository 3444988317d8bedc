//! The way of a frame to its next hop.

use cloister_interfaces::Instant;
use cloister_interfaces::net::Offload;

use super::frame::unresolved;
use super::neighbours::{Neighbours, Route};

/// The most frames that wait for the link address of their next hop.
pub(super) const PARKED: usize = 8;
/// A frame of one page that waits for a link address.
#[derive(Clone, Copy)]
pub(super) struct Parked {
    pub(super) page: u16,
    pub(super) length: u16,
    pub(super) offload: Offload,
    pub(super) since: Instant,
}

/// Where a frame goes.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// Its destination is written in it.
    Direct,
    /// As `Direct`; the station, or everyone, is to be asked whether the host still has that link
    /// address.
    Ask(Route),
    /// The link address of the next hop is not known.
    Wait(Route),
    /// No way leads to its destination.
    Nowhere,
}

/// Writes the link address of the next hop into a frame that the stack made.
#[inline]
pub(super) fn direct(frame: &mut [u8], neighbours: &mut Neighbours) -> Way {
    let Some(to) = unresolved(frame) else { return Way::Direct };
    if let (Some(mac), Some(space)) = (neighbours.again(to), frame.first_chunk_mut()) {
        *space = mac;
        return Way::Direct;
    }
    resolve(frame, to, neighbours)
}

#[inline(never)]
fn resolve(frame: &mut [u8], to: [u8; 4], neighbours: &mut Neighbours) -> Way {
    let Some(route) = neighbours.route(to) else { return Way::Nowhere };
    let (Some(mac), Some(space)) = (route.mac, frame.first_chunk_mut()) else {
        return Way::Wait(route);
    };
    *space = mac;
    if route.ask.is_some() { Way::Ask(route) } else { Way::Direct }
}
