//! Handles the results of commands.

use cloister_caps::xen::xenbus::XenbusState;
use cloister_caps::{DomId, EvtchnPort, GrantRef};
use cloister_interfaces::store::{StoreError, Value};
use cloister_interfaces::{Instant, grants};

use super::phase::{
    Area, BackEndConnection, Connecting, ConnectionStep, Device, Features, Grants, Negotiating, NegotiationStep, Next,
    Offer, Phase, Probe, Publication, PublicationStep, References, Shared, Watches,
};
use super::{ABSENT_TIME, Closing, ClosingStep, CommandState, Handshake, MAX_CONFLICTS, MTU, Note, POLL};
use crate::keys::{self, Backend};

/// The result of reading the back end's state.
enum StateRead {
    State(XenbusState),
    /// There is no such node, or access is denied.
    Gone,
    /// The node could not be read, or its value is not a state.
    Nothing,
}

impl Handshake {
    /// Handles the answer of the XenStore service.
    pub fn store_answered(&mut self, result: Result<Value, StoreError>, now: Instant) {
        let outdated = match self.command_state {
            CommandState::Idle | CommandState::Due => return,
            CommandState::Verifying => return self.backend_verified(result, now),
            CommandState::Waiting { outdated } => outdated,
        };
        match self.phase {
            Phase::WatchingDevice => self.device_watched(result, now),
            Phase::Probing(probe) => self.device_node_read(probe, result, now),
            Phase::Negotiating(Negotiating { step: NegotiationStep::AwaitInit, .. })
            | Phase::Connecting(Connecting { step: ConnectionStep::AwaitConnected, .. })
            | Phase::Up(_)
            | Phase::Closing(Closing { step: ClosingStep::AwaitClosing, .. }) => {
                self.backend_state_read(result, outdated, now);
            }
            Phase::Negotiating(negotiating) => self.negotiation_answered(negotiating, result, now),
            Phase::Connecting(connecting) => self.connection_answered(connecting, result, now),
            // The connection is ended whatever the answer is.
            Phase::Closing(_) => self.advance(now),
            Phase::Paused | Phase::Stopped => {}
        }
    }

    /// Handles the answer to the watch on the device's `backend` node.
    fn device_watched(&mut self, result: Result<Value, StoreError>, now: Instant) {
        // `Other` is a watch that an earlier run of this service has left.
        if matches!(result, Ok(_) | Err(StoreError::Other)) {
            self.watches = Watches::Device;
            return self.advance(now);
        }
        self.note("the network device cannot be watched");
        self.retry(now);
    }

    /// Handles the answer in a step of the negotiation, other than the back end's state.
    fn negotiation_answered(&mut self, negotiating: Negotiating, result: Result<Value, StoreError>, now: Instant) {
        match negotiating.step {
            NegotiationStep::Unwatch => self.watches = Watches::Device,
            NegotiationStep::Watch => {
                if !matches!(result, Ok(_) | Err(StoreError::Other)) {
                    self.fail("the back end cannot be watched", now);
                    return;
                }
                self.watches = Watches::DeviceAndBackend(negotiating.device.backend);
            }
            NegotiationStep::Split => return self.feature_read(negotiating, Features::SPLIT, result, now),
            NegotiationStep::ScatterGather => {
                return self.feature_read(negotiating, Features::SCATTER_GATHER, result, now);
            }
            NegotiationStep::Segmentation => {
                return self.feature_read(negotiating, Features::SEGMENTATION, result, now);
            }
            NegotiationStep::RxCopy => {
                if result.as_deref().ok().and_then(keys::flag) != Some(true) {
                    self.fail("the back end does not copy received frames", now);
                    return;
                }
            }
            NegotiationStep::Initialise | NegotiationStep::AwaitInit => {
                if result.is_err() {
                    return self.refused(now);
                }
            }
        }
        self.advance(now);
    }

