//! A simulated XenStore daemon: the other end of the ring page (Xen `io/xs_wire.h`), with one guest.
//!
//! Its permissions are the short form of what `libxl` sets up: the guest may read everything that was not made
//! private, and write below its own directory, but for the nodes that only the toolstack writes.

use std::collections::{BTreeMap, VecDeque};

use cloister_interfaces::Memory;

use crate::memory::SharedMemory;

const RING: u32 = 1024;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const TRANSACTION_START: u32 = 6;
const TRANSACTION_END: u32 = 7;
const WRITE: u32 = 11;
const RM: u32 = 13;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
const RESET_WATCHES: u32 = 21;

struct Watch {
    path: String,
    token: String,
    relative: bool,
}

struct Transaction {
    started: u64,
    touched: Vec<String>,
    writes: Vec<(String, Option<Vec<u8>>)>,
}

/// The daemon.
pub struct Xenstored {
    ring: SharedMemory,
    req_cons: u32,
    rsp_prod: u32,
    domain: u16,
    nodes: BTreeMap<String, Vec<u8>>,
    changed: BTreeMap<String, u64>,
    generation: u64,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    private: Vec<String>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// While set, nothing is read from the ring nor written to it.
    pub silent: bool,
    /// How many of the next commits fail with `EAGAIN`.
    pub conflicts: u32,
    /// Every request so far: its type and the first string of its payload.
    pub requests: Vec<(u32, String)>,
}

impl Xenstored {
    /// A daemon serving domain `domain` over `ring`; the store holds the domain's `domid` and its empty
    /// `control/shutdown`.
    #[must_use]
    pub fn new(ring: SharedMemory, domain: u16) -> Self {
        let (req_cons, rsp_prod) = (ring.load(REQ_CONS), ring.load(RSP_PROD));
        let mut daemon = Xenstored {
            ring,
            req_cons,
            rsp_prod,
            domain,
            nodes: BTreeMap::new(),
            changed: BTreeMap::new(),
            generation: 0,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            private: Vec::new(),
            input: Vec::new(),
            output: VecDeque::new(),
            silent: false,
            conflicts: 0,
            requests: Vec::new(),
        };
        let own = daemon.own("");
        daemon.set(&format!("{own}domid"), domain.to_string());
        daemon.set(&format!("{own}control/shutdown"), "");
        daemon
    }

    /// The absolute path of `below` in the guest's directory.
    #[must_use]
    pub fn own(&self, below: &str) -> String {
        format!("/local/domain/{}/{below}", self.domain)
    }

    /// Writes a node as the toolstack or a back end does; `path` is absolute.
    pub fn set(&mut self, path: &str, value: impl AsRef<[u8]>) {
        self.apply(path.to_string(), Some(value.as_ref().to_vec()));
    }

    /// Removes a node and those below it, as the toolstack does.
    pub fn delete(&mut self, path: &str) {
        self.apply(path.to_string(), None);
    }

