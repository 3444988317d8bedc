//! Tests tcpip with the test itself as the application: the messages that it gets, and what it must
//! not do.

use cloister_interfaces::Memory;
use cloister_interfaces::socket::{ConnectionId, Constant, Reply, Request};
use cloister_scenarios::Network;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use crate::pattern;
use crate::rig::{Loss, Rig, Setup};

const RING_IN: usize = 2048;
const RING_OUT: usize = 16 * 1024;

/// Makes `steps` steps. Returns the messages to the application meanwhile.
fn receive(rig: &mut Rig, steps: usize) -> Vec<Reply> {
    let mut received = Vec::new();
    for _ in 0..steps {
        rig.step();
        let replies = &mut rig.application.as_mut().unwrap().replies;
        received.extend(core::iter::from_fn(|| replies.pop()).map(Result::unwrap));
    }
    received
}

fn ask(rig: &mut Rig, request: Request) {
    rig.application.as_mut().unwrap().requests.send(&request).unwrap();
}

/// Returns an image whose application has accepted one connection.
fn accepted() -> (Rig, SocketHandle, ConnectionId) {
    accepted_with(b"sites")
}

/// Returns such an image with this constant region.
fn accepted_with(site: &'static [u8]) -> (Rig, SocketHandle, ConnectionId) {
    let mut rig = Rig::bare(&Setup { site, ..Setup::default() });
    ask(&mut rig, Request::Listen { port: 80 });
    let constant = site.len() as u64;
    assert_eq!(receive(&mut rig, 10).last(), Some(&Reply::Network { address: [10, 0, 0, 2], constant }));
    let handle = rig.connect();
    let replies = receive(&mut rig, 20);
    let [Reply::Accepted { connection, address: [10, 0, 0, 1], local_port: 80, .. }] = replies[..] else {
        panic!("{replies:?}");
    };
    (rig, handle, connection)
}

