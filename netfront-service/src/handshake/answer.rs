//! Handles the results of commands.

use cloister_caps::{DomId, EvtchnPort};
use cloister_interfaces::store::{Failure, Path, Value};
use cloister_interfaces::{Instant, grants};

use super::{ABSENT_TIME, Handshake, MAX_CONFLICTS, MTU, Note, POLL, StateRead, Step, node};
use crate::keys::{self, XenbusState};

impl Handshake {
    /// Handles the answer of the XenStore service.
    pub fn store_answered(&mut self, result: Result<Value, Failure>, now: Instant) {
        if !self.waiting {
            return;
        }
        self.waiting = false;
        match self.step {
            Step::BackendId | Step::Backend | Step::Mac | Step::Mtu | Step::Online | Step::OwnState => {
                self.device_node_read(result, now);
            }
            _ if core::mem::take(&mut self.verifying) => self.backend_verified(result, now),
            Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing => {
                self.backend_state_read(result, now)
            }
            Step::WatchDevice => {
                // `Other` is a watch that an earlier run of this service has left.
                self.device_watched = matches!(result, Ok(_) | Err(Failure::Other));
                if self.device_watched {
                    self.advance(now);
                } else {
                    self.note("the network device cannot be watched");
                    self.retry(now);
                }
            }
            Step::Unwatch => {
                self.backend_watch = None;
                self.advance(now);
            }
            Step::WatchBackend => match result {
                Ok(_) | Err(Failure::Other) => {
                    self.backend_watch = Some(node(&self.backend, "state"));
                    self.advance(now);
                }
                Err(_) => self.fail("the back end cannot be watched", now),
            },
            Step::RxCopy if result.as_deref().ok().and_then(keys::flag) != Some(true) => {
                self.fail("the back end does not copy received frames", now);
            }
            Step::Split | Step::ScatterGather | Step::Segmentation => {
                let offered = self.offered(result);
                match self.step {
                    Step::Split => self.split = offered,
                    Step::ScatterGather => self.scatter_gather = offered,
                    _ => self.segmentation = offered,
                }
                self.advance(now);
            }
            Step::Commit if result == Err(Failure::Again) && self.conflicts < MAX_CONFLICTS => {
                self.in_transaction = false;
                self.conflicts += 1;
                self.enter(Step::BeginTransaction, now);
            }
            Step::Commit if result.is_ok() => {
                self.in_transaction = false;
                self.advance(now);
            }
            // The connection is ended whatever the answer is.
            step if step.is_teardown() => self.advance(now),
            _ if result.is_ok() => self.advance(now),
            _ => self.fail("XenStore refused a step of the connection", now),
        }
    }

    /// Logs a text about the node that was read.
    fn note_node(&mut self, text: &'static str) {
        let name = self.node_to_read().map_or("", |(_, name)| name);
        self.note_about(name, text);
    }

    /// Logs that the back end's node holds no state. The handshake keeps waiting for one.
    fn malformed_state(&mut self) -> StateRead {
        self.note("the back end's state is not in form");
        StateRead::Nothing
    }

    /// Returns `true` if the back end offers the feature whose node was read.
    fn offered(&mut self, result: Result<Value, Failure>) -> bool {
        let flag = match result {
            Ok(bytes) => keys::flag(&bytes),
            Err(Failure::NotFound) => Some(false),
            Err(failure) => {
                self.note_node(unreadable(failure));
                return false;
            }
        };
        if flag.is_none() {
            self.note_node("not in form; taken as not offered");
        }
        flag == Some(true)
    }

