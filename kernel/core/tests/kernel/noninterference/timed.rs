//! Two runs of the kernel's loop over a model of the machine, with another secret.
//!
//! Here the secret's service takes processor time as it likes, so the times at which the others run
//! differ. What they get must not: the services that are compared have no queue and no port, and so
//! each sees the same answers in the same order, as far as it comes. And their times must be what
//! docs/scheduling.md promises, whatever the secret is.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use cloister_caps::{EvtchnPort, Kind, Operation, ServiceId};
use cloister_kernel_core::run_loop::{self, Cause, Entry, Processor};
use cloister_kernel_core::schedule::Next;
use cloister_kernel_core::{Answer, FaultAction, Outcome};
use cloister_sim::seed::Random;

use crate::machine::{Bench, tables};
use crate::shares::{FAST, Machine, SLOW, measured};

/// Number of cases.
pub const CASES: usize = 120;
/// Length of a run, in periods.
const PERIODS: u64 = 12;
/// The longest time in which the kernel restarts a service, in ns.
const RESTART: u64 = 20_000;

/// What a service does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// It has the secret, a port, and a peer that sends events.
    Source,
    /// It is always ready and makes no call.
    Busy,
    /// It calls, waits and faults, by what it has seen.
    Calling,
}

/// What the source does most of the time. It follows from the secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Habit {
    /// As the others do.
    Calling,
    /// It waits for this many ns.
    Waiting(u64),
    /// It waits for events of its peer, which sends one each 2 µs.
    Serving,
    /// It faults.
    Faulting,
}

/// Two runs that differ in the secret of one service.
#[derive(Debug)]
pub struct Case {
    machine: Machine,
    /// For each service: its role, its priority and its budget in µs.
    services: Vec<(Role, u8, u32)>,
    /// The period of all services, in µs.
    period: u32,
    seed: u64,
}

impl Case {
    pub fn random(random: &mut Random) -> Case {
        let period = *random.pick(&[1_000, 2_000, 10_000]);
        let mut services: Vec<(Role, u8, u32)> = (0..2 + random.below(5))
            .map(|_| {
                let role = if random.below(2) == 0 { Role::Busy } else { Role::Calling };
                (role, 1 + random.below(4) as u8, 1 + random.below(period as usize) as u32)
            })
            .collect();
        let source = random.below(services.len());
        services[source].0 = Role::Source;
        if random.below(2) == 0 {
            // Before all others but one that wants all the rest, so that whatever it is not charged
            // for, that one loses.
            (services[source].1, services[source].2) = (5, period / 2);
            services.push((Role::Busy, 4, period));
        }
        if random.below(3) == 0 {
            // The first of all, which always has budget left: its deadlines are met within bounds.
            services.insert(0, (Role::Calling, 9, period));
        }
        Case { machine: *random.pick(&[FAST, FAST, SLOW]), services, period, seed: random.word() }
    }

    fn text(&self) -> String {
        let mut out = String::from("format = 2\nimage = { name = \"timed\" }\n[domains.d]\nids = \"0\"\n");
        for (index, (role, priority, budget)) in self.services.iter().enumerate() {
            let _ = write!(
                out,
                "[services.s{index:02}]\nprogram = \"p\"\npriority = {priority}\nstack = \"4K\"\n\
                 cpu = {{ budget_us = {budget}, period_us = {} }}\nconsole = [\"write\"]\ninfo = [\"read\"]\n\
                 restart = {{ limit = 60000, then = \"stop-service\" }}\n",
                self.period
            );
            if index % 2 == 0 {
                out.push_str("clock = [\"now\"]\n");
            }
            if *role == Role::Source {
                let rights = "rights = [\"open\", \"send\", \"close\"]";
                let _ = write!(out, "[ports.p]\nservice = \"s{index:02}\"\npeer = \"d\"\n{rights}\n");
            }
        }
        out
    }

