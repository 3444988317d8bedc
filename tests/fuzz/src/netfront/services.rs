//! netfront with hostile services.

use arbitrary::Arbitrary;
use cloister_caps::GrantRef;
use cloister_interfaces::net::{Reply as NetReply, Request as NetRequest};
use cloister_interfaces::store::{Reply, Request, StoreError, Value};
use cloister_interfaces::{Message, grants};
use cloister_sim::netback::Frame;

use super::{Bench, Hostile};
use crate::host::Pause;
use crate::peer::{Act, Any, Peer, ScriptMessage};
use crate::script::{Bytes, Trace, World};

/// The queue depth, and the initial state.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
    /// `true` if the link is up before the script begins.
    up: bool,
}

/// A step of a hostile tcpip, or of the other parties.
#[derive(Arbitrary, Debug)]
pub enum NetStep {
    Tcpip(Act<Any<NetRequest>>),
    /// Frames arrive for it.
    Frames(u8, u8),
    /// The back end stops taking frames to send, or starts again.
    Hold(bool),
    /// The back end closes, and comes back.
    Restart,
    Settle,
    Pass(Pause),
}

/// The target: netfront against a hostile tcpip.
pub struct HostileTcpip(Bench);

impl World for HostileTcpip {
    type Setup = Setup;
    type Step = NetStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let mut bench = Bench::new(Hostile::Tcpip, setup.depth, trace);
        if setup.up {
            bench.settle();
        }
        HostileTcpip(bench)
    }

    fn step(&mut self, step: NetStep) {
        let bench = &mut self.0;
        match step {
            NetStep::Tcpip(act) => drop(bench.net.act(act, &bench.host)),
            NetStep::Frames(count, length) => {
                let frame = Frame::from(vec![7; 14 + usize::from(length)]);
                bench.back.waiting.extend(std::iter::repeat_n(frame, usize::from(count) % 40));
            }
            NetStep::Hold(hold) => bench.back.hold_tx = hold,
            NetStep::Restart => bench.back.set_state(&mut bench.daemon, "5"),
            NetStep::Settle => {
                bench.turns(40);
            }
            NetStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        bench.turn();
        bench.back.sent.clear();
        bench.back.waiting.truncate(100);
    }

    fn honest(mut self) {
        let bench = &mut self.0;
        // A link that tcpip has closed stays closed, by design.
        let closed = bench.host.recorder.console().contains("closed");
        bench.net.behave(&bench.host);
        // After lies about the requests it first finds the current index of the queue. Earlier
        // messages do not count.
        bench.host.call(bench.service.as_mut());
        assert!(bench.net.send(&NetRequest::Close));
        bench.hostile = Hostile::Nodes;
        bench.back.hold_tx = false;
        bench.back.waiting.clear();
        bench.tcpip.downs = 0;
        for _ in 0..6 {
            // Messages that are still in flight are older.
            bench.net.receive().into_iter().for_each(|reply| bench.tcpip.downs += u32::from(reply == NetReply::Down));
            for _ in 0..200 {
                bench.hostile = Hostile::Tcpip;
                bench.turn();
            }
            bench.host.pass(20_000_000_000);
        }
        bench.net.receive().into_iter().for_each(|reply| bench.tcpip.downs += u32::from(reply == NetReply::Down));
        assert!(closed || bench.tcpip.downs > 0, "it does not close: {}", bench.host.recorder.console());
        assert!(bench.grants.as_ref().is_none_or(|grants| grants.granted.is_empty()), "grants stand");
    }
}

/// An answer of a hostile XenStore service.
#[derive(Arbitrary, Clone, Debug)]
pub enum Answer {
    /// A value that an honest one could return.
    Value(u8),
    Bytes(Bytes),
    StoreError(u8),
    Changed(u8),
    Other(u16),
}

/// An answer with the id of the last request.
#[derive(Clone, Debug)]
pub struct StoreReply(u16, Answer);

impl Arbitrary<'_> for StoreReply {
    fn arbitrary(input: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<Self> {
        Ok(StoreReply(0, Answer::arbitrary(input)?))
    }
}

impl ScriptMessage<Reply> for StoreReply {
    fn bytes(&self) -> Vec<u8> {
        const VALUES: [&str; 16] = [
            "",
            "0",
            "1",
            "2",
            "4",
            "5",
            "6",
            "/local/domain/0/backend/vif/7/0",
            "00:16:3e:11:22:33",
            "1500",
            "32752",
            "7",
            "-1",
            "3",
            "65536",
            "/local/domain/0/backend/vif/8/0",
        ];
        let value = |bytes: &[u8]| -> Value { bytes.iter().copied().take(120).collect() };
        let reply = match &self.1 {
            Answer::Value(which) => {
                let text = VALUES[usize::from(*which) % VALUES.len()];
                Reply::Answer { id: self.0, result: Ok(value(text.as_bytes())) }
            }
            Answer::Bytes(Bytes(bytes)) => Reply::Answer { id: self.0, result: Ok(value(bytes)) },
            Answer::StoreError(which) => {
                Reply::Answer { id: self.0, result: Err(StoreError::ALL[usize::from(*which) % StoreError::ALL.len()]) }
            }
            Answer::Changed(token) => Reply::Changed { token: u16::from(*token % 4) },
            Answer::Other(id) => Reply::Answer { id: *id, result: Ok(Value::new()) },
        };
        let mut bytes = vec![0; Reply::SIZE];
        reply.to_bytes(&mut bytes);
        bytes
    }
}

