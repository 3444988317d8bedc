//! Event channels: delivering events, and the operations on ports.

use cloister_caps::tables::PortPeer;
use cloister_caps::{EvtchnPort, PortRuleId, ServiceId, Status};

use super::Kernel;
use super::answer::{Answer, DONE, answer};
use super::cspace::NotifyTarget;
use super::objects::Channel;
use crate::Platform;

impl Kernel<'_> {
    /// Stores the port of the XenStore event channel, which the toolstack has made.
    pub fn set_xenstore_port(&mut self, port: EvtchnPort) {
        for (id, rule) in self.tables.ports().with_ids() {
            if rule.peer == PortPeer::XenStore {
                let target = NotifyTarget { service: rule.service, bit: rule.bit };
                self.channels[id] = Some(Channel { port, target });
            }
        }
    }

    /// Delivers an event on `port`, which the caller has masked. Returns the service that receives
    /// it.
    ///
    /// An event on a port of no rule is dropped, and the port stays masked.
    pub fn event(&mut self, port: EvtchnPort) -> Option<ServiceId> {
        let mut rules = self.tables.ports().ids();
        let (rule, target) = rules.find_map(|rule| {
            let channel = self.channels[rule].filter(|channel| channel.port == port)?;
            Some((rule, channel.target))
        })?;
        self.delivered[target.service].insert(rule);
        self.notify(target);
        Some(target.service)
    }

    /// Opens the event channel of a rule to `peer`.
    ///
    /// `peer_port` 0 allocates a channel for `peer`; any other binds the one that `peer` has
    /// allocated.
    pub(super) fn open_port(
        &mut self,
        platform: &mut impl Platform,
        id: PortRuleId,
        [peer, peer_port, ..]: [u64; 4],
    ) -> Result<Answer, Status> {
        let rule = self.tables.port(id);
        let PortPeer::Domains(peers) = rule.peer else { return Err(Status::WrongState) };
        if self.channels[id].is_some() {
            return Err(Status::WrongState);
        }
        let peer = self.allowed_peer(peers, peer)?;
        let port = match u32::try_from(peer_port).map_err(|_| Status::Unavailable)? {
            0 => platform.open_port(peer),
            peer_port => platform.bind_port(peer, EvtchnPort(peer_port)),
        };
        let port = port.ok_or(Status::Unavailable)?;
        self.channels[id] = Some(Channel { port, target: NotifyTarget { service: rule.service, bit: rule.bit } });
        platform.unmask(port);
        Ok(answer(u64::from(port.0), 0))
    }

    /// Sends an event on the channel of a rule.
    pub(super) fn send_event(&self, platform: &mut impl Platform, rule: PortRuleId) -> Result<Answer, Status> {
        let channel = self.channels[rule].ok_or(Status::WrongState)?;
        platform.send(channel.port);
        Ok(DONE)
    }

    /// Closes the channel of a rule. The toolstack's channel stays open.
    pub(super) fn close_port(&mut self, platform: &mut impl Platform, id: PortRuleId) -> Result<Answer, Status> {
        let channel = self.channels[id].ok_or(Status::WrongState)?;
        if self.tables.port(id).peer == PortPeer::XenStore {
            return Err(Status::WrongState);
        }
        self.channels[id] = None;
        self.delivered[channel.target.service].remove(id);
        platform.close_port(channel.port);
        Ok(DONE)
    }
}
