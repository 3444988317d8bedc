//! Facts of a policy, read from its text, and the rows of R4, read from docs/policy.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use toml_edit::{DocumentMut, Item};

use super::{Act, Class, Has};

const INTERFACES: [&str; 5] = ["control", "grants", "net", "socket", "store"];

/// The programs of R2: what each serves and asks.
const PROGRAMS: [(&str, &[&str], &[&str]); 6] = [
    ("cloister-control", &[], &["control", "store"]),
    ("cloister-grant-manager", &["grants"], &[]),
    ("cloister-http", &[], &["socket"]),
    ("cloister-netfront", &["net"], &["grants", "store"]),
    ("cloister-tcpip", &["control", "socket"], &["net"]),
    ("cloister-xenstore", &["store"], &[]),
];

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Ports {
    #[default]
    None,
    Send,
    Close,
    All,
}

/// A row of R4.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Row {
    pub power: bool,
    pub pins: bool,
    pub daemon: bool,
    pub ports: Ports,
    pub ends: bool,
    pub client_grants: bool,
    pub all_grants: bool,
    pub asks: Vec<&'static str>,
    pub answers: Vec<&'static str>,
    pub outside: bool,
}

/// The rows of R4 as the page has them, by their first column.
static ROWS: LazyLock<BTreeMap<String, Row>> = LazyLock::new(|| {
    let page = include_str!("../../../../docs/policy.md");
    let table = page.split("**R4.").nth(1).unwrap().split("**R5.").next().unwrap();
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| requests") || line.starts_with("| answers") || line.starts_with("| from"));
    let mut found: BTreeMap<String, Row> = BTreeMap::new();
    for line in rows {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [input, own, asks, answers, outside, _] = cells[..] else { panic!("{line}") };
        let interfaces = |cell: &str| -> Vec<&'static str> {
            let named = |interface: &&str| cell == "every interface" || cell.contains(&format!("`{interface}`"));
            INTERFACES.into_iter().filter(|interface| named(interface)).collect()
        };
        let every = own.contains("everything but");
        let same = if own.starts_with("the same without `power`") {
            found["answers of `store`"].clone()
        } else {
            Row::default()
        };
        let row = Row {
            power: every || own.contains("`power`;"),
            pins: every && own.contains("pins too"),
            daemon: every || own.contains("`send` to the daemon"),
            ports: match () {
                () if every || own.contains("every operation on ports") || same.ports == Ports::All => Ports::All,
                () if own.contains("`send` and `close` on ports to domains") => Ports::Close,
                () if own.contains("`send` on ports to domains") => Ports::Send,
                () => Ports::None,
            },
            ends: own.contains("`end` of the grants on its behalf"),
            client_grants: own.contains("on behalf of this client"),
            all_grants: every || own.contains("on grants that it holds") || same.all_grants,
            asks: interfaces(asks),
            answers: interfaces(answers),
            outside: outside == "yes",
        };
        found.insert(input.to_owned(), row);
    }
    assert_eq!(found.len(), 11, "{found:?}");
    found
});

/// The facts that the rules work on.
#[derive(Clone, Default)]
pub struct Facts {
    pub subjects: BTreeMap<Has, String>,
    pub known: BTreeSet<usize>,
    pub queue: Vec<(usize, usize, usize, &'static str)>,
    pub shared: Vec<(usize, usize)>,
    pub to_domain: Vec<(usize, usize)>,
    pub from_domain: Vec<(usize, usize)>,
    pub domains: BTreeSet<usize>,
    pub boot: Vec<(Has, usize)>,
    pub ring: BTreeSet<usize>,
    pub sees_ring: BTreeSet<usize>,
    pub grant: Vec<(usize, usize, usize)>,
    pub region: Vec<(usize, Has)>,
    pub region_names: Vec<String>,
    pub writes_granted: Vec<(usize, usize)>,
    pub any_path: BTreeSet<Has>,
    pub path_any: BTreeSet<usize>,
    pub path_write: BTreeSet<usize>,
    pub path_read: BTreeSet<usize>,
    pub relay: Vec<(usize, usize)>,
    pub directory: Vec<(usize, usize)>,
    pub row: Vec<(Has, Row)>,
    pub act: Vec<(Has, Act)>,
    pub path_act: Vec<(usize, Act)>,
    pub end_act: Vec<(usize, Act)>,
    names: Vec<String>,
    ids: Vec<(String, u32, u32, bool)>,
}

/// A path rule: client, path, and the rights to read, write and watch.
type PathRule = (usize, String, [bool; 3]);

fn entries<'a>(document: &'a DocumentMut, section: &str) -> Vec<(String, &'a Item)> {
    let table = document.get(section).and_then(Item::as_table_like);
    let mut found: Vec<_> =
        table.map(|table| table.iter().map(|(key, item)| (key.to_owned(), item)).collect()).unwrap_or_default();
    found.sort_by(|(a, _): &(String, _), (b, _)| a.cmp(b));
    found
}

