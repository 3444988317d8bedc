//! Random sound policies: any numbers become the text of one.

use std::fmt::Write;

use proptest::prelude::*;

/// The numbers of a policy. A number that does not fit is left out, or reduced by modulo.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Priority, budget, held capabilities, restart limit, what follows the limit.
    pub services: Vec<(u8, u8, u16, u8, bool)>,
    /// Source, amount, and for each service its access to the region.
    pub regions: Vec<(u8, u8, Vec<u8>)>,
    /// Client, server, interface, depth.
    pub queues: Vec<(u8, u8, u8, u8)>,
    /// Owner, peer, rights.
    pub ports: Vec<(u8, u8, u8)>,
    /// Region, client, peer, write, pages.
    pub grants: Vec<(u8, u8, u8, bool, u8)>,
    /// Client, path, rights.
    pub paths: Vec<(u8, u8, u8)>,
    /// First and last id, and `true` if it is pinned, where that is possible.
    pub domains: [(u8, u8, bool); 2],
    /// Strict isolation; refused weaknesses, whether service 1 has the daemon's ring and channel, and
    /// whether the last service reads the ring, too.
    pub image: (bool, u16),
}

const INTERFACES: [&str; 5] = ["grants", "store", "net", "socket", "control"];
const PATHS: [&str; 8] =
    ["control/**", "control/x", "/local/domain/*/y", "device/vif/0/**", "y", "control", "control/x/**", "/local/**"];
const HELD: [(&str, &[&str]); 5] = [
    ("console", &["write"]),
    ("clock", &["now", "wall"]),
    ("entropy", &["draw"]),
    ("power", &["off", "reboot"]),
    ("info", &["read"]),
];

/// Generates any shape.
pub fn shape() -> impl Strategy<Value = Shape> {
    let services = prop::collection::vec((1u8..5, 1u8..5, any::<u16>(), 0u8..3, any::<bool>()), 2..6);
    let regions = prop::collection::vec((0u8..4, 1u8..4, prop::collection::vec(0u8..4, 6)), 0..5);
    let queues = prop::collection::vec((any::<u8>(), any::<u8>(), 0u8..5, 1u8..4), 0..9);
    let ports = prop::collection::vec((any::<u8>(), 0u8..2, 1u8..8), 0..4);
    let grants = prop::collection::vec((any::<u8>(), any::<u8>(), 0u8..2, any::<bool>(), 1u8..4), 0..4);
    let paths = prop::collection::vec((any::<u8>(), 0u8..8, 1u8..8), 0..5);
    let domains = [(0u8..4, 0u8..4, any::<bool>()), (0u8..4, 0u8..4, any::<bool>())];
    let image = (any::<bool>(), 0u16..64);
    (services, regions, queues, ports, grants, paths, domains, image).prop_map(
        |(services, regions, queues, ports, grants, paths, domains, image)| Shape {
            services,
            regions,
            queues,
            ports,
            grants,
            paths,
            domains,
            image,
        },
    )
}

/// Generates two shapes that have most in common.
pub fn pair() -> impl Strategy<Value = (Shape, Shape)> {
    (shape(), shape(), any::<u8>()).prop_map(|(one, other, mask)| {
        let mut mixed = one.clone();
        let taken = |bit: u8| mask & (1 << bit) != 0 && mask & (1 << ((bit + 1) % 8)) == 0;
        if taken(0) {
            mixed.services = other.services;
        }
        if taken(1) {
            mixed.regions = other.regions;
        }
        if taken(2) {
            mixed.queues = other.queues;
        }
        if taken(3) {
            mixed.ports = other.ports;
        }
        if taken(4) {
            mixed.grants = other.grants;
        }
        if taken(5) {
            mixed.paths = other.paths;
        }
        if taken(6) {
            mixed.domains = other.domains;
        }
        if taken(7) {
            mixed.image = other.image;
        }
        (one, mixed)
    })
}

fn some<'a>(words: &[&'a str], mask: u16) -> Vec<&'a str> {
    words.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, word)| *word).collect()
}

/// Client, interface and server of a queue.
type Ends = (usize, usize, usize);

/// The programs that the catalogue describes: what each serves and asks.
const PROGRAMS: [(&str, &[&str], &[&str]); 6] = [
    ("cloister-netfront", &["net"], &["grants", "store"]),
    ("cloister-tcpip", &["socket", "control"], &["net"]),
    ("cloister-control", &[], &["store", "control"]),
    ("cloister-http", &[], &["socket"]),
    ("cloister-grant-manager", &["grants"], &[]),
    ("cloister-xenstore", &["store"], &[]),
];

