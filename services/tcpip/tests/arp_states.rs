//! Every field of an ARP message at its boundaries, in every state that the table can have a
//! neighbour in (RFC 826, RFC 5227). What must follow is computed here from the message alone.
#![forbid(unsafe_code)]

mod bench;

use bench::{Bench, EVERYONE, Frame, Host, OUR_MAC, OURS, arp, host, ping};

/// What the service knows of the neighbour before the message comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unknown,
    /// It asked for us, and nothing was sent to it.
    Stranger,
    /// It was asked for, and two packets wait for its answer.
    Waiting,
    Known,
    /// Its address was confirmed more than a minute ago.
    Aged,
    /// It was asked again, less than a second ago.
    Polled,
    /// It answered none of three requests, and was asked for again.
    Gone,
}

const STATES: [State; 7] =
    [State::Unknown, State::Stranger, State::Waiting, State::Known, State::Aged, State::Polled, State::Gone];

/// A message as its fields.
#[derive(Clone, Copy, Debug)]
struct Message {
    to: [u8; 6],
    from: [u8; 6],
    kinds: [u16; 2],
    lengths: [u8; 2],
    operation: u16,
    sender: Host,
    target: Host,
    size: usize,
}

impl Message {
    fn frame(&self) -> Vec<u8> {
        let [hardware, protocol] = self.kinds.map(u16::to_be_bytes);
        let mut frame = [&self.to[..], &self.from, &[8, 6], &hardware, &protocol, &self.lengths].concat();
        frame.extend(self.operation.to_be_bytes());
        frame.extend([&self.sender.mac[..], &self.sender.address, &self.target.mac, &self.target.address].concat());
        frame.resize(self.size, 0);
        frame
    }

    /// Returns `true` if a host that speaks ARP over Ethernet about IPv4 sent it to us.
    fn is_sound(&self) -> bool {
        self.kinds == [1, 0x800]
            && self.lengths == [6, 4]
            && [1, 2].contains(&self.operation)
            && self.size >= 42
            && [EVERYONE, OUR_MAC].contains(&self.to)
            && self.sender.mac[0].is_multiple_of(2)
            && ![[0; 6], OUR_MAC].contains(&self.sender.mac)
    }
}

/// Returns messages about `neighbour`: each field at each boundary alone, and those that decide
/// together in all combinations.
fn messages(neighbour: Host) -> Vec<Message> {
    let other = [2, 9, 9, 9, 9, 9];
    let usual = Message {
        to: EVERYONE,
        from: neighbour.mac,
        kinds: [1, 0x800],
        lengths: [6, 4],
        operation: 1,
        sender: neighbour,
        target: Host { mac: [0; 6], address: OURS },
        size: 42,
    };
    let mut all = Vec::new();
    for usual in [usual, Message { operation: 2, ..usual }] {
        let changed = usual.sender.mac;
        let usual = Message { sender: Host { mac: [2, 8, 8, 8, changed[4], changed[5]], ..usual.sender }, ..usual };
        all.extend([OUR_MAC, other, [1, 0, 0x5e, 0, 0, 1], [0; 6]].map(|to| Message { to, ..usual }));
        all.extend([other, EVERYONE, OUR_MAC, [0; 6]].map(|from| Message { from, ..usual }));
        all.extend([0, 2, 6, 0x100, 0xffff].map(|kind| Message { kinds: [kind, 0x800], ..usual }));
        all.extend([0, 0x7ff, 0x801, 0x806, 0x86dd, 0xffff].map(|kind| Message { kinds: [1, kind], ..usual }));
        all.extend([0, 4, 5, 7, 255].map(|length| Message { lengths: [length, 4], ..usual }));
        all.extend([0, 3, 5, 6, 16, 255].map(|length| Message { lengths: [6, length], ..usual }));
        all.extend([0, 3, 4, 8, 9, 0x101, 0x102, 0x201, 0xffff].map(|operation| Message { operation, ..usual }));
        all.extend([14, 15, 20, 22, 28, 32, 38, 41, 43, 60, 64, 1514].map(|size| Message { size, ..usual }));
        all.extend([other, OUR_MAC, EVERYONE].map(|mac| Message { target: Host { mac, ..usual.target }, ..usual }));
        for mac in [usual.sender.mac, neighbour.mac, [0; 6], EVERYONE, [3, 0, 0, 0, 0, 1], OUR_MAC] {
            let senders = [neighbour.address, [0; 4], OURS, [127, 0, 0, 1], [224, 0, 0, 1], [10, 0, 255, 255]];
            for sender in senders.into_iter().chain([[255; 4], [192, 0, 2, 9], [10, 0, 0, 0]]) {
                for target in [OURS, neighbour.address, [0; 4], [10, 0, 77, 77], [10, 0, 255, 255], [255; 4]] {
                    let (sender, target) = (Host { mac, address: sender }, Host { mac: [0; 6], address: target });
                    all.push(Message { sender, target, ..usual });
                }
            }
        }
    }
    all
}