fn word(item: &Item, key: &str) -> String {
    item.get(key).and_then(Item::as_str).unwrap_or_default().to_owned()
}

fn words(item: Option<&Item>) -> Vec<String> {
    let array = item.and_then(Item::as_array);
    array.map(|array| array.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect()).unwrap_or_default()
}

impl Facts {
    pub fn read(text: &str) -> Facts {
        let document: DocumentMut = text.parse().unwrap();
        let names = entries(&document, "services").into_iter().map(|(name, _)| name).collect();
        let mut facts = Facts { names, ..Facts::default() };
        for (domain, (name, item)) in entries(&document, "domains").into_iter().enumerate() {
            let ids = word(item, "ids");
            let (first, last) = ids.split_once('-').unwrap_or((&ids, &ids));
            let pinned = item.get("pin").is_some();
            facts.subjects.insert(Has::Domain(domain), name.clone());
            facts.domains.insert(domain);
            facts.ids.push((name, first.parse().unwrap(), last.parse().unwrap(), pinned));
        }
        facts.subjects.extend([(Has::Daemon, "xenstore-daemon".into()), (Has::Toolstack, "toolstack".into())]);
        facts.services(&document);
        facts.regions(&document);
        facts.queues(&document);
        facts.programs(&document);
        facts.ports(&document);
        facts.grants(&document);
        facts.pins(&document);
        facts.paths(&document);
        facts.rows();
        facts
    }

    fn service(&self, name: &str) -> usize {
        self.names.iter().position(|known| known == name).unwrap()
    }

    fn domain(&self, name: &str) -> usize {
        self.ids.iter().position(|(known, ..)| known == name).unwrap()
    }

    /// Returns the entries of `[domains]` with an id in common.
    pub fn same(&self, domain: usize) -> Vec<usize> {
        let (_, first, last, _) = self.ids[domain];
        let meets = |other: &usize| self.ids[*other].1 <= last && first <= self.ids[*other].2;
        (0..self.ids.len()).filter(meets).collect()
    }

    fn add(&mut self, who: Has, name: String, class: Class) {
        self.act.push((who, Act { name, class }));
    }

    fn services(&mut self, document: &DocumentMut) {
        let strict = document.get("image").is_some_and(|image| word(image, "isolation") == "strict");
        let refused = words(document.get("image").and_then(|image| image.get("refuse-weakness")));
        for (service, (name, item)) in entries(document, "services").into_iter().enumerate() {
            let has = Has::Service(service);
            self.subjects.insert(has, name);
            for own in ["run", "hold", "precede", "restart", "stack"] {
                self.add(has, format!("self.{own}"), Class::Own);
            }
            self.add(has, format!("program:{}.execute", word(item, "program")), Class::Whole);
            self.add(has, "console.log".into(), Class::Console);
            if item.get("restart").is_some_and(|restart| word(restart, "then") == "stop-image") {
                self.add(has, "image.stop".into(), Class::Whole);
            }
            if !strict {
                self.add(has, "predictors.share".into(), Class::Own);
            }
            for (kind, class) in [
                ("console", Class::Console),
                ("clock", Class::Whole),
                ("entropy", Class::Whole),
                ("power", Class::Power),
                ("info", Class::Whole),
            ] {
                for right in words(item.get(kind)) {
                    self.add(has, format!("{kind}.{right}"), class);
                }
            }
        }
        for weakness in ["meltdown", "l1tf", "mds", "taa", "mmio", "rfds", "spectre-v1", "spectre-v2", "bhi", "returns"]
        {
            if !refused.iter().any(|word| word == weakness) {
                self.add(Has::Toolstack, format!("weakness:{weakness}.start-with"), Class::Own);
            }
        }
    }

