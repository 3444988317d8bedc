//! Makes the Rust source that gives a service's program its capabilities.
//!
//! The program includes it when it is compiled. A capability that the policy does not give is then
//! a field that cannot be filled, and the program does not compile.

use cloister_caps::rights::Kind;
use cloister_caps::tables::Access;

use crate::check::field;
use crate::model::{MapAccess, Named, Policy, Region, Source};
use crate::plan::{Plan, consumer_region, producer_region, replies, requests, rules_region};

/// The name of the argument of `capabilities`.
const KERNEL: &str = "kernel";
/// The type of a service's memory.
const MEMORY: &str = "cloister_runtime::SharedRegion";

/// Returns the bindings of a service, or `None` if plan and policy are not of the same image.
pub(crate) fn bindings(policy: &Policy, plan: &Plan, index: usize) -> Option<String> {
    let service = policy.services.items.get(index)?;
    let binder = Binder { policy, plan, index, name: &service.name.value };
    let mut fields = binder.held()?;
    fields.extend(binder.clients()?);
    fields.extend(binder.servers()?);
    fields.extend(binder.regions()?);
    fields.extend(binder.ports()?);
    fields.extend(binder.grants()?);
    fields.sort();
    let krate = service.body.program.value.replace('-', "_");
    let optional =
        |slot: Option<u16>| slot.map_or_else(|| "None".to_owned(), |slot| format!("Some({})", slot_text(slot)));
    let (heap, console) = (optional(binder.heap()?), optional(plan.slot(index, Kind::Console, 0)));
    let mut out = format!(
        "// What the policy `{}` gives the service `{}`. Made by the policy compiler.\n\n",
        policy.image.name, binder.name
    );
    out.push_str("/// The slot of the region that is this program's heap.\n");
    out.push_str(&format!("const HEAP: Option<cloister_caps::Slot> = {heap};\n"));
    out.push_str("/// The slot of the console, for this program's panic message.\n");
    out.push_str(&format!("const CONSOLE: Option<cloister_caps::Slot> = {console};\n\n"));
    out.push_str("/// The capabilities, each by the name that the policy gives it.\n");
    // A service without queues and regions has no type of memory to name.
    let memory = fields.iter().any(|(_, value)| value.contains(MEMORY));
    let types =
        if memory { format!("cloister_runtime::Kernel, {MEMORY}") } else { "cloister_runtime::Kernel".to_owned() };
    let made = format!("{krate}::Caps<{types}>");
    out.push_str(&format!("fn capabilities({KERNEL}: cloister_runtime::Kernel) -> {made} {{\n"));
    out.push_str(&format!("    {krate}::Caps {{\n"));
    for (name, value) in fields {
        out.push_str(&format!("        {name}: {value},\n"));
    }
    out.push_str("    }\n}\n");
    Some(out)
}

/// Name and value of each field.
type Fields = Vec<(String, String)>;

struct Binder<'a> {
    policy: &'a Policy,
    plan: &'a Plan,
    index: usize,
    name: &'a str,
}

