//! Takes back what a service holds: all of it when the service is stopped, and what is left of its
//! run when it restarts.

use cloister_caps::abi::NO_DEADLINE;
use cloister_caps::tables::{Object, PortPeer, PortRuleSet};
use cloister_caps::{GrantRuleId, ServiceId, Status};

use super::Kernel;
use super::cspace::NotifyTarget;
use crate::Platform;
use crate::schedule::State;

/// The shortest time in ns between two attempts to end the grants of stopped services.
const RETRY: u64 = 1_000_000_000;

impl Kernel<'_> {
    /// Ends the run of a service that is restarted. What the policy gives the service stays: open
    /// channels, grants, its budget and its queues.
    ///
    /// The next run finds all notification bits set, so that it looks at everything once. A pending
    /// answer is dropped: it was for the earlier run. Its delivered events are unmasked: that they
    /// were masked, only the earlier run knew.
    pub(super) fn end_run(&mut self, platform: &mut impl Platform, service: ServiceId) {
        self.pending[service] = u64::MAX;
        self.pending_answer[service] = false;
        for rule in core::mem::replace(&mut self.delivered[service], PortRuleSet::EMPTY) {
            if let Some(channel) = self.channels[rule] {
                platform.unmask(channel.port);
            }
        }
    }

    /// Stops a service for good, and revokes what it holds: closes its channels, ends its grants,
    /// and notifies the services at the other ends of its queues.
    ///
    /// A page that a peer still uses stays granted, and cannot be granted again.
    /// [`Kernel::retry_revocations`] tries again.
    #[cold]
    pub(super) fn stop(&mut self, platform: &mut impl Platform, service: ServiceId) {
        self.scheduler.set_state(service, State::Stopped);
        self.pending[service] = 0;
        self.pending_answer[service] = false;
        self.delivered[service] = PortRuleSet::EMPTY;
        self.close_channels(platform, service);
        self.notify_peers(service);
        let name = self.tables.service_name(service);
        let in_use = self.end_grants(platform, service);
        if in_use > 0 {
            self.retry_at = platform.now().saturating_add(RETRY);
        }
        platform.log(format_args!("stopped: {name}: its restart rule allows no more; pages in use by peers: {in_use}"));
    }

    /// Closes the channels of a service. The toolstack's stays open at Xen, but belongs to no
    /// service any more: its next event masks it for good.
    fn close_channels(&mut self, platform: &mut impl Platform, service: ServiceId) {
        for (id, rule) in self.tables.ports().with_ids().filter(|(_, rule)| rule.service == service) {
            if let Some(channel) = self.channels[id].take()
                && rule.peer != PortPeer::XenStore
            {
                platform.close_port(channel.port);
            }
        }
    }

    /// Notifies the services at the other ends of a service's queues.
    fn notify_peers(&mut self, service: ServiceId) {
        for queue in self.tables.queues().iter() {
            if queue.sender == service {
                self.notify(NotifyTarget { service: queue.receiver, bit: queue.receiver_bit });
            }
            if queue.receiver == service {
                self.notify(NotifyTarget { service: queue.sender, bit: queue.sender_bit });
            }
        }
    }

    /// Ends the grants under the rules that a service holds. Returns the number of pages that a
    /// peer still uses.
    fn end_grants(&mut self, platform: &mut impl Platform, service: ServiceId) -> u32 {
        let tables = self.tables;
        let held = tables.capabilities().iter().filter(|capability| capability.service == service);
        let rules = held.filter_map(|capability| match capability.object {
            Object::Grant(rule) => Some(rule),
            _ => None,
        });
        rules.map(|rule| self.end_pages(platform, rule)).sum()
    }

    /// Ends the grants of all pages of a rule. Returns the number of pages that a peer still uses.
    fn end_pages(&mut self, platform: &mut impl Platform, rule: GrantRuleId) -> u32 {
        let mut in_use = 0;
        for page in 0..self.tables.grant(rule).count {
            // A page that is not granted is refused, too.
            if self.end_grant(platform, rule, page.into()) == Err(Status::InUse) {
                in_use += 1;
            }
        }
        in_use
    }

    /// Returns `true` if there are grants of stopped services to end at `now`, in ns.
    #[inline]
    #[must_use]
    pub fn has_revocations(&self, now: u64) -> bool {
        now >= self.retry_at
    }

    /// Tries again to end the grants of stopped services.
    #[cold]
    pub fn retry_revocations(&mut self, platform: &mut impl Platform) {
        let tables = self.tables;
        let mut in_use = 0;
        for service in tables.services().ids() {
            if self.scheduler.state(service) == State::Stopped {
                in_use += self.end_grants(platform, service);
            }
        }
        self.retry_at = if in_use > 0 { platform.now().saturating_add(RETRY) } else { NO_DEADLINE };
        if in_use == 0 {
            platform.log(format_args!("stopped: peers use no page of a stopped service any more"));
        }
    }
}
