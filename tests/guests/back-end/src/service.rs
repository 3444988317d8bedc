//! The conversation over XenStore: find the device, offer a connection, connect, let go.

use core::fmt::{self, Write};
use core::time::Duration;

use cloister_caps::DomId;
use cloister_interfaces::capability::{Clock, Console};
use cloister_interfaces::store::{Action, Failure, MAX_VALUE, Path, Reply, Request, Store, Value};
use cloister_interfaces::{Client, Instant, Memory, Notifications, Service, System};

use crate::Caps;
use crate::attack::Run;
use crate::link::{Ends, Keys, Link};
use crate::script::{Attack, SCRIPTS, Script, find};

/// Nodes that an honest back end writes; a script's take their place.
const OFFER: [(&str, &str); 3] =
    [("feature-rx-copy", "1"), ("feature-split-event-channels", "1"), ("hotplug-status", "connected")];
/// The front end's keys, in the order of [`Keys`]; the last stands for the two before it.
const KEYS: [&str; 5] = ["tx-ring-ref", "rx-ring-ref", "event-channel-tx", "event-channel-rx", "event-channel"];
/// How often XenStore is asked for a change: where there is no device, and where there is one.
const SEEK: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(40);
/// How long the front end may take to connect before the script is taken to be over.
const CONNECT_TIME: Duration = Duration::from_secs(20);
/// How long the toolstack is given to see that the back end has closed.
const REMOVE_TIME: Duration = Duration::from_millis(300);
/// How long it is given to refuse an offer.
const REFUSE_TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Which domain has a device of us.
    Domains,
    Devices,
    Script,
    /// The nodes of the offer, by number, then the state.
    Offer(usize),
    InitWait,
    AwaitFront,
    AwaitOnline,
    Key(usize),
    Connected,
    /// The connection stands: a node of the script is written, or the states are looked at.
    Node,
    Front,
    Online,
    /// It does not any more.
    Keep,
    Close,
    /// The toolstack takes the device away when its directory has gone, which is for the back end to remove.
    AwaitOffline,
    Remove,
    Gone,
}

/// The service.
pub struct BackEnd<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    store: Client<Store, S, M>,
    link: Option<Link<S, M>>,
    step: Step,
    /// When the step's request is made.
    due: Instant,
    /// The request that has no answer.
    asked: Option<u16>,
    next_id: u16,
    front: u16,
    script: &'static Script,
    run: Option<Run>,
    node: Option<crate::attack::Node>,
    keys: [u32; KEYS.len()],
    /// When the front end must have connected, or what is kept is let go.
    limit: Instant,
    told: bool,
}

