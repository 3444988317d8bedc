//! Tests the handshake in every state, against nodes with any value.
//!
//! Each case has a new netfront that is connecting, connected, or closing. At one moment a node is
//! written or removed. It stays wrong, or alternates with its right value several times. In every
//! case there is no panic, no request beyond the policy, no grant left, and no endless log. While
//! the link is down because of the node, the log has a line. When the node is right again, the link
//! comes up without further help, carries frames both ways and is closed in order. The same holds
//! for answers of XenStore: each failure of each kind of request, from each moment on.
#![forbid(unsafe_code)]

mod nodes;
#[path = "../../../../netfront-service/src/service/tests/world.rs"]
mod world;

use std::collections::BTreeMap;

use cloister_caps::PAGE_SIZE;
use cloister_interfaces::net::{Reply, Request, RxPage};
use cloister_interfaces::store::{Action, StoreError};

use nodes::{Node, READ, UNREAD, Value, few_values, values};
use world::World;

/// Pages of each pool.
const PAGES: u16 = 8;
/// The time for which a wrong value stays, in s.
const STANDS: u64 = 200;
/// The largest number of lines in the log meanwhile.
const LINES: usize = 12;
/// The time within which the link must come up when all values are right again, in s.
const RECOVERS: u64 = 100;

/// The state of the handshake when a node changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Moment {
    /// This number of turns after the device was made.
    Opening(usize),
    /// The back end has not offered a connection.
    Early,
    /// It has offered one, netfront has published that it is connected, and the back end does not
    /// answer.
    Late,
    /// The connection is up.
    Up,
    /// This number of turns after the back end has published that it closes.
    Closing(usize),
    /// The back end does not unmap the rings.
    RingsMapped,
    /// The device exists, the last attempt has failed, and the next is due.
    Resting,
}

/// The moments in which all parties wait.
const STILL: [Moment; 5] = [Moment::Early, Moment::Late, Moment::Up, Moment::RingsMapped, Moment::Resting];

/// A change of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// It has this value for some minutes.
    Stays,
    /// It alternates, several times, between this value for one turn and its earlier one.
    Flips,
}

struct Case {
    world: World,
    up: bool,
    held: Vec<RxPage>,
}

impl Case {
    fn new() -> Case {
        let mut case = Case { world: World::sized(64, PAGES), up: false, held: Vec::new() };
        case.world.back.forgiving = true;
        case.world.back.create(&mut case.world.daemon);
        case
    }

    fn handle_replies(&mut self) {
        for reply in self.world.replies() {
            match reply {
                Reply::Up { .. } => self.up = true,
                Reply::Down => {
                    self.up = false;
                    // Its rings are gone, even if it does not know it.
                    self.world.back.connection = None;
                }
                Reply::Received { page, .. } => self.held.push(page),
                Reply::Transmitted { .. } => {}
            }
        }
        self.world.store.actions.drain(..).for_each(|action| check(&action));
    }

    fn turn(&mut self) -> bool {
        let moved = self.world.turn(true);
        self.handle_replies();
        moved
    }

    fn run(&mut self) {
        self.world.settle();
        self.handle_replies();
    }

    /// Lets time pass, for at most `seconds` or until `done`.
    fn pass(&mut self, seconds: u64, done: impl Fn(&Case) -> bool) -> bool {
        let end = self.world.now + seconds * 1_000_000_000;
        self.run();
        while !done(self) {
            let next = self.world.service.deadline().map_or(end, |next| next.0);
            assert!(next > self.world.now, "it wants to run again and again: {}", self.world.system.console());
            if next >= end {
                self.world.pass_to(end);
                self.handle_replies();
                return done(self);
            }
            self.world.pass_to(next);
            self.handle_replies();
        }
        true
    }

