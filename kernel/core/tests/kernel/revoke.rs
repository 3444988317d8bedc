//! Tests what is revoked of a service that is stopped, and what a restart leaves and keeps.

use std::collections::BTreeSet;

use cloister_caps::tables::{Access, GrantRule, Object, Tables};
use cloister_caps::{EvtchnPort, Operation, ServiceId, Status};
use cloister_kernel_core::FaultAction;
use cloister_kernel_core::schedule::State;
use proptest::prelude::*;

use crate::machine::{Bench, XENSTORE, tables, with};
use crate::random::{Act, act, act_on};

/// The time in ns after which ending a grant is tried again.
const RETRY: u64 = 1_000_000_000;

/// Returns the shipped policy, except that each service may restart `limit` times and is then
/// stopped.
fn stopping(limit: u16) -> String {
    let rule = format!("restart = {{ limit = {limit}, then = \"stop-service\" }}");
    with("restart = { limit = 0, then = \"stop-image\" }", &rule)
}

impl Bench {
    fn fault(&mut self, service: &str) -> FaultAction {
        let service = self.service(service);
        self.kernel.fault(&mut self.machine, service)
    }

    fn open(&mut self, name: &str) -> EvtchnPort {
        let opened = self.invoke("netfront", name, Operation::PortOpen, [3, 0, 0, 0]);
        assert_eq!(opened.status, Status::Done);
        EvtchnPort(opened.words[0] as u32)
    }

    /// Returns the grant rules that a service holds.
    fn held(&self, service: ServiceId) -> Vec<GrantRule> {
        let held = self.tables.capabilities().iter().filter(|held| held.service == service);
        let rules = held.filter_map(|held| if let Object::Grant(rule) = held.object { Some(rule) } else { None });
        rules.map(|rule| self.tables.grant(rule)).collect()
    }

    /// Returns the ports that a service can send on, which it tries.
    fn ports(&mut self, service: ServiceId) -> BTreeSet<u32> {
        let slots: Vec<u64> = self
            .tables
            .capabilities()
            .iter()
            .filter(|held| held.service == service && matches!(held.object, Object::Port(_)))
            .map(|held| u64::from(held.slot))
            .collect();
        let before = self.machine.sent.len();
        for slot in slots {
            self.call(service, 1, [slot, Operation::PortSend as u64, 0, 0, 0, 0]);
        }
        self.machine.sent[before..].iter().copied().collect()
    }
}

#[test]
fn a_stopped_service_keeps_no_channel() {
    let mut bench = Bench::new(&stopping(0));
    let ports = ["tx-events", "rx-events"].map(|name| bench.open(name));
    bench.kernel.event(ports[0]);
    assert_eq!(bench.fault("netfront"), FaultAction::StopService);
    assert_eq!(bench.machine.open, BTreeSet::from([XENSTORE.0]));
    assert!(ports.iter().all(|port| bench.kernel.event(*port).is_none()));
    assert_eq!(bench.machine.log, ["stopped: netfront: its restart rule allows no more; pages in use by peers: 0"]);
    let netfront = bench.service("netfront");
    assert_eq!(bench.machine.discarded, [netfront]);
    assert_eq!(bench.kernel.take_answer(netfront, 0), None);
    assert!(!bench.kernel.has_revocations(u64::MAX - 1), "nothing is left to end");
}

/// The toolstack has made the channel, so it stays open at Xen; but nothing is notified any more.
#[test]
fn the_channel_of_a_stopped_xenstore_is_dead() {
    let mut bench = Bench::new(&stopping(0));
    assert_eq!(bench.fault("xenstore"), FaultAction::StopService);
    assert!(bench.kernel.event(XENSTORE).is_none());
    assert!(bench.machine.unmasked.is_empty(), "it stays masked");
}