impl<S: System, M: Memory> BackEnd<S, M> {
    /// The service, before it looks for a device.
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
            asked: None,
            next_id: 0,
            front: 0,
            script: &SCRIPTS[0],
            run: None,
            node: None,
            keys: [0; KEYS.len()],
            limit: Instant::START,
            told: false,
        }
    }

    fn path(&self, text: fmt::Arguments<'_>) -> Path {
        let mut path = Path::new();
        // All that is written here is far shorter than a path may be.
        let _ = path.write_fmt(text);
        path
    }

    fn own(&self, node: &str) -> Path {
        self.path(format_args!("backend/vif/{}/0/{node}", self.front))
    }

    fn theirs(&self, node: &str) -> Path {
        self.path(format_args!("/local/domain/{}/device/vif/0/{node}", self.front))
    }

    /// Nodes of the offer: the script's, and the honest ones whose place they do not take.
    fn offer(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let nodes = self.script.nodes;
        let honest = OFFER.into_iter().filter(move |(key, _)| nodes.iter().all(|(other, _)| other != key));
        nodes.iter().copied().chain(honest)
    }

    /// What the step asks of XenStore.
    fn action(&self) -> Action {
        match self.step {
            Step::Domains => Action::List(self.path(format_args!("backend/vif"))),
            Step::Devices | Step::Gone => Action::List(self.path(format_args!("backend/vif/{}", self.front))),
            Step::Script => Action::Read(self.path(format_args!("data/script"))),
            Step::Offer(index) => match self.offer().nth(index) {
                Some((key, text)) => Action::Write(self.own(key), value(text)),
                None => Action::Write(self.own("state"), value("1")),
            },
            Step::InitWait => Action::Write(self.own("state"), value("2")),
            Step::AwaitFront | Step::Front => Action::Read(self.theirs("state")),
            Step::AwaitOnline | Step::Online | Step::Keep | Step::AwaitOffline => Action::Read(self.own("online")),
            Step::Key(index) => Action::Read(self.theirs(KEYS.get(index).copied().unwrap_or_default())),
            Step::Connected => Action::Write(self.own("state"), value("4")),
            Step::Node => match self.node {
                Some((key, Some(text))) => Action::Write(self.own(key), value(text)),
                Some((key, None)) => Action::Remove(self.own(key)),
                None => Action::Read(self.own("online")),
            },
            Step::Close => Action::Write(self.own("state"), value("6")),
            Step::Remove => Action::Remove(self.path(format_args!("backend/vif/{}/0", self.front))),
        }
    }

    fn go(&mut self, step: Step, due: Instant) {
        (self.step, self.due) = (step, due);
    }

    fn answered(&mut self, result: Result<Value, Failure>, now: Instant) {
        let bytes = result.as_deref().unwrap_or_default();
        match self.step {
            Step::Domains => match names(bytes).find_map(number) {
                Some(front) => {
                    self.front = front as u16;
                    self.go(Step::Devices, now);
                }
                None => self.go(Step::Domains, now + SEEK),
            },
            Step::Devices if names(bytes).any(|name| name == b"0") => self.go(Step::Script, now),
            Step::Devices => self.go(Step::Domains, now + SEEK),
            Step::Script => {
                self.script = find(bytes).unwrap_or(&SCRIPTS[0]);
                (self.run, self.told) = (None, false);
                let refused = !self.script.nodes.is_empty() && !self.script.says.is_empty();
                self.limit = now + if refused { REFUSE_TIME } else { CONNECT_TIME };
                self.console.line(format_args!("script {}: {}", self.script.name, self.script.about));
                self.go(Step::Offer(0), now);
            }
            Step::Offer(index) if index + 1 < self.offer().count() => self.go(Step::Offer(index + 1), now),
            Step::Offer(_) => self.go(Step::InitWait, now),
            Step::InitWait => self.go(Step::AwaitFront, now),
            Step::AwaitFront if bytes == b"4" => {
                self.keys = [0; KEYS.len()];
                self.go(Step::Key(0), now);
            }
            Step::AwaitFront => {
                if now >= self.limit {
                    self.tell(format_args!("no connection"));
                }
                self.go(Step::AwaitOnline, now);
            }
            Step::AwaitOnline if bytes == b"1" => self.go(Step::AwaitFront, now + LOOK),
            Step::AwaitOnline => self.let_go(now),
            Step::Key(index) => {
                self.keys[index] = number(bytes).unwrap_or(0);
                // One channel, if there are not two.
                let next = if index == 3 && self.keys[3] != 0 { index + 2 } else { index + 1 };
                if next < KEYS.len() { self.go(Step::Key(next), now) } else { self.connect(now) }
            }
            Step::Connected => {
                self.run = Some(Run::new(self.script, now));
                self.go(Step::Front, now);
            }
            Step::Node => {
                self.node = None;
                self.go(Step::Front, now + LOOK);
            }
            Step::Front if bytes == b"4" => self.go(Step::Online, now + LOOK),
            Step::Front => {
                self.let_go(now);
            }
            Step::Online if bytes == b"1" => self.go(Step::Front, now + LOOK),
            Step::Online => self.let_go(now),
            Step::Keep if now < self.limit => self.go(Step::Keep, now + LOOK),
            Step::Keep => {
                self.link.iter_mut().for_each(Link::disconnect);
                self.go(Step::Close, now);
            }
            Step::Close => self.go(Step::AwaitOffline, now + LOOK),
            Step::AwaitOffline if bytes == b"1" => self.go(Step::AwaitOffline, now + LOOK),
            Step::AwaitOffline => self.go(Step::Remove, now + REMOVE_TIME),
            Step::Remove => self.go(Step::Gone, now),
            Step::Gone if names(bytes).any(|name| name == b"0") => self.go(Step::Gone, now + LOOK),
            Step::Gone => self.go(Step::Domains, now),
        }
    }

    fn connect(&mut self, now: Instant) {
        let [tx_ring, rx_ring, tx_port, rx_port, both] = self.keys;
        let tx_port = if rx_port == 0 { both } else { tx_port };
        let Some(link) = self.link.as_mut() else { return };
        link.search = self.script.attack == Attack::Dump;
        match link.connect(DomId(self.front), Keys { tx_ring, rx_ring, tx_port, rx_port }) {
            Ok(()) => self.go(Step::Connected, now),
            Err(what) => {
                self.tell(format_args!("{what}"));
                self.let_go(now);
            }
        }
    }

    /// The connection is over, by whomever.
    fn let_go(&mut self, now: Instant) {
        if let Some(run) = self.run.as_mut() {
            run.end();
        }
        self.report();
        self.run = None;
        if let Attack::Keep(ms) = self.script.attack {
            self.limit = now + Duration::from_millis(ms);
            self.console.line(format_args!("keeps all pages for {ms} ms"));
            return self.go(Step::Keep, now);
        }
        self.link.iter_mut().for_each(Link::disconnect);
        self.go(Step::Close, now);
    }

    fn tell(&mut self, what: fmt::Arguments<'_>) {
        if !core::mem::replace(&mut self.told, true) {
            self.console.line(format_args!("done {}: {what}", self.script.name));
        }
    }

    fn report(&mut self) {
        if let Some(run) = self.run.take() {
            self.tell(format_args!("{run}"));
            self.run = Some(run);
        }
    }

    fn hear(&mut self, now: Instant) {
        while let Some(reply) = self.store.replies.pop() {
            if let Ok(Reply::Answer { id, result }) = reply
                && self.asked == Some(id)
            {
                self.asked = None;
                self.answered(result, now);
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        if self.asked.is_some() {
            return;
        }
        if self.node.is_some() && matches!(self.step, Step::Front | Step::Online) {
            self.go(Step::Node, now);
        }
        if now < self.due {
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let request = Request { id: self.next_id, action: self.action() };
        if self.store.requests.send(&request).is_ok() {
            self.asked = Some(self.next_id);
        }
    }
}

fn value(text: &str) -> Value {
    text.bytes().take(MAX_VALUE).collect()
}

/// The names of a listing.
fn names(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

impl<S: System, M: Memory> Service for BackEnd<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        self.hear(now);
        if let (Some(link), Some(run)) = (self.link.as_mut(), self.run.as_mut())
            && self.node.is_none()
        {
            self.node = run.step(link, now);
        }
        if self.run.as_ref().is_some_and(Run::is_done) {
            self.report();
        }
        self.ask(now);
    }

    fn deadline(&self) -> Option<Instant> {
        let store = self.asked.is_none().then_some(self.due);
        let run = self.run.as_ref().map(Run::deadline);
        store.into_iter().chain(run).min()
    }
}