    /// Runs both, and returns the number of entries into the kernel.
    ///
    /// # Errors
    /// A service observed the secret, or got less than it is promised.
    pub fn compare(&self) -> Result<usize, String> {
        let mut runs = [0, 1].map(|secret| Run::new(self, secret));
        for run in &mut runs {
            run.run(PERIODS * u64::from(self.period) * 1_000)?;
        }
        for (index, (role, ..)) in self.services.iter().enumerate().filter(|(_, (role, ..))| *role != Role::Source) {
            let [one, other] = [0, 1].map(|run: usize| &runs[run].parties[index].seen);
            let both = one.iter().zip(other).position(|(one, other)| one != other);
            if let Some(at) = both {
                return Err(format!("s{index:02} sees the secret in its observation {at}"));
            }
            if *role == Role::Busy {
                runs.iter().try_for_each(|run| self.check_share(index, run.parties[index].ran))?;
            }
        }
        Ok(runs.iter().map(|run| run.entries).sum())
    }

    /// Checks that a busy service had what it is promised (docs/scheduling.md).
    fn check_share(&self, index: usize, ran: u64) -> Result<(), String> {
        let (_, priority, budget) = self.services[index];
        let is_before = |(other, service): &(usize, &(Role, u8, u32))| {
            service.1 > priority || service.1 == priority && *other < index
        };
        let before: Vec<u64> =
            self.services.iter().enumerate().filter(is_before).map(|(_, service)| u64::from(service.2)).collect();
        let left = u64::from(self.period).saturating_sub(before.iter().sum());
        let promised = (u64::from(budget).min(left) * 1_000) as f64;
        // Two of its own, one for each service before it, and one for the port.
        let lost = (before.len() as u64 + 3) * self.machine.timer_switch() + RESTART;
        let required = (0.9 * promised).min(0.98 * promised - lost as f64);
        // Without the first and the last period.
        let had = ran as f64 / (PERIODS - 2) as f64;
        if had >= required { Ok(()) } else { Err(format!("s{index:02} had {had:.0} of {promised} ns in each period")) }
    }
}

/// A service's program, and what it has seen.
struct Party {
    role: Role,
    /// Time left of its spin before the next act.
    left: u64,
    /// A digest of all that it has seen except times, after each observation.
    seen: Vec<u64>,
    acts: u64,
    /// The deadline of its `wait`, or the time of the call if that is later.
    due: u64,
    /// Time for which its own instructions ran.
    ran: u64,
    has_clock: bool,
}

struct Run {
    bench: Bench,
    machine: Machine,
    seed: u64,
    secret: u64,
    habit: Habit,
    parties: Vec<Party>,
    /// The source's open port, and `true` if it is masked.
    port: Option<(EvtchnPort, bool)>,
    /// The time of the peer's next event, and the time between two.
    event: (u64, u64),
    timer: u64,
    current: Option<ServiceId>,
    entries: usize,
    late: Option<String>,
}

impl Run {
    fn new(case: &Case, secret: u64) -> Run {
        let mut bench = Bench::of(tables(&case.text()));
        bench.machine.time = 0;
        bench.kernel.start_accounting(measured(&case.machine), 0);
        let has_clock = |service: ServiceId| {
            bench.tables.capabilities().iter().any(|held| held.service == service && held.kind() == Kind::Clock)
        };
        let party = |(service, (role, ..)): (ServiceId, &(Role, u8, u32))| Party {
            role: *role,
            left: if *role == Role::Busy { u64::MAX } else { 100 },
            seen: Vec::new(),
            acts: 0,
            due: 0,
            ran: 0,
            has_clock: has_clock(service),
        };
        let parties = bench.tables.services().ids().zip(&case.services).map(party).collect();
        let mut choice = Random(case.seed ^ secret);
        let wait = choice.below(80_000) as u64;
        let habit = *choice.pick(&[Habit::Calling, Habit::Waiting(wait), Habit::Serving, Habit::Faulting]);
        let between = if habit == Habit::Serving { 2_000 } else { *choice.pick(&[2_000, 20_000, 300_000]) };
        Run {
            bench,
            machine: case.machine,
            seed: case.seed,
            secret,
            habit,
            parties,
            port: None,
            event: (between, between),
            timer: u64::MAX,
            current: None,
            entries: 0,
            late: None,
        }
    }

    fn run(&mut self, until: u64) -> Result<(), String> {
        let mut now = 0;
        while self.bench.machine.time < until {
            let Some(service) = run_loop::resume(self, now) else { break };
            self.entries += 1;
            now = self.run_service(service);
            if let Some(late) = self.late.take() {
                return Err(late);
            }
        }
        Ok(())
    }

