//! Tests single rules of TCP that smoltcp alone does not follow.

use cloister_interfaces::socket::Reply;

use crate::packet::{ACK, Answer, FIN, PSH, RST, SYN};
use crate::rig::Rig;
use crate::{ISS, PeerConnection, VICTIM, WITNESS};

/// RFC 9293, 3.10.7.4: in CLOSE-WAIT, CLOSING and LAST-ACK segment text is ignored.
#[test]
fn data_after_the_peer_s_fin_are_not_delivered() {
    let mut rig = Rig::new();
    let mut peer = PeerConnection::establish(&mut rig, VICTIM);
    let last = peer.packet(FIN | PSH | ACK, b"abc");
    let outcome = rig.send(&last);
    let connection = rig.connections[&VICTIM];
    assert!(outcome.replies.contains(&Reply::Received { connection, length: 3, sent: 0, constant: 0 }), "{outcome:?}");
    peer.seq = peer.seq.wrapping_add(4);
    for (back, data) in [(0, &b"more"[..]), (1, b"xmore"), (4, b"abcxmore")] {
        let late = PeerConnection { seq: peer.seq.wrapping_sub(back), ..peer };
        let outcome = rig.send(&late.packet(PSH | ACK, data));
        assert!(!outcome.replies.iter().any(|reply| matches!(reply, Reply::Received { .. })), "{outcome:?}");
    }
    // The acknowledgement of a repeated last segment was lost: it is sent again.
    let outcome = rig.send(&last);
    assert!(outcome.answers.iter().any(|answer| answer.ack == peer.seq), "{outcome:?}");
    peer.close(&mut rig);
}

/// Data that bypass the stack on the way to the ring are those that the stack accepts, at their
/// position.
#[test]
fn data_that_the_link_has_checked_are_placed_in_order() {
    let mut rig = Rig::new();
    rig.checked = true;
    let peer = PeerConnection::establish(&mut rig, VICTIM);
    let stream: Vec<u8> = (0..2000).map(|at: u32| (at % 251) as u8).collect();
    let part = |from: usize, to: usize| {
        PeerConnection { seq: peer.seq.wrapping_add(from as u32), ..peer }.packet(PSH | ACK, &stream[from..to])
    };
    let lengths = |outcome: &crate::rig::Outcome| -> Vec<u32> {
        let length = |reply: &Reply| if let Reply::Received { length, .. } = reply { Some(*length) } else { None };
        outcome.replies.iter().filter_map(length).collect()
    };
    // The second segment before the first, and one that begins before the expected number.
    for (from, to, expected) in [(400, 800, 0), (0, 400, 800), (700, 1300, 500)] {
        let outcome = rig.send(&part(from, to));
        assert_eq!(lengths(&outcome).iter().sum::<u32>(), expected, "{from}");
    }
    // A segment that acknowledges bytes that were never sent is dropped.
    let wrong = PeerConnection { seq: peer.seq.wrapping_add(1300), ack: peer.ack.wrapping_add(5), ..peer };
    assert_eq!(lengths(&rig.send(&wrong.packet(PSH | ACK, &[0xee; 700]))), []);
    assert_eq!(lengths(&rig.send(&part(1300, 2000))), [700]);
    let ring = usize::from(rig.connections[&VICTIM].0) * 2048;
    assert!(rig.stream_in.bytes(ring, 2000) == stream);
}

/// RFC 9293, MUST-63.
#[test]
fn connections_from_impossible_addresses_are_not_accepted() {
    let mut rig = Rig::new();
    let honest = PeerConnection::open(&mut rig, WITNESS);
    for from in [0x7F00_0001, 0xE000_0001, 0xFFFF_FFFF, 0x0A00_00FF, 0x0A00_0002, 0] {
        for port in 0..8 {
            let mut packet = PeerConnection { port: VICTIM + port, seq: ISS, ack: 0 }.packet(SYN, b"");
            packet.from = from;
            assert_eq!(rig.send(&packet), Default::default(), "{from:x}");
        }
    }
    let outcome = rig.send(&honest.packet(ACK, b""));
    assert!(outcome.replies.iter().any(|reply| matches!(reply, Reply::Accepted { .. })), "{outcome:?}");
}

/// Returns a connection in FIN-WAIT-2.
fn half_closed(rig: &mut Rig) -> PeerConnection {
    let mut peer = PeerConnection::establish(rig, VICTIM);
    peer.close(rig);
    peer.ack = peer.ack.wrapping_add(1);
    rig.send(&peer.packet(ACK, b""));
    peer
}

fn acknowledges(answers: &[Answer], seq: u32) -> bool {
    answers.iter().any(|answer| answer.flags == ACK && answer.ack == seq)
}

/// RFC 5961, 4: a SYN in a synchronized state may be forged.
#[test]
fn a_syn_does_not_end_a_connection_that_the_peer_has_not_closed() {
    for seq in [0, 1000, 1 << 30, 3 << 30] {
        let mut rig = Rig::new();
        let mut peer = half_closed(&mut rig);
        let outcome = rig.send(&PeerConnection { seq: peer.seq.wrapping_add(seq), ..peer }.packet(SYN, b""));
        assert!(outcome.answers.iter().all(|answer| answer.flags == ACK), "{outcome:?}");
        let outcome = rig.send(&peer.packet(FIN | ACK, b""));
        peer.seq = peer.seq.wrapping_add(1);
        assert!(acknowledges(&outcome.answers, peer.seq), "{seq}: {outcome:?}");
    }
}

/// RFC 1122, 4.2.2.13.
#[test]
fn after_both_have_closed_a_peer_may_reconnect_with_a_higher_number() {
    for (beyond, begins) in [(0, true), (100_000, true), (u32::MAX, false), (1 << 31, false)] {
        let mut rig = Rig::new();
        let mut peer = half_closed(&mut rig);
        peer.finish(&mut rig);
        let outcome = rig.send(&PeerConnection { seq: peer.seq.wrapping_add(beyond), ..peer }.packet(SYN, b""));
        let answered = outcome.answers.iter().any(|answer| answer.flags == SYN | ACK);
        assert_eq!(answered, begins, "{beyond:x}: {outcome:?}");
        assert!(outcome.answers.iter().all(|answer| answer.flags & RST == 0), "{outcome:?}");
    }
}