    /// Handles the answer in a step of making the connection, other than the back end's state.
    fn connection_answered(&mut self, connecting: Connecting, result: Result<Value, StoreError>, now: Instant) {
        match connecting.step {
            ConnectionStep::Publish(publication, PublicationStep::Commit)
                if result == Err(StoreError::Again) && publication.conflicts < MAX_CONFLICTS =>
            {
                let conflicts = publication.conflicts + 1;
                let again = Publication { conflicts, ..publication };
                self.enter(connecting.at(ConnectionStep::Publish(again, PublicationStep::Begin)), now);
            }
            ConnectionStep::Publish(..) | ConnectionStep::Connect if result.is_ok() => self.advance(now),
            ConnectionStep::Publish(..) | ConnectionStep::Connect => self.refused(now),
            // The answers to the others are not from XenStore.
            _ => {}
        }
    }

    /// Ends the attempt, because XenStore refused a change that is needed.
    fn refused(&mut self, now: Instant) {
        self.fail("a step of the connection failed in XenStore", now);
    }

    /// Logs a text about the node that was read.
    fn note_node(&mut self, text: &'static str) {
        let name = self.phase.node_to_read().map_or("", |(_, name)| name);
        self.note_about(name, text);
    }

    /// Handles the node of a feature.
    fn feature_read(
        &mut self,
        negotiating: Negotiating,
        feature: Features,
        result: Result<Value, StoreError>,
        now: Instant,
    ) {
        let mut features = negotiating.features;
        features.set(feature, self.is_offered(result));
        self.phase = Phase::Negotiating(Negotiating { features, ..negotiating });
        self.advance(now);
    }

    /// Returns `true` if the back end offers the feature whose node was read.
    fn is_offered(&mut self, result: Result<Value, StoreError>) -> bool {
        let flag = match result {
            Ok(bytes) => keys::flag(&bytes),
            Err(StoreError::NotFound) => Some(false),
            Err(error) => {
                self.note_node(unreadable(error));
                return false;
            }
        };
        if flag.is_none() {
            self.note_node("malformed; taken as not offered");
        }
        flag == Some(true)
    }

    /// Handles the device's `backend` node, which was read during or while making a connection.
    fn backend_verified(&mut self, result: Result<Value, StoreError>, now: Instant) {
        self.command_state = CommandState::Due;
        let (Phase::Negotiating(Negotiating { device, .. })
        | Phase::Connecting(Connecting { offer: Offer { device, .. }, .. })
        | Phase::Up(BackEndConnection { offer: Offer { device, .. }, .. })) = &self.phase
        else {
            return;
        };
        let backend = device.backend;
        if self.is_up() {
            self.step_deadline = None;
        }
        match result {
            Ok(bytes) if keys::backend(&bytes, backend.peer()) == Some(backend) => {}
            Ok(_) | Err(StoreError::TooLong) => {
                // Nothing more is written for this connection: the other back end would read it.
                if let Some(closing) = self.fail("the device has another back end", now) {
                    (closing.informed, closing.next) = (None, Next::StartOver);
                }
            }
            Err(StoreError::NotFound | StoreError::Access) => self.fail_gone("the network device is gone", now),
            Err(error) => {
                self.note_about("backend", unreadable(error));
                (self.device_changed, self.command_state, self.next_poll) =
                    (true, CommandState::Idle, Some(now + POLL));
            }
        }
    }

    /// Handles a node of the device.
    fn device_node_read(&mut self, probe: Probe, result: Result<Value, StoreError>, now: Instant) {
        let node = match result {
            Ok(bytes) => Some(bytes),
            Err(StoreError::NotFound) if probe.is_optional() => None,
            Err(error) => return self.device_unreadable(error, now),
        };
        let bytes = node.as_deref().unwrap_or_default();
        let next = match probe {
            Probe::BackendId => {
                // Everything read from now on is of the changed device.
                self.device_changed = false;
                match keys::domid(bytes) {
                    Some(peer) if !self.rules.0.iter().all(|rule| rule.allows(peer)) => {
                        return self.backend_not_allowed(peer, now);
                    }
                    peer => peer.map(Probe::Backend),
                }
            }
            Probe::Backend(peer) => keys::backend(bytes, peer).map(|backend| {
                self.set_last_backend(backend);
                Probe::Mac(backend)
            }),
            Probe::Mac(backend) => keys::mac(bytes).map(|mac| Probe::Mtu(backend, mac)),
            Probe::Mtu(backend, mac) => {
                let mtu = if node.is_some() { keys::mtu(bytes) } else { Some(MTU) };
                mtu.map(|mtu| Probe::Online(Device { backend, mac, mtu: mtu.min(MTU) }))
            }
            Probe::Online(device) => match keys::flag(bytes) {
                Some(false) => return self.no_device(now),
                flag => {
                    if node.is_some() && flag.is_none() {
                        self.note_node("malformed; taken as 1");
                    }
                    Some(Probe::State(device))
                }
            },
            Probe::State(device) => {
                let state = keys::state(bytes);
                if node.is_some() && state.is_none() {
                    self.note_node("malformed; taken as closed");
                }
                return self.own_state_read(device, state, now);
            }
        };
        match next {
            Some(probe) => self.enter(Phase::Probing(probe), now),
            None => {
                self.note_node("malformed");
                self.retry(now);
            }
        }
    }

