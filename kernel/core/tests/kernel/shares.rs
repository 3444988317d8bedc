//! Checks that a service has its share of the processor beside others that attack it.
//!
//! The tests run the kernel's loop, the scheduler and the accounting that ship, over a model of the
//! machine. The model counts what the kernel cannot see: how long each service's own instructions
//! ran.

use std::fmt::Write;

use cloister_caps::ServiceId;
use cloister_caps::tables::Tables;
use cloister_kernel_core::run_loop::{self, Cause, Entry, Processor};
use cloister_kernel_core::schedule::{Next, Scheduler, State};
use cloister_kernel_core::{Accounting, Costs};
use proptest::prelude::*;

use crate::machine::{shipped, tables};

/// Length of a run, in periods of the service with the longest.
const PERIODS: u64 = 40;
/// The part of its promise that a service must have: 90 %.
const REQUIRED_SHARE: f64 = 0.9;

/// Says how long the machine's operations take, in ns.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// An entry into the kernel by a system call, and what the kernel does in one.
    pub call: u64,
    /// A hypercall.
    pub hypercall: u64,
    /// A switch of address spaces.
    pub switch: u64,
    /// From the service's last instruction to the kernel's first, through the hypervisor.
    pub interrupt: u64,
}

impl Machine {
    /// Returns the longest time of a timer switch: from one service to another because of a timer,
    /// including setting the timer for both.
    pub fn timer_switch(&self) -> u64 {
        self.interrupt + self.call + 2 * self.hypercall + self.switch
    }
}

/// A server of a usual speed.
pub const FAST: Machine = Machine { call: 300, hypercall: 1_200, switch: 400, interrupt: 1_800 };
/// A machine on which every operation takes long.
pub const SLOW: Machine = Machine { call: 1_000, hypercall: 5_000, switch: 2_000, interrupt: 30_000 };

/// Says how an adversary yields the processor: after how long, and by what.
#[derive(Clone, Copy, Debug)]
struct Step {
    spins: u64,
    yields: Yields,
}

#[derive(Clone, Copy, Debug)]
enum Yields {
    /// It waits for this time in ns, or for an event.
    Until(u64),
    /// It waits for an event.
    Event,
    /// It faults, and the kernel takes this time to restart it.
    Fault(u64),
}

/// A service's priority, and its budget and period in µs.
type Cpu = (u8, u32, u32);

#[derive(Clone, Debug)]
enum Role {
    Idle,
    /// It is always ready.
    Busy,
    /// It repeats these steps, and a peer of its sends it an event at every multiple of this many
    /// ns.
    Adversary(Vec<Step>, u64),
}

/// Charges time to services, as the accounting that ships or another does.
trait Charging {
    fn charge_entry(&mut self, scheduler: &mut Scheduler, service: ServiceId, payer: ServiceId, now: u64);
    fn charge_restart(&mut self, scheduler: &mut Scheduler, service: ServiceId, now: u64);
    fn note_idle(&mut self, now: u64);
    fn charge_kernel_work(&mut self, scheduler: &mut Scheduler, service: ServiceId, now: u64);
    fn arm(&mut self, next: &Next, now: u64) -> Option<u64>;
    fn timer_fired(&mut self) -> Option<ServiceId>;
}

impl Charging for Accounting {
    fn charge_entry(&mut self, scheduler: &mut Scheduler, service: ServiceId, payer: ServiceId, now: u64) {
        Accounting::charge_entry(self, scheduler, service, payer, now);
    }
    fn charge_restart(&mut self, scheduler: &mut Scheduler, service: ServiceId, now: u64) {
        Accounting::charge_restart(self, scheduler, service, now);
    }
    fn note_idle(&mut self, now: u64) {
        Accounting::note_idle(self, now);
    }
    fn charge_kernel_work(&mut self, scheduler: &mut Scheduler, service: ServiceId, now: u64) {
        Accounting::charge_kernel_work(self, scheduler, service, || now);
    }
    fn arm(&mut self, next: &Next, now: u64) -> Option<u64> {
        Accounting::arm(self, next, now)
    }
    fn timer_fired(&mut self) -> Option<ServiceId> {
        Accounting::timer_fired(self)
    }
}