    fn regions(&mut self, document: &DocumentMut) {
        let granted: BTreeSet<String> =
            entries(document, "grants").iter().map(|(_, grant)| word(grant, "region")).collect();
        for (region, (name, item)) in entries(document, "regions").into_iter().enumerate() {
            self.region_names.push(name.clone());
            let kind = word(item, "kind");
            let map = item.get("map").and_then(Item::as_table_like).unwrap();
            let map: Vec<(usize, String)> =
                map.iter().map(|(service, how)| (self.service(service), how.as_str().unwrap().to_owned())).collect();
            let alone = map.len() == 1 && item.get("keep").is_none() && !granted.contains(&name);
            for (service, how) in &map {
                let (has, writes) = (Has::Service(*service), how != "read");
                self.region.push((region, has));
                self.add(has, format!("{name}.read"), Class::Whole);
                if writes {
                    self.add(has, format!("{name}.write"), Class::Whole);
                    let readers = map.iter().filter(|(reader, _)| reader != service);
                    self.shared.extend(readers.map(|(reader, _)| (*service, *reader)));
                }
                match kind.as_str() {
                    "" => self.add(has, format!("{name}.claim"), Class::Own),
                    kind => self.add(has, format!("{name}.from-{kind}"), Class::Own),
                }
                if item.get("share").is_some() {
                    self.add(has, format!("{name}.weigh"), Class::Own);
                }
                if writes && !(how == "heap" || (kind.is_empty() && alone)) {
                    self.add(has, format!("{name}.keep"), Class::Own);
                }
                if kind == "xenstore-ring" {
                    self.sees_ring.insert(*service);
                    if writes {
                        self.ring.insert(*service);
                    }
                }
            }
            let outside = match kind.as_str() {
                "module" | "command-line" => Has::Toolstack,
                "xenstore-ring" => Has::Daemon,
                _ => continue,
            };
            self.region.push((region, outside));
            self.boot.extend(map.iter().map(|(service, _)| (outside, *service)));
            self.add(outside, format!("{name}.read"), Class::Whole);
            self.add(outside, format!("{name}.write"), Class::Whole);
            if kind == "xenstore-ring" {
                self.any_path.extend([Has::Daemon, Has::Toolstack]);
            }
        }
    }

    fn queues(&mut self, document: &DocumentMut) {
        for (queue, (name, item)) in entries(document, "queues").into_iter().enumerate() {
            let (from, to) = (self.service(&word(item, "from")), self.service(&word(item, "to")));
            let interface = word(item, "interface");
            let interface = INTERFACES.into_iter().find(|known| *known == interface).unwrap();
            self.queue.push((queue, from, to, interface));
            self.add(Has::Service(from), format!("{name}.request"), Class::Request(interface));
            self.add(Has::Service(to), format!("{name}.reply"), Class::Reply(interface));
        }
    }

    fn programs(&mut self, document: &DocumentMut) {
        for (service, (_, item)) in entries(document, "services").into_iter().enumerate() {
            let program = word(item, "program");
            let Some((_, serves, asks)) = PROGRAMS.iter().find(|(known, ..)| *known == program) else { continue };
            let listed = |(_, from, to, interface): &(usize, usize, usize, &str)| {
                (*from != service || asks.contains(interface)) && (*to != service || serves.contains(interface))
            };
            if self.queue.iter().all(listed) {
                self.known.insert(service);
            }
        }
    }

