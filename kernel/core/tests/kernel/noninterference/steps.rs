//! Two runs in lockstep: the same services at the same steps and times, with another secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use cloister_caps::tables::{AfterLimit, Object, PerService, Tables};
use cloister_caps::{EvtchnPort, Kind, Operation, PortRuleId, ServiceId, Status};
use cloister_kernel_core::console::ConsoleLog;
use cloister_kernel_core::schedule::State;
use cloister_kernel_core::{FaultAction, Outcome};
use cloister_sim::seed::Random;

use super::flows::{Flows, Relays};
use crate::machine::{Bench, XENSTORE};

/// The time between two steps, in ns.
const STEP: u64 = 100_000;

/// Refused calls of a service that come at once.
const FLOOD: usize = 100;

/// Two runs that differ in the secret of one service.
pub struct Case {
    pub tables: Tables<'static>,
    /// The service with the secret.
    pub source: ServiceId,
    pub relays: Relays,
    /// Chooses all that both runs have in common: the order of the services, the events of peers,
    /// the programs, the random bits of the machine.
    pub seed: u64,
    pub steps: usize,
}

/// What a case has shown.
pub struct Seen {
    /// Number of acts of services in one of the runs.
    pub acts: u64,
    /// Number of views of a service that were compared.
    pub compared: usize,
    /// The secret changed what its own service saw.
    pub secret_differed: bool,
}

impl Case {
    /// Runs both.
    ///
    /// # Errors
    /// A service observed the secret. The text says which, when, and what it saw.
    pub fn compare(&self) -> Result<Seen, String> {
        let mut common = Random(self.seed);
        let mut runs = [0, 1].map(|secret| Run::new(self, secret));
        let flows = Flows::from(&self.tables, self.source, self.relays);
        let observers: Vec<ServiceId> = flows.observers().collect();
        let mut seen = Seen { acts: 0, compared: 0, secret_differed: false };
        for step in 0..self.steps {
            let turn = Turn::random(&mut common, &self.tables);
            let is_silent = |service| self.relays == Relays::Silent && service != self.source && flows.reaches(service);
            if matches!(turn, Turn::Service(service) if is_silent(service)) {
                continue;
            }
            for run in &mut runs {
                run.turn(&turn, step);
            }
            let [one, other] = &runs;
            for observer in &observers {
                let views = [one, other].map(|run| run.view(*observer));
                if views[0] != views[1] {
                    return Err(self.leak(step, *observer, &turn, [one, other].map(|run| run.last(*observer))));
                }
                seen.compared += 1;
            }
            seen.secret_differed |= one.view(self.source) != other.view(self.source);
        }
        seen.acts = runs[0].acts.iter().sum();
        Ok(seen)
    }

    fn leak(&self, step: usize, observer: ServiceId, turn: &Turn, last: [String; 2]) -> String {
        let name = |service| self.tables.service_name(service);
        format!(
            "at step {step}, in {turn:?}, {} sees the secret of {}:\n  {}\n  {}",
            name(observer),
            name(self.source),
            last[0],
            last[1]
        )
    }

    /// Returns the case in words, to see it again.
    pub fn describe(&self) -> String {
        let names = self.tables.services().ids().map(|service| self.tables.service_name(service));
        let names = names.collect::<Vec<_>>();
        format!("case {:#x} of services {names:?}, secret of {}, {:?}", self.seed, self.source, self.relays)
    }
}

/// What happens at a step, in both runs.
#[derive(Debug)]
enum Turn {
    /// A service runs, if it is ready.
    Service(ServiceId),
    /// The peer of a port sends an event, if the port is open and not masked.
    Event(PortRuleId),
    /// A peer begins to use a granted page, by its reference, or stops.
    Use(u32, bool),
    /// Xen refuses ports, or has them again.
    Refuse(bool),
    /// The kernel tries again to end the grants of stopped services, if it has any to end.
    Retry,
}

impl Turn {
    fn random(random: &mut Random, tables: &Tables<'_>) -> Turn {
        let services: Vec<ServiceId> = tables.services().ids().collect();
        let (ports, grants) = (tables.ports().len(), tables.grants().len());
        match random.below(32) {
            0..3 if ports > 0 => Turn::Event(tables.ports().ids().nth(random.below(ports)).expect("a rule")),
            3..5 if grants > 0 => {
                let rule = tables.grants().iter().nth(random.below(grants)).expect("a rule");
                let page = random.below(rule.count.min(4) as usize) as u32;
                Turn::Use(rule.first_ref + page, random.below(2) == 0)
            }
            5 if random.below(4) == 0 => Turn::Retry,
            5 => Turn::Refuse(random.below(4) == 0),
            _ => Turn::Service(*random.pick(&services)),
        }
    }
}