/// Charges as the kernel once did: from entry to entry, and the service that ran pays for all of
/// it.
struct FromEntryToEntry {
    entered: u64,
    timer: u64,
}

impl Charging for FromEntryToEntry {
    fn charge_entry(&mut self, scheduler: &mut Scheduler, service: ServiceId, _: ServiceId, now: u64) {
        scheduler.charge(service, now - self.entered, now);
        self.entered = now;
    }
    fn charge_restart(&mut self, _: &mut Scheduler, _: ServiceId, _: u64) {}
    fn note_idle(&mut self, now: u64) {
        self.entered = now;
    }
    fn charge_kernel_work(&mut self, _: &mut Scheduler, _: ServiceId, _: u64) {}
    fn arm(&mut self, next: &Next, now: u64) -> Option<u64> {
        let late = next.time() != u64::MAX && (next.time() < self.timer || self.timer <= now);
        late.then(|| {
            self.timer = next.time();
            self.timer
        })
    }
    fn timer_fired(&mut self) -> Option<ServiceId> {
        self.timer = u64::MAX;
        None
    }
}

struct Service {
    role: Role,
    /// Index of the present step.
    step: usize,
    /// Time left of the step's spin.
    left: u64,
    /// The time at which its peer sends the next event.
    event: u64,
    /// `true` if the channel of that event is unmasked.
    open: bool,
    /// Time for which its own instructions ran.
    ran: u64,
}

impl Service {
    fn new(role: Role) -> Service {
        let (left, event) = match &role {
            Role::Adversary(steps, period) => (steps[0].spins, *period),
            _ => (u64::MAX, u64::MAX),
        };
        Service { role, step: 0, left, event, open: true, ran: 0 }
    }
}

struct Model<B> {
    machine: Machine,
    charging: B,
    scheduler: Scheduler,
    tables: Tables<'static>,
    services: Vec<Service>,
    time: u64,
    /// The time at which the hypervisor's timer fires.
    timer: u64,
    current: Option<ServiceId>,
}

impl<B: Charging> Model<B> {
    fn new(machine: Machine, charging: B, policy: &[Cpu], roles: &[Role]) -> Model<B> {
        let tables = tables(&policy_text(policy));
        let mut scheduler = Scheduler::new(&tables);
        for (service, role) in tables.services().ids().zip(roles) {
            if matches!(role, Role::Idle) {
                scheduler.set_state(service, State::Waiting(u64::MAX));
            }
        }
        let services = roles.iter().cloned().map(Service::new).collect();
        Model { machine, charging, scheduler, tables, services, time: 0, timer: u64::MAX, current: None }
    }

    /// Runs for `time` ns, and returns how long each service's own instructions ran.
    fn run(mut self, time: u64) -> Vec<u64> {
        let mut now = 0;
        while self.time < time {
            let Some(service) = run_loop::resume(&mut self, now) else { break };
            now = self.run_service(service);
        }
        self.services.iter().map(|service| service.ran).collect()
    }

    /// Returns the time of the next interrupt.
    fn next_interrupt(&self) -> u64 {
        let events = self.services.iter().filter(|service| service.open).map(|service| service.event);
        events.fold(self.timer, u64::min)
    }

    /// Lets a service run until it enters the kernel. Returns the time from which the kernel goes
    /// on.
    fn run_service(&mut self, id: ServiceId) -> u64 {
        let interrupt = self.next_interrupt();
        let service = &mut self.services[id.index()];
        let ran = interrupt.saturating_sub(self.time).min(service.left);
        service.ran += ran;
        self.time += ran;
        let Role::Adversary(steps, _) = &service.role else { return self.interrupt(id) };
        service.left -= ran;
        if service.left > 0 {
            return self.interrupt(id);
        }
        let yields = steps[service.step].yields;
        service.step = (service.step + 1) % steps.len();
        service.left = steps[service.step].spins;
        let now = self.time + self.machine.call / 2;
        let deadline = match yields {
            Yields::Until(waits) => self.time + waits,
            Yields::Event => u64::MAX,
            Yields::Fault(takes) => {
                self.time += self.machine.call + takes;
                return run_loop::enter(self, id, Entry::Fault, now);
            }
        };
        service.open = true;
        self.scheduler.set_state(id, State::Waiting(deadline));
        self.time += self.machine.call;
        run_loop::enter(self, id, Entry::SystemCall, now)
    }