    fn next_interrupt(&self) -> u64 {
        let event = if matches!(self.port, Some((_, false))) { self.event.0 } else { u64::MAX };
        self.timer.min(event)
    }

    /// Returns the numbers that choose the next act of a service.
    fn program(&mut self, service: ServiceId) -> Random {
        let index = service.index();
        let party = &mut self.parties[index];
        party.acts += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, index, party.acts, party.seen.last()).hash(&mut hasher);
        if party.role == Role::Source {
            self.secret.hash(&mut hasher);
        }
        Random(hasher.finish())
    }

    fn observe(&mut self, service: ServiceId, what: impl Hash) {
        let seen = &mut self.parties[service.index()].seen;
        let mut hasher = DefaultHasher::new();
        (seen.last(), what).hash(&mut hasher);
        seen.push(hasher.finish());
    }

    /// Lets a service run until it enters the kernel and does not go on at once. Returns the time
    /// from which the kernel goes on.
    fn run_service(&mut self, id: ServiceId) -> u64 {
        loop {
            let (interrupt, time) = (self.next_interrupt(), self.bench.machine.time);
            let party = &mut self.parties[id.index()];
            let ran = interrupt.saturating_sub(time).min(party.left);
            party.ran += ran;
            party.left -= ran;
            self.bench.machine.time += ran;
            if party.left > 0 {
                return self.interrupt(id);
            }
            let mut program = self.program(id);
            if self.parties[id.index()].role == Role::Source && program.below(8) > 0 {
                self.parties[id.index()].left = 100;
                match self.habit {
                    Habit::Waiting(wait) => return self.wait_until(id, time + ran + wait),
                    Habit::Serving if self.port.is_some() => return self.wait_until(id, u64::MAX),
                    Habit::Serving => {
                        self.open_port(id);
                        continue;
                    }
                    Habit::Faulting => return self.fault(id, &mut program),
                    Habit::Calling => {}
                }
            }
            self.parties[id.index()].left = 100 + program.below(*program.clone().pick(&[300, 3_000, 60_000])) as u64;
            match program.below(12) {
                0 => return self.fault(id, &mut program),
                1..6 => return self.wait(id, &mut program),
                _ => self.call(id, &mut program),
            }
        }
    }

    fn interrupt(&mut self, id: ServiceId) -> u64 {
        self.bench.machine.time += self.machine.interrupt;
        let now = self.bench.machine.time;
        self.bench.machine.time += self.machine.call / 2;
        run_loop::enter(self, id, Entry::Interrupt, now)
    }

    fn fault(&mut self, id: ServiceId, program: &mut Random) -> u64 {
        let now = self.bench.machine.time + self.machine.call / 2;
        self.bench.machine.time += self.machine.call + program.below(RESTART as usize) as u64;
        let action = self.bench.kernel.fault(&mut self.bench.machine, id);
        let count = if let FaultAction::Restart(count) = action { Some(count) } else { None };
        self.observe(id, count);
        self.current = None;
        run_loop::enter(self, id, Entry::Fault, now)
    }

    fn wait(&mut self, id: ServiceId, program: &mut Random) -> u64 {
        let time = self.bench.machine.time;
        let deadline = match self.parties[id.index()].role {
            Role::Source if program.below(4) == 0 => u64::MAX,
            _ => time + program.below(*program.clone().pick(&[10, 2_000, 60_000, 900_000])) as u64,
        };
        self.wait_until(id, deadline)
    }

    fn wait_until(&mut self, id: ServiceId, deadline: u64) -> u64 {
        let time = self.bench.machine.time;
        assert_eq!(self.bench.call(id, 0, [deadline, 0, 0, 0, 0, 0]), Outcome::Wait);
        self.note_unmasked();
        let now = time + self.machine.call / 2;
        self.bench.machine.time += self.machine.call;
        self.parties[id.index()].due = deadline.max(self.bench.machine.time);
        run_loop::enter(self, id, Entry::SystemCall, now)
    }

    fn call(&mut self, id: ServiceId, program: &mut Random) {
        let own = &self.bench.operations[id.index()];
        let operation = if program.below(6) == 0 { (60, 1) } else { *program.pick(own) };
        self.invoke(id, operation, program.below(4) as u64);
    }

    fn open_port(&mut self, id: ServiceId) {
        let mut own = self.bench.operations[id.index()].iter();
        let open = *own.find(|(_, number)| *number == Operation::PortOpen as u64).expect("the source's port");
        self.invoke(id, open, 0);
    }

    fn invoke(&mut self, id: ServiceId, (slot, number): (u64, u64), argument: u64) {
        self.bench.machine.time += self.machine.call;
        let outcome = self.bench.call(id, 1, [slot, number, argument, 0, 0, 0]);
        let Outcome::Answer(Answer { status, mut words }) = outcome else { panic!("{outcome:?}") };
        if number == Operation::ClockNow as u64 && words != [0; 2] {
            assert_eq!(words, [self.bench.machine.time, 0]);
            words = [0; 2];
        } else if number == Operation::PortOpen as u64 && words[0] != 0 {
            self.port = Some((EvtchnPort(words[0] as u32), true));
        } else if number == Operation::PortClose as u64 && status as u64 == 0 {
            self.port = None;
        }
        self.note_unmasked();
        self.bench.machine.log.clear();
        self.observe(id, (status as u64, words));
    }

    fn note_unmasked(&mut self) {
        for unmasked in self.bench.machine.unmasked.drain(..) {
            if let Some((port, masked)) = &mut self.port {
                *masked &= port.0 != unmasked;
            }
        }
    }

    /// Checks how late a service runs whose deadline has passed, if it is the first of all and always
    /// has budget. Then nothing delays it but the grain, a restart, and one of each operation.
    fn check_deadline(&mut self, service: ServiceId, now: u64) {
        let record = self.bench.tables.service(service);
        if service.index() != 0 || record.priority != 9 {
            return;
        }
        let Machine { call, hypercall, switch, interrupt } = self.machine;
        let bound = measured(&self.machine).grain + RESTART + 2 * (call + hypercall + switch + interrupt);
        let late = now.saturating_sub(self.parties[0].due);
        if late > bound {
            self.late = Some(format!("s00 runs {late} ns after its deadline, more than {bound}"));
        }
    }
}