    fn ports(&mut self, document: &DocumentMut) {
        for (name, item) in entries(document, "ports") {
            let service = self.service(&word(item, "service"));
            let has = Has::Service(service);
            let rights = words(item.get("rights"));
            self.add(has, format!("{name}.receive"), Class::Whole);
            if item.get("peer").is_none() {
                self.add(has, format!("{name}.send"), Class::DaemonPort);
                self.add(Has::Daemon, format!("{name}.send"), Class::Whole);
                self.boot.push((Has::Daemon, service));
                continue;
            }
            let peer = self.domain(&word(item, "peer"));
            for right in &rights {
                self.add(
                    has,
                    format!("{name}.{right}"),
                    Class::Port(if right == "send" {
                        Ports::Send
                    } else if right == "close" {
                        Ports::Close
                    } else {
                        Ports::All
                    }),
                );
            }
            if rights.iter().any(|right| right == "open") {
                self.add(Has::Domain(peer), format!("{name}.send"), Class::Whole);
                if !self.ids[peer].3 {
                    self.add(has, format!("{}.pin", self.ids[peer].0), Class::ChoiceByPort);
                }
            }
            let same = self.same(peer);
            self.to_domain.extend(same.into_iter().map(|domain| (service, domain)));
            self.from_domain.push((peer, service));
        }
    }

    fn grants(&mut self, document: &DocumentMut) {
        let regions = entries(document, "regions");
        for (name, item) in entries(document, "grants") {
            let (region, peer) = (word(item, "region"), self.domain(&word(item, "peer")));
            let holder = Has::Service(self.service(&word(item, "held-by")));
            let client = self.service(&word(item, "on-behalf-of"));
            self.add(holder, format!("{name}.issue"), Class::Grant(client));
            self.add(holder, format!("{name}.end"), Class::Grant(client));
            self.end_act.push((client, Act { name: format!("{name}.end"), class: Class::Whole }));
            if !self.ids[peer].3 {
                self.add(holder, format!("{}.pin", self.ids[peer].0), Class::ChoiceByGrant(client));
            }
            let number = self.region_names.iter().position(|known| *known == region).unwrap();
            for domain in self.same(peer) {
                self.grant.push((self.service(&word(item, "held-by")), client, domain));
                self.region.push((number, Has::Domain(domain)));
            }
            self.add(Has::Domain(peer), format!("{region}.read"), Class::Whole);
            let writes = word(item, "access") == "read-write";
            if writes {
                self.add(Has::Domain(peer), format!("{region}.write"), Class::Whole);
            }
            let (_, mapped) = regions.iter().find(|(known, _)| *known == region).unwrap();
            for (service, how) in mapped.get("map").and_then(Item::as_table_like).unwrap().iter() {
                let service = self.service(service);
                if how.as_str() != Some("read") {
                    let same = self.same(peer);
                    self.to_domain.extend(same.iter().map(|domain| (service, *domain)));
                    self.writes_granted.extend(same.iter().map(|domain| (service, *domain)));
                }
                if writes {
                    self.from_domain.push((peer, service));
                }
            }
        }
    }

    fn pins(&mut self, document: &DocumentMut) {
        for (name, item) in entries(document, "domains") {
            let Some(by) = item.get("pin").map(|pin| word(pin, "by")) else { continue };
            for who in [Has::Service(self.service(&by)), Has::Toolstack, Has::Daemon] {
                self.add(who, format!("{name}.pin"), Class::Pin);
            }
        }
    }