    /// Handles an error in reading a node of the device.
    fn device_unreadable(&mut self, error: StoreError, now: Instant) {
        match error {
            StoreError::NotFound => self.no_device(now),
            StoreError::InUse => {
                // An earlier run of this service has left grants or ports, or the earlier back end
                // still maps pages.
                self.expect_grants_where_mapped();
                self.fail("backend-id: the device has another back end, and an earlier one is still in use", now);
            }
            StoreError::Again => {
                // An earlier run of this service has left it open, and XenStore carries out nothing
                // outside of it.
                if let Some(closing) = self.fail("a transaction was left open", now) {
                    closing.open_transaction = true;
                }
            }
            error => {
                self.note_node(unreadable(error));
                self.retry(now);
            }
        }
    }

    /// Forgets the failures if they were another back end's.
    fn set_last_backend(&mut self, backend: Backend) {
        if self.last_backend.replace(backend) != Some(backend) {
            self.failures = 0;
        }
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
    fn own_state_read(&mut self, device: Device, state: Option<XenbusState>, now: Instant) {
        if self.device_changed {
            // The values that were read may be of two devices.
            return self.enter(Phase::PROBE, now);
        }
        match state {
            Some(XenbusState::Initialising | XenbusState::Unknown | XenbusState::Closed) | None => {
                let (features, step) = (Features::empty(), NegotiationStep::Unwatch);
                self.enter(Phase::Negotiating(Negotiating { device, features, step }), now);
            }
            Some(_) => {
                if let Some(closing) = self.fail("closing a connection left open", now) {
                    closing.informed = Some(device.backend);
                }
            }
        }
    }

    /// Handles the back end's state.
    fn backend_state_read(&mut self, result: Result<Value, StoreError>, outdated: bool, now: Instant) {
        let read = match result {
            Ok(bytes) => match keys::state(&bytes) {
                Some(state) => StateRead::State(state),
                None => {
                    self.note("the back end's state is malformed");
                    StateRead::Nothing
                }
            },
            Err(StoreError::NotFound | StoreError::Access) => StateRead::Gone,
            Err(error) => {
                self.note_node(unreadable(error));
                StateRead::Nothing
            }
        };
        self.command_state = if outdated { CommandState::Due } else { CommandState::Idle };
        if self.is_up() {
            self.step_deadline = None;
        }
        if !self.is_up() || matches!(read, StateRead::Nothing) {
            self.next_poll = Some(now + POLL);
        }
        match read {
            StateRead::Nothing => {}
            StateRead::Gone => self.backend_gone(now),
            StateRead::State(state) => self.backend_state_known(state, now),
        }
    }

    /// Handles a back end that is gone, or to which access is denied.
    fn backend_gone(&mut self, now: Instant) {
        if let Phase::Closing(closing) = &mut self.phase {
            closing.informed = None;
            return self.advance(now);
        }
        self.fail_gone("the back end is gone", now);
    }

    /// Handles a state of the back end, in a step that waits for one.
    fn backend_state_known(&mut self, state: XenbusState, now: Instant) {
        match (self.phase, state) {
            (Phase::Closing(_), XenbusState::Closing | XenbusState::Closed)
            | (Phase::Negotiating(_), XenbusState::InitWait) => self.advance(now),
            (Phase::Connecting(Connecting { offer, .. }), XenbusState::Connected) => {
                self.enter(Phase::Up(BackEndConnection { offer, since: now }), now);
                self.logged.clear();
            }
            (Phase::Connecting(_) | Phase::Up(_), XenbusState::Closing | XenbusState::Closed) => {
                self.fail("the back end closes", now);
            }
            (
                Phase::Up(_),
                XenbusState::Unknown | XenbusState::Initialising | XenbusState::InitWait | XenbusState::Initialised,
            ) => {
                self.fail("the back end has started over", now);
            }
            (Phase::Up(_), XenbusState::Reconfiguring | XenbusState::Reconfigured) => {
                self.note("the back end requests reconfiguration, which is not supported; ignored");
            }
            _ => {}
        }
    }

    /// Handles a reply of the grant manager.
    pub fn grants_answered(&mut self, reply: grants::Reply, now: Instant) {
        let (grants::Reply::Issued { rule, .. } | grants::Reply::Refused { rule } | grants::Reply::Ended { rule, .. }) =
            reply;
        let Some(area) = Area::ALL.into_iter().find(|area| self.rules[*area].rule == rule) else { return };
        let under_way = self.command_state.is_under_way();
        let granting = under_way && self.phase.area_to_grant() == Some(area);
        let ending = under_way && self.phase.area_to_end() == Some(area);
        match reply {
            grants::Reply::Issued { reference, count, .. } if granting => self.granted(area, reference, count, now),
            grants::Reply::Refused { .. } if granting => {
                self.grants[area] = Grants::Ended { still_mapped: 0 };
                self.fail("the grant manager refused", now);
            }
            grants::Reply::Ended { still_mapped, .. } if ending => {
                self.grants[area] = Grants::Ended { still_mapped };
                self.advance(now);
            }
            // A report that pages became free.
            grants::Reply::Ended { still_mapped, .. } if self.grants[area] != Grants::Possible => {
                self.grants[area] = Grants::Ended { still_mapped };
            }
            // The answer to a request that was given up.
            _ => {}
        }
    }

    /// Handles the reference under which the first page of an area was granted.
    fn granted(&mut self, area: Area, reference: GrantRef, count: u16, now: Instant) {
        if count != self.rules[area].pages {
            self.fail("violation by grant-manager: it granted another number of pages", now);
            return;
        }
        let Phase::Connecting(connecting) = self.phase else { return };
        let step = match connecting.step {
            ConnectionStep::GrantRings => ConnectionStep::GrantRxPool { rings: reference },
            ConnectionStep::GrantRxPool { rings } => ConnectionStep::GrantTxPool { rings, rx_pool: reference },
            ConnectionStep::GrantTxPool { rings, rx_pool } => {
                ConnectionStep::OpenPorts(References { rings, rx_pool, tx_pool: reference })
            }
            _ => return,
        };
        self.enter(connecting.at(step), now);
    }

    /// Handles the result of opening the ports: for frames to send, and for received ones (the same
    /// port unless split). `None` if they could not be opened.
    pub fn ports_opened(&mut self, ports: Option<(EvtchnPort, EvtchnPort)>, now: Instant) {
        let Phase::Connecting(connecting @ Connecting { step: ConnectionStep::OpenPorts(references), .. }) = self.phase
        else {
            return;
        };
        if !self.command_state.is_under_way() {
            return;
        }
        match ports {
            Some((tx, rx)) => self.enter(connecting.at(ConnectionStep::Start(Shared { references, tx, rx })), now),
            None => {
                self.fail("the event channels could not be opened", now);
            }
        }
    }
}

/// Returns the reason why a node could not be read, for the log.
fn unreadable(error: StoreError) -> &'static str {
    match error {
        StoreError::NotFound => "the node does not exist",
        StoreError::Access => "XenStore refuses it",
        StoreError::Policy => "the policy refuses it",
        StoreError::TooLong => "longer than any valid value",
        StoreError::Timeout => "XenStore does not answer",
        StoreError::Again | StoreError::Quota | StoreError::Other | StoreError::InUse => "XenStore fails to read it",
    }
}
