//! The control service between a hostile store and a hostile tcpip. It holds the right to end the
//! domain, and must use it only on the toolstack's command.

use std::cell::Cell;
use std::rc::Rc;

use arbitrary::Arbitrary;
use cloister_caps::{Operation, Slot};
use cloister_control::{Caps, service};
use cloister_interfaces::capability::{Clock, Console, Power};
use cloister_interfaces::control::{self, Control};
use cloister_interfaces::store::{Action, Reply, Request, Store, StoreError, Value};
use cloister_interfaces::{Message, Service};
use cloister_sim::fakes::StoreService;
use cloister_sim::{ChannelMemory, Recorder, SharedMemory, Xenstored};

use crate::host::{Host, Pause, Work};
use crate::peer::{Act, Any, Peer, ScriptMessage};
use crate::script::{Bytes, Trace, World};

const NODE: &str = "/local/domain/7/control/shutdown";
const COMMANDS: [&str; 6] = ["poweroff", "halt", "reboot", "suspend", "", "crash"];
/// The work of 32 steps, each of which receives or sends a message.
const MOST: Work = Work { invocations: 260, reads: 260 };

/// A reply of the store.
#[derive(Arbitrary, Clone, Debug)]
pub enum Answer {
    /// To the last request.
    Value(Bytes),
    Command(u8),
    StoreError(u8),
    /// To another request.
    Other(u16, Bytes),
    Changed(u16),
}

/// A reply, with the id of its request.
#[derive(Clone, Debug)]
pub struct StoreReply(u16, Answer);

impl Arbitrary<'_> for StoreReply {
    fn arbitrary(input: &mut arbitrary::Unstructured<'_>) -> arbitrary::Result<Self> {
        // The id is set when the reply is sent.
        Ok(StoreReply(0, Answer::arbitrary(input)?))
    }
}

impl ScriptMessage<Reply> for StoreReply {
    fn bytes(&self) -> Vec<u8> {
        let value = |bytes: &[u8]| -> Value { bytes.iter().copied().take(120).collect() };
        let reply = match &self.1 {
            Answer::Value(Bytes(bytes)) => Reply::Answer { id: self.0, result: Ok(value(bytes)) },
            Answer::Command(which) => {
                let text = COMMANDS[usize::from(*which) % COMMANDS.len()];
                Reply::Answer { id: self.0, result: Ok(value(text.as_bytes())) }
            }
            Answer::StoreError(which) => {
                Reply::Answer { id: self.0, result: Err(StoreError::ALL[usize::from(*which) % StoreError::ALL.len()]) }
            }
            Answer::Other(id, Bytes(bytes)) => Reply::Answer { id: *id, result: Ok(value(bytes)) },
            Answer::Changed(token) => Reply::Changed { token: *token },
        };
        let mut bytes = vec![0; Reply::SIZE];
        reply.to_bytes(&mut bytes);
        bytes
    }
}

/// Queue depth.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
}

/// The service and its peers.
struct Bench {
    host: Host,
    service: Box<dyn Service>,
    store: ChannelMemory,
    tcpip: Peer<control::Reply, control::Request>,
    daemon: Xenstored,
    /// `true` once the domain was ended.
    ended: Rc<Cell<bool>>,
}

impl Bench {
    fn new(setup: &Setup, trace: &Trace, hostile_store: bool) -> Bench {
        let host = Host::new(trace, MOST);
        let ended = Rc::new(Cell::new(false));
        let flag = ended.clone();
        host.recorder.answer(move |_, operation, _| {
            flag.set(flag.get() || matches!(operation, Operation::PowerOff | Operation::PowerReboot));
            Ok([0; 2])
        });
        let (store, control) = (ChannelMemory::new::<Store>(2 << (setup.depth % 4)), ChannelMemory::new::<Control>(2));
        let caps = Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            power: Power::new(host.system.clone(), Slot(9)),
            store: if hostile_store { host.client(&store, 2) } else { host.honest_client(&store, 2) },
            control: if hostile_store { host.honest_client(&control, 3) } else { host.client(&control, 3) },
        };
        let daemon = Xenstored::new(SharedMemory::new(4096), 7);
        let service = Box::new(service(caps));
        Bench { host, service, store, tcpip: Peer::server(&control), daemon, ended }
    }

    /// The store's end of the queue, for an honest store.
    fn store_service(&self) -> StoreService<Recorder> {
        let same = |memory: SharedMemory| memory;
        StoreService::new(self.store.server(&Recorder::new(), 4, same, same))
    }

    fn call(&mut self) {
        if !self.ended.get() {
            self.host.call(self.service.as_mut());
        }
    }

    /// Checks that with an honest store a command ends the domain, however long tcpip takes.
    fn check_shutdown(&mut self, store: &mut StoreService<Recorder>) {
        for round in 0..20 {
            if self.ended.get() {
                return;
            }
            if round == 8 {
                self.daemon.set(NODE, "poweroff");
                store.notify(0);
            }
            let daemon = &mut self.daemon;
            let ended = self.ended.clone();
            self.host.settle(self.service.as_mut(), 100, || !ended.get() && store.run(daemon));
            self.host.pass(8_000_000_000);
        }
        panic!("a command to power off is not followed");
    }
}