    /// A node's value.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.nodes.get(path).cloned()
    }

    /// A node's value as text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        self.get(path).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// Denies the guest everything at and below `path`.
    pub fn make_private(&mut self, path: &str) {
        self.private.push(path.to_string());
    }

    /// How many watches the guest has.
    #[must_use]
    pub fn watch_count(&self) -> usize {
        self.watches.len()
    }

    /// How many transactions the guest has open.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Serves what stands in the ring; whether anything moved.
    pub fn run(&mut self) -> bool {
        if self.silent {
            return false;
        }
        let mut moved = self.take();
        while let Some(message) = self.next_message() {
            self.serve(&message);
            moved = true;
        }
        moved | self.put()
    }

    fn take(&mut self) -> bool {
        let waiting = self.ring.load(REQ_PROD).wrapping_sub(self.req_cons);
        assert!(waiting <= RING, "the guest's request index is impossible");
        for _ in 0..waiting {
            self.input.extend(self.ring.bytes((self.req_cons % RING) as usize, 1));
            self.req_cons = self.req_cons.wrapping_add(1);
        }
        self.ring.store(REQ_CONS, self.req_cons);
        waiting > 0
    }

    fn put(&mut self) -> bool {
        let used = self.rsp_prod.wrapping_sub(self.ring.load(RSP_CONS));
        assert!(used <= RING, "the guest's response index is impossible");
        let count = self.output.len().min((RING - used) as usize);
        for byte in self.output.drain(..count) {
            self.ring.write(1024 + (self.rsp_prod % RING) as usize, &[byte]);
            self.rsp_prod = self.rsp_prod.wrapping_add(1);
        }
        self.ring.store(RSP_PROD, self.rsp_prod);
        count > 0
    }

    fn next_message(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_le_bytes(self.input.get(12..16)?.try_into().ok()?) as usize;
        assert!(length <= 4096, "the guest's message is too long");
        (self.input.len() >= 16 + length).then(|| self.input.drain(..16 + length).collect())
    }

    fn serve(&mut self, message: &[u8]) {
        let word = |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
        let (kind, request, transaction) = (word(0), word(4), word(8));
        let payload = &message[16..];
        let mut parts = payload.splitn(2, |byte| *byte == 0);
        let first = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let rest = parts.next().unwrap_or_default();
        self.requests.push((kind, first.clone()));
        match self.carry_out(kind, transaction, &first, rest) {
            Ok(answer) => {
                self.reply(kind, request, transaction, &answer);
                if kind == WATCH {
                    // A watch fires once by itself.
                    self.fire_one(self.watches.len() - 1, &first);
                }
            }
            Err(name) => self.reply(ERROR, request, transaction, format!("{name}\0").as_bytes()),
        }
    }

    fn carry_out(&mut self, kind: u32, transaction: u32, first: &str, rest: &[u8]) -> Result<Vec<u8>, &'static str> {
        if transaction != 0 && !self.transactions.contains_key(&transaction) {
            return Err("ENOENT");
        }
        let path = if first.starts_with('/') { first.to_string() } else { self.own(first) };
        match kind {
            READ | DIRECTORY if self.hidden(&path) => Err("EACCES"),
            READ => self.look(transaction, &path).ok_or("ENOENT"),
            DIRECTORY => Ok(self.children(&path).ok_or("ENOENT")?.join("\0").into_bytes()).map(|mut names| {
                if !names.is_empty() {
                    names.push(0);
                }
                names
            }),
            WRITE | RM => {
                if !self.may_write(&path) {
                    return Err("EACCES");
                }
                let value = (kind == WRITE).then(|| rest.to_vec());
                if value.is_none() && self.look(transaction, &path).is_none() && self.children(&path).is_none() {
                    return Err("ENOENT");
                }
                match self.transactions.get_mut(&transaction) {
                    Some(open) => {
                        open.touched.push(path.clone());
                        open.writes.push((path, value));
                    }
                    None => self.apply(path, value),
                }
                Ok(b"OK\0".to_vec())
            }
            WATCH | UNWATCH => {
                let token = String::from_utf8_lossy(rest.strip_suffix(b"\0").ok_or("EINVAL")?).into_owned();
                let found = self.watches.iter().position(|watch| watch.path == path && watch.token == token);
                match (kind, found) {
                    (WATCH, Some(_)) => return Err("EEXIST"),
                    (WATCH, None) => self.watches.push(Watch { path, token, relative: !first.starts_with('/') }),
                    (_, Some(index)) => drop(self.watches.remove(index)),
                    (_, None) => return Err("ENOENT"),
                }
                Ok(b"OK\0".to_vec())
            }
            TRANSACTION_START => {
                let id = self.next_transaction;
                self.next_transaction += 1;
                let open = Transaction { started: self.generation, touched: Vec::new(), writes: Vec::new() };
                self.transactions.insert(id, open);
                Ok(format!("{id}\0").into_bytes())
            }
            TRANSACTION_END => self.end(transaction, first == "T").map(|()| b"OK\0".to_vec()),
            RESET_WATCHES => {
                self.watches.clear();
                self.transactions.clear();
                Ok(b"OK\0".to_vec())
            }
            _ => Err("ENOSYS"),
        }
    }

    fn end(&mut self, transaction: u32, commit: bool) -> Result<(), &'static str> {
        let ended = self.transactions.remove(&transaction).ok_or("ENOENT")?;
        if !commit {
            return Ok(());
        }
        let conflict = |path: &String| self.changed.get(path).is_some_and(|when| *when > ended.started);
        if self.conflicts > 0 || ended.touched.iter().any(conflict) {
            self.conflicts = self.conflicts.saturating_sub(1);
            return Err("EAGAIN");
        }
        for (path, value) in ended.writes {
            self.apply(path, value);
        }
        Ok(())
    }

    fn look(&mut self, transaction: u32, path: &str) -> Option<Vec<u8>> {
        if let Some(open) = self.transactions.get_mut(&transaction) {
            open.touched.push(path.to_string());
            if let Some((_, value)) = open.writes.iter().rev().find(|(written, _)| written == path) {
                return value.clone();
            }
        }
        self.nodes.get(path).cloned()
    }

    fn children(&self, path: &str) -> Option<Vec<String>> {
        let prefix = format!("{path}/");
        let mut names: Vec<String> = self
            .nodes
            .keys()
            .filter_map(|node| node.strip_prefix(&prefix))
            .filter_map(|below| below.split('/').next().map(str::to_string))
            .collect();
        names.dedup();
        (!names.is_empty() || self.nodes.contains_key(path)).then_some(names)
    }

    fn hidden(&self, path: &str) -> bool {
        self.private.iter().any(|private| path.starts_with(private.as_str()))
    }

    fn may_write(&self, path: &str) -> bool {
        let Some(below) = path.strip_prefix(self.own("").as_str()) else { return false };
        !matches!(below, "name" | "domid" | "device" | "device/vif/0/mtu") && !self.hidden(path)
    }

    fn apply(&mut self, path: String, value: Option<Vec<u8>>) {
        self.generation += 1;
        match value {
            Some(value) => {
                self.nodes.insert(path.clone(), value);
            }
            None => {
                let below = format!("{path}/");
                self.nodes.retain(|node, _| *node != path && !node.starts_with(&below));
            }
        }
        self.changed.insert(path.clone(), self.generation);
        self.fire(&path);
    }

    fn fire(&mut self, path: &str) {
        for index in 0..self.watches.len() {
            let watched = &self.watches[index].path;
            let below = |upper: &str, lower: &str| lower == upper || lower.starts_with(&format!("{upper}/"));
            if below(watched, path) || below(path, watched) {
                self.fire_one(index, path);
            }
        }
    }

    fn fire_one(&mut self, index: usize, path: &str) {
        let watch = &self.watches[index];
        let own = self.own("");
        let shown = if watch.relative { path.strip_prefix(own.as_str()).unwrap_or(path) } else { path };
        let payload = format!("{shown}\0{}\0", watch.token);
        self.reply(WATCH_EVENT, 0, 0, payload.as_bytes());
    }

    fn reply(&mut self, kind: u32, request: u32, transaction: u32, payload: &[u8]) {
        for field in [kind, request, transaction, payload.len() as u32] {
            self.output.extend(field.to_le_bytes());
        }
        self.output.extend(payload);
    }
}