    fn interrupt(&mut self, id: ServiceId) -> u64 {
        self.time += self.machine.interrupt;
        let now = self.time;
        self.time += self.machine.call / 2;
        run_loop::enter(self, id, Entry::Interrupt, now)
    }
}

impl<B: Charging> Processor for Model<B> {
    fn next(&mut self, now: u64) -> Next {
        self.scheduler.next(now)
    }

    fn arm(&mut self, next: &Next, now: u64) {
        if let Some(at) = self.charging.arm(next, now) {
            self.time += self.machine.hypercall;
            self.timer = at;
        }
    }

    fn sleep(&mut self, _: u64) -> Option<u64> {
        let interrupt = Some(self.next_interrupt()).filter(|interrupt| *interrupt != u64::MAX)?;
        self.time = self.time.max(interrupt) + self.machine.interrupt;
        self.charging.note_idle(self.time);
        Some(self.time)
    }

    fn take_events(&mut self) -> Cause {
        let mut cause = Cause::default();
        if self.timer <= self.time {
            self.timer = u64::MAX;
            cause.note(self.charging.timer_fired());
        }
        for (id, service) in self.tables.services().ids().zip(&mut self.services) {
            if service.open && service.event <= self.time {
                let Role::Adversary(_, period) = service.role else { unreachable!("it has no peer") };
                (service.open, service.event) = (false, (self.time / period + 1) * period);
                self.scheduler.wake(id);
                cause.note(Some(id));
            }
        }
        cause
    }

    fn charge_entry(&mut self, service: ServiceId, payer: ServiceId, now: u64) {
        self.charging.charge_entry(&mut self.scheduler, service, payer, now);
    }

    fn charge_restart(&mut self, service: ServiceId) -> u64 {
        self.charging.charge_restart(&mut self.scheduler, service, self.time);
        self.time
    }

    fn switch_to(&mut self, service: ServiceId, _: u64) {
        if self.current.replace(service) != Some(service) {
            self.time += self.machine.switch;
        }
        self.charging.charge_kernel_work(&mut self.scheduler, service, self.time);
    }
}

/// Returns the costs that the kernel would measure at boot.
pub fn measured(machine: &Machine) -> Costs {
    Costs::new(machine.hypercall + machine.interrupt)
}

/// Returns a policy of services with these priorities, budgets and periods, in the order of their
/// names.
fn policy_text(policy: &[Cpu]) -> String {
    let mut out = String::from("format = 2\nimage = { name = \"shares\" }\n");
    for (index, (priority, budget, period)) in policy.iter().enumerate() {
        let _ = write!(
            out,
            "[services.s{index:02}]\nprogram = \"p\"\npriority = {priority}\nstack = \"4K\"\n\
             cpu = {{ budget_us = {budget}, period_us = {period} }}\nrestart = {{ limit = 0, then = \"stop-image\" }}\n"
        );
    }
    out
}

fn in_ns(us: u32) -> u64 {
    u64::from(us) * 1_000
}

fn longest(policy: &[Cpu]) -> u64 {
    policy.iter().map(|(_, _, period)| in_ns(*period)).max().unwrap()
}

fn run_shipped(machine: Machine, policy: &[Cpu], roles: &[Role], periods: u64) -> Vec<u64> {
    Model::new(machine, Accounting::new(measured(&machine), 0), policy, roles).run(periods * longest(policy))
}

fn run_entry_to_entry(machine: Machine, policy: &[Cpu], roles: &[Role]) -> Vec<u64> {
    let charging = FromEntryToEntry { entered: 0, timer: u64::MAX };
    Model::new(machine, charging, policy, roles).run(PERIODS * longest(policy))
}

