//! Makes every possible invocation: each service, each slot, each operation, and arguments of every
//! kind.

use cloister_caps::abi::region::{CONSTANT, EXCLUSIVE, FRESH, PRIVATE, SIZE};
use cloister_caps::tables::{Access, Capability, Isolation, Mapping, Object, PortPeer, Tables};
use cloister_caps::weakness::{Exposure, Exposures, Weakness};
use cloister_caps::{DomainSetId, Kind, Operation, Rights, Status};
use cloister_kernel_core::Outcome;
use cloister_kernel_core::kernel::Answer;

use crate::machine::{Bench, narrow, pinned, shipped, tables, with};

/// Arguments inside and outside of what any rule allows.
const ARGUMENTS: [[u64; 4]; 26] = [
    [0; 4],
    [1, 0, 0, 0],
    [1, 3, 0, 0],
    [3, 9, 0, 0],
    [3, 10, 0, 0],
    [9, 2, 0, 0],
    [10, 3, 0, 0],
    [127, 32_751, 0, 0],
    [128, 3, 0, 0],
    [0, 32_752, 0, 0],
    [0x7FF0, 0x7FF0, 0, 0],
    [1 << 32, 1 << 16 | 3, 0, 0],
    [0, 1 << 32, 1, 1],
    [1, 3, 8, 0],
    [3, 9, 9, 0],
    [0, 3, 0, 1],
    [1, 3, 0, 126],
    [1, 3, 0, 127],
    [0, 9, 0, 127],
    [126, 2, 0, 1],
    [127, 3, 0, 1],
    [5, 3, 0, u64::MAX],
    [1, 3, 0, 1 << 32],
    [1, 3, 8, 1],
    [3, 3, 1 << 32, 0],
    [u64::MAX; 4],
];

/// Returns what an invocation must lead to on a kernel that has just booted.
fn expected(
    tables: &Tables<'_>,
    capability: Option<Capability>,
    number: u64,
    [first, second, third, fourth]: [u64; 4],
) -> Result<Outcome, Status> {
    let capability = capability.ok_or(Status::NoCapability)?;
    let operation = Operation::ALL.iter().find(|operation| **operation as u64 == number);
    let operation =
        operation.filter(|operation| operation.applies_to(capability.kind())).ok_or(Status::WrongOperation)?;
    if !capability.rights.contains(operation.right()) {
        return Err(Status::MissingRight);
    }
    let member = |set: DomainSetId, domain: u64| {
        let domains = tables.domain_set(set);
        let ids = u64::from(domains.first)..=u64::from(domains.last);
        if ids.contains(&domain) { Ok(()) } else { Err(Status::NotPermitted) }
    };
    // No domain is pinned yet.
    let peer = |set: DomainSetId, domain: u64| {
        member(set, domain)?;
        if tables.domain_set(set).pinned { Err(Status::WrongState) } else { Ok(()) }
    };
    // The kernel that ships neither binds a peer's port nor maps a peer's page.
    let theirs = |number: u64| if number == 0 { Ok(()) } else { Err(Status::Unavailable) };
    match (operation, capability.object) {
        (Operation::PowerOff, _) => return Ok(Outcome::PowerOff),
        (Operation::PowerReboot, _) => return Ok(Outcome::Reboot),
        (Operation::InfoRead, _) if first > 4 => return Err(Status::BadArgument),
        (Operation::PortOpen, Object::Port(rule)) => {
            let rule = tables.port(rule);
            let PortPeer::Domains(peers) = rule.peer else { return Err(Status::WrongState) };
            peer(peers, first)?;
            theirs(second)?;
        }
        (Operation::PortSend, Object::Port(rule)) if tables.port(rule).peer == PortPeer::XenStore => {}
        (Operation::PortSend | Operation::PortClose, _) => return Err(Status::WrongState),
        (Operation::GrantIssue | Operation::GrantEnd, Object::Grant(rule)) => {
            let rule = tables.grant(rule);
            let further = if operation == &Operation::GrantIssue { fourth } else { 0 };
            if first.checked_add(further).is_none_or(|last| last >= u64::from(rule.count)) {
                return Err(Status::NotPermitted);
            }
            if operation == &Operation::GrantEnd {
                return Err(Status::WrongState);
            }
            peer(rule.peers, second)?;
            if third != 0 && further != 0 {
                return Err(Status::BadArgument);
            }
            let written = |mapping: Mapping| mapping.region == rule.region && mapping.access == Access::ReadWrite;
            if third != 0 && rule.access == Access::Read && tables.mappings().iter().any(written) {
                return Err(Status::NotPermitted);
            }
            theirs(third)?;
        }
        (Operation::DomainPin, Object::Domain(set)) => member(set, first)?,
        _ => {}
    }
    Err(Status::Done)
}

