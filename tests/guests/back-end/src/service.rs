//! The back end's side of the XenStore protocol: finds the device, offers a connection, connects,
//! and disconnects.

use core::fmt::{self, Write};
use core::time::Duration;

use cloister_caps::DomId;
use cloister_caps::xen::xenbus::XenbusState;
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::store::{Action, MAX_VALUE, Path, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

use crate::Caps;
use crate::attack::ScriptRun;
use crate::link::{Ends, Keys, Link};
use crate::script::{Attack, SCRIPTS, Script, find};

/// The nodes that an honest back end writes. Those of a script replace them.
const OFFER: [(&str, &str); 3] =
    [("feature-rx-copy", "1"), ("feature-split-event-channels", "1"), ("hotplug-status", "connected")];
/// The front end's keys, in the order of [`Keys`]. The last replaces the two before it.
const KEYS: [&str; 5] = ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx", "event-channel"];
/// The interval between requests to XenStore, while there is no device and while there is one.
const DEVICE_POLL: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(40);
/// The time in which the front end must connect. Then the script ends.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// The time that the toolstack gets to see that the back end has closed.
const REMOVE_TIME: Duration = Duration::from_millis(300);
/// The time that the front end gets to refuse an offer.
const REFUSE_TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Find the domain that has a device of ours.
    Domains,
    Devices,
    Script,
    /// The nodes of the offer, by number, then the state.
    Offer(usize),
    InitWait,
    AwaitFrontEnd,
    AwaitOnline,
    Key(usize),
    Connected,
    /// The connection is up: write a node of the script, or check the states.
    Node,
    CheckFrontEnd,
    CheckOnline,
    /// The connection has ended.
    Keep,
    Close,
    /// The toolstack detaches the device once the back end has removed its directory.
    AwaitOffline,
    Remove,
    Gone,
}

/// The back end.
pub struct BackEnd<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    store: Client<Store, S, M>,
    link: Option<Link<S, M>>,
    step: Step,
    /// The time of the step's request.
    due: Instant,
    /// The id of the request without a reply.
    pending_request: Option<u16>,
    next_id: u16,
    front_end: u16,
    script: &'static Script,
    run: Option<ScriptRun>,
    node: Option<crate::attack::Node>,
    keys: [u32; KEYS.len()],
    /// The time until which the front end must connect, or until which pages stay mapped.
    limit: Instant,
    logged: bool,
}

impl<S: System, M: Memory> BackEnd<S, M> {
    /// Creates the service, before it looks for a device.
    pub fn new(caps: Caps<S, M>) -> Self {
        let Caps { console, clock, store, peer_written, peer_read, grant_rules, .. } = caps;
        let (tx_events, rx_events, spare_events) = (caps.tx_events, caps.rx_events, caps.spare_events);
        console.line(format_args!("{} scripts", SCRIPTS.len()));
        BackEnd {
            console,
            clock,
            store,
            link: Link::new(Ends { peer_written, peer_read, grant_rules, tx_events, rx_events, spare_events }),
            step: Step::Domains,
            due: Instant::START,
            pending_request: None,
            next_id: 0,
            front_end: 0,
            script: &SCRIPTS[0],
            run: None,
            node: None,
            keys: [0; KEYS.len()],
            limit: Instant::START,
            logged: false,
        }
    }

    fn path(&self, text: fmt::Arguments<'_>) -> Path {
        let mut path = Path::new();
        // All texts here are far shorter than the longest path.
        let _ = path.write_fmt(text);
        path
    }

    fn own_node(&self, node: &str) -> Path {
        self.path(format_args!("backend/vif/{}/0/{node}", self.front_end))
    }

    fn front_end_node(&self, node: &str) -> Path {
        self.path(format_args!("/local/domain/{}/device/vif/0/{node}", self.front_end))
    }

    /// Returns the nodes of the offer: those of the script, and the honest ones that they do not
    /// replace.
    fn offer(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let nodes = self.script.nodes;
        let honest = OFFER.into_iter().filter(move |(key, _)| nodes.iter().all(|(other, _)| other != key));
        nodes.iter().copied().chain(honest)
    }