/// Returns what a busy service is promised in each of its periods, and what it may lose of that, in
/// ns.
///
/// The promise is its budget, or what the services above it leave. It loses the time of timer
/// switches: two of its own, and one for each period of those above. If it has all that they leave,
/// it loses its own two only, because it makes up later for what they overshot.
fn promise(machine: Machine, policy: &[Cpu], roles: &[Role], index: usize) -> (u64, u64) {
    let (priority, budget, period) = policy[index];
    let is_above = |other: &usize| policy[*other].0 > priority || policy[*other].0 == priority && *other < index;
    let above = (0..policy.len()).filter(|other| is_above(other) && !matches!(roles[*other], Role::Idle));
    let (mut taken, mut switches) = (0, 2);
    for (_, budget, its) in above.map(|other| policy[other]) {
        assert_eq!(period % its, 0, "a period of a service above divides ours");
        (taken, switches) = (taken + in_ns(budget) * u64::from(period / its), switches + u64::from(period / its));
    }
    if budget == period {
        switches = 2;
    }
    (in_ns(budget).min(in_ns(period).saturating_sub(taken)), switches * machine.timer_switch())
}

/// Returns the longest time that the kernel takes to restart one of the services. No service runs
/// meanwhile.
fn restarts(roles: &[Role]) -> u64 {
    let takes = |step: &Step| if let Yields::Fault(takes) = step.yields { takes } else { 0 };
    let of = |role: &Role| if let Role::Adversary(steps, _) = role { steps.iter().map(takes).max() } else { None };
    roles.iter().filter_map(of).max().unwrap_or(0)
}

/// Checks that busy services have what they are promised, in a run of `periods` of the longest
/// period.
fn check(machine: Machine, policy: &[Cpu], roles: &[Role], periods: u64) -> Result<(), TestCaseError> {
    check_with_loss(machine, policy, roles, periods, 0)
}

/// Does the same as `check`, but allows for `more_lost` ns in each period.
fn check_with_loss(
    machine: Machine,
    policy: &[Cpu],
    roles: &[Role],
    periods: u64,
    more_lost: u64,
) -> Result<(), TestCaseError> {
    let ran = run_shipped(machine, policy, roles, periods);
    for (index, ran) in ran.into_iter().enumerate().filter(|(index, _)| matches!(roles[*index], Role::Busy)) {
        let (promised, lost) = promise(machine, policy, roles, index);
        // Without the first and the last period.
        let periods = (periods - 2) * longest(policy) / in_ns(policy[index].2);
        let (ran, promised, lost) = (ran as f64 / periods as f64, promised as f64, (lost + more_lost) as f64);
        let required = (REQUIRED_SHARE * promised).min(0.98 * promised - lost);
        prop_assert!(ran >= required, "service {index}: {ran:.0} of {promised} ns, where {lost} may be lost");
    }
    Ok(())
}

fn spin() -> Role {
    Role::Adversary(vec![Step { spins: u64::MAX, yields: Yields::Event }], u64::MAX)
}

/// Returns the services of the shipped policy and the index of tcpip: netfront attacks, tcpip is
/// busy, and the others are idle.
fn netfront_attacks(steps: &[Step], events: u64) -> (Vec<Cpu>, Vec<Role>, usize) {
    let tables = tables(&shipped());
    let role = |name: &str| match name {
        "netfront" => Role::Adversary(steps.to_vec(), events),
        "tcpip" => Role::Busy,
        _ => Role::Idle,
    };
    let services = tables.services();
    let policy = services.iter().map(|service| (service.priority, service.budget_us, service.period_us)).collect();
    let names: Vec<&str> = services.iter().map(|service| tables.name(service.name)).collect();
    let tcpip = names.iter().position(|name| *name == "tcpip").unwrap();
    (policy, names.into_iter().map(role).collect(), tcpip)
}

#[test]
fn without_the_accounting_a_wait_starves_all_below_it() {
    // The model shows the attack: with the earlier accounting, the property below does not hold.
    let least = (1..60).map(|waits| {
        let step = Step { spins: 100, yields: Yields::Until(waits * 100) };
        let (policy, roles, tcpip) = netfront_attacks(&[step], u64::MAX);
        run_entry_to_entry(FAST, &policy, &roles)[tcpip]
    });
    let promised = PERIODS * 4_000_000;
    assert!(least.min().unwrap() < promised / 20);
    // The attack works without a timer, too.
    let (policy, roles, tcpip) = netfront_attacks(&[Step { spins: 100, yields: Yields::Event }], 3_000);
    assert!(run_entry_to_entry(FAST, &policy, &roles)[tcpip] < promised / 2);
}