/// What a service observes, as a digest that each observation goes into, and the last ones as text.
#[derive(Default)]
struct View {
    digest: DefaultHasher,
    last: Vec<String>,
}

impl View {
    fn add(&mut self, text: String) {
        text.hash(&mut self.digest);
        if self.last.len() == 4 {
            self.last.remove(0);
        }
        self.last.push(text);
    }
}

/// One of the two runs.
struct Run {
    bench: Bench,
    secret: u64,
    source: ServiceId,
    seed: u64,
    /// The lines of the services on the console, and those about their refusals. A service's own are
    /// part of its view.
    console: ConsoleLog,
    views: Vec<View>,
    /// Number of acts of each service.
    acts: Vec<u64>,
    /// The services that wait for an answer to `wait`.
    asleep: Vec<bool>,
    faults: Vec<u16>,
    ports: BTreeMap<PortRuleId, EvtchnPort>,
    /// Ports on which no event is delivered.
    masked: BTreeSet<u32>,
    clocks: PerService<bool>,
}

impl Run {
    fn new(case: &Case, secret: u64) -> Run {
        let tables = case.tables;
        let mut bench = Bench::of(tables);
        bench.machine.back_end = case.seed & 1 == 1;
        let count = tables.services().len();
        let mut clocks = PerService::new([false; _]);
        for capability in tables.capabilities().iter().filter(|capability| capability.kind() == Kind::Clock) {
            clocks[capability.service] = capability.rights.contains(Operation::ClockNow.right());
        }
        let xenstore =
            tables.ports().with_ids().filter(|(_, rule)| rule.peer == cloister_caps::tables::PortPeer::XenStore);
        Run {
            ports: xenstore.map(|(id, _)| (id, XENSTORE)).collect(),
            bench,
            secret,
            source: case.source,
            seed: case.seed,
            console: ConsoleLog::new(),
            views: (0..count).map(|_| View::default()).collect(),
            acts: vec![0; count],
            asleep: vec![false; count],
            faults: vec![0; count],
            masked: BTreeSet::new(),
            clocks,
        }
    }

    /// Returns a digest of all that a service has observed, and whether it can run now.
    fn view(&self, service: ServiceId) -> (u64, bool) {
        (self.views[service.index()].digest.finish(), self.is_ready(service))
    }

    fn last(&self, service: ServiceId) -> String {
        format!("{:?}, {:?}", self.views[service.index()].last, self.bench.kernel.state(service))
    }

    fn is_ready(&self, service: ServiceId) -> bool {
        match self.bench.kernel.state(service) {
            State::Ready => true,
            State::Waiting(deadline) => deadline <= self.bench.machine.time,
            State::Stopped => false,
        }
    }

    fn turn(&mut self, turn: &Turn, step: usize) {
        self.bench.machine.time = 5_000 + step as u64 * STEP;
        self.take_lines();
        let machine = &mut self.bench.machine;
        // Random bits tell nothing of who drew before: they are the generator's business.
        let mut bits = Random(self.seed ^ step as u64);
        machine.random = (bits.below(8) > 0).then(|| [bits.word(), bits.word()]);
        match *turn {
            Turn::Service(service) => self.service(service),
            Turn::Event(rule) => {
                let Some(port) = self.ports.get(&rule).copied() else { return };
                if self.masked.insert(port.0) {
                    // The channels of a stopped service are gone, but for the toolstack's at Xen.
                    let service = self.bench.tables.port(rule).service;
                    let expected = Some(service).filter(|id| self.bench.kernel.state(*id) != State::Stopped);
                    assert_eq!(self.bench.kernel.event(port), expected);
                }
            }
            Turn::Use(reference, true) => _ = machine.in_use.insert(reference),
            Turn::Use(reference, false) => _ = machine.in_use.remove(&reference),
            Turn::Refuse(refuses) => machine.refuses_ports = refuses,
            Turn::Retry => self.retry(),
        }
    }

    /// Has the kernel try again to end grants, as it does some time after it has stopped a service.
    /// Which services are stopped, the line about it does not say.
    fn retry(&mut self) {
        if self.bench.kernel.has_revocations(u64::MAX - 1) {
            self.bench.kernel.retry_revocations(&mut self.bench.machine);
            self.bench.machine.log.clear();
            self.note_cleared();
        }
    }

