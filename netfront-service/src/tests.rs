//! The service against the simulated back end, and against hostile ones.

use std::collections::BTreeMap;

use cloister_caps::{Operation, PAGE_SIZE, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, Port};
use cloister_interfaces::grants::Grants;
use cloister_interfaces::net::{Net, Offloads, Reply, Request, Work};
use cloister_interfaces::rules::Granted;
use cloister_interfaces::store::{Action, Failure, Store};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service};
use cloister_sim::stand_ins::{GrantService, StoreService};
use cloister_sim::{Netback, Recorder, SharedMemory, Xenstored, channel};
use proptest::prelude::*;

use crate::Caps;
use crate::service::Netfront;

const PAGES: u16 = 16;
const TX_PORT: Slot = Slot(20);
const RX_PORT: Slot = Slot(21);
const MAC: [u8; 6] = [0, 0x16, 0x3e, 0x11, 0x22, 0x33];
const UP: Reply = Reply::Up { mac: MAC, mtu: 1500, offloads: Offloads::empty() };

struct World {
    system: Recorder,
    daemon: Xenstored,
    store: StoreService<Recorder>,
    grants: GrantService<Recorder>,
    back: Netback,
    net: Client<Net, Recorder, SharedMemory>,
    service: Netfront<Recorder, SharedMemory>,
    rings: SharedMemory,
    rx_pool: SharedMemory,
    tx_pool: SharedMemory,
    now: u64,
}

impl World {
    fn bare(depth: u32) -> World {
        let system = Recorder::new();
        let mut open: BTreeMap<u16, bool> = BTreeMap::new();
        system.answer(move |slot, operation, _| {
            let refused = |status: Status| Err(status.into_result().expect_err("a fault"));
            let state = open.entry(slot.0).or_default();
            match operation {
                Operation::PortOpen if *state => refused(Status::WrongState),
                Operation::PortClose if !*state => refused(Status::WrongState),
                Operation::PortOpen | Operation::PortClose => {
                    *state = operation == Operation::PortOpen;
                    Ok([u64::from(slot.0) - 10, 0])
                }
                _ => Ok([0; 2]),
            }
        });
        let (net, net_server) = channel::<Net, _>(&system, 0, &system, 1, depth);
        let (store_client, store) = channel::<Store, _>(&system, 2, &system, 3, 8);
        let (grants_client, grants) = channel::<Grants, _>(&system, 4, &system, 5, 8);
        let pool = |pages: usize| SharedMemory::new(pages * PAGE_SIZE);
        let (rings, rx_pool, tx_pool) = (pool(2), pool(usize::from(PAGES)), pool(usize::from(PAGES)));
        let service = Netfront::new(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            net_clients: [net_server].into_iter().collect(),
            store: store_client,
            grants: grants_client,
            rings: rings.clone(),
            tx_events: Port::new(system.clone(), TX_PORT, 6),
            rx_events: Port::new(system.clone(), RX_PORT, 7),
            ring_pages: Granted { rule: 0, pages: 2 },
            rx_pages: Granted { rule: 1, pages: PAGES },
            tx_pages: Granted { rule: 2, pages: PAGES },
        });
        World {
            daemon: Xenstored::new(SharedMemory::new(4096), 7),
            store: StoreService::new(store),
            grants: GrantService::new(grants, vec![rings.clone(), rx_pool.clone(), tx_pool.clone()]),
            back: Netback::new(0, 7),
            net,
            service,
            rings,
            rx_pool,
            tx_pool,
            now: 1_000_000_000,
            system,
        }
    }

    fn connected() -> World {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.settle();
        assert_eq!(world.replies(), [UP], "{}", world.system.console());
        world
    }

    /// Runs everybody until nobody moves. With `back`, the back end too.
    fn settle_with(&mut self, back: bool) {
        for _ in 0..500 {
            self.service.notified(Notifications::ALL);
            let granted = &self.grants.granted;
            let page_of = |reference: u32| granted.get(&reference).cloned();
            let mut moved = back && self.back.run(&mut self.daemon, &page_of);
            moved |= self.grants.run();
            moved |= self.store.run(&mut self.daemon);
            if !moved && self.service.deadline() != Some(Instant::START) {
                return;
            }
        }
        panic!("it does not come to rest: {}", self.system.console());
    }

    fn settle(&mut self) {
        self.settle_with(true);
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds * 1_000_000;
        self.system.set_now(self.now);
        self.settle();
    }

    fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        while let Some(reply) = self.net.replies.pop() {
            replies.push(reply.expect("a well-formed reply"));
        }
        replies
    }

    fn ask(&mut self, request: Request) {
        self.net.requests.send(&request).expect("room");
    }

    fn transmit(&mut self, page: u16, frame: &[u8]) {
        self.tx_pool.write(usize::from(page) * PAGE_SIZE, frame);
        self.ask(Request::Transmit { page, length: frame.len() as u16, work: Work::Nothing });
    }

    fn front(&self, name: &str) -> Option<String> {
        self.daemon.text(&format!("{}/{name}", self.back.front()))
    }

    /// Puts an rx response in the ring, as a hostile back end does.
    fn respond_rx(&mut self, index: u32, id: u16, offset: u16, flags: u16, status: i16) {
        let fields = [id.to_le_bytes(), offset.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes()];
        self.rings.write(4096 + 64 + (index % 256) as usize * 8, &fields.concat());
        self.rings.store(4096 + 8, index.wrapping_add(1));
    }
}

