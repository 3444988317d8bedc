//! The world around the handshake: nodes of XenStore, grants, and the back end.

mod ask;

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use cloister_caps::{EvtchnPort, GrantRef};
use cloister_interfaces::Instant;
use cloister_interfaces::grants::{Reply, Request};
use cloister_interfaces::rules::GrantPermission;
use cloister_interfaces::store::{StoreError, Value};
use cloister_models::{latest, untimed};
use cloister_netfront::handshake::{BACKEND_TOKEN, Command, DEVICE_TOKEN, Handshake};

use ask::Ask;

pub const RESET: &str = "the rings were reset while they were mapped or granted";
pub const UNGRANTED: &str = "pages were used or published that are not granted";
pub const LEFT: &str = "the state Closed was written while pages were granted that nobody maps";

/// The nodes of the device and of its back end that never change here.
const NODES: [(&str, &str); 9] = [
    ("device/vif/0/backend-id", "0"),
    ("device/vif/0/backend", "/local/domain/0/backend/vif/7/0"),
    ("device/vif/0/mac", "00:16:3e:11:22:33"),
    ("device/vif/0/mtu", "1500"),
    ("0/online", "1"),
    ("0/feature-rx-copy", "1"),
    ("0/feature-split-event-channels", "1"),
    ("0/feature-sg", "1"),
    ("0/feature-gso-tcpv4", "1"),
];
/// The time at which the model begins, in ns.
const START: u64 = 1_000_000_000;
/// Steps within which the link comes up once all behave.
const STEPS: usize = 800;

/// How often what may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    /// Acts of the back end that its protocol excludes, and times at which it does not act until
    /// the front end gives up.
    pub hostile: u8,
    pub front_crashes: u8,
    pub back_crashes: u8,
    /// Commits that conflict with another transaction.
    pub conflicts: u8,
    /// Requests to XenStore that are answered after the front end has given them up.
    pub late: u8,
}

/// A rule of the world that does not hold, to see a property fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The grant manager says that no page is mapped although some are.
    ManagerHidesMappings,
    /// The grant manager says that it has granted pages and has not.
    ManagerGrantsNothing,
    /// The grant manager says that grants have ended and has not ended them.
    ManagerForgetsToEnd,
    /// The back end unmaps nothing, also when it behaves.
    BackEndKeepsPages,
}

/// The back end's `state` node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    Missing,
    State(u8),
    Garbage,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Transaction {
    None,
    Open,
    /// It was open for too long, and XenStore's service has ended it.
    Lost,
}

/// A request to XenStore without an answer, or the answer to one that was read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Pending {
    None,
    Asked(Ask),
    /// The back end's state was read. It may change before the answer comes.
    Read(Node),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// XenStore carries out the request. The answer of a read of the state waits for `Deliver`.
    Store,
    Deliver,
    Conflict,
    /// The grant manager takes the next request.
    Grants,
    /// The next reply of the grant manager comes.
    Reply,
    /// The grant manager finds pages unmapped that were to end.
    Released,
    DeviceEvent,
    BackEndEvent,
    /// The back end goes on by its protocol.
    BackEnd,
    /// Time passes up to the next deadline.
    Tick,
    /// Time passes up to the later of the two deadlines that a step may have.
    TickOn,
    FrontCrash,
    /// The domain of the back end is destroyed. `Recreate` makes another.
    BackCrash,
    Recreate,
    HostileState(Node),
    HostileMap(usize),
    HostileUnmap(usize),
}

/// All but the handshake, in a form that can be compared.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Rest {
    budget: Budget,
    fault: Option<Fault>,
    front: u8,
    back: Node,
    watched: [bool; 2],
    fired: [bool; 2],
    transaction: Transaction,
    /// A state that was written in the open transaction.
    staged: Option<u8>,
    published: bool,
    keys_staged: bool,
    pending: Pending,
    requests: VecDeque<u8>,
    replies: VecDeque<(u8, Option<u16>)>,
    granted: [bool; 3],
    mapped: [bool; 3],
    /// Grants that are to end when the peer unmaps.
    ending: [bool; 3],
    ports: bool,
    /// The front end has crashed once. Replies to its earlier run may then pass for answers to this
    /// one, so that it takes grants for ended, or given, before they are.
    crashed: bool,
}

