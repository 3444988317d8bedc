//! The service against a kernel whose grant table the test controls.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cloister_caps::{DomId, GrantRef, Operation, Slot, Status};
use cloister_interfaces::capability::{Clock, Console, Grant};
use cloister_interfaces::grants::{Grants, Reply, Request};
use cloister_interfaces::rules::{self, ClientGrantRule, ClientIndex, RuleIndex};
use cloister_interfaces::{Client, Instant, Notifications, PageRun, Service};
use cloister_sim::{ChannelMemory, Recorder, SharedMemory};
use proptest::prelude::*;

use crate::service::GrantManager;
use crate::{Caps, MAX_RULES};

const FIRST_REF: [u32; 3] = [8, 16, 200];
const PEER: DomId = DomId(3);

/// The kernel's side: grants by slot and page, and what the test does with them.
#[derive(Default)]
struct Kernel {
    granted: BTreeMap<(u16, u64), u64>,
    in_use: BTreeSet<(u16, u64)>,
    refuse_page: Option<u64>,
    most_in_a_call: usize,
    calls: usize,
}

struct World {
    system: Recorder,
    kernel: Rc<RefCell<Kernel>>,
    service: GrantManager<Recorder, SharedMemory>,
    /// The memory of each client's queues.
    memory: [ChannelMemory; 2],
    clients: Vec<Client<Grants, Recorder, SharedMemory>>,
}

fn blob(entries: &[ClientGrantRule]) -> &'static [u8] {
    rules::encode_rules(entries).expect("few rules").leak()
}

impl World {
    fn new(depth: u32) -> World {
        let entry = |client, rule, count| ClientGrantRule {
            client: ClientIndex(client),
            rule: RuleIndex(rule),
            count,
            peer_first: 0,
            peer_last: 3,
        };
        World::with(depth, &[entry(0, 0, 2), entry(1, 1, 8), entry(0, 2, 128)])
    }

