//! A second reader of policies, for the text that an image carries and for a file to compare it
//! with.
//!
//! It shares nothing with the compiler's reader, and reports everything that it does not know.

use std::collections::BTreeMap;

use toml_edit::{Document, Item, TableLike};

/// A value and its line.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub line: u32,
}

/// Entries by their names.
pub(super) type Entries<T> = BTreeMap<String, At<T>>;

#[derive(Clone, Debug)]
pub(super) struct Service {
    pub program: String,
    /// The hash that the program must have, in hexadecimal.
    pub program_hash: Option<String>,
    pub priority: u64,
    pub budget_us: u64,
    pub period_us: u64,
    pub stack_bytes: At<u64>,
    pub restart_limit: u64,
    pub then: String,
    /// Words of rights by the capability's name.
    pub held: Entries<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(super) enum Source {
    Pages(u64),
    Share { weight: u64, minimum: u64, maximum: u64 },
    Kind(String),
}

#[derive(Clone, Debug)]
pub(super) struct Region {
    pub source: Source,
    pub keep: bool,
    pub map: Entries<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub from: String,
    pub to: String,
    pub interface: String,
    pub depth: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Port {
    pub service: String,
    /// `None` for the XenStore daemon.
    pub peer: Option<String>,
    pub rights: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub region: String,
    pub peer: String,
    pub access: String,
    pub pages: u64,
    pub held_by: String,
    pub on_behalf_of: String,
}

#[derive(Clone, Debug)]
pub(super) struct Domains {
    pub ids: (u64, u64),
    pub pin: Option<At<Pin>>,
}

#[derive(Clone, Debug)]
pub(super) struct Pin {
    pub by: String,
    pub node: String,
}

/// The content of a policy.
#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    /// The word of the key, if the policy has it.
    pub isolation: Option<String>,
    /// The words of the weaknesses that are refused, as they are written.
    pub refused: Vec<String>,
    pub domains: Entries<Domains>,
    pub services: Entries<Service>,
    pub regions: Entries<Region>,
    pub queues: Entries<Queue>,
    pub ports: Entries<Port>,
    pub grants: Entries<Grant>,
    /// Words of rights by path, by client.
    pub xenstore: Entries<Entries<Vec<String>>>,
}

/// The capabilities that a service's own entry gives, in the order of their slots.
pub(super) const HELD: [&str; 5] = ["console", "clock", "entropy", "power", "info"];

/// Reads a policy.
pub(super) fn read(text: &str) -> Result<Text, String> {
    let document = Document::parse(text).map_err(|error| format!("it is not TOML: {}", error.message()))?;
    let lines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let root = Table { table: document.as_table(), lines: &lines, position: "the policy".into() };
    if root.get("format")?.number()? != 2 {
        return Err("its format is not 2".into());
    }
    let mut out = Text::default();
    let image = root.get("image")?.table()?;
    image.only(&["name", "isolation", "refuse-weakness"])?;
    image.get("name")?.text()?;
    out.isolation = image.find("isolation").map(|field| field.text()).transpose()?;
    out.refused = image.find("refuse-weakness").map(|field| field.words()).transpose()?.unwrap_or_default();
    for (name, _) in document.as_table().iter() {
        let section = root.get(name)?;
        match name {
            "format" | "image" => {}
            "domains" => out.domains = section.entries(domains)?,
            "services" => out.services = section.entries(service)?,
            "regions" => out.regions = section.entries(region)?,
            "queues" => out.queues = section.entries(queue)?,
            "ports" => out.ports = section.entries(port)?,
            "grants" => out.grants = section.entries(grant)?,
            "xenstore" => out.xenstore = section.entries(|table| table.all(|field| field.words()))?,
            // Assertions only forbid: they add nothing to an image.
            "assert" => {}
            other => return Err(format!("it has an unknown section `{other}`")),
        }
    }
    Ok(out)
}

struct Table<'a> {
    table: &'a dyn TableLike,
    lines: &'a [usize],
    position: String,
}

struct Field<'a> {
    item: &'a Item,
    line: u32,
    lines: &'a [usize],
    position: String,
}

impl<'a> Table<'a> {
    fn find(&self, name: &str) -> Option<Field<'a>> {
        let item = self.table.get(name)?;
        let start = self.table.key(name).and_then(toml_edit::Key::span).map_or(0, |span| span.start);
        let line = self.lines.partition_point(|at| *at < start) + 1;
        let position = format!("{}, `{name}`", self.position);
        Some(Field { item, line: u32::try_from(line).unwrap_or(u32::MAX), lines: self.lines, position })
    }

    fn get(&self, name: &str) -> Result<Field<'a>, String> {
        self.find(name).ok_or_else(|| format!("{}: `{name}` is missing", self.position))
    }

    fn all<T>(&self, read: impl Fn(&Field<'a>) -> Result<T, String>) -> Result<Entries<T>, String> {
        let mut out = BTreeMap::new();
        for (name, _) in self.table.iter() {
            let field = self.get(name)?;
            out.insert(name.to_owned(), At { value: read(&field)?, line: field.line });
        }
        Ok(out)
    }

    /// Refuses keys that are not among `known`.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.table.iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(format!("{}: unknown key `{name}`", self.position)),
            None => Ok(()),
        }
    }
}

impl<'a> Field<'a> {
    fn wrong(&self, expected: &str) -> String {
        format!("{} is not {expected}", self.position)
    }