#[derive(Clone)]
pub struct World {
    handshake: Handshake,
    now: Instant,
    rest: Rest,
    pub violation: Option<&'static str>,
    /// The handshake's state, without what does not change what it may do: log lines, the count of
    /// failures, which sets the length of pauses, and how far off a deadline is.
    name: String,
    /// The later of its deadlines.
    last_deadline: Instant,
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        self.name == other.name && self.rest == other.rest && self.violation == other.violation
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.name, &self.rest, self.violation).hash(hasher);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {}", self.violation, self.rest, self.name)
    }
}

fn new_handshake() -> Handshake {
    Handshake::new([0, 1, 2].map(|rule| GrantPermission { rule, pages: 2, peer_first: 0, peer_last: 0 }), true)
}

fn value(text: &str) -> Value {
    text.bytes().collect()
}

/// A request of the grant manager as a number: the rule, and 128 if it is to end the grants.
const END: u8 = 128;

impl World {
    pub fn new(budget: Budget, fault: Option<Fault>) -> World {
        let rest = Rest {
            budget,
            fault,
            front: 1,
            back: Node::State(1),
            watched: [false; 2],
            fired: [false; 2],
            transaction: Transaction::None,
            staged: None,
            published: false,
            keys_staged: false,
            pending: Pending::None,
            requests: VecDeque::new(),
            replies: VecDeque::new(),
            granted: [false; 3],
            mapped: [false; 3],
            ending: [false; 3],
            ports: false,
            crashed: false,
        };
        let mut world = World {
            handshake: new_handshake(),
            now: Instant(START),
            rest,
            violation: None,
            name: String::new(),
            last_deadline: Instant(START),
        };
        world.drive();
        world.settle();
        world
    }

    pub fn is_up(&self) -> bool {
        self.handshake.is_up()
    }

    /// Names the state of the handshake.
    pub fn settle(&mut self) {
        let text = format!("{:?}", self.handshake);
        let (text, _) = text.split_once(", logged: ").expect("the last field");
        let (before, failures) = text.split_once(", failures: ").expect("a count");
        let (_, after) = failures.split_once(',').expect("more fields");
        self.last_deadline = latest(before, self.now.0).map_or(self.now, Instant);
        self.name = untimed(&format!("{before}{after}"), self.now.0);
    }

    /// Adds what can happen.
    pub fn actions(&self, actions: &mut Vec<Action>) {
        let rest = &self.rest;
        if self.violation.is_some() {
            return;
        }
        match rest.pending {
            Pending::None => {}
            Pending::Asked(_) => actions.push(Action::Store),
            Pending::Read(_) => actions.push(Action::Deliver),
        }
        if rest.pending == Pending::Asked(Ask::Commit) && rest.budget.conflicts > 0 {
            actions.push(Action::Conflict);
        }
        if !rest.requests.is_empty() {
            actions.push(Action::Grants);
        }
        if !rest.replies.is_empty() {
            actions.push(Action::Reply);
        }
        if (0..3).any(|area| rest.ending[area] && !rest.mapped[area]) {
            actions.push(Action::Released);
        }
        for (index, event) in [Action::DeviceEvent, Action::BackEndEvent].into_iter().enumerate() {
            if rest.fired[index] {
                actions.push(event);
            }
        }
        if self.next_of_back_end().is_some() {
            actions.push(Action::BackEnd);
        }
        // The grant manager answers in time. XenStore and the back end may not.
        let in_time = rest.requests.is_empty() && rest.replies.is_empty();
        let store = rest.pending == Pending::None || rest.budget.late > 0;
        let back_end = self.next_of_back_end().is_none() || rest.budget.hostile > 0;
        if in_time && store && back_end && self.handshake.deadline().is_some() {
            actions.push(Action::Tick);
            if self.handshake.deadline() < Some(self.last_deadline) {
                actions.push(Action::TickOn);
            }
        }
        if rest.back == Node::Missing {
            actions.push(Action::Recreate);
        }
        if rest.budget.front_crashes > 0 {
            actions.push(Action::FrontCrash);
        }
        if rest.budget.back_crashes > 0 && rest.back != Node::Missing {
            actions.push(Action::BackCrash);
        }
        if rest.budget.hostile > 0 {
            let nodes = (0..=8).map(Node::State).chain([Node::Missing, Node::Garbage]);
            actions.extend(nodes.filter(|node| *node != rest.back).map(Action::HostileState));
            actions.extend((0..3).filter(|area| rest.granted[*area] && !rest.mapped[*area]).map(Action::HostileMap));
            actions.extend((0..3).filter(|area| rest.mapped[*area]).map(Action::HostileUnmap));
        }
    }