#[test]
fn the_peers_of_a_stopped_service_are_notified() {
    let mut bench = Bench::new(&stopping(0));
    let services = ["control", "grant-manager", "http", "tcpip", "xenstore"];
    for service in services {
        bench.wait(service, u64::MAX);
    }
    bench.fault("netfront");
    let bits = services.map(|service| bench.bits(service).count_ones());
    assert_eq!(bits, [0, 2, 0, 2, 2], "both directions of the queue, of those that have one with it");
}

#[test]
fn a_stopped_grant_manager_leaves_granted_what_the_peer_uses_and_nothing_else() {
    let mut bench = Bench::new(&stopping(0));
    for (rule, further) in [("ring-pages", 1), ("rx-pages", 127), ("tx-pages", 3)] {
        assert_eq!(bench.status("grant-manager", rule, Operation::GrantIssue, [0, 3, 0, further]), Status::Done);
    }
    let used: Vec<u32> = bench.machine.granted.keys().copied().take(2).collect();
    bench.machine.in_use.extend(used.iter().copied());
    let frames: BTreeSet<u64> =
        bench.machine.granted.values().filter(|granted| granted.2).map(|granted| granted.0).collect();
    assert_eq!(bench.fault("grant-manager"), FaultAction::StopService);
    assert_eq!(bench.machine.granted.keys().copied().collect::<Vec<_>>(), used);
    assert_eq!(
        bench.machine.log,
        ["stopped: grant-manager: its restart rule allows no more; pages in use by peers: 2"]
    );
    let retry = bench.machine.time + RETRY;
    assert!(!bench.kernel.has_revocations(retry - 1) && bench.kernel.has_revocations(retry));
    bench.machine.time = retry;
    bench.machine.in_use.remove(&used[0]);
    bench.kernel.retry_revocations(&mut bench.machine);
    assert_eq!(bench.machine.granted.keys().copied().collect::<Vec<_>>(), used[1..]);
    assert_eq!(bench.machine.log.len(), 1, "a page is still in use");
    assert!(!bench.kernel.has_revocations(retry + RETRY - 1) && bench.kernel.has_revocations(retry + RETRY));
    bench.machine.in_use.clear();
    bench.kernel.retry_revocations(&mut bench.machine);
    assert!(bench.machine.granted.is_empty() && !bench.kernel.has_revocations(u64::MAX - 1));
    assert_eq!(bench.machine.log[1], "stopped: peers use no page of a stopped service any more");
    assert_eq!(bench.machine.cleared.iter().copied().collect::<BTreeSet<_>>(), frames, "what the peer could write");
    assert_eq!(bench.machine.cleared.len(), frames.len(), "once");
}

#[test]
fn a_restart_keeps_what_the_policy_gives_and_leaves_what_the_run_had() {
    let mut bench = Bench::new(&stopping(1));
    let ports = ["tx-events", "rx-events"].map(|name| bench.open(name));
    let netfront = bench.service("netfront");
    bench.machine.unmasked.clear();
    bench.kernel.event(ports[1]);
    bench.hold("netfront", u64::MAX, u64::MAX);
    bench.kernel.charge(netfront, 7_000_000, 7_000_000);
    assert_eq!(bench.fault("netfront"), FaultAction::Restart(1));
    assert_eq!(bench.machine.unmasked, [ports[1].0], "the next run gets the events that the earlier one held");
    assert_eq!(bench.machine.discarded, [netfront], "nothing of its text is in the next run's");
    assert_eq!(bench.kernel.take_answer(netfront, 0), None);
    assert_eq!(bench.ports(netfront), ports.map(|port| port.0).into(), "the channels stay open");
    assert_eq!(bench.kernel.state(netfront), State::Ready);
    assert_eq!(bench.kernel.cpu_time(netfront), 7_000_000);
    assert_ne!(bench.kernel.next(7_000_001).service, Some(netfront), "its budget is used up as before");
    assert!(bench.machine.log.is_empty());
    bench.wait("netfront", u64::MAX);
    assert_eq!(bench.machine.unmasked.len(), 1, "nothing is delivered to the next run yet");
}

thread_local! {
    static TABLES: Tables<'static> = tables(&stopping(1));
}