/// A step of the store.
#[derive(Arbitrary, Debug)]
pub enum StoreStep {
    Store(Act<StoreReply>),
    Quiet,
    Pass(Pause),
}

/// The service against a hostile store.
pub struct HostileStore {
    bench: Bench,
    store: Peer<Reply, Request>,
    last: u16,
    /// `true` if the store may have reported a command.
    requested: bool,
}

impl HostileStore {
    fn requested(&self, to: &StoreReply) -> bool {
        // The service refuses a value that is no command. A value of the script may be a command,
        // too.
        matches!(to.1, Answer::Command(_) | Answer::Value(_) | Answer::Other(..))
    }
}

impl World for HostileStore {
    type Setup = Setup;
    type Step = StoreStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let bench = Bench::new(&setup, trace, true);
        let store = Peer::server(&bench.store);
        HostileStore { bench, store, last: 0, requested: false }
    }

    fn step(&mut self, step: StoreStep) {
        match step {
            StoreStep::Store(mut act) => {
                match &mut act {
                    Act::Send(to) | Act::Repeat(_, to) => to.0 = self.last,
                    _ => {}
                }
                self.requested |= match &act {
                    Act::Send(to) | Act::Repeat(_, to) => self.requested(to),
                    Act::Garbage(_) | Act::Lie(_) => true,
                    _ => false,
                };
                let requests = self.store.act(act, &self.bench.host);
                for request in requests {
                    self.last = request.id;
                    check(&request.action);
                }
            }
            StoreStep::Quiet => drop(self.bench.tcpip.send(&control::Reply::Quiet)),
            StoreStep::Pass(pause) => self.bench.host.pass(pause.nanoseconds()),
        }
        self.bench.call();
        assert!(self.requested || !self.bench.ended.get(), "the domain was ended although no command requested it");
    }

    fn honest(mut self) {
        self.store.behave(&self.bench.host);
        let mut store = self.bench.store_service();
        self.bench.check_shutdown(&mut store);
    }
}

/// Checks that the service asks only for the nodes of the toolstack's commands.
fn check(action: &Action) {
    let path = match action {
        Action::Read(path) | Action::Write(path, _) | Action::Watch(path, _) => path,
        Action::Begin | Action::Commit | Action::Abort => return,
        other => panic!("{other:?}"),
    };
    assert!(path.starts_with("control/"), "{action:?}");
}

/// A step of tcpip or of the toolstack.
#[derive(Arbitrary, Debug)]
pub enum QuiesceStep {
    Tcpip(Act<Any<control::Reply>>),
    /// The toolstack writes this value.
    Toolstack(Bytes),
    Command(u8),
    /// The next commits fail.
    Conflicts(u8),
    /// The store answers requests.
    Serve,
    Pass(Pause),
}

/// The service against a hostile tcpip.
pub struct HostileTcpip {
    bench: Bench,
    store: StoreService<Recorder>,
    requested: bool,
}

impl World for HostileTcpip {
    type Setup = Setup;
    type Step = QuiesceStep;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let bench = Bench::new(&setup, trace, false);
        let store = bench.store_service();
        HostileTcpip { bench, store, requested: false }
    }

    fn step(&mut self, step: QuiesceStep) {
        let bench = &mut self.bench;
        match step {
            QuiesceStep::Tcpip(act) => drop(bench.tcpip.act(act, &bench.host)),
            QuiesceStep::Toolstack(Bytes(bytes)) => {
                self.requested |= COMMANDS[..3].iter().any(|command| command.as_bytes() == bytes);
                bench.daemon.set(NODE, bytes);
            }
            QuiesceStep::Command(which) => {
                let which = usize::from(which) % COMMANDS.len();
                self.requested |= which < 3;
                bench.daemon.set(NODE, COMMANDS[which]);
            }
            QuiesceStep::Conflicts(more) => self.store.conflicts += u32::from(more % 32),
            QuiesceStep::Serve => drop(self.store.run(&mut bench.daemon)),
            QuiesceStep::Pass(pause) => bench.host.pass(pause.nanoseconds()),
        }
        self.store.actions.drain(..).for_each(|action| check(&action));
        self.bench.call();
        assert!(self.requested || !self.bench.ended.get(), "the domain was ended although no command requested it");
    }

    fn honest(mut self) {
        self.bench.tcpip.behave(&self.bench.host);
        self.store.conflicts = 0;
        self.bench.check_shutdown(&mut self.store);
    }
}