/// Makes every invocation, and returns the number of those that succeeded.
fn everything_is_answered_by_the_tables(text: &str) -> usize {
    let tables = tables(text);
    let capabilities: Vec<Capability> = tables.capabilities().iter().collect();
    let slots = (0..70).chain([255, 256, 65_535, 65_536, 1 << 32, 1 << 63, u64::MAX]);
    let numbers = (0..20).chain([1 << 32 | 1, 1 << 63, u64::MAX]);
    let calls: Vec<(u64, u64)> = slots.flat_map(|slot| numbers.clone().map(move |number| (slot, number))).collect();
    let mut done = 0;
    let mut bench = Bench::of(tables);
    for service in tables.services().ids() {
        for (slot, number) in calls.iter().copied() {
            let own = |capability: &&Capability| capability.service == service && u64::from(capability.slot) == slot;
            let capability = capabilities.iter().find(own).copied();
            // An empty slot is refused before the arguments are looked at.
            let tried = if capability.is_some() { &ARGUMENTS[..] } else { &ARGUMENTS[ARGUMENTS.len() - 2..] };
            for arguments in tried.iter().copied() {
                let before = (bench.machine.log.len(), bench.kernel.refusals());
                let [a, b, c, d] = arguments;
                let found = bench.call(service, 1, [slot, number, a, b, c, d]);
                let what = || format!("{} {slot} {number} {arguments:?}", tables.service_name(service));
                match (expected(&tables, capability, number, arguments), found) {
                    (Ok(expected), found) => assert_eq!(found, expected, "{}", what()),
                    (Err(expected), Outcome::Answer(answer)) => assert_eq!(answer.status, expected, "{}", what()),
                    (_, found) => panic!("{}: {found:?}", what()),
                }
                let refused = matches!(found, Outcome::Answer(answer) if answer.status != Status::Done);
                let after = (before.0 + usize::from(refused), before.1 + u64::from(refused));
                assert_eq!((bench.machine.log.len(), bench.kernel.refusals()), after, "{}", what());
                done += usize::from(!refused);
                // `expected` describes a kernel on which no port is open, no page granted and no
                // domain pinned.
                let pinned = number == Operation::DomainPin as u64 && !refused;
                if pinned || !bench.machine.granted.is_empty() || bench.machine.open.len() > 1 {
                    bench = Bench::of(tables);
                }
            }
        }
    }
    done
}

#[test]
fn an_invocation_succeeds_only_if_the_tables_allow_it() {
    let wide = everything_is_answered_by_the_tables(&shipped());
    let narrow = everything_is_answered_by_the_tables(&narrow());
    assert!(narrow < wide, "{narrow} < {wide}");
    let pinned = everything_is_answered_by_the_tables(&pinned());
    assert!(pinned < narrow, "{pinned} < {narrow}");
}

/// The whole authority of the shipped image, except its memory, in words.
const AUTHORITY: &str = "
control: now clock; off power; reboot power; write console
control: notify control-store.replies, control-store.requests, shutdown.replies, shutdown.requests
grant-manager: now clock; write console
grant-manager: end ring-pages, rx-pages, tx-pages
grant-manager: issue ring-pages, rx-pages, tx-pages
grant-manager: notify grants.replies, grants.requests
http: now clock; read info; wall clock; write console
http: notify socket.replies, socket.requests
netfront: now clock; write console
netfront: close rx-events, tx-events
netfront: notify grants.replies, grants.requests, net.replies, net.requests, netfront-store.replies, netfront-store.requests
netfront: open rx-events, tx-events
netfront: send rx-events, tx-events
tcpip: draw entropy; now clock; write console
tcpip: notify net.replies, net.requests, shutdown.replies, shutdown.requests, socket.replies, socket.requests
xenstore: now clock; write console
xenstore: notify control-store.replies, control-store.requests, netfront-store.replies, netfront-store.requests
xenstore: send xenstore-events
xenstore: pin netback
";

