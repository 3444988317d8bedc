//! Chooses the next command.

use core::fmt::Write;

use arrayvec::{ArrayString, ArrayVec};
use cloister_interfaces::rules::GrantAllowance;
use cloister_interfaces::store::{Action, Path};
use cloister_interfaces::{Instant, grants};

use super::{ANSWER_TIME, BACKEND_TOKEN, Command, DEVICE, DEVICE_TOKEN, Handshake, MAX_KEYS, RINGS, Step, node, value};
use crate::keys::XenbusState;

impl Handshake {
    /// Returns the next command, if there is one.
    pub fn command(&mut self, now: Instant) -> Option<Command> {
        // Each iteration enters another step, and no step repeats without an answer. So the loop
        // ends.
        while !self.waiting {
            let command = match self.step {
                Step::Pause | Step::Stopped => return None,
                Step::WatchDevice if self.device_watched => {
                    self.enter(Step::BackendId, now);
                    continue;
                }
                Step::Unwatch if self.backend_watch.is_none_or(|path| path == node(&self.backend, "state")) => {
                    self.enter(Step::WatchBackend, now);
                    continue;
                }
                Step::WatchBackend if self.backend_watch.is_some() => {
                    self.enter(Step::Initialise, now);
                    continue;
                }
                Step::EndOld(3) => {
                    self.waited_for_pages |= self.still_mapped != [0; 3];
                    if self.still_mapped != [0; 3] {
                        self.note("a former back end still holds pages; waiting for them");
                    }
                    self.enter(Step::AwaitFree, now);
                    continue;
                }
                Step::EndOld(index) | Step::EndAll(index) if !self.is_granted(index) => {
                    self.advance(now);
                    continue;
                }
                Step::Abort | Step::Report | Step::Closing | Step::Closed if !self.is_needed() => {
                    self.advance(now);
                    continue;
                }
                Step::AwaitFree if self.still_mapped != [0; 3] => return None,
                Step::AwaitFree => {
                    let waited = core::mem::take(&mut self.waited_for_pages);
                    self.enter(if waited { Step::BackendId } else { Step::ResetRings }, now);
                    continue;
                }
                Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing if !self.stale => {
                    return None;
                }
                _ => self.make_command(now),
            };
            return Some(command);
        }
        None
    }

    fn is_granted(&self, index: usize) -> bool {
        self.granted.get(index).is_some_and(|granted| *granted)
    }

    /// Returns `true` if this optional step of ending the connection has work.
    fn is_needed(&self) -> bool {
        match self.step {
            Step::Abort => self.in_transaction,
            Step::Report => self.report.is_some() && !self.backend_gone,
            Step::Closing | Step::Closed => self.published && !self.backend_gone,
            _ => false,
        }
    }

    /// Returns the directory and the name of the node that the step reads, if it reads one.
    pub(super) fn node_to_read(&self) -> Option<(&str, &'static str)> {
        let name = match self.step {
            Step::BackendId => "backend-id",
            Step::Backend => "backend",
            Step::Mac => "mac",
            Step::Mtu => "mtu",
            Step::OwnState => "state",
            Step::AwaitInit | Step::AwaitConnected | Step::Running if self.verifying => "backend",
            Step::Online => return Some((&self.backend, "online")),
            Step::RxCopy => return Some((&self.backend, "feature-rx-copy")),
            Step::Split => return Some((&self.backend, "feature-split-event-channels")),
            Step::ScatterGather => return Some((&self.backend, "feature-sg")),
            Step::Segmentation => return Some((&self.backend, "feature-gso-tcpv4")),
            Step::AwaitInit | Step::AwaitConnected | Step::Running | Step::AwaitClosing => {
                return Some((&self.backend, "state"));
            }
            _ => return None,
        };
        Some((DEVICE, name))
    }

