//! Chooses the next command.

use core::fmt::Write;

use arrayvec::{ArrayString, ArrayVec};
use cloister_caps::DomId;
use cloister_caps::xen::xenbus::XenbusState;
use cloister_interfaces::store::{Action, PathLiteral};
use cloister_interfaces::{Instant, PageRun, grants};

use super::phase::{
    ANSWER_TIME, Area, Closing, ClosingStep, Connecting, ConnectionStep, Grants, Negotiating, NegotiationStep, Phase,
    Publication, PublicationStep, Shared, Watches, node,
};
use super::{BACKEND_TOKEN, Command, CommandState, DEVICE_TOKEN, Handshake, MAX_KEYS, value};

impl Handshake {
    /// Returns the next command, if there is one.
    pub fn command(&mut self, now: Instant) -> Option<Command> {
        // Each iteration enters another step, and no step repeats without an answer. So the loop
        // ends.
        while self.command_state == CommandState::Due {
            if self.is_step_unneeded() {
                self.advance(now);
                continue;
            }
            if self.phase.depends_on_device() && core::mem::take(&mut self.device_changed) {
                self.sent(CommandState::Verifying, now);
                return Some(Command::Store(Action::Read(node("backend"))));
            }
            let command = self.step_command()?;
            match command {
                // These have no answer.
                Command::ResetRings | Command::Start { .. } | Command::Stop => self.advance(now),
                Command::Store(_) | Command::Grants(_) | Command::OpenPorts { .. } => {
                    self.sent(CommandState::Waiting { outdated: false }, now);
                }
            }
            return Some(command);
        }
        None
    }

    /// Records that a command with an answer is under way.
    fn sent(&mut self, command_state: CommandState, now: Instant) {
        if let Some(area) = self.phase.area_to_grant() {
            self.grants[area] = Grants::Possible;
        }
        self.command_state = command_state;
        // The very first step has no deadline yet. A connection has one only for each read.
        if self.step_deadline.is_none() || self.is_up() {
            self.step_deadline = Some(now + ANSWER_TIME);
        }
    }

    /// Returns `true` if the step is done without a command.
    fn is_step_unneeded(&self) -> bool {
        if let Some(area) = self.phase.area_to_end() {
            return self.grants[area] != Grants::Possible;
        }
        match &self.phase {
            Phase::WatchingDevice => self.watches != Watches::None,
            Phase::Negotiating(Negotiating { device, step, .. }) => match (step, &self.watches) {
                (NegotiationStep::Unwatch, Watches::DeviceAndBackend(watched)) => *watched == device.backend,
                (NegotiationStep::Unwatch, _) => true,
                (NegotiationStep::Watch, watches) => matches!(watches, Watches::DeviceAndBackend(_)),
                _ => false,
            },
            Phase::Connecting(Connecting { step, .. }) => match step {
                ConnectionStep::CheckFree { .. } => true,
                ConnectionStep::AwaitFree => !self.are_pages_mapped(),
                _ => false,
            },
            Phase::Closing(closing) => closing.is_step_unneeded(),
            Phase::Paused | Phase::Probing(_) | Phase::Up(_) | Phase::Stopped => false,
        }
    }

    /// Returns the command of the step. Returns `None` if it only waits.
    fn step_command(&self) -> Option<Command> {
        if let Some((directory, name)) = self.phase.node_to_read() {
            return Some(Command::Store(Action::Read(directory.node(name))));
        }
        if let Some(area) = self.phase.area_to_end() {
            return Some(Command::Grants(grants::Request::End { rule: self.rules[area].rule }));
        }
        match &self.phase {
            Phase::WatchingDevice => Some(Command::Store(Action::Watch(node("backend"), DEVICE_TOKEN))),
            Phase::Negotiating(negotiating) => self.negotiation_command(negotiating),
            Phase::Connecting(connecting) => self.connection_command(connecting),
            Phase::Closing(closing) => closing_command(closing),
            Phase::Paused | Phase::Probing(_) | Phase::Up(_) | Phase::Stopped => None,
        }
    }

    fn negotiation_command(&self, negotiating: &Negotiating) -> Option<Command> {
        match (negotiating.step, &self.watches) {
            (NegotiationStep::Unwatch, Watches::DeviceAndBackend(watched)) => {
                Some(Command::Store(Action::Unwatch(watched.node("state"), BACKEND_TOKEN)))
            }
            (NegotiationStep::Watch, _) => {
                let path = negotiating.device.backend.node("state");
                Some(Command::Store(Action::Watch(path, BACKEND_TOKEN)))
            }
            (NegotiationStep::Initialise, _) => Some(write_state(XenbusState::Initialising)),
            _ => None,
        }
    }

