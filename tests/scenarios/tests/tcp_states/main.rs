//! Tests tcpip in every state of TCP against a segment with one, two or three wrong fields, as
//! EmNetTest did with other stacks.
//!
//! Each case has a new tcpip, which honest segments bring to the state. Then the wrong segment
//! arrives. In every case there is no panic, every frame of the image is well-formed, there
//! are only a few of them, every page is given back, and another connection still carries bytes. A
//! segment whose checksum, lengths or addresses are not the connection's changes nothing: the
//! honest segment after it has the same effect as without it.
#![forbid(unsafe_code)]

mod fields;
mod packet;
mod rig;
mod rules;

use cloister_interfaces::socket::{Reply, Request};

use fields::{CORE, FIELDS, Field, Outcome as Expected};
use packet::{ACK, Answer, FIN, PSH, Packet, RST, SYN};
use rig::{Outcome, PORT, Rig};

/// The port of the attacked connection, and that of the witness, which must not be affected.
const VICTIM: u16 = 4000;
const WITNESS: u16 = 5000;
const ISS: u32 = 0xFFFF_FF00;

/// The states of RFC 9293 that a listener can reach. It opens no connection, so that there is no
/// SYN-SENT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Listen,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// The peer's view of a connection.
#[derive(Clone, Copy)]
struct PeerConnection {
    port: u16,
    seq: u32,
    ack: u32,
}

impl PeerConnection {
    fn packet(&self, flags: u8, payload: &[u8]) -> Packet {
        Packet::new(self.port, PORT, self.seq, self.ack, flags, payload)
    }

    /// Opens the connection. The image is in SYN-RECEIVED.
    fn open(rig: &mut Rig, port: u16) -> PeerConnection {
        let mut peer = PeerConnection { port, seq: ISS, ack: 0 };
        let outcome = rig.send(&peer.packet(SYN, b""));
        let [Answer { to_port, flags: 0x12, seq, ack, .. }] = outcome.answers[..] else { panic!("{outcome:?}") };
        assert_eq!((to_port, ack, outcome.replies.len()), (port, ISS.wrapping_add(1), 0));
        (peer.seq, peer.ack) = (ack, seq.wrapping_add(1));
        peer
    }

    fn establish(rig: &mut Rig, port: u16) -> PeerConnection {
        let peer = PeerConnection::open(rig, port);
        let outcome = rig.send(&peer.packet(ACK, b""));
        let accepted = |reply: &Reply| matches!(reply, Reply::Accepted { port: from, .. } if *from == port);
        assert!(outcome.replies.iter().any(accepted), "{outcome:?}");
        peer
    }

    /// Closes the connection as the application. The image sends its FIN.
    fn close(&mut self, rig: &mut Rig) {
        rig.ask(Request::Close { connection: rig.connections[&self.port] });
        let outcome = rig.step();
        let fin = |answer: &&Answer| answer.flags & FIN != 0 && answer.seq == self.ack;
        assert_eq!(outcome.answers.iter().filter(fin).count(), 1, "{outcome:?}");
        // Not acknowledged yet: the next segment acknowledges it.
    }

    /// Sends the peer's FIN, which the image acknowledges.
    fn finish(&mut self, rig: &mut Rig) {
        let mut outcome = rig.send(&self.packet(FIN | ACK, b""));
        if outcome.answers.is_empty() {
            // The image waits with the acknowledgement: the application was notified, and might
            // have sent something.
            outcome = rig.wait();
        }
        self.seq = self.seq.wrapping_add(1);
        assert!(outcome.answers.iter().any(|answer| answer.ack == self.seq), "{outcome:?}");
    }
}

impl State {
    /// Returns an image in this state, with the witness connected, and the segment that an honest
    /// peer sends next.
    fn reach(self) -> (Rig, PeerConnection, Packet) {
        let mut rig = Rig::new();
        let witness = PeerConnection::establish(&mut rig, WITNESS);
        let nobody = PeerConnection { port: VICTIM, seq: ISS, ack: 0 };
        let next = match self {
            State::Closed => Packet { to_port: 81, ..nobody.packet(PSH | ACK, b"abc") },
            State::Listen => nobody.packet(SYN, b""),
            State::SynReceived => PeerConnection::open(&mut rig, VICTIM).packet(ACK, b""),
            _ => self.reach_connected(&mut rig),
        };
        (rig, witness, next)
    }

    fn reach_connected(self, rig: &mut Rig) -> Packet {
        let mut peer = PeerConnection::establish(rig, VICTIM);
        match self {
            State::FinWait1 => peer.close(rig),
            State::FinWait2 => {
                peer.close(rig);
                peer.ack = peer.ack.wrapping_add(1);
                let outcome = rig.send(&peer.packet(ACK, b""));
                assert_eq!(outcome.answers, [], "{outcome:?}");
                return peer.packet(FIN | ACK, b"");
            }
            State::CloseWait => {
                peer.finish(rig);
                return peer.packet(ACK, b"");
            }
            State::Closing => {
                peer.close(rig);
                peer.finish(rig);
            }
            State::LastAck => {
                peer.finish(rig);
                peer.close(rig);
            }
            State::TimeWait => {
                peer.close(rig);
                peer.ack = peer.ack.wrapping_add(1);
                let fin = peer.packet(FIN | ACK, b"");
                peer.finish(rig);
                return fin;
            }
            _ => return peer.packet(PSH | ACK, b"abc"),
        }
        // Acknowledges the image's FIN.
        peer.ack = peer.ack.wrapping_add(1);
        peer.packet(ACK, b"")
    }

