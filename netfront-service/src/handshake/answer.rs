//! What came of it.

use cloister_caps::EvtchnPort;
use cloister_interfaces::store::{Failure, Path, Value};
use cloister_interfaces::{Instant, grants};

use super::{ATTEMPTS, Handshake, MTU, POLL, Seen, Step, node};
use crate::keys::{self, State};

impl Handshake {
    /// XenStore's answer.
    pub fn answered(&mut self, result: Result<Value, Failure>, now: Instant) {
        if !self.waiting {
            return;
        }
        self.waiting = false;
        match self.step {
            Step::BackendId | Step::Backend | Step::Mac | Step::Mtu | Step::Online | Step::OwnState => {
                self.device(result, now);
            }
            Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing => self.seen(result, now),
            Step::WatchOwn => {
                // `Other` is a watch that a former self of this service has left.
                self.own_watched = matches!(result, Ok(_) | Err(Failure::Other));
                if self.own_watched { self.advance(now) } else { self.retry(now) }
            }
            Step::Unwatch => {
                self.watched = None;
                self.advance(now);
            }
            Step::WatchBackend => match result {
                Ok(_) | Err(Failure::Other) => {
                    self.watched = Some(node(&self.backend, "state"));
                    self.advance(now);
                }
                Err(_) => self.fail("the back end cannot be watched", now),
            },
            Step::RxCopy if result.as_deref().ok().and_then(keys::flag) != Some(true) => {
                self.fail("the back end does not copy received frames", now);
            }
            Step::Split | Step::ScatterGather | Step::Segmentation => {
                let offered = result.as_deref().ok().and_then(keys::flag) == Some(true);
                match self.step {
                    Step::Split => self.split = offered,
                    Step::ScatterGather => self.scatter_gather = offered,
                    _ => self.segmentation = offered,
                }
                self.advance(now);
            }
            Step::Commit if result == Err(Failure::Again) && self.attempts < ATTEMPTS => {
                self.transaction = false;
                self.attempts += 1;
                self.go(Step::Begin, now);
            }
            Step::Commit if result.is_ok() => {
                self.transaction = false;
                self.advance(now);
            }
            // Whatever comes of it, the taking down goes on.
            step if step.is_ending() => self.advance(now),
            _ if result.is_ok() => self.advance(now),
            _ => self.fail("XenStore refused a step of the connection", now),
        }
    }

    /// The back end's state is none: that is waited out, and told once a connection.
    fn odd_state(&mut self) -> Seen {
        if !core::mem::replace(&mut self.told_odd, true) {
            self.note("the back end's state is not in form");
        }
        Seen::Nothing
    }

    /// The back end is known. What another one did is not held against it.
    fn found(&mut self, path: Path) {
        if path != self.backend {
            self.failures = 0;
        }
        self.backend = path;
    }

    /// A node of the device was read.
    fn device(&mut self, result: Result<Value, Failure>, now: Instant) {
        let missing = result == Err(Failure::NotFound);
        let optional = matches!(self.step, Step::Mtu | Step::Online | Step::OwnState);
        let bytes = match &result {
            Ok(bytes) => bytes.as_slice(),
            Err(Failure::NotFound) if optional => &[],
            Err(Failure::NotFound) => return self.missing(now),
            Err(_) => return self.retry(now),
        };
        let valid = match self.step {
            Step::BackendId => keys::domain(bytes).map(|peer| self.peer = peer).is_some(),
            Step::Backend => keys::backend(bytes, self.peer).map(|path| self.found(path)).is_some(),
            Step::Mac => keys::mac(bytes).map(|mac| self.mac = mac).is_some(),
            Step::Mtu => {
                self.mtu = keys::mtu(bytes).unwrap_or(MTU).min(MTU);
                missing || keys::mtu(bytes).is_some()
            }
            Step::Online if keys::flag(bytes) == Some(false) => return self.missing(now),
            Step::Online => true,
            _ => return self.own_state(keys::state(bytes), now),
        };
        if valid {
            return self.advance(now);
        }
        self.note("a node of the network device is not in form");
        self.retry(now);
    }