/// A step of a hostile XenStore service.
#[derive(Arbitrary, Debug)]
pub enum StoreStep {
    Store(Act<StoreReply>),
    /// It answers this number of requests as an honest one would.
    Play(u8),
    Pass(Pause),
}

/// The target: netfront against a hostile XenStore service.
pub struct HostileStore {
    bench: Bench,
    store: Peer<Reply, Request>,
    last: u16,
}

impl HostileStore {
    /// Answers from the nodes that exist.
    fn serve(&mut self) {
        for request in self.store.receive() {
            self.bench.check(&request.action);
            self.last = request.id;
            let result = match &request.action {
                cloister_interfaces::store::Action::Read(path) => {
                    let path = if path.starts_with('/') { path.to_string() } else { self.bench.daemon.own(path) };
                    let value = self.bench.daemon.get(&path).ok_or(StoreError::NotFound);
                    value.map(|bytes| bytes.into_iter().take(120).collect())
                }
                _ => Ok(Value::new()),
            };
            self.store.send(&Reply::Answer { id: request.id, result });
        }
    }
}

impl World for HostileStore {
    type Setup = Setup;
    type Step = StoreStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let bench = Bench::new(Hostile::Store, setup.depth, trace);
        let store = Peer::server(&bench.store_memory);
        HostileStore { bench, store, last: 0 }
    }

    fn step(&mut self, step: StoreStep) {
        match step {
            StoreStep::Store(mut act) => {
                if let Act::Send(to) | Act::Repeat(_, to) = &mut act {
                    to.0 = self.last;
                }
                for request in self.store.act(act, &self.bench.host) {
                    self.bench.check(&request.action);
                    self.last = request.id;
                }
            }
            StoreStep::Play(times) => {
                for _ in 0..times % 64 {
                    self.serve();
                    self.bench.turn();
                }
            }
            StoreStep::Pass(pause) => self.bench.host.pass(pause.nanoseconds()),
        }
        self.bench.turn();
    }

    fn honest(mut self) {
        self.store.behave(&self.bench.host);
        self.bench.honest_store();
        self.bench.works();
    }
}

/// A step of a hostile grant manager.
#[derive(Arbitrary, Debug)]
pub enum GrantStep {
    Grants(Act<Any<grants::Reply>>),
    /// It claims that a rule's pages are granted, under any reference.
    Issued(u8, u32, u16),
    Ended(u8, u16),
    /// Every party runs, the back end as far as it can.
    Settle,
    State(u8),
    Pass(Pause),
}

/// The target: netfront against a hostile grant manager.
pub struct HostileGrants {
    bench: Bench,
    grants: Peer<grants::Reply, grants::Request>,
}

impl World for HostileGrants {
    type Setup = Setup;
    type Step = GrantStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let bench = Bench::new(Hostile::Grants, setup.depth, trace);
        let grants = Peer::server(&bench.grant_memory);
        HostileGrants { bench, grants }
    }

    fn step(&mut self, step: GrantStep) {
        let bench = &mut self.bench;
        match step {
            GrantStep::Grants(act) => {
                self.grants.act(act, &bench.host).into_iter().for_each(|request| bench.check_grant(request));
            }
            GrantStep::Issued(rule, reference, count) => {
                let count = if count % 2 == 0 { [2, super::PAGES][usize::from(rule % 3 != 0)] } else { count };
                let reply = grants::Reply::Issued { rule: rule % 4, reference: GrantRef(reference), count };
                self.grants.send(&reply);
            }
            GrantStep::Ended(rule, held) => {
                self.grants.send(&grants::Reply::Ended { rule: rule % 4, still_mapped: held % 3 });
            }
            GrantStep::Settle => {
                bench.turns(40);
            }
            GrantStep::State(state) => bench.back.set_state(&mut bench.daemon, &(state % 9).to_string()),
            GrantStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        bench.turn();
    }

    fn honest(mut self) {
        self.grants.behave(&self.bench.host);
        // None of the pages in its earlier claims is granted, and no peer holds pages any longer.
        for rule in 0..3 {
            let sent = (0..100).any(|_| {
                self.bench.turn();
                self.grants.send(&grants::Reply::Ended { rule, still_mapped: 0 })
            });
            assert!(sent, "it takes no answers");
        }
        self.bench.turns(2);
        self.grants.receive();
        self.bench.honest_grants();
        self.bench.works();
    }
}