    /// Returns the XenStore request of the step.
    fn action(&self) -> Action {
        match self.step {
            Step::Domains => Action::List(self.path(format_args!("backend/vif"))),
            Step::Devices | Step::Gone => Action::List(self.path(format_args!("backend/vif/{}", self.front_end))),
            Step::Script => Action::Read(self.path(format_args!("data/script"))),
            Step::Offer(index) => match self.offer().nth(index) {
                Some((key, text)) => Action::Write(self.own_node(key), value(text)),
                None => self.write_state(XenbusState::Initialising),
            },
            Step::InitWait => self.write_state(XenbusState::InitWait),
            Step::AwaitFrontEnd | Step::CheckFrontEnd => Action::Read(self.front_end_node("state")),
            Step::AwaitOnline | Step::CheckOnline | Step::Keep | Step::AwaitOffline => {
                Action::Read(self.own_node("online"))
            }
            Step::Key(index) => Action::Read(self.front_end_node(KEYS.get(index).copied().unwrap_or_default())),
            Step::Connected => self.write_state(XenbusState::Connected),
            Step::Node => match self.node {
                Some((key, Some(text))) => Action::Write(self.own_node(key), value(text)),
                Some((key, None)) => Action::Remove(self.own_node(key)),
                None => Action::Read(self.own_node("online")),
            },
            Step::Close => self.write_state(XenbusState::Closed),
            Step::Remove => Action::Remove(self.path(format_args!("backend/vif/{}/0", self.front_end))),
        }
    }

    fn write_state(&self, state: XenbusState) -> Action {
        Action::Write(self.own_node("state"), value(state.digit()))
    }

    fn go_to(&mut self, step: Step, due: Instant) {
        (self.step, self.due) = (step, due);
    }

    fn handle_reply(&mut self, result: Result<Value, StoreError>, now: Instant) {
        let bytes = result.as_deref().unwrap_or_default();
        match self.step {
            Step::Domains => match names(bytes).find_map(number) {
                Some(front_end) => {
                    self.front_end = front_end as u16;
                    self.go_to(Step::Devices, now);
                }
                None => self.go_to(Step::Domains, now + DEVICE_POLL),
            },
            Step::Devices if names(bytes).any(|name| name == b"0") => self.go_to(Step::Script, now),
            Step::Devices => self.go_to(Step::Domains, now + DEVICE_POLL),
            Step::Script => self.begin_script(bytes, now),
            Step::Offer(index) if index + 1 < self.offer().count() => self.go_to(Step::Offer(index + 1), now),
            Step::Offer(_) => self.go_to(Step::InitWait, now),
            Step::InitWait => self.go_to(Step::AwaitFrontEnd, now),
            Step::AwaitFrontEnd if is_connected(bytes) => {
                self.keys = [0; KEYS.len()];
                self.go_to(Step::Key(0), now);
            }
            Step::AwaitFrontEnd => {
                if now >= self.limit {
                    self.log_outcome(format_args!("no connection"));
                }
                self.go_to(Step::AwaitOnline, now);
            }
            Step::AwaitOnline if bytes == b"1" => self.go_to(Step::AwaitFrontEnd, now + POLL),
            Step::AwaitOnline => self.end_connection(now),
            Step::Key(index) => self.take_key(index, bytes, now),
            Step::Connected => {
                self.run = Some(ScriptRun::new(self.script, now));
                self.go_to(Step::CheckFrontEnd, now);
            }
            Step::Node => {
                self.node = None;
                self.go_to(Step::CheckFrontEnd, now + POLL);
            }
            Step::CheckFrontEnd if is_connected(bytes) => self.go_to(Step::CheckOnline, now + POLL),
            Step::CheckFrontEnd => self.end_connection(now),
            Step::CheckOnline if bytes == b"1" => self.go_to(Step::CheckFrontEnd, now + POLL),
            Step::CheckOnline => self.end_connection(now),
            Step::Keep if now < self.limit => self.go_to(Step::Keep, now + POLL),
            Step::Keep => {
                self.link.iter_mut().for_each(Link::disconnect);
                self.go_to(Step::Close, now);
            }
            Step::Close => self.go_to(Step::AwaitOffline, now + POLL),
            Step::AwaitOffline if bytes == b"1" => self.go_to(Step::AwaitOffline, now + POLL),
            Step::AwaitOffline => self.go_to(Step::Remove, now + REMOVE_TIME),
            Step::Remove => self.go_to(Step::Gone, now),
            Step::Gone if names(bytes).any(|name| name == b"0") => self.go_to(Step::Gone, now + POLL),
            Step::Gone => self.go_to(Step::Domains, now),
        }
    }