    fn connection_command(&self, connecting: &Connecting) -> Option<Command> {
        let peer = connecting.offer.device.backend.peer();
        match connecting.step {
            ConnectionStep::ResetRings => Some(Command::ResetRings),
            ConnectionStep::GrantRings => self.grant(Area::Rings, peer),
            ConnectionStep::GrantRxPool { .. } => self.grant(Area::RxPool, peer),
            ConnectionStep::GrantTxPool { .. } => self.grant(Area::TxPool, peer),
            ConnectionStep::OpenPorts(_) => Some(Command::OpenPorts { peer, split: connecting.offer.is_split() }),
            ConnectionStep::Start(Shared { references, .. }) => Some(Command::Start {
                rx: references.rx_pool,
                tx: references.tx_pool,
                offloads: connecting.offer.offloads(),
            }),
            ConnectionStep::Publish(Publication { shared, .. }, step) => match step {
                PublicationStep::Begin => Some(Command::Store(Action::Begin)),
                PublicationStep::Key(index) => self.write_key(connecting, &shared, index),
                PublicationStep::Commit => Some(Command::Store(Action::Commit)),
            },
            ConnectionStep::Connect => Some(write_state(XenbusState::Connected)),
            ConnectionStep::EndEarlier { .. }
            | ConnectionStep::CheckFree { .. }
            | ConnectionStep::AwaitFree
            | ConnectionStep::AwaitConnected => None,
        }
    }

    /// Returns the request for all pages of an area. Returns `None` if its rule has none: the step
    /// then fails at its deadline.
    fn grant(&self, area: Area, peer: DomId) -> Option<Command> {
        let rule = self.rules[area];
        let pages = PageRun::new(0, rule.pages)?;
        Some(Command::Grants(grants::Request::Issue { rule: rule.rule, pages, peer }))
    }

    fn write_key(&self, connecting: &Connecting, shared: &Shared, index: u8) -> Option<Command> {
        let (name, number) = self.keys(connecting, shared).get(usize::from(index)).copied()?;
        let mut text = ArrayString::<10>::new();
        // Ten digits hold every `u32`.
        let _ = write!(text, "{number}");
        Some(Command::Store(Action::Write(node(name), value(&text))))
    }

    /// Returns the keys to publish, with their values.
    pub(super) fn keys(&self, connecting: &Connecting, shared: &Shared) -> ArrayVec<(&'static str, u32), MAX_KEYS> {
        let rings = shared.references.rings;
        let mut keys = ArrayVec::new();
        keys.push(("tx-ring-ref", rings.0));
        keys.push(("rx-ring-ref", rings.0.wrapping_add(1)));
        if connecting.offer.is_split() {
            keys.push(("event-channel-tx", shared.tx.0));
            keys.push(("event-channel-rx", shared.rx.0));
        } else {
            keys.push(("event-channel", shared.tx.0));
        }
        // Received frames are copied, and posted pages are notified. Features that are not wanted
        // are written too, because an earlier front end may have written other values.
        let offloads = u32::from(self.receive_offloads);
        for (name, on) in [
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-no-csum-offload", 1 - offloads),
            ("feature-sg", offloads),
            ("feature-gso-tcpv4", offloads),
        ] {
            keys.push((name, on));
        }
        keys
    }
}

fn closing_command(closing: &Closing) -> Option<Command> {
    match closing.step {
        ClosingStep::Stop => Some(Command::Stop),
        ClosingStep::Abort => Some(Command::Store(Action::Abort)),
        ClosingStep::Report => {
            const ERROR: PathLiteral = PathLiteral::new("error/device/vif/0/error");
            Some(Command::Store(Action::Write(ERROR.into(), value(closing.report?.text()))))
        }
        ClosingStep::WriteClosing => Some(write_state(XenbusState::Closing)),
        ClosingStep::WriteClosed => Some(write_state(XenbusState::Closed)),
        ClosingStep::AwaitClosing | ClosingStep::EndGrants(_) => None,
    }
}

/// Returns the command that writes this front end's own state.
fn write_state(state: XenbusState) -> Command {
    Command::Store(Action::Write(node("state"), value(state.digit())))
}