/// Brings a neighbour that the service has never heard of into a state.
fn enter(bench: &mut Bench, state: State, neighbour: Host) {
    let pinged = |bench: &mut Bench| bench.frame(&ping(neighbour.mac, neighbour.address, OURS)).len();
    match state {
        State::Unknown => {}
        State::Stranger => assert_eq!(bench.frame(&arp(1, neighbour, OURS)).len(), 1),
        State::Waiting => assert_eq!([pinged(bench), pinged(bench)], [1, 0], "a request, and no second one"),
        State::Known | State::Aged | State::Polled | State::Gone => {
            bench.frame(&arp(1, neighbour, OURS));
            assert_eq!(pinged(bench), 1);
        }
    }
    if matches!(state, State::Aged | State::Polled | State::Gone) {
        bench.pass(61_000);
    }
    if state == State::Polled {
        assert_eq!(pinged(bench), 2, "an answer and a request");
    }
    if state == State::Gone {
        for sent in [2, 2, 2, 1] {
            bench.pass(1000);
            assert_eq!(pinged(bench), sent);
        }
    }
}

/// What a frame is, in a form that can be compared.
fn describe(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(|frame| format!("{frame:?}")).collect()
}

/// Returns what the service has to send for the message, and for a ping of the neighbour after it.
fn expected(state: State, message: &Message, neighbour: Host) -> (Vec<Frame>, Vec<Frame>) {
    let (sound, sender) = (message.is_sound(), message.sender);
    let is_for_us = sound && message.operation == 1 && message.target.address == OURS;
    let teaches = sound && sender.address == neighbour.address && (is_for_us || state != State::Unknown);
    let echo = |mac| Frame::Echo(Host { mac, ..neighbour });
    let (mut now, mut then) = (Vec::new(), Vec::new());
    if teaches {
        let waiting = if state == State::Waiting { 2 } else { usize::from(state == State::Gone) };
        now.extend((0..waiting).map(|_| echo(sender.mac)));
        then.push(echo(sender.mac));
    } else {
        match state {
            State::Unknown => then.push(Frame::Request(neighbour.address, EVERYONE)),
            State::Stranger | State::Known | State::Polled => then.push(echo(neighbour.mac)),
            State::Aged => then.extend([echo(neighbour.mac), Frame::Request(neighbour.address, neighbour.mac)]),
            State::Waiting | State::Gone => {}
        }
    }
    if is_for_us {
        now.push(Frame::Reply(sender));
    }
    if sound && sender.address == OURS {
        now.push(Frame::Request(OURS, EVERYONE));
    }
    (now, then)
}

#[test]
fn every_field_at_every_boundary_in_every_state_has_the_right_effect() {
    for state in STATES {
        let mut bench = Bench::new("ip=10.0.0.2/16 gw=10.0.0.1");
        let count = messages(host(1, 1)).len();
        assert!(count > 700, "{count}");
        for number in 0..count {
            // Nothing waits or is limited any more because of the message before.
            bench.pass(11_000);
            let neighbour = host(1 + (number / 250) as u8, (number % 250) as u8);
            enter(&mut bench, state, neighbour);
            let message = messages(neighbour)[number];
            let (now, then) = expected(state, &message, neighbour);
            let sent = bench.frame(&message.frame());
            assert_eq!(describe(&sent), describe(&now), "{state:?}: {message:?}");
            let sent = bench.frame(&ping(neighbour.mac, neighbour.address, OURS));
            assert_eq!(describe(&sent), describe(&then), "a ping after, {state:?}: {message:?}");
        }
    }
}
