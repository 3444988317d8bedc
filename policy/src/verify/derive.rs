//! Derives the facts of an image from a policy, a second time from `docs/policy.md`.
//!
//! This module shares nothing with the compiler's plan, emitter or bindings, so that it finds their
//! errors.

use std::collections::BTreeMap;

use super::facts::{Facts, XENSTORE, address, ids, words};
use super::image::PAGE;
use super::text::{Domains, HELD, Source, Text};

/// The start of a service's stack and its regions of known size, after a page that stays unmapped.
const FIXED: u64 = 2 << 30;
/// The start of its regions whose size is decided at boot, each at a multiple of 1 GiB.
const LARGE: u64 = 4 << 30;
/// The size of the address range for the boot module, in bytes.
const MODULE: u64 = 4 << 30;
/// The first grant reference; those below are the toolstack's.
const FIRST_REFERENCE: u64 = 8;
/// Bytes of a queue's first page before its slots (`services/interfaces/src/queue.rs`).
const QUEUE_HEAD: u64 = 64;
/// Bytes of a rule about a path, and of the path in it (`services/interfaces/src/rules.rs`).
const PATH_RULE: usize = 104;
const PATH: usize = 96;

/// The facts and the data of an image.
pub(super) struct Derived {
    pub facts: Facts,
    /// The bytes of each region of image data.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// A region as in the tables.
struct Region {
    kind: &'static str,
    amount: u64,
    minimum: u64,
    maximum: u64,
    reset: bool,
    data: u64,
    /// The size of its address range in bytes.
    room: u64,
    /// It is one of the large regions.
    large: bool,
    source: String,
}

/// A mapping: service, region, access, line.
struct Mapping {
    service: usize,
    region: String,
    writable: bool,
    line: u32,
}

struct OneWay {
    name: String,
    whole: String,
    sender: String,
    receiver: String,
    message: u64,
    depth: u64,
    line: u32,
}

/// Derives the facts. `lines` adds the lines of the capabilities, which only the policy's own file
/// has.
pub(super) fn derive(text: &Text, lines: bool) -> Result<Derived, String> {
    let mut deriver = Deriver {
        text,
        lines,
        facts: Facts::default(),
        regions: BTreeMap::new(),
        mappings: Vec::new(),
        queues: Vec::new(),
        slots: vec![1; text.services.len()],
        data: BTreeMap::new(),
    };
    deriver.image();
    deriver.policy_regions()?;
    deriver.queues()?;
    deriver.rules()?;
    let stacks = deriver.stacks_and_mappings()?;
    deriver.services(&stacks)?;
    deriver.held()?;
    let mut bits = vec![0; text.services.len()];
    deriver.queue_facts(&mut bits)?;
    deriver.ports(&mut bits)?;
    deriver.grants()?;
    deriver.domains()?;
    deriver.region_capabilities()?;
    for (name, region) in &deriver.regions {
        deriver.facts.add(
            "region",
            name,
            &region.source,
            [
                ("kind", region.kind.into()),
                ("amount", region.amount.to_string()),
                ("minimum", region.minimum.to_string()),
                ("maximum", region.maximum.to_string()),
                ("clearing at a restart", region.reset.to_string()),
                ("length of data", region.data.to_string()),
            ],
        );
    }
    Ok(Derived { facts: deriver.facts, data: deriver.data })
}

struct Deriver<'a> {
    text: &'a Text,
    lines: bool,
    facts: Facts,
    regions: BTreeMap<String, Region>,
    mappings: Vec<Mapping>,
    queues: Vec<OneWay>,
    /// The next free slot of each service.
    slots: Vec<u64>,
    data: BTreeMap<String, Vec<u8>>,
}