    pub fn act(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Store => self.ask_store(),
            Action::Deliver => {
                let Pending::Read(node) = self.rest.pending else { return };
                let result = match node {
                    Node::Missing => Err(StoreError::NotFound),
                    Node::State(state) => Ok(value(&state.to_string())),
                    Node::Garbage => Ok(value("x")),
                };
                self.answer(result);
            }
            Action::Conflict => {
                self.rest.budget.conflicts -= 1;
                (self.rest.transaction, self.rest.keys_staged) = (Transaction::None, false);
                self.answer(Err(StoreError::Again));
            }
            Action::Grants => self.serve_grants(),
            Action::Reply => {
                let Some((rule, ended)) = self.rest.replies.pop_front() else { return };
                let reply = match ended {
                    Some(still_mapped) => Reply::Ended { rule, still_mapped },
                    None => Reply::Issued { rule, reference: GrantRef(8 + 2 * u32::from(rule)), count: 2 },
                };
                self.handshake.grants_answered(reply, now);
            }
            Action::Released => {
                let area = (0..3).find(|area| self.rest.ending[*area] && !self.rest.mapped[*area]);
                let Some(area) = area else { return };
                (self.rest.ending[area], self.rest.granted[area]) = (false, false);
                self.rest.replies.push_back((area as u8, Some(0)));
            }
            Action::DeviceEvent => self.event(0, DEVICE_TOKEN),
            Action::BackEndEvent => self.event(1, BACKEND_TOKEN),
            Action::BackEnd => {
                let Some((state, mapped)) = self.next_of_back_end() else { return };
                self.rest.mapped = mapped;
                self.set_back(Node::State(state));
            }
            Action::Tick | Action::TickOn => {
                let Some(deadline) = self.handshake.deadline() else { return };
                self.rest.budget.late -= u8::from(self.rest.pending != Pending::None);
                self.rest.budget.hostile -= u8::from(self.next_of_back_end().is_some());
                self.now = if action == Action::Tick { self.now.max(deadline) } else { self.last_deadline };
                if self.rest.transaction == Transaction::Open && self.rest.pending == Pending::None {
                    (self.rest.transaction, self.rest.staged, self.rest.keys_staged) = (Transaction::Lost, None, false);
                }
                self.handshake.tick(self.now);
            }
            Action::FrontCrash => {
                self.rest.budget.front_crashes -= 1;
                self.rest.crashed = true;
                self.handshake = new_handshake();
                self.rest.pending = Pending::None;
            }
            Action::BackCrash => {
                self.rest.budget.back_crashes -= 1;
                self.rest.mapped = [false; 3];
                self.set_back(Node::Missing);
            }
            Action::Recreate => self.recreate(),
            Action::HostileState(node) => {
                self.rest.budget.hostile -= 1;
                self.set_back(node);
            }
            Action::HostileMap(area) | Action::HostileUnmap(area) => {
                self.rest.budget.hostile -= 1;
                self.rest.mapped[area] = matches!(action, Action::HostileMap(_));
            }
        }
        self.drive();
    }

    fn event(&mut self, index: usize, token: u16) {
        self.rest.fired[index] = false;
        self.handshake.watch_fired(token, self.now);
    }

    fn set_back(&mut self, node: Node) {
        self.rest.back = node;
        self.rest.fired[1] |= self.rest.watched[1];
    }

    /// The toolstack makes the device again.
    fn recreate(&mut self) {
        (self.rest.front, self.rest.published) = (1, false);
        self.set_back(Node::State(1));
        self.rest.fired[0] |= self.rest.watched[0];
    }

    /// Carries out the handshake's commands, as the service does.
    fn drive(&mut self) {
        while let Some(command) = self.handshake.command(self.now) {
            // An earlier request was given up: it is carried out all the same, and not answered.
            if let Pending::Asked(ask) = std::mem::replace(&mut self.rest.pending, Pending::None) {
                self.carry_out(ask);
            }
            match command {
                Command::Store(action) => self.rest.pending = Pending::Asked(Ask::of(&action)),
                Command::Grants(Request::Issue { rule, .. }) => self.rest.requests.push_back(rule),
                Command::Grants(Request::End { rule }) => self.rest.requests.push_back(rule | END),
                Command::OpenPorts { .. } => {
                    self.rest.ports = true;
                    self.handshake.ports_opened(Some((EvtchnPort(5), EvtchnPort(6))), self.now);
                }
                Command::ResetRings if self.rest.mapped[0] || self.rest.granted[0] => self.violate(RESET),
                Command::Start { .. } if self.rest.granted != [true; 3] => self.violate(UNGRANTED),
                Command::ResetRings | Command::Start { .. } => {}
                Command::Stop => self.rest.ports = false,
            }
        }
        self.handshake.take_notes();
        if self.handshake.is_up() && (self.rest.granted != [true; 3] || !self.rest.ports) {
            self.violate(UNGRANTED);
        }
    }

    /// Notes that a rule was broken by a front end that has not crashed.
    fn violate(&mut self, rule: &'static str) {
        if !self.rest.crashed {
            self.violation = Some(rule);
        }
    }

    fn answer(&mut self, result: Result<Value, StoreError>) {
        self.rest.pending = Pending::None;
        self.handshake.store_answered(result, self.now);
    }

    fn ask_store(&mut self) {
        let Pending::Asked(ask) = std::mem::replace(&mut self.rest.pending, Pending::None) else { return };
        if let Some(result) = self.carry_out(ask) {
            self.answer(result);
        }
    }

    /// Carries out a request to XenStore. Returns the answer, unless that comes later.
    fn carry_out(&mut self, ask: Ask) -> Option<Result<Value, StoreError>> {
        let rest = &mut self.rest;
        let done = Ok(Value::new());
        let lost = rest.transaction == Transaction::Lost;
        Some(match ask {
            Ask::ReadState | Ask::Read(_) | Ask::Write(..) if lost => Err(StoreError::Again),
            Ask::ReadState => {
                rest.pending = Pending::Read(rest.back);
                return None;
            }
            Ask::Read(name) if name == "device/vif/0/state" => Ok(value(&rest.front.to_string())),
            Ask::Read(name) if !name.starts_with("device") && rest.back == Node::Missing => Err(StoreError::NotFound),
            Ask::Read(name) => {
                NODES.iter().find(|node| node.0 == name).map(|node| value(node.1)).ok_or(StoreError::NotFound)
            }
            Ask::Write(name, text) => {
                self.write(&name, &text);
                done
            }
            Ask::Watch(token) => {
                let index = usize::from(token == BACKEND_TOKEN);
                let again = std::mem::replace(&mut rest.watched[index], true);
                rest.fired[index] |= !again;
                if again { Err(StoreError::Other) } else { done }
            }
            Ask::Unwatch(token) => {
                let index = usize::from(token == BACKEND_TOKEN);
                (rest.watched[index], rest.fired[index]) = (false, false);
                done
            }
            Ask::Begin if rest.transaction == Transaction::Open => Err(StoreError::Other),
            Ask::Begin => {
                rest.transaction = Transaction::Open;
                done
            }
            Ask::Commit | Ask::Abort => self.end_transaction(ask == Ask::Commit),
        })
    }

    fn end_transaction(&mut self, commit: bool) -> Result<Value, StoreError> {
        let rest = &mut self.rest;
        let (state, keys) = (rest.staged.take(), std::mem::take(&mut rest.keys_staged));
        match std::mem::replace(&mut rest.transaction, Transaction::None) {
            Transaction::Open if commit => {
                rest.published |= keys;
                rest.front = state.unwrap_or(rest.front);
                Ok(Value::new())
            }
            Transaction::Lost if commit => Err(StoreError::Again),
            Transaction::None => Err(StoreError::Other),
            Transaction::Open | Transaction::Lost => Ok(Value::new()),
        }
    }

    fn write(&mut self, name: &str, text: &str) {
        let rest = &mut self.rest;
        if name == "device/vif/0/state" {
            let state = text.parse().expect("a state");
            if rest.transaction == Transaction::Open {
                rest.staged = Some(state);
                return;
            }
            rest.front = state;
            let left = (0..3).any(|area| rest.granted[area] && !rest.mapped[area] && !rest.ending[area]);
            match state {
                4 if rest.granted != [true; 3] || !rest.ports => self.violate(UNGRANTED),
                6 if left => self.violate(LEFT),
                _ => {}
            }
        } else if name.starts_with("device/vif/0/") {
            rest.keys_staged = true;
        }
    }

    /// Lets the grant manager serve one request.
    fn serve_grants(&mut self) {
        let rest = &mut self.rest;
        let Some(request) = rest.requests.pop_front() else { return };
        let (rule, area) = (request & !END, usize::from(request & !END));
        if request & END == 0 {
            rest.granted[area] = rest.fault != Some(Fault::ManagerGrantsNothing);
            return rest.replies.push_back((rule, None));
        }
        let still_mapped = if rest.mapped[area] { 2 } else { 0 };
        if rest.mapped[area] {
            rest.ending[area] = true;
        } else if rest.fault != Some(Fault::ManagerForgetsToEnd) {
            (rest.granted[area], rest.ending[area]) = (false, false);
        }
        let hides = rest.fault == Some(Fault::ManagerHidesMappings);
        rest.replies.push_back((rule, Some(if hides { 0 } else { still_mapped })));
    }

    /// Returns the next state of a back end that keeps to its protocol, and the areas that it then
    /// maps. Returns `None` if it waits for the front end.
    fn next_of_back_end(&self) -> Option<(u8, [bool; 3])> {
        let Rest { front, back: Node::State(back), granted, mapped, published, .. } = self.rest else { return None };
        let keeps = self.rest.fault == Some(Fault::BackEndKeepsPages);
        let none = if keeps { mapped } else { [false; 3] };
        match (front, back) {
            (1, 1 | 6) => Some((2, none)),
            // It sees that the front end has started over, even if it has not seen it close.
            (1, 3..=5) => Some((6, none)),
            (4, 2) if published && granted == [true; 3] => Some((4, [true; 3])),
            (5, 1 | 2 | 4) => Some((5, none)),
            (6, 1..=5) => Some((6, none)),
            _ => None,
        }
    }

    /// Returns `true` if the link comes up when every party behaves from now on.
    pub fn recovers(&self) -> bool {
        let mut world = self.clone();
        world.rest.budget = Budget { hostile: 0, front_crashes: 0, back_crashes: 0, conflicts: 0, late: 0 };
        world.begin_to_behave();
        for _ in 0..STEPS {
            if world.is_up() && world.rest.back == Node::State(4) && world.rest.mapped == [true; 3]
                || world.handshake.is_stopped()
                || world.violation.is_some()
            {
                return true;
            }
            let mut actions = Vec::new();
            world.actions(&mut actions);
            // Time passes only when nothing else can happen.
            let Some(action) = actions.first() else { return false };
            world.act(*action);
        }
        false
    }

    /// Ends what a back end that behaves would not have done: it starts over, and keeps no page.
    fn begin_to_behave(&mut self) {
        let all = self.rest.mapped == [true; 3];
        match self.rest.back {
            Node::Missing => self.recreate(),
            Node::State(4) if all && matches!(self.rest.front, 4..=6) => return,
            Node::State(1 | 2 | 5 | 6) => {}
            _ => self.set_back(Node::State(6)),
        }
        if self.rest.fault != Some(Fault::BackEndKeepsPages) {
            self.rest.mapped = [false; 3];
        }
    }
}