    /// Own state before the handshake: what a former self of this service left is closed first.
    fn own_state(&mut self, state: Option<State>, now: Instant) {
        (self.absent, self.gone, self.told_odd) = (false, false, false);
        match state {
            Some(State::Initialising | State::Unknown | State::Closed) | None => self.advance(now),
            Some(_) => {
                self.published = true;
                self.fail("closing a connection left open", now);
            }
        }
    }

    /// The back end's state was read.
    fn seen(&mut self, result: Result<Value, Failure>, now: Instant) {
        let seen = match result {
            Ok(bytes) => keys::state(&bytes).map_or_else(|| self.odd_state(), Seen::State),
            Err(Failure::NotFound | Failure::Access) => Seen::Gone,
            Err(_) => Seen::Nothing,
        };
        let known = !matches!(seen, Seen::Nothing);
        if self.step == Step::Running {
            self.limit = None;
        }
        if self.step != Step::Running || !known {
            self.poll = Some(now + POLL);
        }
        if matches!(seen, Seen::Gone) {
            self.gone = true;
        }
        match (self.step, seen) {
            (Step::AwaitClosing, Seen::Gone | Seen::State(State::Closing | State::Closed)) => self.after_closing(now),
            (Step::AwaitClosing, _) => {}
            (_, Seen::Gone) => self.fail("the back end is gone", now),
            (Step::AwaitInit, Seen::State(State::InitWait)) => self.advance(now),
            (Step::AwaitConnected, Seen::State(State::Connected)) => {
                self.go(Step::Running, now);
                self.up_since = Some(now);
            }
            (Step::AwaitConnected | Step::Running, Seen::State(State::Closing | State::Closed)) => {
                self.fail("the back end closes", now);
            }
            (
                Step::Running,
                Seen::State(State::Unknown | State::Initialising | State::InitWait | State::Initialised),
            ) => {
                self.fail("the back end has started over", now);
            }
            _ => {}
        }
    }

    /// The grant manager's answer.
    pub fn granted(&mut self, reply: grants::Reply, now: Instant) {
        let (grants::Reply::Issued { rule, .. } | grants::Reply::Refused { rule } | grants::Reply::Ended { rule, .. }) =
            reply;
        let Some(index) = self.rules.iter().position(|granted| granted.rule == rule) else { return };
        match (reply, self.step) {
            (grants::Reply::Issued { reference, count, .. }, Step::Issue(at)) if at == index && self.waiting => {
                if count != self.rule(index).pages {
                    return self.fail("the grant manager granted another number of pages", now);
                }
                if let Some(place) = self.references.get_mut(index) {
                    *place = reference;
                }
                self.advance(now);
            }
            (grants::Reply::Refused { .. }, Step::Issue(at)) if at == index && self.waiting => {
                self.set_granted(index, false);
                self.fail("the grant manager refused", now);
            }
            (grants::Reply::Ended { held, .. }, step) => {
                if let Some(place) = self.held.get_mut(index) {
                    *place = held;
                }
                if matches!(step, Step::EndOld(at) | Step::EndAll(at) if at == index && self.waiting) {
                    self.set_granted(index, false);
                    self.advance(now);
                }
            }
            // An answer to a request that was given up.
            _ => {}
        }
    }

    /// The ports were opened, for frames to send and, if it is split, for received ones; or they were not.
    pub fn ports(&mut self, ports: Option<(EvtchnPort, EvtchnPort)>, now: Instant) {
        if self.step != Step::Ports || !self.waiting {
            return;
        }
        match ports {
            Some(ports) => {
                self.ports = ports;
                self.advance(now);
            }
            None => self.fail("the event channels could not be opened", now),
        }
    }
}