proptest! {
    /// Whatever came before: after a service was stopped, no channel and no grant is its own, but
    /// for pages that a peer uses, and the others have what they had.
    #[test]
    fn nothing_is_left_of_a_stopped_service(
        acts in prop::collection::vec(act(), 0..300),
        pick in 0_usize..6,
    ) {
        let mut bench = Bench::of(TABLES.with(|tables| *tables));
        let service = bench.tables.services().id(pick).unwrap();
        for act in acts {
            if !matches!(act, Act::Fault(other) if usize::from(other) == pick) {
                act_on(&mut bench, act);
            }
        }
        let ports = bench.ports(service);
        let others: BTreeSet<u32> = bench.machine.open.difference(&ports).copied().collect();
        let granted = bench.machine.granted.clone();
        let mapped = bench.machine.mapped.clone();
        let rules = bench.held(service);
        let of_it = |reference: u32| rules.iter().any(|rule| (rule.first_ref..rule.first_ref + rule.count).contains(&reference));
        prop_assert!(matches!(bench.kernel.fault(&mut bench.machine, service), FaultAction::Restart(1)));
        prop_assert_eq!((&bench.machine.granted, &bench.machine.mapped), (&granted, &mapped), "a restart keeps them");
        prop_assert_eq!(bench.machine.open.len(), ports.len() + others.len());
        // The machine panics if a port or a grant is ended twice.
        prop_assert_eq!(bench.kernel.fault(&mut bench.machine, service), FaultAction::StopService);

        prop_assert!(ports.iter().all(|port| bench.kernel.event(EvtchnPort(*port)).is_none()));
        let open: BTreeSet<u32> = others.iter().copied().chain(ports.contains(&XENSTORE.0).then_some(XENSTORE.0)).collect();
        prop_assert_eq!(&bench.machine.open, &open);
        for reference in bench.machine.granted.keys() {
            prop_assert!(!of_it(*reference) || bench.machine.in_use.contains(reference), "{} is left", reference);
        }
        prop_assert!(!bench.machine.mapped.keys().any(|reference| of_it(*reference)));
        let kept = granted.iter().filter(|(reference, _)| !of_it(**reference));
        prop_assert!(kept.eq(bench.machine.granted.iter().filter(|(reference, _)| !of_it(**reference))));

        bench.machine.in_use.clear();
        bench.machine.time += RETRY;
        if bench.kernel.has_revocations(bench.machine.time) {
            bench.kernel.retry_revocations(&mut bench.machine);
        }
        prop_assert!(!bench.kernel.has_revocations(u64::MAX - 1));
        prop_assert!(!bench.machine.granted.keys().any(|reference| of_it(*reference)));
        for rule in rules.iter().filter(|rule| rule.access == Access::ReadWrite) {
            for (reference, (frame, ..)) in granted.iter().filter(|granted| (rule.first_ref..rule.first_ref + rule.count).contains(granted.0)) {
                prop_assert!(bench.machine.cleared.contains(frame), "{} is not cleared", reference);
            }
        }
    }
}

/// All other services wait for events. Nothing wakes the image when it is time to try again.
#[test]
fn an_image_that_sleeps_wakes_to_try_again() {
    let mut bench = Bench::new(&stopping(0));
    assert_eq!(bench.status("grant-manager", "ring-pages", Operation::GrantIssue, [0, 3, 0, 1]), Status::Done);
    let used: Vec<u32> = bench.machine.granted.keys().copied().take(1).collect();
    bench.machine.in_use.extend(used);
    assert_eq!(bench.fault("grant-manager"), FaultAction::StopService);
    for service in ["control", "http", "netfront", "tcpip", "xenstore"] {
        bench.wait(service, u64::MAX);
        let id = bench.service(service);
        let _ = bench.kernel.take_answer(id, 0);
        bench.wait(service, u64::MAX);
    }
    let next = bench.kernel.next(bench.machine.time);
    assert_eq!(next.service, None);
    assert!(next.time() <= bench.machine.time + RETRY, "{next:?}");
}
