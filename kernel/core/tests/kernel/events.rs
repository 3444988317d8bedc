//! Tests notifications, event channels, `wait`, and the sharing of the processor.

use cloister_caps::{EvtchnPort, Operation, Status};
use cloister_kernel_core::Outcome;
use cloister_kernel_core::schedule::State;

use crate::machine::{Bench, XENSTORE, narrow, shipped, tables, with};

const SERVICES: [&str; 6] = ["control", "grant-manager", "http", "netfront", "tcpip", "xenstore"];

#[test]
fn a_notification_reaches_the_other_end_and_no_one_else() {
    let tables = tables(&shipped());
    for (index, queue) in tables.queues().iter().enumerate() {
        let name = tables.name(queue.name);
        let (sender, receiver) = (tables.service_name(queue.sender), tables.service_name(queue.receiver));
        for (from, to, bit) in [(sender, receiver, queue.receiver_bit), (receiver, sender, queue.sender_bit)] {
            let mut bench = Bench::of(tables);
            for service in SERVICES {
                bench.wait(service, u64::MAX);
            }
            assert_eq!(bench.kernel.next(0).service, None);
            assert_eq!(bench.status(from, name, Operation::QueueNotify, [0; 4]), Status::Done);
            let to_index = bench.service(to);
            assert_eq!(bench.kernel.next(0).service, Some(to_index), "queue {index} {name}");
            for service in SERVICES {
                let expected = if service == to { 1 << bit } else { 0 };
                assert_eq!(bench.bits(service), expected, "{name}: {from} to {to}, {service}");
                assert_eq!(bench.bits(service), 0, "they are returned once");
            }
        }
    }
}

#[test]
fn an_event_is_delivered_once_a_wait() {
    let mut bench = Bench::new(&narrow());
    let opened = bench.invoke("netfront", "rx-events", Operation::PortOpen, [3, 0, 0, 0]);
    let port = EvtchnPort(opened.words[0] as u32);
    assert_eq!((opened.status, std::mem::take(&mut bench.machine.unmasked)), (Status::Done, vec![port.0]));
    bench.wait("netfront", u64::MAX);
    assert!(bench.machine.unmasked.is_empty(), "no event came");
    assert!(bench.kernel.event(port).is_some());
    let bits = bench.bits("netfront");
    assert_eq!(bits.count_ones(), 1);
    assert!(bench.machine.unmasked.is_empty(), "it stays masked while the service works");
    for service in SERVICES.into_iter().filter(|service| *service != "netfront") {
        bench.wait(service, u64::MAX);
        assert_eq!(bench.bits(service), 0);
    }
    assert!(bench.machine.unmasked.is_empty(), "others do not unmask it");
    bench.wait("netfront", u64::MAX);
    assert_eq!(bench.machine.unmasked, [port.0]);
    bench.wait("netfront", u64::MAX);
    assert_eq!(bench.machine.unmasked, [port.0]);
}

#[test]
fn an_event_that_is_held_stays_masked_until_a_wait_that_does_not_hold_it() {
    let mut bench = Bench::new(&narrow());
    let ports = ["tx-events", "rx-events"]
        .map(|name| bench.invoke("netfront", name, Operation::PortOpen, [3, 0, 0, 0]).words[0] as u32);
    bench.machine.unmasked.clear();
    let mut bits = [0; 2];
    for (port, bits) in ports.into_iter().zip(&mut bits) {
        assert!(bench.kernel.event(EvtchnPort(port)).is_some());
        *bits = bench.bits("netfront");
    }
    bench.hold("netfront", u64::MAX, bits[0]);
    assert_eq!(bench.machine.unmasked, [ports[1]], "the other is unmasked");
    bench.hold("netfront", u64::MAX, u64::MAX);
    bench.hold("netfront", u64::MAX, bits[0] | bits[1]);
    assert_eq!(bench.machine.unmasked, [ports[1]], "what is held stays masked, wait after wait");
    bench.hold("netfront", u64::MAX, bits[1]);
    assert_eq!(bench.machine.unmasked, [ports[1], ports[0]]);
    bench.wait("netfront", u64::MAX);
    assert_eq!(bench.machine.unmasked, [ports[1], ports[0]], "once");
}