/// Returns a program for a service: often one of the catalogue that has its queue ends.
fn program(service: usize, choice: usize, asks: &[Ends]) -> String {
    let fits = |(_, serves, clients): &&(&str, &[&str], &[&str])| {
        asks.iter().all(|(from, interface, to)| {
            let name = INTERFACES[*interface];
            (*from != service || clients.contains(&name)) && (*to != service || serves.contains(&name))
        })
    };
    let known: Vec<_> = PROGRAMS.iter().filter(fits).collect();
    match known.get(choice % known.len().max(1)) {
        Some((name, ..)) if !choice.is_multiple_of(4) => (*name).to_owned(),
        // A name of the catalogue with queue ends that the program has not is an unknown program.
        _ if choice == 8 => "cloister-http".to_owned(),
        _ => format!("program-{}", service % 2),
    }
}

fn list(words: &[&str]) -> String {
    format!("{words:?}")
}

impl Shape {
    /// Returns the policy, with services named by `service`, regions by `region` and ports by
    /// `port`.
    pub fn text(
        &self,
        service: impl Fn(usize) -> String,
        region: impl Fn(usize) -> String,
        port: impl Fn(usize) -> String,
    ) -> String {
        let mut out = String::from("format = 2\n[image]\nname = \"random\"\n");
        let (strict, refused) = self.image;
        if strict {
            out.push_str("isolation = \"strict\"\n");
        }
        let refused = some(&["meltdown", "mds", "returns"], refused & 7);
        if !refused.is_empty() {
            let _ = writeln!(out, "refuse-weakness = {}", list(&refused));
        }
        let count = self.services.len();
        let asks = self.queues(count, &service, &mut String::new());
        for (index, (priority, budget, held, limit, stop)) in self.services.iter().enumerate() {
            let then = if *stop { "stop-image" } else { "stop-service" };
            let _ = write!(
                out,
                "[services.{}]\nprogram = \"{}\"\npriority = {priority}\nstack = \"{}K\"\n\
                 cpu = {{ budget_us = {budget}000, period_us = 10000 }}\nrestart = {{ limit = {limit}, then = \"{then}\" }}\n",
                service(index),
                program(index, usize::from(held >> 10), &asks),
                budget * 4,
            );
            if *stop && *limit % 2 == 1 {
                let _ = writeln!(out, "program-sha256 = \"{}\"", format!("{:02x}", index % 2).repeat(32));
            }
            for (kind, (name, words)) in HELD.iter().enumerate() {
                let words = some(words, held >> (kind * 2));
                if !words.is_empty() {
                    let _ = writeln!(out, "{name} = {}", list(&words));
                }
            }
        }
        let mut used = [false; 2];
        self.regions(count, &service, &region, &mut out);
        // Service 1 serves `store`, and may have the ring and the channel of the daemon.
        if self.image.1 & 8 != 0 {
            let reader = (self.image.1 & 32 != 0 && count > 2).then(|| format!(", {} = \"read\"", service(count - 1)));
            let _ = write!(
                out,
                "[regions.ring]\nkind = \"xenstore-ring\"\nmap = {{ {} = \"read-write\"{} }}\n",
                service(1),
                reader.unwrap_or_default()
            );
        }
        if self.image.1 & 16 != 0 {
            let _ = write!(
                out,
                "[ports.{}]\nservice = \"{}\"\nkind = \"xenstore\"\nrights = [\"send\"]\n",
                port(9),
                service(1)
            );
        }
        self.queues(count, &service, &mut out);
        for (index, (owner, peer, rights)) in self.ports.iter().enumerate() {
            used[usize::from(*peer)] = true;
            let rights = some(&["open", "send", "close"], u16::from(*rights));
            let _ = writeln!(
                out,
                "[ports.{}]\nservice = \"{}\"\npeer = \"d{peer}\"\nrights = {}",
                port(index),
                service(usize::from(*owner) % count),
                list(&rights)
            );
        }
        self.grants(&asks, &service, &region, &mut used, &mut out);
        let can_pin = self.paths(&asks, &service, &mut out);
        for (index, (first, last, pinned)) in self.domains.iter().enumerate().filter(|(index, _)| used[*index]) {
            let _ = writeln!(out, "[domains.d{index}]\nids = \"{}-{}\"", first.min(last), first.max(last));
            if *pinned && can_pin {
                let _ = writeln!(out, "pin = {{ by = \"{}\", node = \"device/vif/0/id{index}\" }}", service(1));
            }
        }
        out
    }

    /// Returns the policy with plain names.
    pub fn plain(&self) -> String {
        self.text(|index| format!("s{index}"), |index| format!("r{index}"), |index| format!("p{index}"))
    }

