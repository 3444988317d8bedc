//! The ports that applications listen to: what one of them took keeps neither its successor nor
//! another application from its own port.
#![forbid(unsafe_code)]

mod bench;

use bench::{ACK, Bench, GATEWAY, OURS, PORT, RST, SYN, Segment, arp};
use cloister_interfaces::Client;
use cloister_interfaces::socket::{Reply, Request, Socket};
use cloister_sim::{Recorder, SharedMemory};

/// More ports than an application can listen to.
const MANY: std::ops::Range<u16> = 1000..1100;
const DOWN: Reply = Reply::Network { address: [0; 4], constant: 0 };
const UP: Reply = Reply::Network { address: OURS, constant: 0 };

fn bench() -> Bench {
    let mut bench = Bench::new("ip=10.0.0.2/16 gw=10.0.0.1");
    bench.frame(&arp(1, GATEWAY, OURS));
    bench
}

fn listen(application: &mut Client<Socket, Recorder, SharedMemory>, port: u16) {
    application.requests.send(&Request::Listen { port }).expect("room");
}

/// Returns `true` if a SYN to `port` is answered by a SYN.
fn listens(bench: &mut Bench, port: u16) -> bool {
    let syn = Segment { from: 5000, to: port, seq: 77, flags: SYN, window: 1000, ..Segment::default() };
    let answer = bench.segment(GATEWAY, &syn).pop().expect("an answer");
    let reset = Segment { seq: 78, flags: RST, ..syn };
    bench.segment(GATEWAY, &reset);
    answer.flags == SYN | ACK
}

/// Lets the application listen to ports other than its own, until it has this many.
fn take(bench: &mut Bench, count: usize) {
    // It does not listen to its own port any more: everything is void.
    listen(&mut bench.application, PORT);
    bench.run();
    for port in MANY.take(count) {
        listen(&mut bench.application, port);
        bench.run();
    }
    assert!(!listens(bench, PORT), "it gave its own up");
    bench.replies.clear();
}

#[test]
fn a_restarted_application_gets_its_own_port() {
    for count in 0..20 {
        let mut bench = bench();
        take(&mut bench, count);
        listen(&mut bench.application, PORT);
        bench.run();
        assert_eq!(bench.replies, [UP], "after {count} ports");
        assert!(listens(&mut bench, PORT), "after {count} ports");
        assert!(bench.open(GATEWAY, 5001, 9).is_some());
        assert_eq!(bench.accepted().len(), 1);
    }
}

#[test]
fn an_application_keeps_its_last_ports_and_one_too_many_is_logged() {
    for count in 0..20 {
        let mut bench = bench();
        take(&mut bench, count);
        let listening: Vec<usize> =
            (0..count).filter(|index| listens(&mut bench, MANY.start + *index as u16)).collect();
        assert_eq!(listening, (count.saturating_sub(8)..count).collect::<Vec<_>>());
        let logged = bench.system.console().matches("its oldest is closed").count();
        assert_eq!(logged, usize::from(count > 8), "once, after {count} ports");
    }
}

#[test]
fn an_application_cannot_use_up_the_ports_of_another() {
    let mut bench = bench();
    take(&mut bench, 50);
    for port in [MANY.start + 49, 0, PORT] {
        listen(&mut bench.second, port);
    }
    bench.run();
    let replies: Vec<Reply> =
        std::iter::from_fn(|| bench.second.replies.pop()).map(|reply| reply.expect("one")).collect();
    assert_eq!(replies, [DOWN, UP]);
    assert!(listens(&mut bench, PORT));
    bench.open(GATEWAY, 5001, 9);
    assert!(bench.accepted().is_empty(), "it is the second's");
    assert!(matches!(bench.second.replies.pop(), Some(Ok(Reply::Accepted { .. }))));
    // Each has its own port, and is refused the other's.
    assert_eq!(bench.system.console().matches("a port that is 0 or taken").count(), 1);
    listen(&mut bench.second, PORT);
    bench.run();
    assert!(!listens(&mut bench, PORT), "it restarted");
    assert!(listens(&mut bench, MANY.start + 49), "which is nothing to the first");
}