    /// Handles the device's `backend` node, which was read during or while making a connection.
    fn backend_verified(&mut self, result: Result<Value, Failure>, now: Instant) {
        if self.step == Step::Running {
            self.step_deadline = None;
        }
        match result {
            Ok(bytes) if *bytes == *self.backend.as_bytes() => {}
            Ok(_) | Err(Failure::TooLong) => {
                // Nothing more is written for this connection: the other back end would read it.
                (self.backend_gone, self.changed_while_ending) = (true, true);
                self.fail("the device has another back end", now);
            }
            Err(Failure::NotFound | Failure::Access) => {
                self.backend_gone = true;
                self.fail("the network device is gone", now);
            }
            Err(failure) => {
                self.note_about("backend", unreadable(failure));
                (self.device_changed, self.stale, self.next_poll) = (true, false, Some(now + POLL));
            }
        }
    }

    /// Sets the back end. Failures of another one do not count against it.
    fn set_backend(&mut self, path: Path) {
        if path != self.backend {
            self.failures = 0;
        }
        self.backend = path;
    }

    /// Handles a node of the device.
    fn device_node_read(&mut self, result: Result<Value, Failure>, now: Instant) {
        let missing = result == Err(Failure::NotFound);
        let optional = matches!(self.step, Step::Mtu | Step::Online | Step::OwnState);
        let bytes = match &result {
            Ok(bytes) => bytes.as_slice(),
            Err(Failure::NotFound) if optional => &[],
            Err(Failure::NotFound) => return self.no_device(now),
            Err(Failure::Again) => {
                // An earlier run of this service has left it open, and XenStore carries out nothing
                // outside of it.
                self.in_transaction = true;
                return self.fail("a transaction was left open", now);
            }
            Err(failure) => {
                self.note_node(unreadable(*failure));
                return self.retry(now);
            }
        };
        if self.step == Step::BackendId {
            // Everything read from now on is of the changed device.
            self.device_changed = false;
        }
        let valid = match self.step {
            Step::BackendId => match keys::domid(bytes) {
                Some(peer) if !self.rules.iter().all(|rule| rule.allows(peer)) => {
                    return self.backend_not_allowed(peer, now);
                }
                peer => peer.map(|peer| self.peer = peer).is_some(),
            },
            Step::Backend => keys::backend_path(bytes, self.peer).map(|path| self.set_backend(path)).is_some(),
            Step::Mac => keys::mac(bytes).map(|mac| self.mac = mac).is_some(),
            Step::Mtu => {
                self.mtu = keys::mtu(bytes).unwrap_or(MTU).min(MTU);
                missing || keys::mtu(bytes).is_some()
            }
            Step::Online if keys::flag(bytes) == Some(false) => return self.no_device(now),
            Step::Online => {
                if !missing && keys::flag(bytes).is_none() {
                    self.note_node("not in form; taken as 1");
                }
                true
            }
            _ => {
                let state = keys::state(bytes);
                if !missing && state.is_none() {
                    self.note_node("not in form; taken as closed");
                }
                return self.own_state_read(state, now);
            }
        };
        if valid {
            return self.advance(now);
        }
        self.note_node("not in form");
        self.retry(now);
    }

    /// Waits for another device, as if there were none: the policy grants nothing to the domain of
    /// this one's back end.
    fn backend_not_allowed(&mut self, peer: DomId, now: Instant) {
        self.log(Note::NotAllowed(peer));
        self.failures = 0;
        self.pause(ABSENT_TIME, now);
    }

    /// Handles this front end's own state before the handshake. A connection that an earlier run of
    /// this service left is closed first.
    fn own_state_read(&mut self, state: Option<XenbusState>, now: Instant) {
        self.backend_gone = false;
        if self.device_changed {
            // The values that were read may be of two devices.
            return self.enter(Step::BackendId, now);
        }
        match state {
            Some(XenbusState::Initialising | XenbusState::Unknown | XenbusState::Closed) | None => self.advance(now),
            Some(_) => {
                self.published = true;
                self.fail("closing a connection left open", now);
            }
        }
    }

