//! The content of tables as facts, with names instead of numbers, so that two sets can be compared.

use std::collections::BTreeMap;

use cloister_caps::tables::{Access, AfterLimit, Isolation, Name, Object, PortPeer, RegionKind, Tables};
use cloister_caps::{DomainSetId, RegionId, ServiceId};

use super::verdict::Finding;

/// The words of the rights, in the order of their bits.
const RIGHTS: [&str; 15] = [
    "write", "now", "wall", "draw", "off", "reboot", "notify", "open", "send", "close", "issue", "end", "read", "find",
    "pin",
];

/// The words of the weaknesses, in the order of their bits.
const WEAKNESSES: [&str; 10] =
    ["meltdown", "l1tf", "mds", "taa", "mmio", "rfds", "spectre-v1", "spectre-v2", "bhi", "returns"];

/// The other end of a port to the XenStore daemon.
pub(super) const XENSTORE: &str = "the XenStore daemon";

/// An entry of the tables: its fields, and the entry of the policy that it comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Fact {
    pub fields: BTreeMap<&'static str, String>,
    pub source: String,
}

/// Facts by section and name.
#[derive(Default)]
pub(super) struct Facts {
    facts: BTreeMap<(&'static str, String), Fact>,
    /// Names with two entries.
    twice: Vec<String>,
}

impl Facts {
    pub(super) fn add<const N: usize>(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        source: impl Into<String>,
        fields: [(&'static str, String); N],
    ) {
        let name = name.into();
        let fact = Fact { fields: fields.into(), source: source.into() };
        if self.facts.insert((section, name.clone()), fact).is_some() {
            self.twice.push(format!("{section} {name}"));
        }
    }

    /// Returns section, name, field and value of each fact.
    pub(super) fn rows(&self) -> impl Iterator<Item = [String; 4]> {
        self.facts.iter().flat_map(|((section, name), fact)| {
            let fields = fact.fields.iter();
            fields.map(move |(field, value)| [(*section).to_owned(), name.clone(), (*field).to_owned(), value.clone()])
        })
    }

    pub(super) fn len(&self) -> usize {
        self.facts.values().map(|fact| fact.fields.len()).sum()
    }

    /// Compares the tables with the policy, in both directions.
    pub(super) fn compare(&self, policy: &Facts, findings: &mut Vec<Finding>) {
        let mut error = |message: String| findings.push(Finding::error("tables", message));
        for name in &self.twice {
            error(format!("{name} is in the tables twice"));
        }
        for name in &policy.twice {
            error(format!("the policy gives {name} twice"));
        }
        for ((section, name), fact) in &self.facts {
            let Some(given) = policy.facts.get(&(*section, name.clone())) else {
                error(format!("{section} {name} is in the tables; no line of the policy gives it"));
                continue;
            };
            for (field, value) in &fact.fields {
                let wanted = given.fields.get(field).map_or("nothing", String::as_str);
                if wanted != value {
                    error(format!("{section} {name}: the {field} is {value}; {} makes it {wanted}", given.source));
                }
            }
        }
        for ((section, name), given) in &policy.facts {
            if !self.facts.contains_key(&(*section, name.clone())) {
                error(format!("{section} {name}: {} gives it; it is not in the tables", given.source));
            }
        }
    }
}

/// Returns words of rights in alphabetical order.
pub(super) fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut words: Vec<&str> = words.into_iter().collect();
    words.sort_unstable();
    words.join(" ")
}

/// Returns a range of domain ids as text.
pub(super) fn ids(first: u64, last: u64) -> String {
    format!("{first} to {last}")
}

/// Returns a virtual address as text.
pub(super) fn address(address: u64) -> String {
    format!("{address:#x}")
}

/// Returns the facts of the tables, with the lines of the policy file if `lines` is `true`.
pub(super) fn of_tables(tables: &Tables<'_>, lines: bool) -> Facts {
    let mut facts = Facts::default();
    let reader = Reader { tables };
    reader.image(&mut facts);
    reader.services(&mut facts);
    reader.regions(&mut facts);
    reader.capabilities(&mut facts, lines);
    reader.wiring(&mut facts);
    facts
}

struct Reader<'a> {
    tables: &'a Tables<'a>,
}

impl Reader<'_> {
    fn name(&self, name: Name) -> String {
        self.tables.name(name).to_owned()
    }

    fn service(&self, service: ServiceId) -> String {
        self.tables.service_name(service).to_owned()
    }

    fn region(&self, region: RegionId) -> String {
        self.name(self.tables.region(region).name)
    }

    fn image(&self, facts: &mut Facts) {
        let image = self.tables.image();
        let isolation = match image.isolation {
            Isolation::Standard => "standard",
            Isolation::Strict => "strict",
        };
        let bits = image.refused.bits();
        let refused = words((0u16..).zip(WEAKNESSES).filter_map(|(bit, word)| (bits >> bit & 1 == 1).then_some(word)));
        let fields = [("isolation", isolation.into()), ("list of refused weaknesses", refused)];
        facts.add("image", "as a whole", "", fields);
    }