    /// Asserts that the effect of the honest segment is that of this state alone.
    fn shown_by(self, honest: &Outcome) {
        let flags: Vec<u8> = honest.answers.iter().map(|answer| answer.flags).collect();
        let count = |wanted: fn(&Reply) -> bool| honest.replies.iter().filter(|reply| wanted(reply)).count();
        let closed = count(|reply| matches!(reply, Reply::Closed { .. }));
        match self {
            State::Closed => assert!(flags.iter().any(|flags| flags & RST != 0), "{honest:?}"),
            State::Listen => assert_eq!((flags, honest.replies.len()), (vec![SYN | ACK], 0)),
            State::SynReceived => assert_eq!(count(|reply| matches!(reply, Reply::Accepted { .. })), 1, "{honest:?}"),
            State::Established => assert_eq!(count(|reply| matches!(reply, Reply::Received { .. })), 1, "{honest:?}"),
            State::FinWait1 | State::CloseWait => assert_eq!((flags, closed), (vec![], 0)),
            State::FinWait2 | State::TimeWait => assert_eq!(flags, [ACK], "{honest:?}"),
            State::Closing | State::LastAck => assert!(flags.is_empty(), "{honest:?}"),
        }
    }
}

/// A wrong value of a field.
type Change<'a> = (&'a Field, usize);

/// Compared without the initial sequence number, which is random for each connection.
fn comparable(mut outcome: Outcome) -> Outcome {
    outcome.answers.iter_mut().filter(|answer| answer.flags & SYN != 0).for_each(|answer| answer.seq = 0);
    outcome
}

/// Tries a segment with these values. `honest` is the effect of the right segment.
fn attempt(state: State, changes: &[Change<'_>], honest: &Outcome) {
    let case = || {
        let changes: Vec<_> = changes.iter().map(|(field, index)| format!("{} {index}", field.name)).collect();
        format!("{state:?}: {}", changes.join(", "))
    };
    let (mut rig, witness, right) = state.reach();
    let mut wrong = right.clone();
    let mut expected = Expected::Open;
    for (field, index) in changes {
        let (outcome, change) = &field.changes[*index];
        change(&mut wrong);
        expected = expected.max(*outcome);
    }
    let outcome = rig.send(&wrong);
    if expected == Expected::Silent {
        assert_eq!(outcome, Outcome::default(), "{}", case());
    }
    if expected != Expected::Open {
        assert_eq!(outcome.replies, [], "{}", case());
        assert_eq!(comparable(rig.send(&right)), comparable(honest.clone()), "{}: the honest segment after it", case());
    }
    let mut outcome = rig.send(&witness.packet(PSH | ACK, b"abc"));
    outcome.answers.extend(rig.wait().answers);
    let connection = rig.connections[&WITNESS];
    assert!(
        outcome.replies.contains(&Reply::Received { connection, length: 3, sent: 0, constant: 0 }),
        "{}: {outcome:?}",
        case()
    );
    let taken = Answer { to_port: WITNESS, flags: ACK, seq: witness.ack, ack: witness.seq.wrapping_add(3), length: 0 };
    assert!(outcome.answers.contains(&taken), "{}: {outcome:?}", case());
}

/// Tries every segment of a state. Returns how many had one, two and three wrong fields.
fn enumerate(state: State) -> [usize; 3] {
    let (mut rig, _, right) = state.reach();
    let honest = rig.send(&right);
    state.shown_by(&honest);
    let each = |field: &'static Field| (0..field.changes.len()).map(move |index| (field, index));
    let mut counts = [0; 3];
    for (place, first) in FIELDS.iter().enumerate() {
        for one in each(first) {
            attempt(state, &[one], &honest);
            counts[0] += 1;
            for two in FIELDS[place + 1..].iter().flat_map(each) {
                attempt(state, &[one, two], &honest);
                counts[1] += 1;
            }
        }
    }
    let [seq, ack, flags] = CORE.map(|name| FIELDS.iter().find(|field| field.name == name).expect("a field"));
    for one in each(seq) {
        for two in each(ack) {
            for three in each(flags) {
                attempt(state, &[one, two, three], &honest);
                counts[2] += 1;
            }
        }
    }
    println!("{state:?}: {counts:?} segments with one, two and three wrong fields");
    counts
}

/// The exact numbers of segments with one, two and three wrong fields that are tried in each state.
const COUNTS: [usize; 3] = [123, 7103, 864];

macro_rules! states {
    ($($test:ident: $state:ident;)*) => {$(
        #[test]
        fn $test() {
            assert_eq!(enumerate(State::$state), COUNTS);
        }
    )*};
}

states! {
    closed: Closed;
    listen: Listen;
    syn_received: SynReceived;
    established: Established;
    fin_wait_1: FinWait1;
    fin_wait_2: FinWait2;
    close_wait: CloseWait;
    closing: Closing;
    last_ack: LastAck;
    time_wait: TimeWait;
}