    /// Handles the back end's state.
    fn backend_state_read(&mut self, result: Result<Value, Failure>, now: Instant) {
        let read = match result {
            Ok(bytes) => keys::state(&bytes).map_or_else(|| self.malformed_state(), StateRead::State),
            Err(Failure::NotFound | Failure::Access) => StateRead::Gone,
            Err(failure) => {
                self.note_node(unreadable(failure));
                StateRead::Nothing
            }
        };
        let known = !matches!(read, StateRead::Nothing);
        if self.step == Step::Running {
            self.step_deadline = None;
        }
        if self.step != Step::Running || !known {
            self.next_poll = Some(now + POLL);
        }
        if matches!(read, StateRead::Gone) {
            self.backend_gone = true;
        }
        match (self.step, read) {
            (Step::AwaitClosing, StateRead::Gone | StateRead::State(XenbusState::Closing | XenbusState::Closed)) => {
                self.after_closing(now)
            }
            (_, StateRead::Gone) => self.fail("the back end is gone", now),
            (Step::AwaitInit, StateRead::State(XenbusState::InitWait)) => self.advance(now),
            (Step::AwaitConnected, StateRead::State(XenbusState::Connected)) => {
                self.enter(Step::Running, now);
                self.up_since = Some(now);
                self.logged.clear();
            }
            (Step::AwaitConnected | Step::Running, StateRead::State(XenbusState::Closing | XenbusState::Closed)) => {
                self.fail("the back end closes", now);
            }
            (
                Step::Running,
                StateRead::State(
                    XenbusState::Unknown | XenbusState::Initialising | XenbusState::InitWait | XenbusState::Initialised,
                ),
            ) => {
                self.fail("the back end has started over", now);
            }
            (Step::Running, StateRead::State(XenbusState::Reconfiguring | XenbusState::Reconfigured)) => {
                self.note("the back end reconfigures; nothing is made of it");
            }
            _ => {}
        }
    }

    /// Handles a reply of the grant manager.
    pub fn grants_answered(&mut self, reply: grants::Reply, now: Instant) {
        let (grants::Reply::Issued { rule, .. } | grants::Reply::Refused { rule } | grants::Reply::Ended { rule, .. }) =
            reply;
        let Some(index) = self.rules.iter().position(|granted| granted.rule == rule) else { return };
        match (reply, self.step) {
            (grants::Reply::Issued { reference, count, .. }, Step::Issue(at)) if at == index && self.waiting => {
                if count != self.rule(index).pages {
                    return self.fail("the grant manager granted another number of pages", now);
                }
                if let Some(entry) = self.references.get_mut(index) {
                    *entry = reference;
                }
                self.advance(now);
            }
            (grants::Reply::Refused { .. }, Step::Issue(at)) if at == index && self.waiting => {
                self.set_granted(index, false);
                self.fail("the grant manager refused", now);
            }
            (grants::Reply::Ended { still_mapped, .. }, step) => {
                if let Some(count) = self.still_mapped.get_mut(index) {
                    *count = still_mapped;
                }
                if matches!(step, Step::EndOld(at) | Step::EndAll(at) if at == index && self.waiting) {
                    self.set_granted(index, false);
                    self.advance(now);
                }
            }
            // The answer to a request that was given up.
            _ => {}
        }
    }

    /// Handles the result of opening the ports: for frames to send, and for received ones (the same
    /// port unless split). `None` if they could not be opened.
    pub fn ports_opened(&mut self, ports: Option<(EvtchnPort, EvtchnPort)>, now: Instant) {
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

/// Returns the reason why a node could not be read, for the log.
fn unreadable(failure: Failure) -> &'static str {
    match failure {
        Failure::NotFound => "there is none",
        Failure::Access => "XenStore refuses it",
        Failure::Policy => "the policy refuses it",
        Failure::TooLong => "longer than any that is in form",
        Failure::Timeout => "XenStore does not answer",
        Failure::Again | Failure::Quota | Failure::Other => "XenStore fails to read it",
    }
}