impl Processor for Run {
    fn next(&mut self, now: u64) -> Next {
        self.bench.kernel.next(now)
    }

    fn arm(&mut self, next: &Next, now: u64) {
        if let Some(at) = self.bench.kernel.arm(next, now) {
            self.bench.machine.time += self.machine.hypercall;
            self.timer = at;
        }
    }

    fn sleep(&mut self, _: u64) -> Option<u64> {
        let interrupt = Some(self.next_interrupt()).filter(|interrupt| *interrupt != u64::MAX)?;
        let time = self.bench.machine.time.max(interrupt) + self.machine.interrupt;
        self.bench.machine.time = time;
        self.bench.kernel.note_idle(time);
        Some(time)
    }

    fn take_events(&mut self) -> Cause {
        let (mut cause, time) = (Cause::default(), self.bench.machine.time);
        if self.timer <= time {
            self.timer = u64::MAX;
            cause.note(self.bench.kernel.timer_fired());
        }
        if let Some((port, false)) = self.port
            && self.event.0 <= time
        {
            self.event.0 = (time / self.event.1 + 1) * self.event.1;
            self.port = Some((port, true));
            cause.note(self.bench.kernel.event(port));
        }
        cause
    }

    fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64) {
        self.bench.kernel.charge_entry(service, payer, now);
    }

    fn charge_restart(&mut self, service: ServiceId) -> u64 {
        let now = self.bench.machine.time;
        self.bench.kernel.charge_restart(service, now);
        now
    }

    fn switch_to(&mut self, service: ServiceId, now: u64) {
        if let Some(Answer { words: [bits, time], .. }) = self.bench.kernel.take_answer(service, now) {
            assert_eq!(time, if self.parties[service.index()].has_clock { now } else { 0 });
            self.observe(service, bits);
            self.check_deadline(service, now);
        }
        if self.current.replace(service) != Some(service) {
            self.bench.machine.time += self.machine.switch;
        }
        let time = self.bench.machine.time;
        self.bench.kernel.charge_kernel_work(service, || time);
    }
}