    /// Brings it to the moment. Returns `true` if the moment exists.
    fn reach(moment: Moment) -> Option<Case> {
        let mut case = Case::new();
        let close = |case: &mut Case| {
            case.run();
            assert!(case.up);
            case.world.back.connection = None;
            case.world.back.set_state(&mut case.world.daemon, "5");
        };
        match moment {
            Moment::Opening(turns) => return (0..turns).all(|_| case.turn()).then_some(case),
            Moment::Early => case.world.back.set_state(&mut case.world.daemon, "1"),
            Moment::Late => case.world.back.ignores_states = true,
            Moment::Up => {}
            Moment::Closing(turns) => {
                close(&mut case);
                return (0..turns).all(|_| case.turn()).then_some(case);
            }
            Moment::RingsMapped => {
                case.world.grants.held = vec![0];
                close(&mut case);
                case.run();
                case.pass(3, |_| false);
                assert!(case.world.system.console().contains("still maps pages"));
            }
            Moment::Resting => close(&mut case),
        }
        case.run();
        Some(case)
    }

    fn path(&self, node: Node) -> String {
        match node {
            Node::Front(name) => format!("{}/{name}", self.world.back.front_directory()),
            Node::Back(name) => format!("{}/{name}", self.world.back.directory()),
        }
    }

    fn set(&mut self, path: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.world.daemon.set(path, value),
            None => self.world.daemon.delete(path),
        }
    }

    /// Returns the states that the two ends have published.
    fn states(&self) -> (String, String) {
        let text = |directory: String| self.world.daemon.text(&format!("{directory}/state")).unwrap_or_default();
        (text(self.world.back.front_directory()), text(self.world.back.directory()))
    }

    /// Lets every party behave from now on.
    fn behave(&mut self, moment: Moment) {
        self.world.back.ignores_states = false;
        if moment == Moment::Early && self.states().1 == "1" {
            self.world.back.set_state(&mut self.world.daemon, "2");
        }
        if !self.world.grants.held.is_empty() {
            self.world.grants.release(0);
        }
        if self.world.back.connection.is_none() && self.up {
            self.world.back.set_state(&mut self.world.daemon, "6");
        }
    }

    /// Checks that the link is up, carries frames both ways, and is closed.
    fn works(&mut self, case: &dyn Fn() -> String) {
        assert!(self.pass(RECOVERS, |case| case.up), "{}: not up: {}", case(), self.world.system.console());
        let frame: Vec<u8> = (0..90).collect();
        (self.world.back.sent, self.held) = (Vec::new(), Vec::new());
        self.world.transmit(2, &frame);
        self.world.back.waiting.push_back(frame.clone().into());
        self.run();
        assert_eq!(self.world.sent(), std::slice::from_ref(&frame), "{}", case());
        let at = usize::from(self.held.first().expect("a frame").0) * PAGE_SIZE;
        assert_eq!(self.world.rx_pool.bytes(at, 90), frame, "{}", case());
        self.world.ask(Request::Close);
        self.run();
        self.pass(20, |case| !case.up);
        assert!(!self.up && self.world.grants.granted.is_empty(), "{}: {}", case(), self.world.system.console());
        assert!(!self.world.store.in_transaction(), "{}", case());
    }
}

/// Checks that the policy allows netfront this request to the XenStore service.
fn check(action: &Action) {
    let own = |path: &str| path.starts_with("device/vif/0/") || path.starts_with("error/device/vif/0/");
    let right = match action {
        Action::Read(path) | Action::Watch(path, _) | Action::Unwatch(path, _) => {
            own(path) || path.starts_with("/local/domain/") && path.contains("/backend/vif/7/")
        }
        Action::Write(path, _) => own(path),
        Action::Begin | Action::Commit | Action::Abort => true,
        Action::List(_) | Action::Remove(_) => false,
    };
    assert!(right, "{action:?}");
}