impl Deriver<'_> {
    fn service(&self, name: &str) -> Result<usize, String> {
        self.text.services.keys().position(|known| known == name).ok_or_else(|| format!("there is no service `{name}`"))
    }

    fn map(&mut self, service: &str, region: &str, writable: bool, line: u32) -> Result<(), String> {
        let service = self.service(service)?;
        self.mappings.push(Mapping { service, region: region.to_owned(), writable, line });
        Ok(())
    }

    fn pages(&mut self, name: String, pages: u64, reset: bool, source: &str) {
        let room = pages.saturating_mul(PAGE);
        let region = Region { amount: pages, reset, room, ..nothing("pages", source) };
        self.regions.insert(name, region);
    }

    fn image(&mut self) {
        let isolation = self.text.isolation.clone().unwrap_or_else(|| "standard".into());
        let refused = words(self.text.refused.iter().map(String::as_str));
        let fields = [("isolation", isolation), ("list of refused weaknesses", refused)];
        self.facts.add("image", "as a whole", "[image]", fields);
    }

    fn policy_regions(&mut self) -> Result<(), String> {
        let text = self.text;
        for (name, region) in &text.regions {
            let region = &region.value;
            let heap = region.map.values().any(|how| how.value == "heap");
            let granted = text.grants.values().any(|grant| grant.value.region == *name);
            let reset = heap || (region.map.len() == 1 && !granted && !region.keep);
            let source = format!("[regions.{name}]");
            let made = match &region.source {
                Source::Pages(pages) => {
                    Region { amount: *pages, reset, room: pages.saturating_mul(PAGE), ..nothing("pages", &source) }
                }
                Source::Share { weight, minimum, maximum } => Region {
                    amount: *weight,
                    minimum: minimum / PAGE,
                    maximum: maximum / PAGE,
                    reset,
                    room: *maximum,
                    large: true,
                    ..nothing("share", &source)
                },
                Source::Kind(word) => match word.as_str() {
                    "module" => Region { room: MODULE, large: true, ..nothing("module", &source) },
                    "command-line" => nothing("command-line", &source),
                    "xenstore-ring" => nothing("xenstore-ring", &source),
                    other => return Err(format!("{source}: there is no kind `{other}`")),
                },
            };
            self.regions.insert(name.clone(), made);
            for (service, how) in &region.map {
                let writable = match how.value.as_str() {
                    "read" => false,
                    "read-write" | "heap" => true,
                    other => return Err(format!("{source}: `{other}` is not an access")),
                };
                self.map(service, name, writable, how.line)?;
            }
        }
        Ok(())
    }

    fn queues(&mut self) -> Result<(), String> {
        let text = self.text;
        for (whole, queue) in &text.queues {
            let (line, queue) = (queue.line, &queue.value);
            let sizes = cloister_interfaces::CATALOG.iter().find(|(name, _, _)| *name == queue.interface);
            let (_, request, reply) = sizes.ok_or_else(|| format!("there is no interface `{}`", queue.interface))?;
            let ways = [("requests", &queue.from, &queue.to, request), ("replies", &queue.to, &queue.from, reply)];
            for (way, sender, receiver, message) in ways {
                let name = format!("{whole}.{way}");
                let message = *message as u64;
                let bytes = message.saturating_mul(queue.depth).saturating_add(QUEUE_HEAD);
                let source = format!("[queues.{whole}]");
                let (producer, consumer) = (format!("{name}.producer"), format!("{name}.consumer"));
                self.pages(producer.clone(), bytes.div_ceil(PAGE), false, &source);
                self.pages(consumer.clone(), 1, false, &source);
                self.map(sender, &producer, true, line)?;
                self.map(receiver, &producer, false, line)?;
                self.map(receiver, &consumer, true, line)?;
                self.map(sender, &consumer, false, line)?;
                let (sender, receiver, whole) = (sender.clone(), receiver.clone(), whole.clone());
                self.queues.push(OneWay { name, whole, sender, receiver, message, depth: queue.depth, line });
            }
        }
        Ok(())
    }

    /// Returns the clients of an interface of a service, in the order of the queues' names.
    fn clients(&self, service: &str, interface: &str) -> Vec<&str> {
        let served = self.text.queues.values().map(|queue| &queue.value);
        served.filter(|queue| queue.to == service && queue.interface == interface).map(|queue| &*queue.from).collect()
    }

    /// Adds the rules that a server of `store` or `grants` receives as data.
    fn rules(&mut self) -> Result<(), String> {
        let text = self.text;
        for (name, service) in &text.services {
            let (stores, grants) = (self.clients(name, "store"), self.clients(name, "grants"));
            let lists = match (stores.is_empty(), grants.is_empty()) {
                (false, _) => vec![self.path_rules(&stores)?, self.pin_rules(name)?],
                (true, false) => vec![self.grant_rules(name, &grants)?],
                (true, true) => continue,
            };
            let mut bytes = Vec::new();
            for records in lists {
                let count = u16::try_from(records.len()).map_err(|_| format!("{name} has too many rules"))?;
                bytes.extend(count.to_le_bytes());
                bytes.extend(records.concat());
            }
            let region = format!("{name}.rules");
            let source = format!("what {name} serves");
            let data = bytes.len() as u64;
            let room = data.div_ceil(PAGE) * PAGE;
            self.regions.insert(region.clone(), Region { data, room, ..nothing("image data", &source) });
            self.map(name, &region, false, service.line)?;
            self.data.insert(region, bytes);
        }
        Ok(())
    }

    fn path_rules(&self, clients: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        let mut records = Vec::new();
        for (index, client) in (0u8..).zip(clients) {
            for (path, rights) in self.text.xenstore.get(*client).into_iter().flat_map(|paths| &paths.value) {
                let mut bits = 0;
                for word in &rights.value {
                    bits |= match word.as_str() {
                        "read" => 1,
                        "write" => 2,
                        "watch" => 4,
                        other => return Err(format!("[xenstore.{client}]: there is no right `{other}`")),
                    };
                }
                // `/**` is a flag beside the rights, and not a part of the path.
                let path = match path.rsplit_once('/') {
                    Some((above, "**")) => {
                        bits |= 8;
                        above
                    }
                    _ => path,
                };
                records.push(path_rule([index, bits], &[], path)?);
            }
        }
        Ok(records)
    }

    fn pin_rules(&self, service: &str) -> Result<Vec<Vec<u8>>, String> {
        let pins = self.text.domains.values().map(|domain| &domain.value);
        let pins = pins.filter_map(|domain| Some((domain.ids, &domain.pin.as_ref()?.value)));
        let mut records = Vec::new();
        for (number, ((first, last), pin)) in (0u8..).zip(pins.filter(|(_, pin)| pin.by == service)) {
            let mut ids = Vec::new();
            for id in [first, last] {
                let id = u16::try_from(id).map_err(|_| format!("there is no domain {id}"))?;
                ids.extend(id.to_le_bytes());
            }
            records.push(path_rule([number, 0], &ids, &pin.node)?);
        }
        Ok(records)
    }

    fn grant_rules(&self, holder: &str, clients: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        let mut records = Vec::new();
        let held = self.text.grants.iter().filter(|(_, grant)| grant.value.held_by == holder);
        for (number, (name, grant)) in (0u8..).zip(held) {
            let client = clients.iter().position(|client| *client == grant.value.on_behalf_of);
            let client = client.and_then(|client| u8::try_from(client).ok());
            let client = client.ok_or_else(|| format!("[grants.{name}]: the client has no queue to {holder}"))?;
            let (first, last) = self.peers(&grant.value.peer)?.ids;
            let mut record = vec![client, number];
            for half in [grant.value.pages, first, last] {
                let half = u16::try_from(half).map_err(|_| format!("[grants.{name}]: {half} is too large"))?;
                record.extend(half.to_le_bytes());
            }
            records.push(record);
        }
        Ok(records)
    }

    fn peers(&self, domain: &str) -> Result<&Domains, String> {
        let domain = self.text.domains.get(domain).ok_or_else(|| format!("there is no domain `{domain}`"))?;
        Ok(&domain.value)
    }

    /// Gives every mapping its address, and returns the end of each service's stack.
    fn stacks_and_mappings(&mut self) -> Result<Vec<u64>, String> {
        let text = self.text;
        for (name, service) in &text.services {
            let stack = &service.value.stack_bytes;
            let region = format!("{name}.stack");
            self.pages(region.clone(), stack.value / PAGE, true, &format!("[services.{name}]"));
            self.map(name, &region, true, stack.line)?;
        }
        let mut stacks = Vec::new();
        let mut ordered = Vec::new();
        for (number, service) in text.services.keys().enumerate() {
            let (mut own, rest): (Vec<Mapping>, Vec<Mapping>) =
                std::mem::take(&mut self.mappings).into_iter().partition(|mapping| mapping.service == number);
            self.mappings = rest;
            own.sort_by(|a, b| a.region.cmp(&b.region));
            let (stack, others): (Vec<Mapping>, Vec<Mapping>) =
                own.into_iter().partition(|mapping| mapping.region.ends_with(".stack"));
            let (large, small): (Vec<Mapping>, Vec<Mapping>) = others
                .into_iter()
                .partition(|mapping| self.regions.get(&mapping.region).is_some_and(|region| region.large));
            let (mut low, mut high) = (FIXED + PAGE, LARGE);
            for mapping in stack.into_iter().chain(small).chain(large) {
                let region = self.regions.get(&mapping.region).ok_or("a mapping of no region")?;
                let next = if region.large { &mut high } else { &mut low };
                let place = if region.large { next.checked_next_multiple_of(1 << 30) } else { Some(*next) };
                let ends = place.and_then(|place| Some((place, place.checked_add(region.room)?)));
                let (place, end) =
                    ends.ok_or_else(|| format!("the regions of {service} do not fit its address space"))?;
                *next = end.saturating_add(PAGE);
                if mapping.region.ends_with(".stack") {
                    stacks.push(end);
                }
                let access = if mapping.writable { "read-write" } else { "read" };
                let fields = [("access", access.into()), ("address", address(place))];
                self.facts.add("mapping", format!("{} in {service}", mapping.region), &region.source, fields);
                ordered.push(mapping);
            }
        }
        self.mappings = ordered;
        Ok(stacks)
    }

    fn services(&mut self, stacks: &[u64]) -> Result<(), String> {
        let text = self.text;
        for (number, (name, service)) in text.services.iter().enumerate() {
            let service = &service.value;
            let stack = stacks.get(number).ok_or("a service without a stack")?;
            self.facts.add(
                "service",
                name,
                format!("[services.{name}]"),
                [
                    ("number", number.to_string()),
                    ("end of the stack", address(*stack)),
                    ("budget", service.budget_us.to_string()),
                    ("period", service.period_us.to_string()),
                    ("number of restarts", service.restart_limit.to_string()),
                    ("end of the restarts", service.then.clone()),
                    ("priority", service.priority.to_string()),
                ],
            );
        }
        Ok(())
    }

    /// Adds a capability in the next slot of a service.
    fn capability(
        &mut self,
        service: usize,
        [kind, name, object, source]: [&str; 4],
        rights: String,
        line: u32,
    ) -> Result<(), String> {
        let slot = self.slots.get_mut(service).ok_or("a capability of no service")?;
        let service = self.text.services.keys().nth(service).ok_or("a capability of no service")?;
        let fields = [("slot", slot.to_string()), ("rights", rights), ("object", object.to_owned())];
        *slot += 1;
        let name = format!("{kind} of {service}: {name}");
        if self.lines {
            let [slot, rights, object] = fields;
            let line = ("line of the policy", line.to_string());
            self.facts.add("capability", name, source, [slot, rights, object, line]);
        } else {
            self.facts.add("capability", name, source, fields);
        }
        Ok(())
    }

    fn held(&mut self) -> Result<(), String> {
        let text = self.text;
        for (number, (service, body)) in text.services.iter().enumerate() {
            for name in HELD {
                if let Some(held) = body.value.held.get(name) {
                    let rights = words(held.value.iter().map(String::as_str));
                    let source = format!("[services.{service}]");
                    self.capability(number, [name, name, "the kernel's", &source], rights, held.line)?;
                }
            }
        }
        Ok(())
    }

    fn queue_facts(&mut self, bits: &mut [u64]) -> Result<(), String> {
        for queue in std::mem::take(&mut self.queues) {
            let source = format!("[queues.{}]", queue.whole);
            let (sender, receiver) = (self.service(&queue.sender)?, self.service(&queue.receiver)?);
            let (sender_bit, receiver_bit) = (next(bits, sender)?, next(bits, receiver)?);
            for (kind, owner) in [("queue sender", sender), ("queue receiver", receiver)] {
                self.capability(owner, [kind, &queue.name, &queue.name, &source], "notify".into(), queue.line)?;
            }
            self.facts.add(
                "queue",
                &queue.name,
                source,
                [
                    ("sender", queue.sender),
                    ("receiver", queue.receiver),
                    ("sender's bit", sender_bit.to_string()),
                    ("receiver's bit", receiver_bit.to_string()),
                    ("size of a message", queue.message.to_string()),
                    ("depth", queue.depth.to_string()),
                    ("producer's region", format!("{}.producer", queue.name)),
                    ("consumer's region", format!("{}.consumer", queue.name)),
                ],
            );
        }
        Ok(())
    }

    fn ports(&mut self, bits: &mut [u64]) -> Result<(), String> {
        let text = self.text;
        for (name, port) in &text.ports {
            let (line, port) = (port.line, &port.value);
            let source = format!("[ports.{name}]");
            let service = self.service(&port.service)?;
            let peer = match &port.peer {
                Some(peer) => self.peers(peer).map(|_| peer.clone())?,
                None => XENSTORE.into(),
            };
            let rights = words(port.rights.iter().map(String::as_str));
            self.capability(service, ["port", name, name, &source], rights, line)?;
            let fields =
                [("service", port.service.clone()), ("bit", next(bits, service)?.to_string()), ("peers", peer)];
            self.facts.add("port", name, source, fields);
        }
        Ok(())
    }

    fn grants(&mut self) -> Result<(), String> {
        let text = self.text;
        let mut reference = FIRST_REFERENCE;
        for (name, grant) in &text.grants {
            let (line, grant) = (grant.line, &grant.value);
            let source = format!("[grants.{name}]");
            let holder = self.service(&grant.held_by)?;
            self.peers(&grant.peer)?;
            self.capability(holder, ["grant", name, name, &source], "end issue".into(), line)?;
            let fields = [
                ("region", grant.region.clone()),
                ("access", grant.access.clone()),
                ("first reference", reference.to_string()),
                ("number of pages", grant.pages.to_string()),
                ("peers", grant.peer.clone()),
            ];
            self.facts.add("grant", name, source, fields);
            reference = reference.saturating_add(grant.pages);
        }
        Ok(())
    }

    fn domains(&mut self) -> Result<(), String> {
        let text = self.text;
        for (name, domain) in &text.domains {
            let source = format!("[domains.{name}]");
            let ((first, last), pin) = (domain.value.ids, &domain.value.pin);
            let fields = [("ids", ids(first, last)), ("pin", pin.is_some().to_string())];
            self.facts.add("domain", name, &source, fields);
            if let Some(pin) = pin {
                let service = self.service(&pin.value.by)?;
                self.capability(service, ["domain", name, name, &source], "pin".into(), pin.line)?;
            }
        }
        Ok(())
    }

    fn region_capabilities(&mut self) -> Result<(), String> {
        for mapping in std::mem::take(&mut self.mappings) {
            let region = &mapping.region;
            let source = self.regions.get(region).map(|region| region.source.clone()).unwrap_or_default();
            self.capability(mapping.service, ["region", region, region, &source], "find".into(), mapping.line)?;
        }
        Ok(())
    }
}

/// Returns the bytes of a rule about a path. `more` comes before the path.
fn path_rule([first, second]: [u8; 2], more: &[u8], path: &str) -> Result<Vec<u8>, String> {
    let length = u16::try_from(path.len()).ok().filter(|length| usize::from(*length) <= PATH);
    let length = length.ok_or_else(|| format!("the path `{path}` is too long"))?;
    let mut record = vec![first, second];
    record.extend(length.to_le_bytes());
    record.extend(more);
    record.extend(path.as_bytes());
    record.resize(PATH_RULE, 0);
    Ok(record)
}

/// Returns a region of one page without other properties.
fn nothing(kind: &'static str, source: &str) -> Region {
    let source = source.to_owned();
    Region { kind, amount: 0, minimum: 0, maximum: 0, reset: false, data: 0, room: PAGE, large: false, source }
}

fn next(bits: &mut [u64], service: usize) -> Result<u64, String> {
    let bit = bits.get_mut(service).ok_or("a bit of no service")?;
    *bit += 1;
    Ok(*bit - 1)
}