impl Binder<'_> {
    fn held(&self) -> Option<Fields> {
        let service = self.policy.services.items.get(self.index)?;
        let bind = |kind: Kind| {
            let name = match kind {
                Kind::Console => "Console",
                Kind::Clock => "Clock",
                Kind::Entropy => "Entropy",
                Kind::Power => "Power",
                _ => "Info",
            };
            let slot = slot_text(self.plan.slot(self.index, kind, 0)?);
            Some((kind.name().to_owned(), format!("cloister_interfaces::capability::{name}::new({KERNEL}, {slot})")))
        };
        service.body.held.iter().map(|held| bind(held.kind)).collect()
    }

    fn clients(&self) -> Option<Fields> {
        let own = self.policy.queues.items.iter().filter(|queue| queue.body.from.value == self.name);
        own.map(|queue| {
            let (requests, replies) = (requests(&queue.name.value), replies(&queue.name.value));
            let ends = format!("{}, {}", self.end(&requests, Kind::Sender)?, self.end(&replies, Kind::Receiver)?);
            let interface = &queue.body.interface.value;
            Some((interface.clone(), format!("cloister_interfaces::Client::new({KERNEL}, {ends})")))
        })
        .collect()
    }

    fn servers(&self) -> Option<Fields> {
        let mut fields = Vec::new();
        for (interface, _, _) in cloister_interfaces::CATALOG {
            let mut servers = Vec::new();
            for queue in self.policy.served(self.name, interface) {
                let (requests, replies) = (requests(queue), replies(queue));
                let ends = format!("{}, {}", self.end(&requests, Kind::Receiver)?, self.end(&replies, Kind::Sender)?);
                servers.push(format!("cloister_interfaces::Server::new({KERNEL}, {ends})"));
            }
            if !servers.is_empty() {
                fields.push((format!("{interface}_clients"), array(&servers)));
            }
        }
        if self.policy.served(self.name, "store").next().is_some() {
            let pin = |object: usize| {
                let slot = slot_text(self.plan.slot(self.index, Kind::Domain, object)?);
                Some(format!("cloister_interfaces::capability::DomainPin::new({KERNEL}, {slot})"))
            };
            let pins: Option<Vec<String>> = self.policy.pinned(self.name).map(|(object, ..)| pin(object)).collect();
            fields.push(("pins".into(), array(&pins?)));
        }
        if let Some(slot) = self.plan.region_slot(self.index, &rules_region(self.name)) {
            fields.push(("rules".into(), constant_bytes(slot)));
        }
        Some(fields)
    }

    /// Returns the value of one end of a one-way queue.
    fn end(&self, one_way: &str, kind: Kind) -> Option<String> {
        let object = self.plan.queues.iter().position(|entry| entry.name == one_way)?;
        let queue = &self.plan.queues.get(object)?.record;
        let bit = if kind == Kind::Sender { queue.sender_bit } else { queue.receiver_bit };
        let slot = slot_text(self.plan.slot(self.index, kind, object)?);
        let producer = shared_region(self.plan.region_slot(self.index, &producer_region(one_way))?);
        let consumer = shared_region(self.plan.region_slot(self.index, &consumer_region(one_way))?);
        Some(format!(
            "cloister_interfaces::queue::QueueEnd {{ slot: {slot}, bit: {bit}, depth: {}, producer: {producer}, consumer: {consumer} }}",
            queue.depth
        ))
    }

    fn regions(&self) -> Option<Fields> {
        let mut fields = Vec::new();
        for region in &self.policy.regions.items {
            let mapped = region.body.map.iter().find(|entry| entry.service.value == self.name);
            if mapped.is_none_or(|entry| entry.how.value == MapAccess::Heap) {
                continue;
            }
            let slot = self.plan.region_slot(self.index, &region.name.value)?;
            let value = match region.body.source.value {
                Source::Fixed { .. } | Source::Share { .. } if self.owns(region) => owned_region(slot),
                Source::Fixed { .. } | Source::Share { .. } | Source::XenStoreRing => shared_region(slot),
                Source::Module | Source::CommandLine => constant_bytes(slot),
            };
            fields.push((field(&region.name.value), value));
        }
        Some(fields)
    }

    /// Returns `true` if the region is granted and only this service writes it: `EXCLUSIVE` in the
    /// ABI, as the kernel decides too.
    fn owns(&self, region: &Named<Region>) -> bool {
        let alone = matches!(region.body.map.as_slice(), [entry] if entry.how.value == MapAccess::ReadWrite);
        let grants = self.policy.grants.items.iter().filter(|grant| grant.body.region.value == region.name.value);
        let mut grants = grants.peekable();
        alone && grants.peek().is_some() && grants.all(|grant| grant.body.access.value == Access::Read)
    }

    /// Returns the slot of the heap, if there is one. An outer `None` is a defect of the plan.
    fn heap(&self) -> Option<Option<u16>> {
        let heap = self.policy.regions.items.iter().find(|region| {
            region.body.map.iter().any(|entry| entry.service.value == self.name && entry.how.value == MapAccess::Heap)
        });
        match heap {
            Some(region) => Some(Some(self.plan.region_slot(self.index, &region.name.value)?)),
            None => Some(None),
        }
    }

    fn ports(&self) -> Option<Fields> {
        let own = self.plan.ports.iter().enumerate().filter(|(_, port)| usize::from(port.record.service) == self.index);
        own.map(|(object, port)| {
            let slot = slot_text(self.plan.slot(self.index, Kind::Port, object)?);
            let bit = port.record.bit;
            Some((field(&port.name), format!("cloister_interfaces::capability::Port::new({KERNEL}, {slot}, {bit})")))
        })
        .collect()
    }

    fn grants(&self) -> Option<Fields> {
        let mut fields = Vec::new();
        let own = self.policy.grants.items.iter().filter(|grant| grant.body.on_behalf_of.value == self.name);
        for (rule, grant) in own.enumerate() {
            let peer = &self.policy.domains.get(&grant.body.peer.value)?.body;
            let value = format!(
                "cloister_interfaces::rules::GrantPermission {{ rule: {rule}, pages: {}, peer_first: {}, peer_last: {} }}",
                grant.body.pages.value, peer.first, peer.last
            );
            fields.push((field(&grant.name.value), value));
        }
        let mut held = Vec::new();
        for (object, grant) in self.policy.grants.items.iter().enumerate() {
            if grant.body.held_by.value == self.name {
                let slot = slot_text(self.plan.slot(self.index, Kind::Grant, object)?);
                held.push(format!("cloister_interfaces::capability::Grant::new({KERNEL}, {slot})"));
            }
        }
        if !held.is_empty() || self.policy.served(self.name, "grants").next().is_some() {
            fields.push(("grant_rules".into(), array(&held)));
        }
        Some(fields)
    }
}

fn slot_text(slot: u16) -> String {
    format!("cloister_caps::Slot({slot})")
}

fn shared_region(slot: u16) -> String {
    format!("{MEMORY}::new({KERNEL}, {})", slot_text(slot))
}

fn owned_region(slot: u16) -> String {
    format!("cloister_runtime::OwnedRegion::new({KERNEL}, {})", slot_text(slot))
}

fn constant_bytes(slot: u16) -> String {
    format!("cloister_runtime::constant_bytes({KERNEL}, {})", slot_text(slot))
}

fn array(items: &[String]) -> String {
    format!("[{}].into_iter().collect()", items.join(", "))
}