    /// Lets a service take the answer to its `wait` and make one call, or fault.
    fn service(&mut self, service: ServiceId) {
        if !self.is_ready(service) {
            return;
        }
        let (index, now) = (service.index(), self.bench.machine.time);
        if let Some(answer) = self.bench.kernel.take_answer(service, now) {
            assert!(std::mem::take(&mut self.asleep[index]), "{service} did not wait");
            assert_eq!(answer.words[1], if self.clocks[service] { now } else { 0 }, "the time is for a clock's holder");
            self.views[index].add(format!("{answer:?}"));
        }
        assert!(!self.asleep[index], "{service} runs on without an answer");
        let mut program = self.program(service);
        // Few where a fault may be the last act of the service. In half of the cases only the source
        // faults, and seldom, so that what its first fault changes is not hidden by others' faults.
        let faults = match self.bench.tables.service(service).restart_limit {
            ..100 => 500,
            _ if self.seed & 2 == 0 => 16,
            _ if service == self.source => 64,
            _ => usize::MAX,
        };
        if program.below(faults) == 0 && self.may_fault(service) {
            return self.fault(service);
        }
        match program.below(15) {
            0 if program.below(16) == 0 => self.flood(service, &mut program),
            0..3 => {
                // Mostly soon, so that few sleep for the rest of the case.
                let deadline = match program.below(64) {
                    0 => u64::MAX,
                    1 => program.word(),
                    _ => now + program.below(20 * STEP as usize) as u64,
                };
                let hold = if program.below(2) == 0 { 0 } else { program.word() };
                self.call(service, 0, [deadline, hold, 0, 0, 0, 0]);
            }
            3 => {
                let number = [1, 1, 1, 2, program.word()][program.below(5)];
                self.call(service, number, std::array::from_fn(|_| word(&mut program)));
            }
            4 | 5 => self.write(service, &mut program),
            6 if service == self.source && program.below(2) == 0 => {}
            _ => self.likely(service, &mut program),
        }
    }

    /// Returns the numbers that choose the next act of a service. They follow from what it has seen,
    /// so that whatever reaches it changes what it does. The source's follow from its secret, too.
    fn program(&mut self, service: ServiceId) -> Random {
        let index = service.index();
        self.acts[index] += 1;
        let mut hasher = self.views[index].digest.clone();
        (self.seed, self.acts[index], index).hash(&mut hasher);
        if service == self.source {
            self.secret.hash(&mut hasher);
        }
        Random(hasher.finish())
    }

    /// Returns `true` if a fault does not stop the image, and thus all services.
    fn may_fault(&self, service: ServiceId) -> bool {
        let rule = self.bench.tables.service(service);
        rule.after_limit == AfterLimit::StopService || self.faults[service.index()] < rule.restart_limit
    }

    fn fault(&mut self, service: ServiceId) {
        self.faults[service.index()] += 1;
        let action = self.bench.kernel.fault(&mut self.bench.machine, service);
        assert_ne!(action, FaultAction::StopImage);
        let mut seen = format!("{action:?}");
        self.print(service, &mut seen);
        self.views[service.index()].add(seen);
        self.note_unmasked();
        self.note_cleared();
    }

    /// Writes text, if the service has a console.
    fn write(&mut self, service: ServiceId, program: &mut Random) {
        let capabilities = self.bench.tables.capabilities();
        let mut own = capabilities.iter().filter(|held| held.service == service && held.kind() == Kind::Console);
        let Some(console) = own.next() else { return };
        let mut text = [0; 32];
        let length = program.below(33);
        text[..length].fill_with(|| *program.pick(b"abc\n\n\x1b"));
        let word = |at: usize| u64::from_le_bytes(text[at * 8..][..8].try_into().expect("8 bytes"));
        let arguments = [console.slot.into(), Operation::ConsoleWrite as u64, word(0), word(1), word(2), word(3)];
        self.call(service, 1, arguments);
    }

    /// Is refused so often that the lines about it are more than the service may have.
    fn flood(&mut self, service: ServiceId, program: &mut Random) {
        let slot = program.below(3) as u64 + 61;
        for _ in 0..FLOOD {
            self.call(service, 1, [slot, 0, 0, 0, 0, 0]);
        }
    }

    /// Invokes an operation that the kind of one of the service's capabilities has.
    fn likely(&mut self, service: ServiceId, program: &mut Random) {
        if program.below(6) == 0 {
            return self.find(service, program);
        }
        let own = &self.bench.operations[service.index()];
        if own.is_empty() {
            return self.call(service, 1, [0; 6]);
        }
        let (slot, number) = *program.pick(own);
        if number == Operation::GrantIssue as u64 && program.below(2) == 0 {
            return self.issue(service, slot, program);
        }
        let mut further = || if program.below(3) == 0 { word(program) } else { 0 };
        let arguments = [further(), further()];
        self.call(service, 1, [slot, number, word(program), word(program), arguments[0], arguments[1]]);
    }

    /// Grants a page of a rule to one of its peers.
    fn issue(&mut self, service: ServiceId, slot: u64, program: &mut Random) {
        let Some(Object::Grant(rule)) = self.held(service, slot) else { return };
        let rule = self.bench.tables.grant(rule);
        let peers = self.bench.tables.domain_set(rule.peers);
        let peer = u64::from(peers.first) + program.below(usize::from(peers.last - peers.first).min(3) + 1) as u64;
        let page = program.below(rule.count as usize) as u64;
        self.call(service, 1, [slot, Operation::GrantIssue as u64, page, peer, 0, 0]);
    }

