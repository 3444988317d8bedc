//! Event channels: delivering events, and the operations on ports.

use cloister_caps::tables::{PortKind, PortRule};
use cloister_caps::{EvtchnPort, Operation, Status};

use super::{Answer, DONE, Kernel, allowed_peer, answer};
use crate::Platform;

/// Holds the state of the event channel of one port rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Channel {
    /// Xen's port while the channel is open.
    pub(super) port: Option<EvtchnPort>,
    /// The service that receives the channel's events.
    pub(super) service: u8,
    /// The notification bit that an event sets.
    pub(super) bit: u8,
}

impl Kernel<'_> {
    /// Stores the port of the XenStore event channel, which the toolstack has made.
    pub fn set_xenstore_port(&mut self, port: EvtchnPort) {
        for (index, rule) in self.tables.ports().iter().enumerate() {
            if rule.kind == PortKind::XenStore {
                self.channels[index].port = Some(port);
            }
        }
    }

    /// Delivers an event on `port`, which the caller has masked. Returns the service that receives
    /// it.
    ///
    /// An event on a port of no rule is dropped, and the port stays masked.
    pub fn event(&mut self, port: EvtchnPort) -> Option<u8> {
        let index = self.channels.iter().position(|channel| channel.port == Some(port))?;
        let Channel { service, bit, .. } = self.channels[index];
        if let Some(delivered) = self.delivered.get_mut(usize::from(service)) {
            *delivered |= 1 << index;
        }
        self.notify(service, bit);
        Some(service)
    }

    /// Opens, signals or closes the event channel of a port rule.
    ///
    /// `peer_port` 0 allocates a channel for `peer`; any other binds the one that `peer` has
    /// allocated.
    pub(super) fn invoke_port(
        &mut self,
        platform: &mut impl Platform,
        index: usize,
        rule: &PortRule,
        operation: Operation,
        [peer, peer_port, ..]: [u64; 4],
    ) -> Result<Answer, Status> {
        let channel = self.channels.get_mut(index).ok_or(Status::WrongOperation)?;
        match (operation, channel.port) {
            (Operation::PortOpen, None) if rule.kind == PortKind::Peer => {
                let peer = allowed_peer(peer, rule.peer_first, rule.peer_last)?;
                let port = match u32::try_from(peer_port).map_err(|_| Status::Unavailable)? {
                    0 => platform.open_port(peer),
                    peer_port => platform.bind_port(peer, EvtchnPort(peer_port)),
                };
                let port = port.ok_or(Status::Unavailable)?;
                channel.port = Some(port);
                platform.unmask(port);
                Ok(answer(u64::from(port.0), 0))
            }
            (Operation::PortSend, Some(port)) => {
                platform.send(port);
                Ok(DONE)
            }
            (Operation::PortClose, Some(port)) if rule.kind == PortKind::Peer => {
                channel.port = None;
                if let Some(delivered) = self.delivered.get_mut(usize::from(rule.service)) {
                    *delivered &= !(1 << index);
                }
                platform.close_port(port);
                Ok(DONE)
            }
            _ => Err(Status::WrongState),
        }
    }
}