#[test]
fn the_model_ends_if_no_service_will_ever_run() {
    assert_eq!(run_shipped(FAST, &[(1, 1_000, 10_000); 6], &vec![Role::Idle; 6], 2), [0; 6]);
}

#[test]
fn no_wait_and_no_event_takes_more_than_the_budget() {
    for number in 1..60 {
        for (spins, yields, events) in [
            (100, Yields::Until(number * 100), u64::MAX),
            (100, Yields::Until(number * 2_000), u64::MAX),
            (100, Yields::Event, number * 500),
            (number * 1_000, Yields::Until(0), 1_700),
        ] {
            let (policy, roles, tcpip) = netfront_attacks(&[Step { spins, yields }], events);
            assert_eq!(promise(FAST, &policy, &roles, tcpip).0, 4_000_000);
            check(FAST, &policy, &roles, PERIODS).unwrap_or_else(|error| panic!("{yields:?} {events}: {error}"));
        }
    }
}

/// Each run takes at least what an interrupt costs, and the service owes that for many of its
/// periods.
#[test]
fn many_small_budgets_take_no_more_than_one_of_their_sum() {
    for (machine, period) in [(FAST, 1_000), (SLOW, 1_000), (SLOW, 10_000)] {
        for budget in [1, 10, period / 40] {
            let mut policy = vec![(90, budget, period); 15];
            // The last one may use all that is left, or only its own share. Then it cannot make up
            // for what it missed.
            for own in [period, period - 15 * budget] {
                policy.truncate(15);
                policy.push((10, own, period));
                for steps in [vec![], vec![Step { spins: 3_000, yields: Yields::Until(0) }]] {
                    let role = if steps.is_empty() { spin() } else { Role::Adversary(steps, 20_000) };
                    let mut roles = vec![role; 15];
                    roles.push(Role::Busy);
                    check(machine, &policy, &roles, 200)
                        .unwrap_or_else(|error| panic!("{machine:?} {budget} {own}: {error}"));
                }
            }
        }
    }
}

#[test]
fn a_service_below_does_not_delay_the_next_period() {
    for (machine, budget, period) in [(FAST, 950, 1_000), (SLOW, 950, 1_000), (SLOW, 1_999, 2_000), (SLOW, 500, 1_000)]
    {
        let policy = [(90, budget, period), (10, period, period)];
        check(machine, &policy, &[Role::Busy, spin()], PERIODS)
            .unwrap_or_else(|error| panic!("{machine:?} {budget} of {period}: {error}"));
    }
}

#[test]
fn of_equal_priorities_the_earlier_name_goes_first() {
    let policy = [(50, 6_000, 10_000), (50, 6_000, 10_000)];
    for roles in [[spin(), Role::Busy], [Role::Busy, spin()]] {
        check(FAST, &policy, &roles, PERIODS).unwrap();
    }
    let roles = [Role::Busy, Role::Busy];
    assert_eq!([0, 1].map(|index| promise(FAST, &policy, &roles, index).0), [6_000_000, 4_000_000]);
}

/// A service that faults again and again, and has much memory to clear, pays for the clearing.
#[test]
fn a_restart_takes_no_more_than_the_budget() {
    for (budget, takes) in [(1_000, 25_000_000), (6_000, 100_000_000), (10, 300_000)] {
        let policy = [(90, budget, 10_000), (10, 10_000, 10_000)];
        let faults = Role::Adversary(vec![Step { spins: 100, yields: Yields::Fault(takes) }], u64::MAX);
        check(FAST, &policy, &[faults, Role::Busy], 1_000).unwrap_or_else(|error| panic!("{budget} {takes}: {error}"));
    }
}

/// Events of others make the timer for the end of a budget fire early, again and again, because the
/// end moves while another service runs in between.
#[test]
fn a_timer_that_fires_early_because_of_others_is_not_paid_by_the_service() {
    for machine in [FAST, SLOW] {
        for events in [2_000, 4_000, 6_000, 10_000, 30_000, 40_000, 60_000, 100_000, 300_000, 1_000_000] {
            for spins in [100, 1_000, 3_000, 10_000, 30_000, events * 9 / 10, events * 95 / 100] {
                let policy = [(90, 9_000, 10_000), (10, 1_000, 10_000)];
                let attacks = Role::Adversary(vec![Step { spins, yields: Yields::Event }], events);
                check(machine, &policy, &[attacks, Role::Busy], PERIODS)
                    .unwrap_or_else(|error| panic!("{machine:?} {events} {spins}: {error}"));
            }
        }
    }
}