/// Tries a case. Returns `true` if the link was up at the end, before the value was corrected.
fn attempt(moment: Moment, node: Node, value: Option<&[u8]>, how: How) -> bool {
    let mut case = Case::reach(moment).expect("a moment");
    let name = || {
        let shown = value.map(|value| value.escape_ascii().to_string());
        format!("{moment:?}, {node:?}, {:?}, {how:?}", shown.map(|text| text[..text.len().min(40)].to_owned()))
    };
    let (path, before) = (case.path(node), case.world.system.console().len());
    let right = case.world.daemon.get(&path);
    if node == Node::Back("state") {
        // From now on, the back end is the domain that writes it.
        (case.world.back.connection, case.world.back.ignores_states) = (None, true);
    }
    match how {
        How::Stays => {
            case.set(&path, value);
            case.pass(STANDS, |_| false);
        }
        How::Flips => {
            for _ in 0..4 {
                case.set(&path, value);
                case.turn();
                case.set(&path, right.as_deref());
                case.turn();
            }
            case.run();
        }
    }
    let log = case.world.system.console()[before..].to_string();
    assert!(log.lines().count() <= LINES, "{}: {log}", name());
    let up = case.up;
    if how == How::Stays {
        // That pages are held was logged before.
        let quiet = !up && log.is_empty() && moment != Moment::RingsMapped;
        assert!(!quiet, "{}: the link is down, and nothing was said", name());
        if moment == Moment::Opening(0) {
            assert_eq!(up, node.connects(value), "{}: {log}", name());
            assert!(!node.is_logged(value) || log.contains(node.name()), "{}: {log}", name());
        }
    }
    match node {
        Node::Back("state") => case.world.back.set_state(&mut case.world.daemon, "6"),
        _ if case.world.daemon.get(&path).as_deref() == value => case.set(&path, right.as_deref()),
        _ => {}
    }
    case.behave(moment);
    case.works(&name);
    up
}

/// The number of kinds of requests that fail.
const KINDS: usize = 6;

fn refuse<const KIND: usize, const FAILURE: usize>(action: &Action) -> Option<StoreError> {
    let kind = match action {
        Action::Read(_) | Action::List(_) => 0,
        Action::Write(..) | Action::Remove(_) => 1,
        Action::Watch(..) => 2,
        Action::Unwatch(..) => 3,
        Action::Begin => 4,
        Action::Commit => 5,
        // If a transaction cannot be aborted, the XenStore service ends it.
        Action::Abort => KINDS,
    };
    (kind == KIND).then_some(StoreError::ALL[FAILURE])
}

type Refuse = fn(&Action) -> Option<StoreError>;

macro_rules! refuse_each {
    ($($kind:literal)*) => {
        [$([
            refuse::<$kind, 0>, refuse::<$kind, 1>, refuse::<$kind, 2>, refuse::<$kind, 3>,
            refuse::<$kind, 4>, refuse::<$kind, 5>, refuse::<$kind, 6>, refuse::<$kind, 7>,
            refuse::<$kind, 8>,
        ]),*]
    };
}
const REFUSE: [[Refuse; 9]; KINDS] = refuse_each!(0 1 2 3 4 5);

/// Lets XenStore fail in this way from a moment on, for some minutes. Returns `true` if the link
/// was up then.
fn fails(moment: Moment, kind: usize, failure: usize) -> bool {
    let mut case = Case::reach(moment).expect("a moment");
    let name = || format!("{moment:?}, requests of kind {kind}: {:?}", StoreError::ALL[failure]);
    let before = case.world.system.console().len();
    case.world.store.refuse = Some(REFUSE[kind][failure]);
    case.pass(STANDS, |_| false);
    let (up, log) = (case.up, case.world.system.console()[before..].to_string());
    assert!(log.lines().count() <= LINES, "{}: {log}", name());
    assert!(up || !log.is_empty() || moment == Moment::RingsMapped, "{}: nothing was said", name());
    case.world.store.refuse = None;
    case.behave(moment);
    case.works(&name);
    up
}