    fn domains(&self, set: DomainSetId) -> String {
        self.name(self.tables.domain_set(set).name)
    }

    fn services(&self, facts: &mut Facts) {
        for (number, service) in self.tables.services().iter().enumerate() {
            let then = match service.after_limit {
                AfterLimit::StopImage => "stop-image",
                AfterLimit::StopService => "stop-service",
            };
            facts.add(
                "service",
                self.name(service.name),
                "",
                [
                    ("number", number.to_string()),
                    ("end of the stack", address(service.stack_top)),
                    ("budget", service.budget_us.to_string()),
                    ("period", service.period_us.to_string()),
                    ("number of restarts", service.restart_limit.to_string()),
                    ("end of the restarts", then.into()),
                    ("priority", service.priority.to_string()),
                ],
            );
        }
    }

    fn regions(&self, facts: &mut Facts) {
        for region in self.tables.regions().iter() {
            let kind = match region.kind {
                RegionKind::Fixed => "pages",
                RegionKind::Share => "share",
                RegionKind::Module => "module",
                RegionKind::CommandLine => "command-line",
                RegionKind::XenStoreRing => "xenstore-ring",
                RegionKind::ImageData => "image data",
            };
            facts.add(
                "region",
                self.name(region.name),
                "",
                [
                    ("kind", kind.into()),
                    ("amount", region.amount.to_string()),
                    ("minimum", region.minimum.to_string()),
                    ("maximum", region.maximum.to_string()),
                    ("clearing at a restart", region.clear_on_restart.to_string()),
                    ("length of data", region.image_length.to_string()),
                ],
            );
        }
        for mapping in self.tables.mappings().iter() {
            let access = match mapping.access {
                Access::Read => "read",
                Access::ReadWrite => "read-write",
            };
            let name = format!("{} in {}", self.region(mapping.region), self.service(mapping.service));
            facts.add("mapping", name, "", [("access", access.into()), ("address", address(mapping.address))]);
        }
    }

    fn capabilities(&self, facts: &mut Facts, lines: bool) {
        for capability in self.tables.capabilities().iter() {
            let object = match capability.object {
                Object::Sender(queue) | Object::Receiver(queue) => self.name(self.tables.queue(queue).name),
                Object::Port(rule) => self.name(self.tables.port(rule).name),
                Object::Grant(rule) => self.name(self.tables.grant(rule).name),
                Object::Region(mapping) => self.region(self.tables.mapping(mapping).region),
                Object::Domain(set) => self.domains(set),
                Object::Console | Object::Clock | Object::Entropy | Object::Power | Object::Info => {
                    "the kernel's".into()
                }
            };
            let bits = capability.rights.bits();
            let rights = words((0u32..).zip(RIGHTS).filter_map(|(bit, word)| (bits >> bit & 1 == 1).then_some(word)));
            let name = self.name(capability.name);
            let name = format!("{} of {}: {}", capability.kind().name(), self.service(capability.service), name);
            let fields = [("slot", capability.slot.to_string()), ("rights", rights), ("object", object)];
            if lines {
                let [slot, rights, object] = fields;
                let line = ("line of the policy", capability.line.to_string());
                facts.add("capability", name, "", [slot, rights, object, line]);
            } else {
                facts.add("capability", name, "", fields);
            }
        }
    }

    fn wiring(&self, facts: &mut Facts) {
        for queue in self.tables.queues().iter() {
            facts.add(
                "queue",
                self.name(queue.name),
                "",
                [
                    ("sender", self.service(queue.sender)),
                    ("receiver", self.service(queue.receiver)),
                    ("sender's bit", queue.sender_bit.to_string()),
                    ("receiver's bit", queue.receiver_bit.to_string()),
                    ("size of a message", queue.message_size.to_string()),
                    ("depth", queue.depth.to_string()),
                    ("producer's region", self.region(queue.producer_region)),
                    ("consumer's region", self.region(queue.consumer_region)),
                ],
            );
        }
        for grant in self.tables.grants().iter() {
            let access = match grant.access {
                Access::Read => "read",
                Access::ReadWrite => "read-write",
            };
            facts.add(
                "grant",
                self.name(grant.name),
                "",
                [
                    ("region", self.region(grant.region)),
                    ("access", access.into()),
                    ("first reference", grant.first_ref.to_string()),
                    ("number of pages", grant.count.to_string()),
                    ("peers", self.domains(grant.peers)),
                ],
            );
        }
        for port in self.tables.ports().iter() {
            let peer = match port.peer {
                PortPeer::Domains(set) => self.domains(set),
                PortPeer::XenStore => XENSTORE.into(),
            };
            facts.add(
                "port",
                self.name(port.name),
                "",
                [("service", self.service(port.service)), ("bit", port.bit.to_string()), ("peers", peer)],
            );
        }
        for set in self.tables.domains().iter() {
            let fields = [("ids", ids(set.first.into(), set.last.into())), ("pin", set.pinned.to_string())];
            facts.add("domain", self.name(set.name), "", fields);
        }
    }
}