    fn table(&self) -> Result<Table<'a>, String> {
        let table = self.item.as_table_like().ok_or_else(|| self.wrong("a table"))?;
        Ok(Table { table, lines: self.lines, position: self.position.clone() })
    }

    fn entries<T>(&self, read: impl Fn(&Table<'a>) -> Result<T, String>) -> Result<Entries<T>, String> {
        self.table()?.all(|field| read(&field.table()?))
    }

    fn text(&self) -> Result<String, String> {
        self.item.as_str().map(str::to_owned).ok_or_else(|| self.wrong("a text"))
    }

    fn number(&self) -> Result<u64, String> {
        self.item.as_integer().and_then(|number| u64::try_from(number).ok()).ok_or_else(|| self.wrong("a number"))
    }

    fn words(&self) -> Result<Vec<String>, String> {
        let array = self.item.as_array().ok_or_else(|| self.wrong("a list"))?;
        array
            .iter()
            .map(|value| value.as_str().map(str::to_owned).ok_or_else(|| self.wrong("a list of words")))
            .collect()
    }

    fn bytes(&self) -> Result<u64, String> {
        let text = self.text()?;
        let units = [("K", 1u64 << 10), ("M", 1 << 20), ("G", 1 << 30)];
        units
            .into_iter()
            .find_map(|(unit, size)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(size))
            .ok_or_else(|| self.wrong("a size"))
    }
}

fn domains(table: &Table<'_>) -> Result<Domains, String> {
    table.only(&["ids", "pin"])?;
    let pin = match table.find("pin") {
        Some(field) => {
            let table = field.table()?;
            table.only(&["by", "node"])?;
            let pin = Pin { by: table.get("by")?.text()?, node: table.get("node")?.text()? };
            Some(At { value: pin, line: field.line })
        }
        None => None,
    };
    Ok(Domains { ids: range(&table.get("ids")?.text()?)?, pin })
}

fn range(ids: &str) -> Result<(u64, u64), String> {
    let (first, last) = ids.split_once('-').unwrap_or((ids, ids));
    first.parse().ok().zip(last.parse().ok()).ok_or_else(|| format!("`{ids}` is not a range of domain ids"))
}

fn service(table: &Table<'_>) -> Result<Service, String> {
    table.only(&[&["program", "program-sha256", "priority", "cpu", "stack", "restart"], &HELD[..]].concat())?;
    let (cpu, restart) = (table.get("cpu")?.table()?, table.get("restart")?.table()?);
    cpu.only(&["budget_us", "period_us"])?;
    restart.only(&["limit", "then"])?;
    let stack = table.get("stack")?;
    let mut held = BTreeMap::new();
    for name in HELD {
        if let Some(field) = table.find(name) {
            held.insert(name.to_owned(), At { value: field.words()?, line: field.line });
        }
    }
    Ok(Service {
        program: table.get("program")?.text()?,
        program_hash: table.find("program-sha256").map(|field| field.text()).transpose()?,
        priority: table.get("priority")?.number()?,
        budget_us: cpu.get("budget_us")?.number()?,
        period_us: cpu.get("period_us")?.number()?,
        stack_bytes: At { value: stack.bytes()?, line: stack.line },
        restart_limit: restart.get("limit")?.number()?,
        then: restart.get("then")?.text()?,
        held,
    })
}

fn region(table: &Table<'_>) -> Result<Region, String> {
    table.only(&["pages", "share", "minimum", "maximum", "kind", "keep", "map"])?;
    let source = if let Some(pages) = table.find("pages") {
        Source::Pages(pages.number()?)
    } else if let Some(share) = table.find("share") {
        let (minimum, maximum) = (table.get("minimum")?.bytes()?, table.get("maximum")?.bytes()?);
        Source::Share { weight: share.number()?, minimum, maximum }
    } else {
        Source::Kind(table.get("kind")?.text()?)
    };
    let keep = match table.find("keep") {
        Some(field) => field.item.as_bool().ok_or_else(|| field.wrong("true or false"))?,
        None => false,
    };
    Ok(Region { source, keep, map: table.get("map")?.table()?.all(Field::text)? })
}

fn queue(table: &Table<'_>) -> Result<Queue, String> {
    table.only(&["from", "to", "interface", "depth"])?;
    Ok(Queue {
        from: table.get("from")?.text()?,
        to: table.get("to")?.text()?,
        interface: table.get("interface")?.text()?,
        depth: table.get("depth")?.number()?,
    })
}

fn port(table: &Table<'_>) -> Result<Port, String> {
    table.only(&["service", "peer", "kind", "rights"])?;
    let peer = match table.find("peer") {
        Some(peer) => Some(peer.text()?),
        None if table.get("kind")?.text()? == "xenstore" => None,
        None => return Err(table.get("kind")?.wrong("\"xenstore\"")),
    };
    Ok(Port { service: table.get("service")?.text()?, peer, rights: table.get("rights")?.words()? })
}

fn grant(table: &Table<'_>) -> Result<Grant, String> {
    table.only(&["region", "peer", "access", "pages", "lifetime", "held-by", "on-behalf-of"])?;
    table.get("lifetime")?.text()?;
    Ok(Grant {
        region: table.get("region")?.text()?,
        peer: table.get("peer")?.text()?,
        access: table.get("access")?.text()?,
        pages: table.get("pages")?.number()?,
        held_by: table.get("held-by")?.text()?,
        on_behalf_of: table.get("on-behalf-of")?.text()?,
    })
}