#[test]
fn it_is_small() {
    let size = size_of::<Netfront<Recorder, SharedMemory>>();
    assert!(size < 4096, "{size} bytes");
}

#[test]
fn it_connects_with_split_channels_and_the_keys_of_the_simplest_configuration() {
    let world = World::connected();
    let expected = [
        ("state", "4"),
        ("tx-ring-ref", "100"),
        ("rx-ring-ref", "101"),
        ("event-channel-tx", "10"),
        ("event-channel-rx", "11"),
        ("request-rx-copy", "1"),
        ("feature-rx-notify", "1"),
        ("feature-no-csum-offload", "1"),
        ("feature-sg", "0"),
    ];
    for (name, value) in expected {
        assert_eq!(world.front(name).as_deref(), Some(value), "{name}");
    }
    let opened: Vec<_> = world.system.take_calls().into_iter().filter(|call| call.1 == Operation::PortOpen).collect();
    assert_eq!(opened, [(TX_PORT, Operation::PortOpen, [0; 4]), (RX_PORT, Operation::PortOpen, [0; 4])]);
}

#[test]
fn without_split_channels_one_port_serves_both_ways() {
    let mut world = World::bare(64);
    world.back.features.retain(|(name, _)| name != "feature-split-event-channels");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    assert_eq!(world.front("event-channel").as_deref(), Some("10"));
    assert_eq!(world.front("event-channel-rx"), None);
    world.transmit(0, &[7; 60]);
    world.settle();
    assert_eq!(world.back.sent, [[7; 60]]);
    assert!(world.system.take_calls().iter().all(|call| call.0 != RX_PORT));
}