#[test]
fn bytes_wrap_around_both_rings_and_stay_inside_them() {
    let (mut rig, handle, connection) = accepted();
    let ring_in = usize::from(connection.0) * RING_IN;
    let ring_out = usize::from(connection.0) * RING_OUT;
    let text: Vec<u8> = (0..50_000).map(|at: u32| (at % 251) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < text.len() {
        if rig.socket(handle).can_send() {
            sent += rig.socket(handle).send_slice(&text[sent..]).unwrap();
        }
        let mut standing = 0;
        for reply in receive(&mut rig, 20) {
            let Reply::Received { length, .. } = reply else { panic!("{reply:?}") };
            standing += length as usize;
        }
        assert!(standing <= RING_IN, "nothing was consumed");
        for _ in 0..standing {
            received.extend(rig.stream_in.bytes(ring_in + received.len() % RING_IN, 1));
        }
        ask(&mut rig, Request::Consumed { connection, length: standing as u32 });
    }
    assert!(received == text);
    let (mut written, mut taken, mut free) = (0, Vec::new(), RING_OUT);
    while taken.len() < text.len() {
        let count = free.min(text.len() - written);
        for at in written..written + count {
            rig.stream_out.write(ring_out + at % RING_OUT, &text[at..=at]);
        }
        if count > 0 {
            ask(
                &mut rig,
                Request::Send { connection, consumed: 0, length: count as u32, constant: None, quiet: false },
            );
        }
        (written, free) = (written + count, free - count);
        for reply in receive(&mut rig, 20) {
            let Reply::Sent { length, .. } = reply else { panic!("{reply:?}") };
            free += length as usize;
        }
        let part = rig.take(handle);
        taken.extend(part);
    }
    assert!(taken == text);
}

#[test]
fn the_end_is_reported_once_and_the_index_is_free_after_both_sides_closed() {
    let (mut rig, handle, connection) = accepted();
    rig.socket(handle).close();
    assert_eq!(receive(&mut rig, 30), [Reply::PeerClosed { connection }]);
    rig.stream_out.write(usize::from(connection.0) * RING_OUT, b"bye");
    ask(&mut rig, Request::Send { connection, consumed: 0, length: 3, constant: None, quiet: false });
    ask(&mut rig, Request::Close { connection });
    let replies = receive(&mut rig, 30);
    assert_eq!(replies.iter().filter(|reply| **reply == Reply::Closed { connection }).count(), 1, "{replies:?}");
    assert_eq!(rig.take(handle), b"bye");
    assert_eq!(rig.socket(handle).state(), tcp::State::TimeWait);

    let (mut rig, handle, connection) = accepted();
    rig.socket(handle).abort();
    assert_eq!(receive(&mut rig, 30), [Reply::Closed { connection }]);
    // The index belongs to the application until it closes, and is not used again before.
    for _ in 0..70 {
        let other = rig.connect();
        for reply in receive(&mut rig, 10) {
            if let Reply::Accepted { connection: given, .. } = reply {
                assert_ne!(given, connection);
                ask(&mut rig, Request::Abort { connection: given });
            }
        }
        rig.client.sockets.remove(other);
    }
    receive(&mut rig, 10);
    ask(&mut rig, Request::Close { connection });
    assert_eq!(receive(&mut rig, 10), []);
    assert!(!rig.system.console().contains("violation"), "{}", rig.system.console());
}

#[test]
fn a_connection_in_time_wait_holds_no_index() {
    let (mut rig, mut handle, first) = accepted();
    for _ in 0..3 {
        ask(&mut rig, Request::Close { connection: first });
        assert_eq!(receive(&mut rig, 30), [Reply::Closed { connection: first }]);
        // The side that closes first enters TIME-WAIT.
        rig.socket(handle).close();
        assert_eq!(receive(&mut rig, 30), []);
        assert_eq!(rig.socket(handle).state(), tcp::State::Closed);
        handle = rig.connect();
        let replies = receive(&mut rig, 20);
        assert!(matches!(replies[..], [Reply::Accepted { connection, .. }] if connection == first), "{replies:?}");
    }
}

#[test]
fn bytes_reach_their_position_in_the_ring_whatever_is_lost() {
    let text = pattern(60_000);
    for lose_every in [None, Some(5), Some(7)] {
        let (mut rig, handle, connection) = accepted();
        rig.client.wire.lose_every = lose_every;
        rig.pace = 5_000_000;
        let ring_in = usize::from(connection.0) * RING_IN;
        let (mut sent, mut received) = (0, Vec::new());
        while received.len() < text.len() {
            // So few at once that the ring has room for all. The segments have many lengths, and
            // some overtake others.
            for length in [300, 431, 300] {
                if sent < text.len() && sent < received.len() + 800 {
                    let end = text.len().min(sent + length);
                    sent += rig.socket(handle).send_slice(&text[sent..end]).unwrap();
                    rig.step();
                }
            }
            let mut standing = 0;
            for reply in receive(&mut rig, 4) {
                let Reply::Received { length, .. } = reply else { panic!("{reply:?}") };
                standing += length as usize;
            }
            for _ in 0..standing {
                received.extend(rig.stream_in.bytes(ring_in + received.len() % RING_IN, 1));
            }
            if standing > 0 {
                ask(&mut rig, Request::Consumed { connection, length: standing as u32 });
            }
            assert!(rig.nanoseconds < 3_600_000_000_000, "{} bytes came", received.len());
        }
        assert!(received == text);
    }
}

fn constant(connection: ConnectionId, offset: u32, length: u32) -> Request {
    let constant = Some(Constant { offset, length });
    Request::Send { connection, consumed: 0, length: 0, constant, quiet: false }
}

#[test]
fn constant_bytes_come_after_those_of_the_ring_and_before_any_others() {
    let (mut rig, handle, connection) = accepted();
    let ring = usize::from(connection.0) * RING_OUT;
    rig.stream_out.write(ring, b"head ");
    let constant = Some(Constant { offset: 1, length: 3 });
    ask(&mut rig, Request::Send { connection, consumed: 0, length: 5, constant, quiet: false });
    assert_eq!(receive(&mut rig, 20), [Reply::Sent { connection, length: 5, constant: 3 }]);
    assert_eq!(rig.take(handle), b"head ite");
    // Nothing more comes before they are taken.
    for _ in 0..2 {
        ask(&mut rig, Request::Send { connection, consumed: 0, length: 0, constant, quiet: false });
    }
    assert_eq!(receive(&mut rig, 20), [Reply::Closed { connection }]);
    assert!(rig.system.console().contains("violation by an application: more bytes to send than its ring holds"));
}

fn quietly(connection: ConnectionId, consumed: u32, length: u32) -> Request {
    Request::Send { connection, consumed, length, constant: None, quiet: true }
}

#[test]
fn a_quiet_reply_is_reported_with_the_next_request() {
    let (mut rig, handle, connection) = accepted();
    ask(&mut rig, quietly(connection, 0, 5));
    assert_eq!((receive(&mut rig, 20), rig.take(handle).len()), (vec![], 5));
    rig.send(handle, b"hello");
    assert_eq!(receive(&mut rig, 20), [Reply::Received { connection, length: 5, sent: 5, constant: 0 }]);
    ask(&mut rig, quietly(connection, 5, 3));
    assert_eq!(receive(&mut rig, 20), []);
    rig.socket(handle).close();
    let sent = Reply::Sent { connection, length: 3, constant: 0 };
    assert_eq!(receive(&mut rig, 50), [sent, Reply::PeerClosed { connection }]);
    // The peer has sent its FIN.
    ask(&mut rig, quietly(connection, 0, 3));
    assert_eq!(receive(&mut rig, 20), [sent]);
}

#[test]
fn a_reply_that_is_not_the_last_or_takes_long_is_reported_at_once() {
    let (mut rig, handle, connection) = accepted();
    rig.send(handle, b"hello");
    assert_eq!(receive(&mut rig, 20), [Reply::Received { connection, length: 5, sent: 0, constant: 0 }]);
    ask(&mut rig, quietly(connection, 4, 3));
    assert_eq!(receive(&mut rig, 20), [Reply::Sent { connection, length: 3, constant: 0 }]);
    // A response that takes long is reported, to its end.
    let (mut rig, handle, connection) = accepted_with(pattern(300_000).leak());
    let constant = Some(Constant { offset: 0, length: 300_000 });
    ask(&mut rig, Request::Send { connection, consumed: 0, length: 0, constant, quiet: true });
    rig.wait(5);
    let replies = receive(&mut rig, 20);
    let [Reply::Sent { length: 0, constant: mut sent @ 1..300_000, .. }] = replies[..] else { panic!("{replies:?}") };
    while sent < 300_000 {
        rig.take(handle);
        rig.wait(1);
        for reply in receive(&mut rig, 20) {
            let Reply::Sent { length: 0, constant, .. } = reply else { panic!("{reply:?}") };
            sent += constant;
        }
        assert!(rig.nanoseconds < 60_000_000_000, "{sent}");
    }
}

#[test]
fn a_closed_connection_whose_peer_takes_nothing_for_a_minute_is_given_up() {
    let (mut rig, handle, connection) = accepted_with(pattern(300_000).leak());
    ask(&mut rig, constant(connection, 0, 300_000));
    ask(&mut rig, Request::Close { connection });
    rig.wait(50);
    let closed = |replies: &[Reply]| replies.contains(&Reply::Closed { connection });
    assert!(!closed(&receive(&mut rig, 20)) && rig.socket(handle).may_recv());
    // The 64 KiB that it takes buy the time that they need at 500 bytes a second, but at most a
    // minute from now.
    rig.take(handle);
    rig.wait(55);
    assert!(!closed(&receive(&mut rig, 20)) && rig.socket(handle).may_recv(), "it took something");
    rig.wait(10);
    assert!(closed(&receive(&mut rig, 20)));
    assert_eq!(rig.socket(handle).state(), tcp::State::Closed);
}

/// All that was sent before is in the socket, where the same rule holds.
#[test]
fn a_closed_connection_has_a_minute_and_the_time_that_taken_bytes_buy() {
    let (mut rig, handle, connection) = accepted_with(pattern(80_000).leak());
    ask(&mut rig, constant(connection, 0, 80_000));
    ask(&mut rig, Request::Close { connection });
    assert!(receive(&mut rig, 200).contains(&Reply::Closed { connection }), "all of it was taken");
    rig.wait(50);
    // 5,000 bytes buy 10 s.
    let taken = rig.socket(handle).recv(|bytes| (bytes.len().min(5_000), bytes.len().min(5_000)));
    assert_eq!(taken, Ok(5_000));
    rig.wait(16);
    assert_eq!(rig.socket(handle).state(), tcp::State::Established);
    rig.wait(10);
    assert_eq!(rig.socket(handle).state(), tcp::State::Closed);
}

#[test]
fn lengths_beyond_the_rings_end_the_connection() {
    for request in [
        |connection| Request::Send {
            connection,
            length: RING_OUT as u32 + 1,
            constant: None,
            quiet: false,
            consumed: 0,
        },
        |connection| Request::Send { connection, consumed: 0, length: u32::MAX, constant: None, quiet: false },
        |connection| Request::Consumed { connection, length: 1 },
        |connection| constant(connection, 5, 1),
        |connection| constant(connection, 0, 6),
        |connection| constant(connection, u32::MAX, u32::MAX),
    ] {
        let (mut rig, handle, connection) = accepted();
        ask(&mut rig, request(connection));
        assert_eq!(receive(&mut rig, 20), [Reply::Closed { connection }]);
        assert_eq!(rig.socket(handle).state(), tcp::State::Closed);
        assert_eq!(rig.system.console().matches("violation by an application").count(), 1);
        // Messages that were already in flight are no second violation.
        ask(&mut rig, Request::Send { connection, consumed: 0, length: 1, constant: None, quiet: false });
        ask(&mut rig, Request::Close { connection });
        assert_eq!(receive(&mut rig, 10), []);
        assert_eq!(rig.system.console().matches("violation by an application").count(), 1);
    }
}

#[test]
fn an_application_that_does_not_read_its_replies_loses_none() {
    let (mut rig, _, _) = accepted();
    // The queue holds 64. Of 64 connections, four are kept for other addresses.
    let handles: Vec<_> = (0..59).map(|_| rig.connect()).collect();
    rig.run(100);
    for handle in &handles {
        if rig.socket(*handle).may_send() {
            rig.send(*handle, b"hello");
        }
    }
    rig.run(300);
    let replies = receive(&mut rig, 500);
    let accepted = replies.iter().filter(|reply| matches!(reply, Reply::Accepted { .. })).count();
    let received = replies.iter().filter(|reply| matches!(reply, Reply::Received { length: 5, .. })).count();
    assert_eq!((accepted, received), (59, 59));
}

#[test]
fn a_silent_application_delays_an_acknowledgement_by_ten_milliseconds() {
    let (mut rig, handle, connection) = accepted();
    rig.socket(handle).close();
    let replies = receive(&mut rig, 50);
    assert_eq!((replies, rig.socket(handle).state()), (vec![Reply::PeerClosed { connection }], tcp::State::FinWait1));
    receive(&mut rig, 70);
    assert_eq!(rig.socket(handle).state(), tcp::State::FinWait2);
}

#[test]
fn the_connection_of_a_vanished_peer_is_freed() {
    let (mut rig, handle, connection) = accepted();
    rig.client.sockets.remove(handle);
    // The peer does not answer, not even with a reset.
    rig.client.wire.lose_every = Some(1);
    rig.wait(59);
    assert_eq!(receive(&mut rig, 1), []);
    rig.wait(5);
    assert_eq!(receive(&mut rig, 10), [Reply::Closed { connection }]);
}

#[test]
fn a_client_that_reads_nothing_for_minutes_gets_everything() {
    let site = pattern(300_000).leak();
    let (mut rig, handle, connection) = accepted_with(site);
    let constant = Some(Constant { offset: 0, length: site.len() as u32 });
    ask(&mut rig, Request::Send { connection, consumed: 0, length: 0, constant, quiet: true });
    // Much of what fills its buffer is lost, and is sent again and again.
    rig.lose(Loss { packets: 400_000, ..Loss::default() });
    rig.wait(20);
    rig.lose(Loss::default());
    rig.wait(300);
    let began = rig.nanoseconds;
    let mut bytes = Vec::new();
    while bytes.len() < site.len() {
        assert!(rig.socket(handle).may_recv(), "{} bytes came", bytes.len());
        bytes.extend(rig.take(handle));
        receive(&mut rig, 1);
    }
    assert!(bytes == site);
    assert!(rig.nanoseconds - began < 500_000_000, "all goes on as before");
}