fn machine() -> impl Strategy<Value = Machine> {
    (100_u64..2_000, 200_u64..10_000, 50_u64..10_000, 300_u64..30_000)
        .prop_map(|(call, hypercall, switch, interrupt)| Machine { call, hypercall, switch, interrupt })
}

/// Services below the busy one run in the periods that the one above it leaves free, and set
/// deadlines in the others. They would pay for the interrupts, but the busy one would have no time
/// left to make up for what it lost.
#[test]
fn services_below_take_nothing() {
    for (machine, period, own) in
        [(FAST, 1_000, 160), (FAST, 1_000, 300), (SLOW, 10_000, 1_300), (SLOW, 10_000, 3_000), (FAST, 10_000, 4_000)]
    {
        for count in [1, 4, 9, 14] {
            for shift in [70, 80, 90] {
                let ns = in_ns(period);
                let mut policy = vec![(90, period - own, period), (50, own, period)];
                policy.extend(vec![(10, period / 2, period); count]);
                // It uses its budget in every second period.
                let spins = in_ns(period - own);
                let before = Role::Adversary(vec![Step { spins, yields: Yields::Event }], 2 * ns);
                let mut roles = vec![before, Role::Busy];
                roles.extend((0..count as u64).map(|index| {
                    let waits = ns * shift / 100 + index * (ns / (count as u64 + 1));
                    Role::Adversary(vec![Step { spins: 100, yields: Yields::Until(waits) }], u64::MAX)
                }));
                check(machine, &policy, &roles, 200)
                    .unwrap_or_else(|error| panic!("{machine:?} {own} of {period}, {count} {shift}: {error}"));
            }
        }
    }
}

/// Generates times near those of the machine's operations.
fn short() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..3_000, 1_000_u64..60_000, 10_000_u64..2_000_000]
}

fn role() -> impl Strategy<Value = Role> {
    let yields = prop_oneof![
        8 => short().prop_map(Yields::Until),
        2 => Just(Yields::Event),
        1 => (0_u64..20_000).prop_map(Yields::Fault),
    ];
    let step = (short(), yields).prop_map(|(spins, yields)| Step { spins: spins + 50, yields });
    let events = prop_oneof![1 => Just(u64::MAX), 1 => 500_u64..100_000];
    prop_oneof![
        3 => Just(Role::Idle),
        2 => Just(Role::Busy),
        1 => Just(spin()),
        2 => (prop::collection::vec(step, 1..4), events).prop_map(|(steps, events)| Role::Adversary(steps, events)),
    ]
}

/// Generates what the policy language allows: equal priorities, budgets from next to nothing to all
/// of a period, and periods that divide those of the services below.
fn policy() -> impl Strategy<Value = (Vec<Cpu>, Vec<Role>)> {
    let budget = prop_oneof![1_u32..30, 1_u32..1_000, 1_u32..=100_000];
    let service = (1_u8..5, budget, prop::sample::select(&[1_u32, 1, 1, 2, 5][..]), role());
    (prop::collection::vec(service, 1..12), 1_000_u32..4_000).prop_map(|(services, mut period)| {
        let mut places: Vec<usize> = (0..services.len()).collect();
        places.sort_by_key(|place| std::cmp::Reverse(services[*place].0));
        let mut policy = vec![(0, 0, 0); services.len()];
        for place in places {
            let (priority, budget, times, _) = services[place];
            period = if period * times <= 10_000 { period * times } else { period };
            policy[place] = (priority, budget.min(period), period);
        }
        (policy, services.into_iter().map(|(.., role)| role).collect())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// A busy service has 90 % of what its budget and its priority promise for its own
    /// instructions, whatever the others do and however long the machine's operations take. The
    /// promise must be more than ten times what its timer switches take.
    #[test]
    fn a_busy_service_has_what_it_is_promised(machine in machine(), (policy, roles) in policy()) {
        // A restart may have begun just before the period.
        check_with_loss(machine, &policy, &roles, PERIODS, restarts(&roles))?;
    }
}
