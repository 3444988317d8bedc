//! A kernel under a policy, over the platform that checks what the kernel asks for.

use cloister_caps::tables::Tables;
use cloister_caps::{Kind, Operation, PAGE_SIZE, ServiceId, Status};
use cloister_kernel_core::claims::{Claims, Owner};
use cloister_kernel_core::memory::{FrameRange, FreeMemory};
use cloister_kernel_core::placement::{BootRegions, Placements, place_regions};
use cloister_kernel_core::{Answer, Kernel, Outcome};
pub use cloister_sim::hypervisor::events::XENSTORE_PORT as XENSTORE;
use cloister_sim::platform::CheckingPlatform;

/// The line of the policy that ships by which xenstore pins the back end's domain.
const PIN: &str = "pin = { by = \"xenstore\", node = \"device/vif/0/backend-id\" }\n";

/// Returns the text of the policy that ships, except that its back end may be in one of several
/// domains.
pub fn pinned() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policy/default.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("ids = \"0\"") && text.contains(PIN));
    text.replace("ids = \"0\"", "ids = \"3-9\"")
}

/// Returns the text of the policy that ships, except that its back end may be in any domain, and
/// that no domain is pinned, so that peers differ. It has no assertions: some of them would fail.
pub fn shipped() -> String {
    let text = pinned().replace("ids = \"3-9\"", "ids = \"0-32751\"").replace(PIN, "");
    text.split("\n[[assert]]").next().unwrap().to_owned()
}

/// Returns the shipped policy with `from` replaced by `to`, which must change it.
pub fn with(from: &str, to: &str) -> String {
    let changed = shipped().replace(from, to);
    assert_ne!(changed, shipped());
    changed
}

/// Returns the shipped policy, except that the back end is in a domain from 3 to 9.
pub fn narrow() -> String {
    with("ids = \"0-32751\"", "ids = \"3-9\"")
}

/// Returns the tables of a policy.
pub fn tables(text: &str) -> Tables<'static> {
    let policy = cloister_policy::parse("the policy", text).unwrap_or_else(|report| panic!("{report}"));
    Tables::parse(policy.tables().unwrap().leak()).unwrap()
}

/// Holds a kernel and the machine under it.
pub struct Bench {
    pub kernel: Kernel<'static>,
    pub machine: CheckingPlatform<'static>,
    pub tables: Tables<'static>,
    /// For each service, the pairs of a slot and the number of an operation that its kind has.
    pub operations: Vec<Vec<(u64, u64)>>,
}

/// Returns the operations of each service, without those that find regions, which are many and
/// change nothing.
fn operations(tables: &Tables<'_>) -> Vec<Vec<(u64, u64)>> {
    let mut found = vec![Vec::new(); tables.services().len()];
    for capability in tables.capabilities().iter().filter(|capability| capability.kind() != Kind::Region) {
        for operation in Operation::ALL.iter().filter(|operation| operation.applies_to(capability.kind())) {
            found[capability.service.index()].push((u64::from(capability.slot), *operation as u64));
        }
    }
    found
}

impl Bench {
    /// Returns the kernel of an image with this policy, after boot.
    pub fn new(text: &str) -> Bench {
        Bench::of(tables(text))
    }

    pub fn of(tables: Tables<'static>) -> Bench {
        let mut free = FreeMemory::new();
        free.add(FrameRange { start: 0x400, end: (32 << 20) / PAGE_SIZE as u64 });
        let frames = FrameRange { start: 0xF_EFFC, end: 0xF_EFFD };
        let xenstore = Claims::default().claim(Owner::XenStorePage, frames).unwrap();
        let boot_regions = BootRegions { xenstore: Some(xenstore), ..BootRegions::default() };
        let placements = place_regions(&tables, &mut free, &boot_regions, 0).unwrap();
        Bench::at(tables, placements)
    }

    pub fn at(tables: Tables<'static>, placements: Placements) -> Bench {
        let machine = CheckingPlatform::new(tables, placements);
        let mut kernel = Kernel::new(tables, placements, 1_000, 32 << 20);
        kernel.set_xenstore_port(XENSTORE);
        Bench { kernel, machine, tables, operations: operations(&tables) }
    }

    pub fn service(&self, name: &str) -> ServiceId {
        self.tables.services().ids().find(|service| self.tables.service_name(*service) == name).unwrap()
    }

    /// Returns the slot in which `service` holds the capability of this name in the policy.
    pub fn slot(&self, service: &str, name: &str) -> u64 {
        let service = self.service(service);
        let capabilities = self.tables.capabilities();
        let mut found = capabilities
            .iter()
            .filter(|capability| capability.service == service && self.tables.name(capability.name) == name);
        u64::from(found.next().unwrap_or_else(|| panic!("no capability {name}")).slot)
    }

    pub fn call(&mut self, service: ServiceId, number: u64, arguments: [u64; 6]) -> Outcome {
        self.kernel.system_call(&mut self.machine, service, number, &arguments)
    }

    pub fn invoke(&mut self, service: &str, name: &str, operation: Operation, [a, b, c, d]: [u64; 4]) -> Answer {
        let (index, slot) = (self.service(service), self.slot(service, name));
        match self.call(index, 1, [slot, operation as u64, a, b, c, d]) {
            Outcome::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&mut self, service: &str, name: &str, operation: Operation, arguments: [u64; 4]) -> Status {
        self.invoke(service, name, operation, arguments).status
    }

    /// Makes the system call `wait` without holding any events.
    pub fn wait(&mut self, service: &str, deadline: u64) {
        self.hold(service, deadline, 0);
    }

    /// Makes the system call `wait`, and keeps the events of these notification bits masked.
    pub fn hold(&mut self, service: &str, deadline: u64, held: u64) {
        let index = self.service(service);
        assert_eq!(self.call(index, 0, [deadline, held, 0, 0, 0, 0]), Outcome::Wait);
    }

    /// Returns the notification bits with which a service runs on. If it does not sleep in `wait`,
    /// it waits first, and holds all events.
    pub fn bits(&mut self, service: &str) -> u64 {
        let (index, now) = (self.service(service), self.machine.time);
        if let Some(answer) = self.kernel.take_answer(index, now) {
            return answer.words[0];
        }
        self.hold(service, u64::MAX, u64::MAX);
        self.kernel.take_answer(index, now).unwrap().words[0]
    }
}