#[test]
fn a_port_is_opened_used_and_closed_by_its_service() {
    let mut bench = Bench::new(&narrow());
    for operation in [Operation::PortSend, Operation::PortClose] {
        assert_eq!(bench.status("netfront", "tx-events", operation, [0; 4]), Status::WrongState);
    }
    let open = |bench: &mut Bench, name| bench.invoke("netfront", name, Operation::PortOpen, [9, 0, 0, 0]);
    let tx = open(&mut bench, "tx-events").words[0] as u32;
    let rx = open(&mut bench, "rx-events").words[0] as u32;
    assert_ne!(tx, rx);
    assert_eq!(open(&mut bench, "tx-events").status, Status::WrongState);
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortSend, [u64::MAX; 4]), Status::Done);
    assert_eq!(bench.machine.sent, [tx]);
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortClose, [0; 4]), Status::Done);
    assert!(bench.kernel.event(EvtchnPort(tx)).is_none(), "a closed port belongs to no service");
    assert_eq!(bench.bits("netfront"), 0);
    assert!(bench.kernel.event(EvtchnPort(rx)).is_some());
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortClose, [0; 4]), Status::WrongState);
    bench.machine.refuses_ports = true;
    assert_eq!(open(&mut bench, "tx-events").status, Status::Unavailable);
    bench.machine.refuses_ports = false;
    assert_eq!(open(&mut bench, "tx-events").status, Status::Done);
}

/// A port that is closed while its event is delivered must not be masked when it is opened again.
#[test]
fn a_port_that_is_opened_again_lets_events_through() {
    let mut bench = Bench::new(&shipped());
    let port = bench.invoke("netfront", "tx-events", Operation::PortOpen, [0; 4]).words[0] as u32;
    bench.kernel.event(EvtchnPort(port));
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortClose, [0; 4]), Status::Done);
    bench.machine.unmasked.clear();
    let port = bench.invoke("netfront", "tx-events", Operation::PortOpen, [0; 4]).words[0] as u32;
    assert_eq!(bench.machine.unmasked, [port]);
    bench.wait("netfront", u64::MAX);
    assert_eq!(bench.machine.unmasked, [port], "the event of the closed port is not the new one's");
}

#[test]
fn the_toolstack_makes_the_xenstore_port() {
    let mut bench = Bench::new(&shipped());
    assert_eq!(bench.status("xenstore", "xenstore-events", Operation::PortSend, [0; 4]), Status::Done);
    assert_eq!(bench.machine.sent, [XENSTORE.0]);
    for operation in [Operation::PortOpen, Operation::PortClose] {
        assert_eq!(bench.status("xenstore", "xenstore-events", operation, [0; 4]), Status::MissingRight);
    }
    assert!(bench.kernel.event(XENSTORE).is_some());
    assert_eq!(bench.bits("xenstore").count_ones(), 1);
    assert!(bench.kernel.event(EvtchnPort(0)).is_none());
    assert!(bench.kernel.event(EvtchnPort(77)).is_none());
}

#[test]
fn wait_ends_with_a_notification_or_at_its_deadline() {
    let mut bench = Bench::new(&shipped());
    let http = bench.service("http");
    for service in SERVICES {
        bench.wait(service, if service == "http" { 900 } else { u64::MAX });
    }
    let next = bench.kernel.next(100);
    assert_eq!((next.service, next.time()), (None, 900));
    assert_eq!(bench.kernel.next(900).service, Some(http));
    assert_eq!(bench.kernel.take_answer(http, 900).unwrap().words, [0, 900]);
    // A notification that came while the service ran ends its next `wait` at once.
    assert_eq!(bench.status("tcpip", "socket.replies", Operation::QueueNotify, [0; 4]), Status::Done);
    bench.wait("http", u64::MAX);
    assert_eq!(bench.kernel.state(http), State::Ready);
    assert_eq!(bench.bits("http").count_ones(), 1);
    bench.wait("http", u64::MAX);
    assert_eq!(bench.kernel.state(http), State::Waiting(u64::MAX));
}