    /// Creates a world with these rules for the clients.
    fn with(depth: u32, entries: &[ClientGrantRule]) -> World {
        let (system, kernel) = (Recorder::new(), Rc::new(RefCell::new(Kernel::default())));
        let shared = kernel.clone();
        system.answer(move |slot, operation, arguments| {
            let mut kernel = shared.borrow_mut();
            let key = (slot.0, arguments[0]);
            let refused = |status: Status| Err(status.into_result().expect_err("a refusal"));
            kernel.calls += matches!(operation, Operation::GrantIssue | Operation::GrantEnd) as usize;
            match operation {
                Operation::GrantIssue => {
                    let [first, peer, _, further] = arguments;
                    let pages = first..=first + further;
                    if kernel.refuse_page.is_some_and(|page| pages.contains(&page)) {
                        return refused(Status::NotPermitted);
                    }
                    if pages.clone().any(|page| kernel.granted.contains_key(&(slot.0, page))) {
                        return refused(Status::WrongState);
                    }
                    kernel.granted.extend(pages.map(|page| ((slot.0, page), peer)));
                    Ok([u64::from(FIRST_REF[usize::from(slot.0 - 10)]) + first, 0])
                }
                Operation::GrantEnd if kernel.in_use.contains(&key) => refused(Status::InUse),
                Operation::GrantEnd if kernel.granted.remove(&key).is_none() => refused(Status::WrongState),
                _ => Ok([0; 2]),
            }
        });
        let memory = [0; 2].map(|_| ChannelMemory::new::<Grants>(depth));
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for (bit, memory) in (0..).zip(&memory) {
            let (client, server) = memory.ends((&system, bit), (&system, bit + 4));
            clients.push(client);
            servers.push(server);
        }
        let service = GrantManager::new(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            grant_rules: (10..13).map(|slot| Grant::new(system.clone(), Slot(slot))).collect(),
            grants_clients: servers.into_iter().collect(),
            rules: blob(entries),
        });
        World { system, kernel, service, memory, clients }
    }

    fn run(&mut self) {
        for _ in 0..100 {
            self.kernel.borrow_mut().calls = 0;
            self.service.notified(Notifications::ALL);
            let mut kernel = self.kernel.borrow_mut();
            kernel.most_in_a_call = kernel.most_in_a_call.max(kernel.calls);
            if self.service.deadline() != Some(Instant::START) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn replies(&mut self, client: usize) -> Vec<Reply> {
        std::iter::from_fn(|| self.clients[client].replies.pop()).map(|reply| reply.expect("well formed")).collect()
    }

    fn ask(&mut self, client: usize, request: Request) -> Vec<Reply> {
        self.clients[client].requests.send(&request).expect("room");
        self.run();
        self.replies(client)
    }

    fn granted(&self, slot: u16) -> usize {
        self.kernel.borrow().granted.keys().filter(|key| key.0 == slot).count()
    }
}

fn run(first: u16, count: u16) -> PageRun {
    PageRun::new(first, count).expect("a run of pages")
}

fn issue(rule: u8, first: u16, count: u16) -> Request {
    Request::Issue { rule, pages: run(first, count), peer: PEER }
}

#[test]
fn it_is_small() {
    let size = size_of::<GrantManager<Recorder, SharedMemory>>();
    assert!(size < 6144, "{size} bytes");
}

#[test]
fn pages_are_granted_and_ended_as_a_whole() {
    let mut world = World::new(8);
    // The client's rule 1 is the service's rule 2.
    let reply = Reply::Issued { rule: 1, reference: GrantRef(200), count: 128 };
    assert_eq!(world.ask(0, issue(1, 0, 128)), [reply]);
    assert_eq!((world.granted(12), world.granted(10)), (128, 0));
    assert_eq!(world.kernel.borrow().most_in_a_call, 1, "they are granted by one system call");
    assert_eq!(world.ask(0, Request::End { rule: 1 }), [Reply::Ended { rule: 1, still_mapped: 0 }]);
    assert_eq!(world.granted(12), 0);
    assert_eq!(world.kernel.borrow().most_in_a_call, 64, "the work of a call is bounded");
    assert_eq!(world.ask(0, Request::End { rule: 1 }), [Reply::Ended { rule: 1, still_mapped: 0 }]);
    assert_eq!(world.system.console(), "", "nothing is worth a line");
}

#[test]
fn what_the_policy_does_not_give_is_refused_and_the_kernel_not_asked() {
    let mut world = World::new(16);
    let elsewhere = |peer| Request::Issue { rule: 0, pages: run(0, 1), peer };
    let cases = [
        (0, issue(0, 0, 3)),
        (0, issue(0, 2, 1)),
        (0, issue(0, 1, 2)),
        (0, issue(1, 127, 2)),
        (0, issue(1, 1000, 100)),
        (0, issue(1, u16::MAX, 1)),
        (0, issue(1, 1, u16::MAX)),
        (0, issue(2, 0, 1)),
        (0, issue(255, 0, 1)),
        (1, issue(1, 0, 1)),
        (0, elsewhere(DomId(4))),
        (0, elsewhere(DomId::SELF)),
    ];
    for (client, request) in cases {
        let replies = world.ask(client, request);
        assert!(matches!(replies[..], [Reply::Refused { .. }]), "{request:?}: {replies:?}");
    }
    assert_eq!(world.kernel.borrow().granted.len(), 0);
    assert_eq!(world.system.console().lines().count(), cases.len());
}

/// The lines that the kernel lets through of a service at once (`console::line::Credit`, which the
/// service does not know).
const KERNEL_BURST: usize = 200;

/// A flood of one kind comes before a deed of another reason, of another rule, and of another
/// client.
#[test]
fn a_flood_of_refused_requests_hides_no_deed() {
    let malformed = [9, 0, 0, 0, 0, 0, 0, 0];
    for flood in [Some(issue(0, 100, 1)), Some(Request::End { rule: 99 }), None] {
        let mut world = World::new(8);
        for _ in 0..400 {
            match flood {
                Some(request) => drop(world.ask(0, request)),
                None => {
                    world.clients[0].requests.send(&issue(0, 0, 1)).expect("room");
                    world.memory[0].requests.rewrite_last(&malformed);
                    world.run();
                }
            }
        }
        world.ask(0, Request::Issue { rule: 0, pages: run(0, 1), peer: DomId(77) });
        world.ask(0, issue(1, 500, 1));
        world.ask(1, issue(7, 0, 1));
        let log = world.system.console();
        for deed in [
            "refused client 0, rule 0: the rule does not allow this peer",
            "refused client 0, rule 1: the pages are out of range",
            "refused client 1, rule 7: the policy gives it no such rule",
        ] {
            assert!(log.lines().take(KERNEL_BURST).any(|line| line == deed), "{deed}\n{log}");
        }
        let due = world.service.deadline().expect("a count is due").0;
        world.system.set_now(due);
        world.service.notified(Notifications::ALL);
        let log = world.system.console();
        let counts = log.lines().filter_map(|line| line.strip_suffix(" more lines about client 0"));
        let counted: usize = counts.map(|count| count.parse::<usize>().unwrap()).sum();
        let about_it =
            |line: &&str| line.starts_with("refused client 0,") || line.starts_with("violation by client 0:");
        assert_eq!(log.lines().filter(about_it).count() + counted, 402);
    }
}

/// A client ends what a peer that helps it goes on mapping, again and again.
#[test]
fn a_flood_of_ends_hides_no_deed_of_another() {
    let mut world = World::new(8);
    assert!(matches!(world.ask(0, issue(0, 0, 1))[..], [Reply::Issued { .. }]));
    world.kernel.borrow_mut().in_use.extend((0..32).flat_map(|slot| [(slot, 0), (slot, 1)]));
    for _ in 0..400 {
        world.ask(0, Request::End { rule: 0 });
    }
    world.ask(1, issue(7, 0, 1));
    let log = world.system.console();
    assert!(log.starts_with("the peer still maps 1 pages of rule 0\n"), "{log}");
    assert!(log.lines().take(KERNEL_BURST).any(|line| line.starts_with("refused client 1, rule 7: ")), "{log}");
}

/// What the console drops is said later.
#[test]
fn a_refusal_that_the_console_drops_is_said_later() {
    let mut world = World::new(8);
    world.system.drop_lines(true);
    world.ask(0, issue(99, 0, 1));
    world.ask(1, issue(0, 500, 1));
    world.system.drop_lines(false);
    world.system.set_now(world.service.deadline().expect("it is due").0);
    world.service.notified(Notifications::ALL);
    let expected = "refused client 0, rule 8 or above: the policy gives it no such rule\n\
                    refused client 1, rule 0: the pages are out of range\n";
    assert_eq!(world.system.console(), expected);
}

#[test]
fn a_request_for_no_pages_or_for_pages_past_the_last_number_is_malformed() {
    for (first, count) in [(0_u16, 0_u16), (u16::MAX, 2), (u16::MAX, u16::MAX)] {
        let mut world = World::new(8);
        // As a hostile client writes it, since the type of a request cannot hold it.
        let [first, count] = [first, count].map(u16::to_le_bytes);
        world.clients[0].requests.send(&issue(0, 0, 1)).expect("room");
        world.memory[0].requests.rewrite_last(&[1, 0, first[0], first[1], count[0], count[1], PEER.0 as u8, 0]);
        world.run();
        assert_eq!(world.replies(0), []);
        assert_eq!(world.kernel.borrow().granted.len(), 0);
        assert_eq!(world.system.console(), "violation by client 0: a message with a number out of range at byte 2\n");
        assert!(matches!(world.ask(0, issue(0, 0, 2))[..], [Reply::Issued { .. }]), "the next one is served");
    }
}

#[test]
fn peers_on_both_sides_of_the_rules_limits() {
    let mut world = World::with(
        8,
        &[ClientGrantRule { client: ClientIndex(0), rule: RuleIndex(0), count: 2, peer_first: 2, peer_last: 4 }],
    );
    for (peer, granted) in [(0, false), (1, false), (2, true), (3, true), (4, true), (5, false), (u16::MAX, false)] {
        let reply = world.ask(0, Request::Issue { rule: 0, pages: run(0, 1), peer: DomId(peer) });
        assert_eq!(matches!(reply[..], [Reply::Issued { .. }]), granted, "{peer}");
        world.ask(0, Request::End { rule: 0 });
    }
    // A range that includes reserved domids.
    let whole =
        ClientGrantRule { client: ClientIndex(0), rule: RuleIndex(0), count: 2, peer_first: 0, peer_last: u16::MAX };
    let reply = World::with(8, &[whole]).ask(0, Request::Issue { rule: 0, pages: run(0, 1), peer: DomId::SELF });
    assert_eq!(reply, [Reply::Refused { rule: 0 }]);
}

#[test]
fn a_rule_that_the_service_does_not_hold_is_refused() {
    // It holds three.
    let beyond = ClientGrantRule { client: ClientIndex(0), rule: RuleIndex(3), count: 2, peer_first: 0, peer_last: 3 };
    assert_eq!(World::with(8, &[beyond]).ask(0, issue(0, 0, 1)), [Reply::Refused { rule: 0 }]);
}

#[test]
fn while_one_client_uses_a_rule_another_does_not() {
    let shared = |client| ClientGrantRule {
        client: ClientIndex(client),
        rule: RuleIndex(2),
        count: 128,
        peer_first: 0,
        peer_last: 3,
    };
    let mut world = World::with(8, &[shared(0), shared(1)]);
    assert!(matches!(world.ask(0, issue(0, 0, 4))[..], [Reply::Issued { .. }]));
    assert!(matches!(world.ask(1, issue(0, 4, 4))[..], [Reply::Issued { .. }]), "nothing is under way");
    world.kernel.borrow_mut().in_use.insert((12, 2));
    assert_eq!(world.ask(0, Request::End { rule: 0 }), [Reply::Ended { rule: 0, still_mapped: 1 }]);
    assert_eq!(
        world.ask(1, Request::End { rule: 0 }),
        [Reply::Refused { rule: 0 }],
        "the first one's pages are ending"
    );
    assert!(world.system.console().ends_with("refused client 1, rule 0: another client uses the rule\n"));
    assert_eq!(world.ask(0, Request::End { rule: 0 }), [Reply::Ended { rule: 0, still_mapped: 1 }]);
}

#[test]
fn a_call_takes_as_many_requests_of_a_client_as_there_are_rules_and_forgets_no_other() {
    let rule = |client, rule, count| ClientGrantRule {
        client: ClientIndex(client),
        rule: RuleIndex(rule),
        count,
        peer_first: 0,
        peer_last: 3,
    };
    for others in [false, true] {
        let mut world = World::with(16, &[rule(0, 0, 2), rule(1, 2, 128)]);
        if others {
            // It takes two passes. The second answers while the first client's queue is not empty
            // yet.
            world.ask(1, issue(0, 0, 128));
            world.clients[1].requests.send(&Request::End { rule: 0 }).expect("room");
            world.service.notified(Notifications::ALL);
        }
        for _ in 0..=MAX_RULES {
            world.clients[0].requests.send(&Request::End { rule: 0 }).expect("room");
        }
        world.service.notified(Notifications::ALL);
        assert_eq!((world.replies(0).len(), world.replies(1).len()), (MAX_RULES, usize::from(others)));
        assert_eq!(world.service.deadline(), Some(Instant::START), "one is left");
        world.run();
        assert_eq!((world.replies(0).len(), world.service.deadline()), (1, None));
    }
}

#[test]
fn a_grant_already_made_is_not_made_again() {
    let mut world = World::new(8);
    world.ask(0, issue(1, 0, 4));
    assert_eq!(world.ask(0, issue(1, 3, 2)), [Reply::Refused { rule: 1 }]);
    assert_eq!(world.ask(0, issue(1, 4, 125)), [Reply::Refused { rule: 1 }], "129 pages at once");
    let reply = Reply::Issued { rule: 1, reference: GrantRef(204), count: 124 };
    assert_eq!(world.ask(0, issue(1, 4, 124)), [reply]);
}

#[test]
fn of_what_the_kernel_refuses_nothing_stays_and_the_rest_does() {
    let mut world = World::new(8);
    world.ask(0, issue(1, 0, 4));
    world.kernel.borrow_mut().refuse_page = Some(100);
    assert_eq!(world.ask(0, issue(1, 4, 120)), [Reply::Refused { rule: 1 }]);
    assert_eq!((world.granted(12), world.service.deadline()), (4, None));
    assert_eq!(world.system.console(), "refused client 0, rule 1: the kernel refused\n");
    world.kernel.borrow_mut().refuse_page = None;
    assert!(matches!(world.ask(0, issue(1, 4, 120))[..], [Reply::Issued { .. }]));
}

#[test]
fn a_restarted_service_ends_what_its_earlier_run_granted() {
    let mut world = World::new(8);
    world.kernel.borrow_mut().granted.extend((0..100).map(|page| ((12, page), 3)));
    assert_eq!(world.ask(0, issue(1, 0, 128)), [Reply::Refused { rule: 1 }]);
    assert_eq!(world.granted(12), 0);
    assert!(matches!(world.ask(0, issue(1, 0, 128))[..], [Reply::Issued { .. }]));
}

#[test]
fn grants_of_an_earlier_run_are_ended_in_that_range_only_and_the_client_is_not_told_again() {
    let mut world = World::new(8);
    world.ask(0, issue(1, 0, 4));
    world.kernel.borrow_mut().granted.insert((12, 90), 3);
    world.kernel.borrow_mut().in_use.insert((12, 90));
    assert_eq!(world.ask(0, issue(1, 4, 120)), [Reply::Refused { rule: 1 }]);
    assert_eq!(world.granted(12), 5, "the peer holds one");
    assert_eq!(world.ask(0, issue(1, 124, 1)), [Reply::Refused { rule: 1 }]);
    world.kernel.borrow_mut().in_use.clear();
    world.system.set_now(60_000_000_000);
    world.run();
    assert_eq!((world.replies(0), world.granted(12)), (Vec::new(), 4));
    assert!(matches!(world.ask(0, issue(1, 4, 120))[..], [Reply::Issued { .. }]));
}

#[test]
fn the_kernel_is_not_asked_for_no_page() {
    let system = Recorder::new();
    let error = Grant::new(system.clone(), Slot(10)).issue(0, 0, PEER).expect_err("there is no page");
    assert_eq!((error.status(), system.take_calls().len()), (Status::BadArgument, 0));
}

#[test]
fn still_mapped_pages_are_retried_at_growing_intervals_and_the_client_is_told_when_none_is_left() {
    let mut world = World::new(8);
    world.ask(0, issue(1, 0, 8));
    world.kernel.borrow_mut().in_use.extend([(12, 2), (12, 5)]);
    assert_eq!(world.ask(0, Request::End { rule: 1 }), [Reply::Ended { rule: 1, still_mapped: 2 }]);
    assert_eq!(world.granted(12), 2);
    assert_eq!(world.system.console(), "the peer still maps 2 pages of rule 2\n");
    assert_eq!(world.ask(0, issue(1, 0, 1)), [Reply::Refused { rule: 1 }]);
    let mut pauses = Vec::new();
    let mut now = 1_000_000_000;
    for _ in 0..7 {
        let next = world.service.deadline().expect("another attempt").0;
        pauses.push((next - now) / 1_000_000_000);
        now = next;
        world.system.set_now(now);
        world.run();
        assert_eq!(world.replies(0), []);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    world.kernel.borrow_mut().in_use.clear();
    world.system.set_now(now + 30_000_000_000);
    world.run();
    assert_eq!(world.replies(0), [Reply::Ended { rule: 1, still_mapped: 0 }]);
    assert_eq!((world.granted(12), world.service.deadline()), (0, None));
    assert!(matches!(world.ask(0, issue(1, 0, 8))[..], [Reply::Issued { .. }]));
}

#[test]
fn a_full_reply_queue_loses_no_answer() {
    let mut world = World::new(2);
    let mut sent = 0;
    for _ in 0..20 {
        if world.clients[0].requests.send(&Request::End { rule: 0 }).is_ok() {
            sent += 1;
        }
        world.run();
    }
    let mut got = 0;
    for _ in 0..20 {
        got += world.replies(0).len();
        world.run();
    }
    assert!((3..20).contains(&sent));
    assert_eq!(got, sent);
}

fn request() -> impl Strategy<Value = Request> {
    let numbers = (0u8..4, 0u16..140, 1u16..140, 0u16..5);
    numbers.prop_flat_map(|(rule, first, count, peer)| {
        prop_oneof![
            Just(Request::Issue { rule, pages: run(first, count), peer: DomId(peer) }),
            Just(Request::End { rule }),
        ]
    })
}

proptest! {
    #[test]
    fn every_request_has_one_answer_and_the_policy_holds(
        steps in prop::collection::vec((0usize..2, request(), any::<u8>()), 1..40)
    ) {
        let mut world = World::new(16);
        for (client, request, choice) in steps {
            match choice % 5 {
                0 => drop(world.kernel.borrow_mut().in_use.insert((12, u64::from(choice)))),
                1 => world.kernel.borrow_mut().in_use.clear(),
                2 => world.kernel.borrow_mut().refuse_page = Some(u64::from(choice)),
                3 => world.kernel.borrow_mut().refuse_page = None,
                _ => world.system.set_now(u64::from(choice) * 10_000_000_000),
            }
            world.run();
            world.replies(client);
            let mut replies = world.ask(client, request);
            if replies.len() > 1 {
                // A page that was still mapped became free meanwhile.
                replies.retain(|reply| !matches!(reply, Reply::Ended { still_mapped: 0, .. }) || matches!(request, Request::End { .. }));
            }
            prop_assert!(!replies.is_empty());
            let (bound, kernel) = (BTreeMap::from([(10, 2), (11, 8), (12, 128)]), world.kernel.borrow());
            for (slot, most) in bound {
                prop_assert!(kernel.granted.keys().filter(|key| key.0 == slot).count() <= most);
            }
            prop_assert!(kernel.granted.values().all(|peer| *peer <= 3));
        }
    }
}