#[test]
fn every_answer_of_xenstore_is_survived() {
    let mut counts = [[0; 2]; KINDS];
    for moment in moments() {
        for (kind, counts) in counts.iter_mut().enumerate() {
            (0..StoreError::ALL.len()).for_each(|failure| counts[usize::from(fails(moment, kind, failure))] += 1);
        }
    }
    println!("reads, writes, watches, their ends, begins, commits: down and up {counts:?}");
    assert_eq!(counts, [[420, 48], [423, 45], [91, 377], [27, 441], [324, 144], [414, 54]]);
}

/// Returns every moment.
fn moments() -> Vec<Moment> {
    let opening = (0..).map(Moment::Opening).take_while(|moment| Case::reach(*moment).is_some());
    let closing = (0..).map(Moment::Closing).take_while(|moment| Case::reach(*moment).is_some());
    opening.chain(closing).chain(STILL).collect()
}

/// Tries values of a node in moments. Returns how many cases left the link down, and how many up.
fn enumerate(node: Node, moments: &[Moment], values: &[Value], how: How) -> [usize; 2] {
    let mut counts = [0; 2];
    for moment in moments {
        for value in values {
            counts[usize::from(attempt(*moment, node, value.as_deref(), how))] += 1;
        }
    }
    println!("{node:?} {how:?}: down {}, up {}", counts[0], counts[1]);
    counts
}

/// Tries a node in every moment: with every value that stays, and with some that flip.
fn everywhere(node: Node) -> [[usize; 2]; 2] {
    let moments = moments();
    [enumerate(node, &moments, &values(), How::Stays), enumerate(node, &moments, &few_values(), How::Flips)]
}

#[test]
fn every_state_of_both_ends_is_survived() {
    let mut pairs: BTreeMap<(String, String), usize> = BTreeMap::new();
    for moment in moments() {
        *pairs.entry(Case::reach(moment).expect("a moment").states()).or_default() += 1;
    }
    println!("{pairs:?}");
    let pairs: Vec<String> = pairs.into_keys().map(|(ours, theirs)| ours + &theirs).collect();
    assert_eq!(pairs, ["11", "12", "42", "44", "45", "55", "65", "66"]);
}

#[test]
fn nodes_that_netfront_does_not_read_change_nothing() {
    let mut counts = [0; 2];
    for node in UNREAD {
        for how in [How::Stays, How::Flips] {
            let of = enumerate(node, &[Moment::Opening(0), Moment::Up], &values(), how);
            counts = [counts[0] + of[0], counts[1] + of[1]];
        }
    }
    assert_eq!(counts, [0, 1536]);
}

macro_rules! nodes {
    ($($test:ident: $node:expr, $counts:expr;)*) => {
        $(
            #[test]
            fn $test() {
                assert_eq!(everywhere($node), $counts);
            }
        )*

        #[test]
        fn every_node_is_tried() {
            assert_eq!(READ, [$($node),*]);
        }
    };
}

// The numbers of staying values that left the link down and up, and those of flipping ones.
nodes! {
    backend_id: Node::Front("backend-id"), [[802, 1694], [127, 289]];
    backend: Node::Front("backend"), [[2496, 0], [120, 296]];
    mac: Node::Front("mac"), [[880, 1616], [134, 282]];
    mtu: Node::Front("mtu"), [[858, 1638], [141, 275]];
    own_state: Node::Front("state"), [[166, 2330], [189, 227]];
    online: Node::Back("online"), [[198, 2298], [126, 290]];
    state: Node::Back("state"), [[2226, 270], [396, 20]];
    rx_copy: Node::Back("feature-rx-copy"), [[1225, 1271], [152, 264]];
    split: Node::Back("feature-split-event-channels"), [[144, 2352], [120, 296]];
    scatter_gather: Node::Back("feature-sg"), [[144, 2352], [120, 296]];
    segmentation: Node::Back("feature-gso-tcpv4"), [[144, 2352], [120, 296]];
}