    /// Returns the command of the step.
    fn make_command(&mut self, now: Instant) -> Command {
        let state = |text: XenbusState| Command::Store(Action::Write(node(DEVICE, "state"), value(text.digit())));
        let established = matches!(self.step, Step::AwaitInit | Step::AwaitConnected | Step::Running);
        self.verifying = established && core::mem::take(&mut self.device_changed);
        if let Some(path) = self.node_to_read().map(|(directory, name)| node(directory, name)) {
            self.waiting = true;
            // After the verification the back end's state must still be read.
            self.stale = self.verifying;
            if self.step == Step::Running {
                self.step_deadline = Some(now + ANSWER_TIME);
            }
            return Command::Store(Action::Read(path));
        }
        let (peer, split) = (self.peer, self.split);
        let command = match self.step {
            Step::WatchDevice => Command::Store(Action::Watch(node(DEVICE, "backend"), DEVICE_TOKEN)),
            Step::Unwatch => Command::Store(Action::Unwatch(self.backend_watch.unwrap_or_default(), BACKEND_TOKEN)),
            Step::WatchBackend => Command::Store(Action::Watch(node(&self.backend, "state"), BACKEND_TOKEN)),
            Step::Initialise => state(XenbusState::Initialising),
            Step::EndOld(index) | Step::EndAll(index) => {
                Command::Grants(grants::Request::End { rule: self.rule(index).rule })
            }
            Step::Issue(index) => {
                let GrantAllowance { rule, pages, .. } = self.rule(index);
                self.set_granted(index, true);
                Command::Grants(grants::Request::Issue { rule, first: 0, count: pages, peer })
            }
            Step::Ports => Command::OpenPorts { peer, split },
            Step::BeginTransaction => {
                self.in_transaction = true;
                Command::Store(Action::Begin)
            }
            Step::Key(index) => {
                let (name, number) = self.keys().into_iter().nth(index).unwrap_or_default();
                let mut text = ArrayString::<10>::new();
                // Ten digits hold every `u32`.
                let _ = write!(text, "{number}");
                Command::Store(Action::Write(node(DEVICE, name), value(&text)))
            }
            Step::Commit => Command::Store(Action::Commit),
            Step::Connect => {
                self.published = true;
                state(XenbusState::Connected)
            }
            Step::Abort => Command::Store(Action::Abort),
            Step::Report => {
                let path = Path::from("error/device/vif/0/error").unwrap_or_default();
                Command::Store(Action::Write(path, value(self.report.unwrap_or_default())))
            }
            Step::Closing => state(XenbusState::Closing),
            Step::Closed => state(XenbusState::Closed),
            _ => return self.make_immediate(now),
        };
        self.waiting = true;
        // The very first step has no deadline yet.
        self.step_deadline.get_or_insert(now + ANSWER_TIME);
        command
    }

    /// Returns the command of a step whose command has no answer, and enters the next step.
    fn make_immediate(&mut self, now: Instant) -> Command {
        match self.step {
            Step::ResetRings => {
                self.enter(Step::Issue(RINGS), now);
                Command::ResetRings
            }
            Step::Start => {
                self.conflicts = 0;
                self.enter(Step::BeginTransaction, now);
                let [_, rx, tx] = self.references;
                Command::Start { rx, tx, offloads: self.offloads() }
            }
            _ => {
                self.enter(Step::Abort, now);
                Command::Stop
            }
        }
    }

    pub(super) fn rule(&self, index: usize) -> GrantAllowance {
        let none = GrantAllowance { rule: u8::MAX, pages: 0, peer_first: 1, peer_last: 0 };
        self.rules.get(index).copied().unwrap_or(none)
    }

    pub(super) fn set_granted(&mut self, index: usize, granted: bool) {
        if let Some(entry) = self.granted.get_mut(index) {
            *entry = granted;
        }
    }

    /// Returns the keys to publish, with their values.
    pub(super) fn keys(&self) -> ArrayVec<(&'static str, u32), MAX_KEYS> {
        let [rings, ..] = self.references;
        let (tx, rx) = (self.ports.0.0, self.ports.1.0);
        let mut keys = ArrayVec::new();
        keys.push(("tx-ring-ref", rings.0));
        keys.push(("rx-ring-ref", rings.0.wrapping_add(1)));
        if self.split {
            keys.push(("event-channel-tx", tx));
            keys.push(("event-channel-rx", rx));
        } else {
            keys.push(("event-channel", tx));
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