/// Returns service, operation and object of each invocation that is not refused for lack of a
/// right.
fn possible() -> Vec<(String, &'static str, String)> {
    let tables = tables(&pinned());
    let mut found = Vec::new();
    for service in tables.services().ids() {
        for slot in 0..64 {
            for operation in Operation::ALL {
                let mut bench = Bench::of(tables);
                let outcome = bench.call(service, 1, [slot, *operation as u64, 0, 0, 0, 0]);
                let denied = [Status::NoCapability, Status::WrongOperation, Status::MissingRight];
                if matches!(outcome, Outcome::Answer(answer) if denied.contains(&answer.status)) {
                    continue;
                }
                let capability = tables
                    .capabilities()
                    .iter()
                    .find(|capability| capability.service == service && u64::from(capability.slot) == slot);
                let name = tables.name(capability.unwrap().name).to_string();
                found.push((tables.service_name(service).to_string(), operation.name(), name));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_authority_of_the_shipped_image_is_the_listed_one() {
    let mut expected = Vec::new();
    for line in AUTHORITY.trim().lines() {
        let (service, rest) = line.split_once(": ").unwrap();
        for part in rest.split("; ") {
            let (operation, objects) = part.split_once(' ').unwrap();
            for object in objects.split(", ") {
                expected.push((service.to_string(), operation.to_string(), object.to_string()));
            }
        }
    }
    expected.sort();
    let found: Vec<_> = possible()
        .into_iter()
        .filter(|(_, operation, _)| *operation != "find")
        .map(|(service, operation, object)| (service, operation.to_string(), object))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn each_service_finds_its_own_mappings_where_they_are() {
    let tables = tables(&shipped());
    let mut found = 0;
    for capability in tables.capabilities().iter().filter(|capability| capability.kind() == Kind::Region) {
        let Object::Region(mapping) = capability.object else { panic!("a mapping") };
        let mut bench = Bench::of(tables);
        let slot = u64::from(capability.slot);
        let Outcome::Answer(answer) =
            bench.call(capability.service, 1, [slot, Operation::RegionFind as u64, 0, 0, 0, 0])
        else {
            panic!("an answer");
        };
        let mapping = tables.mapping(mapping);
        let placement = bench.kernel.placements()[mapping.region];
        let constant = ["command-line", "site", "grant-manager.rules", "xenstore.rules"];
        let constant = constant.contains(&tables.name(capability.name));
        assert_eq!(mapping.service, capability.service);
        // Of the shipped policy's regions, only the pool of frames to send is granted and has one
        // owner.
        let name = tables.name(capability.name);
        let own = name == "tx-pool";
        let private = name.ends_with("-heap") || name.ends_with(".stack");
        let flags = match (constant, own, private) {
            (true, ..) => CONSTANT,
            (_, true, _) => EXCLUSIVE | FRESH,
            (.., true) => PRIVATE,
            _ => 0,
        };
        assert_eq!(answer.words, [mapping.address, placement.length() | flags], "{name}");
        found += 1;
    }
    assert_eq!(found, tables.mappings().len());
}

#[test]
fn after_a_restart_a_region_of_its_own_is_not_fresh() {
    let restarts = with("restart = { limit = 0,", "restart = { limit = 1,");
    let mut bench = Bench::new(&restarts);
    let tcpip = bench.service("tcpip");
    let mut flags = || {
        let answer = bench.invoke("tcpip", "tx-pool", Operation::RegionFind, [0; 4]);
        let flags = answer.words[1] & !SIZE;
        bench.kernel.fault(&mut bench.machine, tcpip);
        flags
    };
    assert_eq!([flags(), flags()], [EXCLUSIVE | FRESH, EXCLUSIVE]);
}

#[test]
fn there_are_two_system_calls() {
    let mut bench = Bench::new(&shipped());
    for number in [2, 3, 100, 1 << 32, u64::MAX] {
        for service in bench.tables.services().ids() {
            let Outcome::Answer(answer) = bench.call(service, number, [1, 1, 1, 1, 1, 1]) else { panic!("an answer") };
            assert_eq!((answer.status, answer.words), (Status::BadSystemCall, [0; 2]));
        }
    }
    assert_eq!(bench.kernel.refusals(), 30);
}

#[test]
fn answers_come_from_the_machine() {
    let mut bench = Bench::new(&shipped());
    let words = |bench: &mut Bench, service, name, operation, first| {
        bench.invoke(service, name, operation, [first, 0, 0, 0]).words
    };
    assert_eq!(words(&mut bench, "http", "clock", Operation::ClockNow, 0), [5_000, 0]);
    assert_eq!(words(&mut bench, "http", "clock", Operation::ClockWall, 0), [1_000_000, 0]);
    assert_eq!(words(&mut bench, "tcpip", "entropy", Operation::EntropyDraw, 0), [3, 4]);
    assert_eq!(words(&mut bench, "http", "info", Operation::InfoRead, 2), [1_000, 32 << 20]);
    assert_eq!(words(&mut bench, "http", "info", Operation::InfoRead, 4), [0, 0], "nothing is known yet");
    let exposures = Exposures::new(Isolation::Strict, |weakness| match weakness {
        Weakness::Mds => Exposure::Verw,
        _ => Exposure::NotAffected,
    });
    bench.kernel.set_exposures(exposures);
    let read = words(&mut bench, "http", "info", Operation::InfoRead, 4);
    assert_eq!((read, Exposures::from_words(read)), ([0x11_1111_1511, 1], Some(exposures)));
    let hash = bench.tables.policy_hash();
    let read: Vec<u8> = (0..2)
        .flat_map(|item| words(&mut bench, "http", "info", Operation::InfoRead, item))
        .flat_map(u64::to_be_bytes)
        .collect();
    assert_eq!(read, hash);
    let text = u64::from_le_bytes(*b"hello\n\0x");
    assert_eq!(bench.status("http", "console", Operation::ConsoleWrite, [text, 0, 0, 0]), Status::Done);
    assert_eq!(bench.status("http", "console", Operation::ConsoleWrite, [u64::MAX; 4]), Status::Done);
    let http = bench.service("http");
    assert_eq!(bench.machine.text, [(http, b"hello\n".to_vec()), (http, vec![0xFF; 32])]);
}

#[test]
fn a_right_that_the_kind_has_no_operation_for_gives_nothing() {
    let policy = cloister_policy::parse("the policy", &shipped()).unwrap_or_else(|report| panic!("{report}"));
    let mut bytes = policy.tables().unwrap();
    let capabilities = Tables::parse(&bytes).unwrap().capabilities().raw();
    let index = capabilities.iter().position(|capability| capability.kind == Kind::Console).unwrap();
    let console = capabilities.get(index).unwrap();
    let [low, high] = console.slot.to_le_bytes();
    let mut record = vec![console.service, console.kind as u8, low, high];
    record.extend(console.rights.bits().to_le_bytes());
    let at = bytes.windows(record.len()).position(|bytes| bytes == record).unwrap();
    bytes[at + 4..at + 8].copy_from_slice(&Rights::all().bits().to_le_bytes());
    let tables = Tables::parse(bytes.leak()).unwrap();
    let (mut bench, service) = (Bench::of(tables), tables.capabilities().get(index).unwrap().service);
    for operation in Operation::ALL.iter().filter(|operation| !operation.applies_to(Kind::Console)) {
        let outcome = bench.call(service, 1, [u64::from(console.slot), *operation as u64, 0, 0, 0, 0]);
        assert_eq!(outcome, Outcome::Answer(Answer { status: Status::WrongOperation, words: [0; 2] }), "{operation:?}");
    }
}