    fn paths(&mut self, document: &DocumentMut) {
        let mut rules: Vec<PathRule> = Vec::new();
        for (client, paths) in entries(document, "xenstore") {
            let client = self.service(&client);
            for (path, rights) in paths.as_table_like().unwrap().iter() {
                let rights = words(Some(rights));
                let has = ["read", "write", "watch"].map(|right| rights.iter().any(|word| word == right));
                rules.push((client, path.to_owned(), has));
            }
        }
        // Who has the ring does everything to every path; who only reads it sees every answer.
        let all: Vec<Has> =
            self.ring.iter().map(|service| Has::Service(*service)).chain(self.any_path.clone()).collect();
        let readers: Vec<Has> = self.sees_ring.iter().map(|service| Has::Service(*service)).collect();
        let everyone = |word: &str| -> BTreeSet<Has> {
            let readers = readers.iter().filter(|_| word != "write");
            all.iter().chain(readers).copied().collect()
        };
        for word in ["read", "write", "watch"] {
            for who in everyone(word) {
                self.add(who, format!("path:/**.{word}"), Class::Whole);
            }
        }
        for (client, path, rights) in &rules {
            let object = if path.contains('/') { path.clone() } else { format!("path:{path}") };
            for (word, has) in ["read", "write", "watch"].into_iter().zip(rights) {
                let name = format!("{object}.{word}");
                if *has {
                    self.path_act.push((*client, Act { name: name.clone(), class: Class::Whole }));
                }
                for who in everyone(word) {
                    self.add(who, name.clone(), Class::Whole);
                }
            }
            let [read, write, watch] = *rights;
            self.path_any.insert(*client);
            if write {
                self.path_write.insert(*client);
            }
            if !read && !watch {
                continue;
            }
            self.path_read.insert(*client);
            for (writer, other, [_, writes, _]) in &rules {
                if *writes && writer != client && meet(&whole(path), &whole(other)) {
                    self.relay.push((*writer, *client));
                }
            }
            let own_directory = whole(path).get(2).is_some_and(|part| part == "{self}");
            for (domain, (_, first, last, _)) in self.ids.iter().enumerate() {
                // The directory, and what is below.
                let of = |id: u32, end: &str| whole(&format!("/local/domain/{id}{end}"));
                let inside = |id: u32| ["", "/**"].iter().any(|end| meet(&whole(path), &of(id, end)));
                if !own_directory && (*first..=*last).take(64).any(inside) {
                    self.directory.push((domain, *client));
                }
            }
        }
    }

    fn rows(&mut self) {
        // An unknown program is had wholly anyway; its interfaces say what it is asked for.
        for (queue, _, _, interface) in &self.queue {
            self.row.push((Has::Requests(*queue), ROWS[&format!("requests of `{interface}`")].clone()));
            self.row.push((Has::Answers(*queue), ROWS[&format!("answers of `{interface}`")].clone()));
        }
        let outside = self.boot.iter().map(|(_, s)| *s).chain(self.from_domain.iter().map(|(_, s)| *s));
        let inside = self.shared.iter().map(|(_, reader)| *reader).chain(self.sees_ring.iter().copied());
        let fed: BTreeSet<usize> = outside.chain(inside).collect();
        self.row.extend(fed.into_iter().map(|service| (Has::Outside(service), ROWS["from outside"].clone())));
    }
}

/// Returns the components of a path from the root.
fn whole(path: &str) -> Vec<String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/local/domain/{{self}}/{path}") };
    path.split('/').skip(1).map(str::to_owned).collect()
}

/// Returns `true` if rules for two paths have a node in common: both have as many components, or one
/// ends in `**`, which stands for one component or more.
fn meet(one: &[String], other: &[String]) -> bool {
    let stars = |path: &[String]| path.iter().position(|part| part == "**");
    let long_enough = match (stars(one), stars(other)) {
        (None, None) => one.len() == other.len(),
        (Some(above), None) => other.len() > above,
        (None, Some(above)) => one.len() > above,
        (Some(_), Some(_)) => true,
    };
    let end = stars(one).unwrap_or(one.len()).min(stars(other).unwrap_or(other.len()));
    let (one, other) =
        (one.get(..end.min(one.len())).unwrap_or(one), other.get(..end.min(other.len())).unwrap_or(other));
    let number = |part: &str| part.parse::<u32>().is_ok();
    let can_be = |one: &str, other: &str| {
        one == other || (matches!(one, "*" | "{self}") && (number(other) || matches!(other, "*" | "{self}")))
    };
    long_enough && one.iter().zip(other).all(|(one, other)| can_be(one, other) || can_be(other, one))
}