    fn regions(
        &self,
        count: usize,
        service: &impl Fn(usize) -> String,
        region: &impl Fn(usize) -> String,
        out: &mut String,
    ) {
        for (index, (source, amount, how)) in self.regions.iter().enumerate() {
            let mut written = false;
            let mut map = Vec::new();
            for (mapper, how) in how.iter().take(count).enumerate() {
                let writes = *how == 1 && !written;
                written |= writes;
                if *how < 2 {
                    map.push(format!("{} = \"{}\"", service(mapper), if writes { "read-write" } else { "read" }));
                }
            }
            if map.is_empty() {
                map.push(format!("{} = \"read\"", service(0)));
            }
            let source = if *source == 0 {
                format!("share = {amount}\nminimum = \"{}K\"\nmaximum = \"{}K\"", amount * 4, amount * 8)
            } else {
                format!("pages = {amount}")
            };
            let _ = write!(out, "[regions.{}]\n{source}\nmap = {{ {} }}\n", region(index), map.join(", "));
        }
    }

    /// Adds the queues, and returns client, interface and server of each. Only service 0 serves
    /// `grants`, and only service 1 `store`.
    fn queues(&self, count: usize, service: &impl Fn(usize) -> String, out: &mut String) -> Vec<Ends> {
        let mut asks: Vec<Ends> = Vec::new();
        let mut served = std::collections::BTreeMap::new();
        for (client, server, interface, depth) in &self.queues {
            let (client, interface) = (usize::from(*client) % count, usize::from(*interface));
            let server = if interface < 2 { interface } else { usize::from(*server) % count };
            let clients: &mut usize = served.entry((server, interface)).or_default();
            // To smaller numbers only, so that requests form no circle; up to four clients.
            if server >= client
                || *clients == 4
                || asks.iter().any(|(from, kind, _)| (*from, *kind) == (client, interface))
            {
                continue;
            }
            *clients += 1;
            // The name says nothing about the ends: in another policy it can be that of another queue.
            let number = asks.len();
            asks.push((client, interface, server));
            let (from, to, name) = (service(client), service(server), INTERFACES[interface]);
            let _ = write!(
                out,
                "[queues.q{number}]\nfrom = \"{from}\"\nto = \"{to}\"\ninterface = \"{name}\"\ndepth = {}\n",
                1 << depth
            );
        }
        asks
    }

    /// Returns `true` if the service maps the region: see [`regions`](Self::regions).
    fn maps(&self, region: usize, service: usize) -> bool {
        let how = &self.regions[region].2[..self.services.len().min(6)];
        if how.iter().all(|how| *how >= 2) { service == 0 } else { how[service] < 2 }
    }

    fn grants(
        &self,
        asks: &[Ends],
        service: &impl Fn(usize) -> String,
        region: &impl Fn(usize) -> String,
        used: &mut [bool; 2],
        out: &mut String,
    ) {
        let clients: Vec<usize> =
            asks.iter().filter(|(_, interface, _)| *interface == 0).map(|(client, ..)| *client).collect();
        let mut granted = Vec::new();
        for (of, client, peer, write, pages) in &self.grants {
            if clients.is_empty() || self.regions.is_empty() {
                return;
            }
            let of = usize::from(*of) % self.regions.len();
            let (source, amount, _) = &self.regions[of];
            let client = clients[usize::from(*client) % clients.len()];
            if *source == 0 || granted.contains(&of) || !self.maps(of, client) {
                continue;
            }
            granted.push(of);
            used[usize::from(*peer)] = true;
            let access = if *write { "read-write" } else { "read" };
            let _ = write!(
                out,
                "[grants.g-{0}]\nregion = \"{0}\"\npeer = \"d{peer}\"\naccess = \"{access}\"\npages = {1}\nlifetime = \"session\"\n\
                 held-by = \"{2}\"\non-behalf-of = \"{3}\"\n",
                region(of),
                pages.min(amount),
                service(0),
                service(client)
            );
        }
    }

    /// Adds the paths, and returns `true` if some service may read those below `device/vif/0`, and
    /// none may write them.
    fn paths(&self, asks: &[Ends], service: &impl Fn(usize) -> String, out: &mut String) -> bool {
        let clients: Vec<usize> =
            asks.iter().filter(|(_, interface, _)| *interface == 1).map(|(client, ..)| *client).collect();
        let mut entries = std::collections::BTreeMap::new();
        for (client, path, rights) in self.paths.iter().filter(|_| !clients.is_empty()) {
            let client = clients[usize::from(*client) % clients.len()];
            entries.entry(client).or_insert_with(std::collections::BTreeMap::new).entry(*path).or_insert(*rights);
        }
        // The last, too, has what is below `device/vif/0`.
        let rights = || entries.values().flat_map(|paths| [paths.get(&3), paths.get(&7)]).flatten();
        let can_pin = rights().any(|rights| rights & 1 != 0) && rights().all(|rights| rights & 2 == 0);
        for (client, paths) in entries {
            let _ = writeln!(out, "[xenstore.{}]", service(client));
            for (path, rights) in paths {
                let words = some(&["read", "write", "watch"], u16::from(rights));
                let _ = writeln!(out, "\"{}\" = {}", PATHS[usize::from(path)], list(&words));
            }
        }
        can_pin
    }
}