    /// Returns the object of the capability in a slot.
    fn held(&self, service: ServiceId, slot: u64) -> Option<Object> {
        let mut capabilities = self.bench.tables.capabilities().iter();
        let held = capabilities.find(|held| held.service == service && u64::from(held.slot) == slot);
        held.map(|held| held.object)
    }

    /// Finds one of the regions that the service maps.
    fn find(&mut self, service: ServiceId, program: &mut Random) {
        let capabilities = self.bench.tables.capabilities();
        let regions = || capabilities.iter().filter(|held| held.service == service && held.kind() == Kind::Region);
        let Some(region) = regions().nth(program.below(regions().count())) else { return };
        self.call(service, 1, [region.slot.into(), Operation::RegionFind as u64, 0, 0, 0, 0]);
    }

    fn call(&mut self, service: ServiceId, number: u64, arguments: [u64; 6]) {
        let outcome = self.bench.call(service, number, arguments);
        let mut seen = String::new();
        match outcome {
            Outcome::Wait => self.asleep[service.index()] = true,
            Outcome::Answer(mut answer) => {
                if answer.status == Status::Done && number == 1 {
                    self.note_port(service, arguments, &mut answer.words);
                }
                let _ = write!(seen, "{answer:?}");
            }
            Outcome::PowerOff | Outcome::Reboot => {}
        }
        self.print(service, &mut seen);
        self.views[service.index()].add(seen);
        self.note_unmasked();
        self.note_cleared();
    }

    /// Keeps which ports the kernel has unmasked.
    fn note_unmasked(&mut self) {
        self.bench.machine.unmasked.drain(..).for_each(|port| _ = self.masked.remove(&port));
    }

    /// Lets the console daemon take all lines, as at each turn. Each is observed by the service that
    /// it names.
    fn take_lines(&mut self) {
        let (tables, now, mut lines) = (self.bench.tables, self.bench.machine.time, Vec::new());
        self.console.take(&tables, now, usize::MAX, |bytes| lines.extend_from_slice(bytes));
        for line in String::from_utf8_lossy(&lines).lines() {
            let name = match line.strip_prefix("refused: service=") {
                Some(refusal) => refusal.split(' ').next(),
                None => line.split(':').next(),
            };
            let name = name.unwrap_or(line);
            let named = tables.services().ids().find(|id| tables.service_name(*id) == name);
            self.views[named.expect("a service").index()].add(format!("line {line}"));
        }
    }

    /// Puts the text of a call on the console, and its refusal. Adds what the kernel has logged, also
    /// of refusals that have no credit.
    fn print(&mut self, service: ServiceId, seen: &mut String) {
        let (machine, tables) = (&mut self.bench.machine, self.bench.tables);
        for service in machine.discarded.drain(..) {
            self.console.discard_text(service);
        }
        for (writer, text) in machine.text.drain(..) {
            assert_eq!(writer, service);
            let printed = self.console.add_text(&tables, service, &text, machine.time);
            let _ = write!(seen, " {printed}");
        }
        for refusal in machine.refusals.drain(..) {
            assert_eq!(refusal.service, service);
            self.console.add_refusal(&refusal, machine.time);
        }
        for line in machine.log.drain(..) {
            let _ = write!(seen, " {line}");
        }
    }

    /// Keeps which port of Xen's belongs to which rule, and takes its number out of the answer.
    fn note_port(&mut self, service: ServiceId, [slot, number, ..]: [u64; 6], words: &mut [u64; 2]) {
        let Some(Object::Port(rule)) = self.held(service, slot) else { return };
        if number == Operation::PortOpen as u64 {
            let port = EvtchnPort(std::mem::take(&mut words[0]) as u32);
            self.ports.insert(rule, port);
        } else if number == Operation::PortClose as u64 {
            self.ports.remove(&rule);
        }
    }

    /// Shows cleared pages to the services that map them.
    fn note_cleared(&mut self) {
        let tables = self.bench.tables;
        for frame in self.bench.machine.cleared.drain(..) {
            for mapping in tables.mappings().iter() {
                let frames = self.bench.kernel.placements()[mapping.region].frames();
                if (frames.start..frames.end).contains(&frame) {
                    self.views[mapping.service.index()].add(format!("page {} is zero", frame - frames.start));
                }
            }
        }
    }
}

/// Returns a number that is mostly one of a page, a peer or a slot.
fn word(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.word(),
        1 => random.below(140) as u64,
        _ => random.below(5) as u64,
    }
}