#[test]
fn wait_returns_the_time_only_to_services_that_may_read_the_clock() {
    let mut bench = Bench::new(&with("clock = [\"now\", \"wall\"]", "clock = [\"wall\"]"));
    let (http, tcpip) = (bench.service("http"), bench.service("tcpip"));
    for service in ["http", "tcpip"] {
        bench.wait(service, u64::MAX);
    }
    assert_eq!(bench.kernel.take_answer(http, 1234).unwrap().words, [0, 0]);
    let used = |bench: &Bench| bench.kernel.used_rights().any(|used| used.to_string() == "use: tcpip clock clock now");
    assert!(!used(&bench));
    assert_eq!(bench.kernel.take_answer(tcpip, 1234).unwrap().words, [0, 1234]);
    assert!(used(&bench), "`wait` has returned the time");
}

#[test]
fn a_service_gets_one_answer_for_each_wait() {
    let text = with("restart = { limit = 0,", "restart = { limit = 1,");
    let mut bench = Bench::new(&text);
    let http = bench.service("http");
    assert_eq!(bench.kernel.take_answer(http, 0), None, "it has not run yet");
    bench.wait("http", u64::MAX);
    assert!(bench.kernel.take_answer(http, 0).is_some());
    assert_eq!(bench.kernel.take_answer(http, 0), None, "it has had it");
    bench.wait("http", u64::MAX);
    bench.kernel.fault(&mut bench.machine, http);
    assert_eq!(bench.kernel.take_answer(http, 0), None, "a restarted service begins at its entry");
}

/// Periods of 10 ms, which is every service's in the shipped policy.
const PERIODS: u64 = 30;

/// Lets one service call the kernel without end. The others each have a little to do every
/// millisecond. Returns the CPU time of the first, and the runs of each service.
fn hogged_by(hog: &str) -> (u64, Vec<u64>) {
    let mut bench = Bench::new(&shipped());
    let hog = bench.service(hog);
    let (mut now, mut runs) = (0, vec![0; SERVICES.len()]);
    for service in SERVICES {
        bench.wait(service, if bench.service(service) == hog { 0 } else { now + 1_000_000 });
    }
    while now < PERIODS * 10_000_000 {
        let next = bench.kernel.next(now);
        let Some(service) = next.service else {
            now = next.time();
            continue;
        };
        runs[service.index()] += 1;
        let took = if service == hog {
            // It notifies its peers for nothing.
            for slot in 0..8 {
                bench.call(service, 1, [slot, Operation::QueueNotify as u64, 0, 0, 0, 0]);
            }
            (next.time() - now).min(50_000)
        } else {
            bench.kernel.take_answer(service, now);
            assert_eq!(bench.call(service, 0, [now + 1_000_000, 0, 0, 0, 0, 0]), Outcome::Wait);
            1_000
        };
        now += took;
        bench.kernel.charge(service, took, now);
    }
    (bench.kernel.cpu_time(hog), runs)
}

#[test]
fn a_service_that_calls_without_end_leaves_time_to_the_others() {
    let tables = tables(&shipped());
    for service in SERVICES {
        let (used, runs) = hogged_by(service);
        let record = tables.services().iter().find(|record| tables.name(record.name) == service).unwrap();
        let allowed = u64::from(record.budget_us) * 1_000 * PERIODS;
        assert!(used <= allowed + PERIODS * 50_000, "{service} used {used} of {allowed} ns");
        assert!(used >= allowed / 2, "{service} used {used} of {allowed} ns");
        // Each runs at least once in each period of 10 ms.
        assert!(runs.iter().all(|runs| *runs >= PERIODS), "{service}: {runs:?}");
    }
}

#[test]
fn a_back_end_binds_what_the_peer_has_allocated() {
    let mut bench = Bench::new(&narrow());
    let bind = |bench: &mut Bench, peer, theirs| {
        bench.status("netfront", "tx-events", Operation::PortOpen, [peer, theirs, 0, 0])
    };
    assert_eq!(bind(&mut bench, 3, 7), Status::Unavailable, "this is no back end's kernel");
    bench.machine.back_end = true;
    assert_eq!(bind(&mut bench, 10, 7), Status::NotPermitted);
    assert_eq!(bind(&mut bench, 3, 1 << 32), Status::Unavailable);
    assert_eq!(bind(&mut bench, 3, 7), Status::Done);
    assert_eq!(bind(&mut bench, 3, 7), Status::WrongState, "it is open");
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortSend, [0; 4]), Status::Done);
    assert_eq!(bench.status("netfront", "tx-events", Operation::PortClose, [0; 4]), Status::Done);
}