    /// Begins the script of this name, or else the first one.
    fn begin_script(&mut self, name: &[u8], now: Instant) {
        self.script = find(name).unwrap_or(&SCRIPTS[0]);
        (self.run, self.logged) = (None, false);
        let refused = !self.script.nodes.is_empty() && !self.script.says.is_empty();
        self.limit = now + if refused { REFUSE_TIME } else { CONNECT_TIME };
        self.console.line(format_args!("script {}: {}", self.script.name, self.script.about));
        self.go_to(Step::Offer(0), now);
    }

    /// Takes the value of a key, and goes on to the next key, or connects.
    fn take_key(&mut self, index: usize, text: &[u8], now: Instant) {
        self.keys[index] = number(text).unwrap_or(0);
        // The key of the only channel is read if there are not two.
        let next = if index == 3 && self.keys[3] != 0 { index + 2 } else { index + 1 };
        if next < KEYS.len() { self.go_to(Step::Key(next), now) } else { self.connect(now) }
    }

    fn connect(&mut self, now: Instant) {
        let [tx_ring, rx_ring, tx_port, rx_port, both] = self.keys;
        let tx_port = if rx_port == 0 { both } else { tx_port };
        let Some(link) = self.link.as_mut() else { return };
        link.search = self.script.attack == Attack::Dump;
        match link.connect(DomId(self.front_end), Keys { tx_ring, rx_ring, tx_port, rx_port }) {
            Ok(()) => self.go_to(Step::Connected, now),
            Err(what) => {
                self.log_outcome(format_args!("{what}"));
                self.end_connection(now);
            }
        }
    }

    /// Ends the connection, whoever closed it.
    fn end_connection(&mut self, now: Instant) {
        if let Some(run) = self.run.as_mut() {
            run.end();
        }
        self.report();
        self.run = None;
        if let Attack::Keep(ms) = self.script.attack {
            self.limit = now + Duration::from_millis(ms);
            self.console.line(format_args!("keeps all pages for {ms} ms"));
            return self.go_to(Step::Keep, now);
        }
        self.link.iter_mut().for_each(Link::disconnect);
        self.go_to(Step::Close, now);
    }

    fn log_outcome(&mut self, what: fmt::Arguments<'_>) {
        if !core::mem::replace(&mut self.logged, true) {
            self.console.line(format_args!("done {}: {what}", self.script.name));
        }
    }

    fn report(&mut self) {
        if let Some(run) = self.run.take() {
            self.log_outcome(format_args!("{run}"));
            self.run = Some(run);
        }
    }

    fn handle_replies(&mut self, now: Instant) {
        while let Some(reply) = self.store.replies.pop() {
            if let Ok(Reply::Answer { id, result }) = reply
                && self.pending_request == Some(id)
            {
                self.pending_request = None;
                self.handle_reply(result, now);
            }
        }
    }

    fn send_request(&mut self, now: Instant) {
        if self.pending_request.is_some() {
            return;
        }
        if self.node.is_some() && matches!(self.step, Step::CheckFrontEnd | Step::CheckOnline) {
            self.go_to(Step::Node, now);
        }
        if now < self.due {
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let request = Request { id: self.next_id, action: self.action() };
        if self.store.requests.send(&request).is_ok() {
            self.pending_request = Some(self.next_id);
        }
    }
}

fn value(text: &str) -> Value {
    text.bytes().take(MAX_VALUE).collect()
}

/// Returns `true` if a `state` node says that its end is connected.
fn is_connected(state: &[u8]) -> bool {
    state == XenbusState::Connected.digit().as_bytes()
}

/// Returns the names of a listing.
fn names(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

impl<S: System, M: Memory> Service for BackEnd<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.handle_replies(now);
        if let (Some(link), Some(run)) = (self.link.as_mut(), self.run.as_mut())
            && self.node.is_none()
        {
            self.node = run.step(link, now);
        }
        if self.run.as_ref().is_some_and(ScriptRun::is_done) {
            self.report();
        }
        self.send_request(now);
    }

    fn deadline(&self) -> Option<Instant> {
        let store = self.pending_request.is_none().then_some(self.due);
        let run = self.run.as_ref().map(ScriptRun::deadline);
        store.into_iter().chain(run).min()
    }
}
