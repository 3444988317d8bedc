//! The event channels of one domain, in Xen's two-level form (`event_channel.h`): a pending and a
//! mask bit for each port.

use cloister_caps::EvtchnPort;

/// The channel to the XenStore daemon, which the toolstack makes before the domain starts.
pub const XENSTORE_PORT: EvtchnPort = EvtchnPort(1);
/// The console's channel, which the toolstack makes too.
const CONSOLE_PORT: EvtchnPort = EvtchnPort(2);
/// The number of ports that libxl allows a domain (`max_event_channels`).
const PORTS: usize = 1023;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    Closed,
    /// Allocated for this domain, which has not bound it yet.
    Unbound(u16),
    /// Bound by this domain.
    Bound(u16),
}

#[derive(Clone, Copy)]
struct Channel {
    link: Link,
    pending: bool,
    masked: bool,
    /// `true` if an event is pending at the other end.
    remote_pending: bool,
}

/// The event channels of a domain.
pub struct EventChannels {
    channels: Vec<Channel>,
}

impl EventChannels {
    /// Creates the channels of a new domain: the toolstack's two, and everything masked.
    #[must_use]
    pub fn new() -> Self {
        let closed = Channel { link: Link::Closed, pending: false, masked: true, remote_pending: false };
        let mut channels = vec![closed; PORTS];
        for port in [XENSTORE_PORT, CONSOLE_PORT] {
            channels[port.0 as usize].link = Link::Bound(0);
        }
        EventChannels { channels }
    }

    fn channel(&mut self, port: EvtchnPort) -> Option<&mut Channel> {
        self.channels.get_mut(port.0 as usize)
    }

    /// Performs `EVTCHNOP_alloc_unbound` of the guest. The mask bit is in the guest's memory and
    /// does not change.
    pub fn alloc_unbound(&mut self, remote: u16) -> Option<EvtchnPort> {
        let free = (1..self.channels.len()).find(|port| self.channels[*port].link == Link::Closed)?;
        let channel = &mut self.channels[free];
        *channel = Channel { link: Link::Unbound(remote), pending: false, remote_pending: false, ..*channel };
        Some(EvtchnPort(free as u32))
    }

    /// Performs `EVTCHNOP_bind_interdomain` of `domain`, which finds an event at once. Returns
    /// `true` if the port was allocated for it.
    pub fn bind(&mut self, domain: u16, port: EvtchnPort) -> bool {
        match self.channel(port) {
            Some(channel) if channel.link == Link::Unbound(domain) => {
                channel.link = Link::Bound(domain);
                channel.remote_pending = true;
                true
            }
            _ => false,
        }
    }

    /// Closes the end of `domain`. The guest's end is unbound again.
    pub fn unbind(&mut self, domain: u16, port: EvtchnPort) {
        if let Some(channel) = self.channel(port).filter(|channel| channel.link == Link::Bound(domain)) {
            channel.link = Link::Unbound(domain);
            channel.remote_pending = false;
        }
    }

    /// Performs `EVTCHNOP_send` of the guest. An event on an unbound port is lost.
    pub fn send(&mut self, port: EvtchnPort) {
        if let Some(channel) = self.channel(port).filter(|channel| matches!(channel.link, Link::Bound(_))) {
            channel.remote_pending = true;
        }
    }

    /// Performs `EVTCHNOP_send` of `domain` on its end. Returns `true` if it has one.
    pub fn notify(&mut self, domain: u16, port: EvtchnPort) -> bool {
        match self.channel(port).filter(|channel| channel.link == Link::Bound(domain)) {
            Some(channel) => {
                channel.pending = true;
                true
            }
            None => false,
        }
    }

    /// Clears the pending event at the end of `domain`. Returns `true` if there was one.
    pub fn take_remote(&mut self, domain: u16, port: EvtchnPort) -> bool {
        self.channel(port)
            .filter(|channel| channel.link == Link::Bound(domain))
            .is_some_and(|channel| std::mem::take(&mut channel.remote_pending))
    }

    /// Performs `EVTCHNOP_close` of the guest. A pending event is lost.
    pub fn close(&mut self, port: EvtchnPort) {
        if let Some(channel) = self.channel(port) {
            *channel = Channel { link: Link::Closed, pending: false, remote_pending: false, ..*channel };
        }
    }

    /// Clears the mask bit. [`Self::take`] then finds a pending event.
    pub fn unmask(&mut self, port: EvtchnPort) {
        if let Some(channel) = self.channel(port) {
            channel.masked = false;
        }
    }

    /// Returns the ports that are pending and not masked, as the guest's upcall finds them. Each is
    /// masked, then cleared.
    pub fn take(&mut self) -> Vec<EvtchnPort> {
        let mut found = Vec::new();
        for (port, channel) in self.channels.iter_mut().enumerate() {
            if channel.pending && !channel.masked {
                (channel.masked, channel.pending) = (true, false);
                found.push(EvtchnPort(port as u32));
            }
        }
        found
    }

    /// Returns the peers of the ports that the guest has allocated and not closed.
    pub fn peers(&self) -> impl Iterator<Item = u16> {
        let toolstack = [XENSTORE_PORT.0 as usize, CONSOLE_PORT.0 as usize];
        let own = self.channels.iter().enumerate().filter(move |(port, _)| !toolstack.contains(port));
        own.filter_map(|(_, channel)| match channel.link {
            Link::Unbound(peer) | Link::Bound(peer) => Some(peer),
            Link::Closed => None,
        })
    }

    /// Returns the number of ports that the guest has allocated and not closed.
    #[must_use]
    pub fn allocated(&self) -> usize {
        let used = self.channels.iter().filter(|channel| channel.link != Link::Closed).count();
        used.saturating_sub(2)
    }
}

impl Default for EventChannels {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_domain_binds_and_finds_an_event() {
        let mut events = EventChannels::new();
        let port = events.alloc_unbound(3).unwrap();
        events.send(port);
        assert!(!events.bind(4, port));
        assert!(events.bind(3, port));
        assert!(!events.bind(3, port));
        assert!(events.take_remote(3, port), "binding alone sets the binder's end pending");
        assert!(!events.take_remote(3, port), "what was sent before is lost");
        events.send(port);
        assert!(!events.take_remote(4, port));
        assert!(events.take_remote(3, port));
    }

    #[test]
    fn events_merge_and_the_mask_keeps_them() {
        let mut events = EventChannels::new();
        let port = events.alloc_unbound(0).unwrap();
        assert!(!events.notify(0, port), "the port is not bound");
        events.bind(0, port);
        assert!(events.notify(0, port) && events.notify(0, port));
        assert!(events.take().is_empty());
        events.unmask(port);
        assert_eq!(events.take(), [port]);
        assert!(events.notify(0, port));
        assert!(events.take().is_empty(), "a delivered port is masked");
        events.unmask(port);
        assert_eq!(events.take(), [port]);
    }

    #[test]
    fn a_closed_port_is_unbound_and_is_reused_clean() {
        let mut events = EventChannels::new();
        let port = events.alloc_unbound(0).unwrap();
        events.bind(0, port);
        events.notify(0, port);
        events.close(port);
        assert!(!events.notify(0, port));
        assert_eq!(events.allocated(), 0);
        assert_eq!(events.alloc_unbound(7), Some(port));
        events.unmask(port);
        assert!(events.take().is_empty());
        assert!(!events.bind(0, port));
    }
}
