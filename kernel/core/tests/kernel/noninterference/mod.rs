//! Checks that a service learns nothing of another to which the policy gives it no way.
//!
//! Two runs of the kernel differ in one thing: the *secret* of one service, which chooses its calls,
//! their arguments, its text, its faults, and when it does nothing at all. Everything that each
//! other service can observe is compared at each step, unless the policy has a flow to it.
//!
//! - `flows` says where the policy has a flow. It reads the tables, and shares no code with the
//!   kernel.
//! - `steps` runs services in an order that is the same in both runs, with the same time at each
//!   step, and so compares every word of every answer.
//! - `timed` runs the kernel's loop, where the secret moves the times. There, what a service gets
//!   must still be the same and come in the same order, and its times must be within what
//!   docs/scheduling.md promises.
//!
//! Not part of it: the numbers of event channels, which Xen chooses; whether Xen has one left; and
//! the registers that no trap frame holds, which `tests/guests/storm.toml` checks on real Xen.

mod flows;
pub mod islands;
#[path = "../../../../../policy/tests/common/random.rs"]
#[expect(dead_code, reason = "the tests of the policy crate use the rest")]
mod random_policies;
mod steps;
mod timed;

use cloister_caps::tables::Tables;
use cloister_caps::{Kind, ServiceId};
use cloister_sim::seed::{Random, seed};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::machine::{tables, with};
use flows::{Flows, Relays};

/// Acts of services in each of the two runs: system calls and faults.
const ACTS: u64 = 1_000_000;
/// Steps of one case: an act of a service, an event, or a service that is asleep.
const CASE: usize = 2_000;
/// Random policies.
const POLICIES: usize = 60;

/// Returns the policy that ships, except that its back end may be anywhere and its services may
/// restart.
fn shipped() -> Tables<'static> {
    tables(&with("restart = { limit = 0,", "restart = { limit = 400,"))
}

/// Returns the policies that are tried: the one that ships and that of two islands again and again,
/// and random ones.
fn policies(random: &mut Random) -> Vec<Tables<'static>> {
    let bytes: [u8; 32] = std::array::from_fn(|_| random.word() as u8);
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let shapes = random_policies::shape();
    let mut all = Vec::new();
    while all.len() < POLICIES {
        let text = shapes.new_tree(&mut runner).expect("a shape").current().plain();
        let Ok(policy) = cloister_policy::parse("random", &text) else { continue };
        let Some(bytes) = policy.tables() else { continue };
        let tables = Tables::parse(bytes.leak()).expect("tables that the compiler made");
        if !sources(&tables).is_empty() {
            all.push(tables);
        }
    }
    let shipped = shipped();
    all.extend(std::iter::repeat_n(shipped, POLICIES / 3));
    for limit in [0, 400] {
        all.extend(std::iter::repeat_n(islands::islands(limit), POLICIES / 6));
    }
    all
}

/// Returns the services whose secrets some other must not learn, each with what those do that may.
fn sources(tables: &Tables<'_>) -> Vec<(ServiceId, Relays)> {
    let services = || tables.services().ids();
    let all = services().flat_map(|service| [(service, Relays::Silent), (service, Relays::Acting)]);
    all.filter(|(service, relays)| Flows::from(tables, *service, *relays).observers().next().is_some()).collect()
}

#[test]
fn what_a_service_observes_does_not_depend_on_a_strangers_secret() {
    let mut random = Random(seed());
    let policies = policies(&mut random);
    let (mut acts, mut compared, mut cases, mut differ) = (0, 0, 0_u32, 0);
    while acts < ACTS {
        let tables = random.pick(&policies);
        let (source, relays) = *random.pick(&sources(tables));
        let case = steps::Case { tables: *tables, source, relays, seed: random.word(), steps: CASE };
        let seen = case.compare().unwrap_or_else(|leak| panic!("{leak}\n{}", case.describe()));
        (acts, compared, cases) = (acts + seen.acts, compared + seen.compared, cases + 1);
        differ += u32::from(seen.secret_differed);
    }
    println!("{cases} cases, {acts} acts, {compared} comparisons; the secret showed in {differ} cases");
    // It changes what its own service gets nearly always, else the test would show nothing.
    assert!(differ * 10 > cases * 9, "{differ} of {cases}");
    assert!(compared > ACTS as usize, "{compared}");
}

#[test]
fn in_the_loop_a_strangers_secret_moves_times_only_within_the_promise() {
    let mut random = Random(seed() ^ 1);
    let mut entries = 0;
    for _ in 0..timed::CASES {
        let case = timed::Case::random(&mut random);
        entries += case.compare().unwrap_or_else(|leak| panic!("{leak}\n{case:?}"));
    }
    println!("{entries} entries into the kernel");
    assert!(entries > 50_000, "{entries}");
}

#[test]
fn the_flows_of_the_shipped_policy_are_the_expected_ones() {
    let tables = shipped();
    let learn = |name: &str, relays| {
        let named = |service: &ServiceId| tables.service_name(*service) == name;
        let source = tables.services().ids().find(named).expect("a service");
        let flows = Flows::from(&tables, source, relays);
        let others = tables.services().ids().filter(|service| *service != source && flows.reaches(*service));
        others.map(|service| tables.service_name(service).to_owned()).collect::<Vec<String>>()
    };
    let to = |name| learn(name, Relays::Silent);
    assert_eq!(to("grant-manager"), ["netfront", "tcpip"]);
    assert_eq!(to("xenstore"), ["control", "netfront"]);
    assert_eq!(to("netfront"), ["grant-manager", "tcpip", "xenstore"]);
    assert_eq!(to("tcpip"), ["control", "http", "netfront"]);
    assert_eq!(to("http"), ["tcpip"]);
    // It may end the domain, which all of them notice.
    assert_eq!(to("control").len(), 5);
    // All services are connected, by queues of some others.
    assert_eq!(learn("http", Relays::Acting).len(), 5);
}

#[test]
fn nothing_flows_from_one_island_to_the_other() {
    let tables = islands::islands(0);
    let island = |service| tables.service_name(service).as_bytes().last().copied();
    let sources = sources(&tables);
    assert_eq!(sources.len(), 12, "each service, whatever the others do");
    for (source, relays) in sources {
        let flows = Flows::from(&tables, source, relays);
        let others = tables.services().ids().filter(|service| island(*service) != island(source));
        assert!(others.eq(flows.observers().filter(|service| island(*service) != island(source))));
        assert!(flows.observers().all(|service| relays == Relays::Silent || island(service) != island(source)));
    }
}

#[test]
fn a_service_that_holds_info_is_among_the_observers() {
    let asks = |tables: &Tables<'_>| {
        sources(tables).iter().any(|(source, relays)| {
            let holds = |observer| {
                tables.capabilities().iter().any(|held| held.service == observer && held.kind() == Kind::Info)
            };
            Flows::from(tables, *source, *relays).observers().any(holds)
        })
    };
    let policies = policies(&mut Random(7));
    assert!(policies.iter().filter(|tables| asks(tables)).count() > 10);
}