#[test]
fn frames_go_both_ways_over_many_rounds_of_the_rings() {
    let mut world = World::connected();
    let mut free: Vec<u16> = (0..PAGES).collect();
    for round in 0u32..700 {
        let frame = |way: u8| [&[way; 14], &round.to_le_bytes()[..]].concat();
        world.back.waiting.push_back(frame(1));
        let page = free.pop().expect("a free page: completions are told in time");
        world.transmit(page, &frame(2));
        world.settle();
        assert_eq!(world.back.sent.pop(), Some(frame(2)));
        for reply in world.replies() {
            match reply {
                Reply::Received { page, offset, length, .. } => {
                    let at = usize::from(page) * PAGE_SIZE + usize::from(offset);
                    assert_eq!(world.rx_pool.bytes(at, usize::from(length)), frame(1));
                    world.ask(Request::Receive { page, count: 1 });
                }
                Reply::Transmitted { page } => free.push(page),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(world.back.waiting.is_empty());
}

#[test]
fn a_batch_costs_one_event_each_way() {
    let mut world = World::connected();
    let _ = world.system.take_calls();
    for page in 0..8 {
        world.transmit(page, &[1; 60]);
    }
    let _ = world.system.take_calls();
    world.service.notified(Notifications::ALL);
    let sends = world.system.take_calls().iter().filter(|call| call.1 == Operation::PortSend).count();
    assert_eq!(sends, 1);
}

#[test]
fn a_full_queue_to_tcpip_loses_no_page() {
    let mut world = World::bare(4);
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    world.back.waiting.extend((0..40u8).map(|number| vec![number; 60]));
    let mut got = Vec::new();
    for _ in 0..60 {
        world.settle();
        for reply in world.replies() {
            let Reply::Received { page, .. } = reply else { panic!("{reply:?}") };
            got.push(world.rx_pool.bytes(usize::from(page) * PAGE_SIZE, 1)[0]);
            world.net.requests.send(&Request::Receive { page, count: 1 }).expect("room");
            world.settle();
        }
    }
    assert_eq!(got, (0..40).collect::<Vec<u8>>());
}

#[test]
fn what_tcpip_may_not_do_is_refused_told_once_and_harms_nothing() {
    let mut world = World::connected();
    world.back.hold_tx = true;
    world.transmit(3, &[1; 60]);
    for request in [
        Request::Transmit { page: 3, length: 60, work: Work::Nothing },
        Request::Transmit { page: PAGES, length: 60, work: Work::Nothing },
        Request::Transmit { page: 4, length: 13, work: Work::Nothing },
        Request::Transmit { page: 4, length: 4097, work: Work::Nothing },
        Request::Receive { page: 0, count: 1 },
        Request::Receive { page: u16::MAX, count: 1 },
    ] {
        world.ask(request);
    }
    world.settle();
    world.back.hold_tx = false;
    world.settle();
    assert_eq!(world.back.sent, [[1; 60]]);
    assert_eq!(world.system.console().matches("refused tcpip").count(), 1);
    world.back.waiting.push_back(vec![9; 60]);
    world.settle();
    assert!(world.replies().iter().any(|reply| matches!(reply, Reply::Received { .. })));
}

#[test]
fn a_device_that_comes_later_is_found() {
    let mut world = World::bare(64);
    world.settle();
    assert_eq!(world.replies(), []);
    assert!(world.system.console().contains("no network device"));
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_back_end_that_is_slow_to_connect_is_waited_for() {
    let mut world = World::bare(64);
    world.back.deaf = true;
    world.back.create(&mut world.daemon);
    for _ in 0..50 {
        world.pass(1_000);
    }
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("4")));
    world.back.deaf = false;
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn what_tcpip_sent_before_it_knew_of_the_connection_is_void() {
    let mut world = World::bare(64);
    world.back.deaf = true;
    world.back.create(&mut world.daemon);
    world.settle();
    world.transmit(0, &[1; 60]);
    world.ask(Request::Receive { page: 0, count: 1 });
    world.settle();
    world.back.deaf = false;
    world.settle();
    assert_eq!((world.replies(), world.back.sent.len()), (vec![UP], 0));
    world.transmit(0, &[2; 60]);
    world.settle();
    assert_eq!(world.back.sent, [[2; 60]]);
    assert!(!world.system.console().contains("refused"));
}

#[test]
fn one_that_never_connects_is_given_up_and_tried_again() {
    let mut world = World::bare(64);
    world.back.deaf = true;
    world.back.create(&mut world.daemon);
    world.settle();
    world.pass(61_000);
    assert_eq!(world.front("state").as_deref(), Some("5"));
    world.pass(6_000);
    assert_eq!(world.front("state").as_deref(), Some("6"));
    assert!(world.grants.granted.is_empty());
    world.back.deaf = false;
    world.settle();
    world.pass(2_000);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn one_without_rx_copy_is_not_used() {
    let mut world = World::bare(64);
    world.back.features.retain(|(name, _)| name != "feature-rx-copy");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!((world.replies(), world.front("tx-ring-ref")), (vec![], None));
    assert!(world.system.console().contains("does not copy"));
    assert!(world.service.deadline().is_some());
}

#[test]
fn conflicts_of_the_transaction_are_tried_again() {
    let mut world = World::bare(64);
    world.store.conflicts = 5;
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_closing_back_end_is_followed_and_connected_to_again() {
    for state in ["5", "6"] {
        let mut world = World::connected();
        world.transmit(0, &[1; 60]);
        world.settle();
        world.replies();
        world.back.connection = None;
        world.back.set_state(&mut world.daemon, state);
        world.settle_with(false);
        assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
        assert!(world.grants.granted.is_empty());
        world.pass(1_100);
        assert_eq!(world.replies(), [UP]);
        world.transmit(0, &[2; 60]);
        world.settle();
        assert_eq!(world.back.sent.pop(), Some(vec![2; 60]));
    }
}

#[test]
fn a_device_that_vanishes_is_not_written_to_and_found_again() {
    let mut world = World::connected();
    world.back.destroy(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [Reply::Down]);
    world.pass(5_000);
    assert_eq!(world.front("state"), None, "no node of the device comes to life again");
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_device_on_its_way_out_is_left_alone() {
    let mut world = World::connected();
    world.daemon.set(&format!("{}/online", world.back.directory()), "0");
    world.back.connection = None;
    world.back.set_state(&mut world.daemon, "5");
    world.settle();
    world.pass(10_000);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
}

#[test]
fn pages_that_a_former_back_end_holds_are_waited_for() {
    let mut world = World::connected();
    world.grants.held = vec![0];
    world.back.connection = None;
    world.back.set_state(&mut world.daemon, "6");
    world.rings.write(100, b"still mapped");
    world.settle();
    world.pass(2_000);
    world.pass(60_000);
    assert_eq!(world.replies(), [Reply::Down]);
    assert!(world.system.console().contains("still holds pages"));
    assert_eq!(world.rings.bytes(100, 12), b"still mapped");
    world.grants.release(0);
    world.settle();
    assert_eq!(world.replies(), [UP]);
    assert_eq!(world.rings.bytes(100, 12), [0; 12]);
}

#[test]
fn a_refused_grant_is_undone_and_tried_again() {
    let mut world = World::bare(64);
    world.grants.refused = vec![2];
    world.back.create(&mut world.daemon);
    world.settle();
    assert_eq!((world.replies(), world.grants.granted.len()), (vec![], 0));
    world.grants.refused.clear();
    world.pass(1_100);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn a_violation_ends_the_connection_at_once_and_a_new_one_is_made() {
    type Misdeed = fn(&mut World);
    let misdeeds: [(&str, Misdeed); 7] = [
        ("more responses than requests", |world| world.rings.store(4096 + 8, 500)),
        ("more responses than requests", |world| world.rings.store(8, 1)),
        ("not outstanding", |world| world.respond_rx(0, 1, 0, 0, 60)),
        ("outside its page", |world| world.respond_rx(0, 0, 4090, 0, 60)),
        ("outside its page", |world| world.respond_rx(0, 0, 0, 0, 4097)),
        ("not negotiated", |world| world.respond_rx(0, 0, 0, 4, 60)),
        ("not negotiated", |world| world.respond_rx(0, 0, 0, 8, 60)),
    ];
    for (text, misdeed) in misdeeds {
        let mut world = World::connected();
        misdeed(&mut world);
        world.settle();
        assert_eq!(world.replies(), [Reply::Down], "{text}");
        assert!(world.system.console().contains(text), "{}", world.system.console());
        assert!(
            world.daemon.text("/local/domain/7/error/device/vif/0/error").is_some_and(|error| error.contains(text))
        );
        world.pass(1_100);
        assert_eq!(world.replies(), [UP], "{text}");
    }
}

#[test]
fn a_back_end_that_falls_silent_is_left_and_connected_to_again() {
    let mut world = World::connected();
    world.transmit(0, &[1; 60]);
    world.settle();
    world.pass(120_000);
    assert_eq!(world.replies(), [Reply::Transmitted { page: 0 }], "what was not announced is found, and no stall");
    world.back.hold_tx = true;
    world.transmit(0, &[1; 60]);
    world.settle();
    let deadline = world.service.deadline().expect("a look at the stall").0;
    assert_eq!(deadline, world.now + 60_000_000_000);
    world.pass(59_000);
    assert_eq!(world.replies(), []);
    world.pass(1_000);
    assert_eq!(world.replies(), [Reply::Down]);
    world.back.hold_tx = false;
    world.pass(1_100);
    assert_eq!(world.replies(), [UP]);
}

#[test]
fn failures_make_the_pauses_longer() {
    let mut world = World::bare(64);
    world.store.refuse =
        Some(|action| matches!(action, Action::Read(path) if path.ends_with("mac")).then_some(Failure::Timeout));
    world.back.create(&mut world.daemon);
    world.settle();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let next = world.service.deadline().expect("another attempt").0;
        pauses.push((next - world.now) / 1_000_000_000);
        world.pass((next - world.now) / 1_000_000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn close_lets_frames_out_closes_in_order_and_says_so() {
    let mut world = World::connected();
    world.back.hold_tx = true;
    world.transmit(0, &[1; 60]);
    world.ask(Request::Close);
    world.settle();
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("4")));
    world.back.hold_tx = false;
    world.settle();
    assert_eq!(world.replies(), [Reply::Transmitted { page: 0 }, Reply::Down]);
    assert_eq!((world.back.sent.len(), world.front("state").as_deref()), (1, Some("6")));
    assert!(world.grants.granted.is_empty());
    assert_eq!(world.service.deadline(), None);
}

#[test]
fn close_does_not_wait_for_ever() {
    let mut world = World::connected();
    (world.back.hold_tx, world.back.deaf) = (true, true);
    world.transmit(0, &[1; 60]);
    world.ask(Request::Close);
    world.settle();
    world.pass(500);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![], Some("5")));
    world.pass(5_000);
    assert_eq!((world.replies(), world.front("state").as_deref()), (vec![Reply::Down], Some("6")));
}

#[test]
fn close_without_a_device_is_answered_too() {
    let mut world = World::bare(64);
    world.settle();
    world.ask(Request::Close);
    world.settle();
    assert_eq!(world.replies(), [Reply::Down]);
}

#[test]
fn nodes_out_of_form_are_refused() {
    for (name, bad) in [
        ("backend-id", "32752"),
        ("backend", "/local/domain/1/backend/vif/7/0"),
        ("backend", "/local/domain/0/backend/vif/7/0/../../../../3"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
        ("mtu", "9 000"),
    ] {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        world.daemon.set(&format!("{}/{name}", world.back.front()), bad);
        world.settle();
        assert_eq!(world.replies(), [], "{name}");
        assert!(world.system.console().contains("not in form"), "{name}");
    }
}

#[test]
fn a_restarted_service_closes_what_its_former_self_left_open() {
    let mut world = World::connected();
    let mut next = World::bare(64);
    std::mem::swap(&mut world.daemon, &mut next.daemon);
    next.back.connection = world.back.connection.take();
    next.settle();
    assert_eq!(next.front("state").as_deref(), Some("6"));
    next.pass(1_100);
    assert_eq!(next.replies(), [UP]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn whatever_a_back_end_writes_pages_are_conserved(
        steps in prop::collection::vec((0u8..8, any::<u32>(), any::<u16>(), any::<u16>(), any::<i16>()), 1..60)
    ) {
        let mut world = World::connected();
        let (mut rx_away, mut tx_free) = (vec![false; usize::from(PAGES)], vec![true; usize::from(PAGES)]);
        for (kind, word, id, offset, status) in steps {
            match kind {
                0 => world.rings.store(4096 + 8, word % 40),
                1 => world.rings.store(8, word % 40),
                2 => world.rings.write((word % 8192) as usize, &id.to_le_bytes()),
                3 => { let index = world.rings.load(4096 + 8); world.respond_rx(index, (index % 256) as u16, offset % 5000, id % 4, status) }
                4 => world.back.set_state(&mut world.daemon, &(word % 10).to_string()),
                5 => { world.now += u64::from(word); world.system.set_now(world.now); }
                _ => {
                    let page = id % PAGES;
                    if tx_free[usize::from(page)] && world.net.requests.room() > 0 {
                        tx_free[usize::from(page)] = false;
                        world.ask(Request::Transmit { page, length: 60, work: Work::Nothing });
                    }
                }
            }
            world.settle_with(false);
            for reply in world.replies() {
                match reply {
                    Reply::Up { .. } | Reply::Down => { rx_away.fill(false); tx_free.fill(true); }
                    Reply::Received { page, offset, length, .. } => {
                        prop_assert!(usize::from(offset) + usize::from(length) <= PAGE_SIZE);
                        prop_assert!(!std::mem::replace(&mut rx_away[usize::from(page)], true));
                    }
                    Reply::Transmitted { page } => prop_assert!(!std::mem::replace(&mut tx_free[usize::from(page)], true)),
                }
            }
        }
    }
}
