//! A simulated XenStore daemon: the other end of the ring page (Xen `io/xs_wire.h`), with one
//! guest.
//!
//! Its permissions are a short form of those that `libxl` sets up. The guest may read everything
//! that was not made private. It may write below its own directory, except for the nodes that only
//! the toolstack writes.

use std::collections::{BTreeMap, VecDeque};

use cloister_caps::xen::xs_wire::{
    CONNECTED, CONNECTION, MessageType, RECONNECT, REQ_CONS, REQ_PROD, RING_SIZE, RSP_CONS, RSP_PROD,
    SERVER_FEATURE_RECONNECTION, SERVER_FEATURES,
};
use cloister_interfaces::Memory;

use crate::memory::SharedMemory;

/// The size of each stream, in bytes.
const RING: u32 = RING_SIZE as u32;

const DIRECTORY: u32 = MessageType::Directory as u32;
const READ: u32 = MessageType::Read as u32;
const WATCH: u32 = MessageType::Watch as u32;
const UNWATCH: u32 = MessageType::Unwatch as u32;
const TRANSACTION_START: u32 = MessageType::TransactionStart as u32;
const TRANSACTION_END: u32 = MessageType::TransactionEnd as u32;
const WRITE: u32 = MessageType::Write as u32;
const RM: u32 = MessageType::Rm as u32;
const WATCH_EVENT: u32 = MessageType::WatchEvent as u32;
const ERROR: u32 = MessageType::Error as u32;
const RESET_WATCHES: u32 = MessageType::ResetWatches as u32;

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

/// The limits of the guest and of one request. The defaults are those of C xenstored.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// The largest number of nodes that the guest may own.
    pub nodes: usize,
    /// The size of the largest node, in bytes.
    pub node_size: usize,
    /// The largest number of watches.
    pub watches: usize,
    /// The largest number of open transactions.
    pub transactions: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Quota { nodes: 1000, node_size: 2048, watches: 128, transactions: 10 }
    }
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
    /// While set, the daemon neither reads nor writes the ring.
    pub silent: bool,
    /// If set, a guest that breaks the protocol gets no more answers until it reconnects, as from
    /// the real daemon. Otherwise it fails the test. For scripts in which the daemon itself has
    /// lied.
    pub forgiving: bool,
    refused: bool,
    /// The number of commits that still fail with `EAGAIN`.
    pub conflicts: u32,
    /// The guest's limits.
    pub quota: Quota,
    /// The errors of the next requests, which are not carried out. As with the real daemon, the end
    /// of a transaction ends it whatever is wrong with it (`do_transaction_end`), and resetting
    /// watches and transactions never fails.
    pub errors: VecDeque<&'static str>,
    /// All requests so far: the type, and the first string of the payload.
    pub requests: Vec<(u32, String)>,
}

impl Xenstored {
    /// Creates a daemon that serves domain `domain` over `ring`. The store holds the domain's
    /// `domid` and its empty `control/shutdown`.
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
            forgiving: false,
            refused: false,
            conflicts: 0,
            quota: Quota::default(),
            errors: VecDeque::new(),
            requests: Vec::new(),
        };
        let own = daemon.own("");
        daemon.set(&format!("{own}domid"), domain.to_string());
        daemon.set(&format!("{own}control/shutdown"), "");
        daemon
    }

    /// Returns the absolute path of `below` in the guest's directory.
    #[must_use]
    pub fn own(&self, below: &str) -> String {
        format!("/local/domain/{}/{below}", self.domain)
    }

    /// Writes the node at the absolute `path`, as the toolstack or a back end does.
    pub fn set(&mut self, path: &str, value: impl AsRef<[u8]>) {
        self.apply(path.to_string(), Some(value.as_ref().to_vec()));
    }

    /// Removes a node and those below it, as the toolstack does.
    pub fn delete(&mut self, path: &str) {
        self.apply(path.to_string(), None);
    }

    /// Returns a node's value.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.nodes.get(path).cloned()
    }

    /// Returns a node's value as text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        self.get(path).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// Denies the guest everything at and below `path`.
    pub fn make_private(&mut self, path: &str) {
        self.private.push(path.to_string());
    }

    /// Returns the number of the guest's watches.
    #[must_use]
    pub fn watch_count(&self) -> usize {
        self.watches.len()
    }

    /// Returns the number of the guest's open transactions.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Lets the daemon reconnect on the guest's request, or not.
    pub fn offer_reconnection(&mut self, offered: bool) {
        self.ring.store(SERVER_FEATURES, if offered { SERVER_FEATURE_RECONNECTION } else { 0 });
    }

    /// Reconnects: both streams are empty, and the guest has no watch and no transaction.
    pub fn reconnect(&mut self) {
        self.refused = false;
        self.input.clear();
        self.output.clear();
        self.watches.clear();
        self.transactions.clear();
        (self.req_cons, self.rsp_prod) = (0, 0);
        for index in [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD] {
            self.ring.store(index, 0);
        }
        self.ring.store(CONNECTION, CONNECTED);
    }

    /// Continues with the indices in the ring, as a restarted daemon does. Requests and replies
    /// that were half done are lost.
    pub fn resume(&mut self) {
        self.input.clear();
        self.output.clear();
        let waiting = self.ring.load(REQ_PROD).wrapping_sub(self.ring.load(REQ_CONS));
        self.req_cons = self.ring.load(if waiting <= RING { REQ_CONS } else { REQ_PROD });
        let used = self.ring.load(RSP_PROD).wrapping_sub(self.ring.load(RSP_CONS));
        self.rsp_prod = self.ring.load(if used <= RING { RSP_PROD } else { RSP_CONS });
    }

    /// Serves the requests in the ring. Returns `true` if it read or wrote anything.
    pub fn run(&mut self) -> bool {
        if self.silent {
            return false;
        }
        if self.ring.load(SERVER_FEATURES) & SERVER_FEATURE_RECONNECTION != 0 && self.ring.load(CONNECTION) == RECONNECT
        {
            self.reconnect();
            return true;
        }
        if self.refused {
            return false;
        }
        let mut moved = self.take();
        while let Some(message) = self.next_message() {
            self.serve(&message);
            moved = true;
        }
        moved | self.put()
    }

    /// Handles a guest that broke the protocol.
    fn refuse(&mut self, why: &str) -> bool {
        assert!(self.forgiving, "{why}");
        self.refused = true;
        false
    }

    fn take(&mut self) -> bool {
        let waiting = self.ring.load(REQ_PROD).wrapping_sub(self.req_cons);
        if waiting > RING {
            return self.refuse("the guest's request index is impossible");
        }
        for _ in 0..waiting {
            self.input.extend(self.ring.bytes((self.req_cons % RING) as usize, 1));
            self.req_cons = self.req_cons.wrapping_add(1);
        }
        self.ring.store(REQ_CONS, self.req_cons);
        waiting > 0
    }

    fn put(&mut self) -> bool {
        let used = self.rsp_prod.wrapping_sub(self.ring.load(RSP_CONS));
        if used > RING {
            return self.refuse("the guest's response index is impossible");
        }
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
        if length > 4096 {
            self.refuse("the guest's message is too long");
            return None;
        }
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
        match self.dispatch(kind, transaction, &first, rest) {
            Ok(answer) => {
                self.reply(kind, request, transaction, &answer);
                if kind == WATCH {
                    // A watch fires once when it is made.
                    self.fire_one(self.watches.len() - 1, &first);
                }
            }
            Err(name) => self.reply(ERROR, request, transaction, format!("{name}\0").as_bytes()),
        }
    }

    fn dispatch(&mut self, kind: u32, transaction: u32, first: &str, rest: &[u8]) -> Result<Vec<u8>, &'static str> {
        if kind != RESET_WATCHES
            && let Some(error) = self.errors.pop_front()
        {
            if kind == TRANSACTION_END {
                self.transactions.remove(&transaction);
            }
            return Err(error);
        }
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
            WRITE | RM => self.change(transaction, path, (kind == WRITE).then(|| rest.to_vec())),
            WATCH | UNWATCH => self.watch(kind == WATCH, path, first, rest),
            TRANSACTION_START if self.transactions.len() >= self.quota.transactions => Err("ENOSPC"),
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

    fn change(&mut self, transaction: u32, path: String, value: Option<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        if !self.may_write(&path) {
            return Err("EACCES");
        }
        let new = !self.nodes.contains_key(&path);
        match &value {
            Some(bytes) if bytes.len() > self.quota.node_size => return Err("ENOSPC"),
            Some(_) if new && self.nodes.len() >= self.quota.nodes => return Err("ENOSPC"),
            None if self.look(transaction, &path).is_none() && self.children(&path).is_none() => return Err("ENOENT"),
            _ => {}
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

    fn watch(&mut self, begin: bool, path: String, first: &str, rest: &[u8]) -> Result<Vec<u8>, &'static str> {
        let token = String::from_utf8_lossy(rest.strip_suffix(b"\0").ok_or("EINVAL")?).into_owned();
        let found = self.watches.iter().position(|watch| watch.path == path && watch.token == token);
        match (begin, found) {
            (true, Some(_)) => return Err("EEXIST"),
            (true, None) if self.watches.len() >= self.quota.watches => return Err("E2BIG"),
            (true, None) => self.watches.push(Watch { path, token, relative: !first.starts_with('/') }),
            (false, Some(index)) => drop(self.watches.remove(index)),
            (false, None) => return Err("ENOENT"),
        }
        Ok(b"OK\0".to_vec())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a daemon, and returns its answer to one request: the type, and the payload as text.
    fn ask(daemon: &mut Xenstored, kind: u32, transaction: u32, payload: &str) -> (u32, String) {
        let at = |index: u32| (index % RING) as usize;
        let mut request = Vec::new();
        for field in [kind, 7, transaction, payload.len() as u32] {
            request.extend(field.to_le_bytes());
        }
        request.extend(payload.bytes());
        let start = daemon.ring.load(REQ_PROD);
        for (index, byte) in (start..).zip(&request) {
            daemon.ring.write(at(index), &[*byte]);
        }
        daemon.ring.store(REQ_PROD, start + request.len() as u32);
        assert!(daemon.run());
        let (from, to) = (daemon.ring.load(RSP_CONS), daemon.ring.load(RSP_PROD));
        let answer: Vec<u8> = (from..to).map(|index| daemon.ring.bytes(1024 + at(index), 1)[0]).collect();
        daemon.ring.store(RSP_CONS, to);
        (
            u32::from_le_bytes([answer[0], answer[1], answer[2], answer[3]]),
            String::from_utf8_lossy(&answer[16..]).into(),
        )
    }

    #[test]
    fn quotas_and_errors_are_answered_by_name() {
        let mut daemon = Xenstored::new(SharedMemory::new(4096), 7);
        let ok = |kind| (kind, "OK\0".to_string());
        let error = |name: &str| (ERROR, format!("{name}\0"));
        daemon.quota = Quota { nodes: daemon.nodes.len() + 1, node_size: 4, watches: 1, transactions: 1 };
        assert_eq!(ask(&mut daemon, WRITE, 0, "a\0 1234"), error("ENOSPC"));
        assert_eq!(ask(&mut daemon, WRITE, 0, "a\x001234"), ok(WRITE));
        assert_eq!(ask(&mut daemon, WRITE, 0, "b\x001"), error("ENOSPC"));
        assert_eq!(ask(&mut daemon, WRITE, 0, "a\x001"), ok(WRITE));
        assert_eq!(ask(&mut daemon, TRANSACTION_START, 0, "\0").0, TRANSACTION_START);
        assert_eq!(ask(&mut daemon, TRANSACTION_START, 0, "\0"), error("ENOSPC"));
        assert_eq!(ask(&mut daemon, WATCH, 0, "a\x001\0").0, WATCH);
        assert_eq!(ask(&mut daemon, WATCH, 0, "b\x001\0"), error("E2BIG"));
        daemon.errors.push_back("EBUSY");
        assert_eq!(ask(&mut daemon, READ, 0, "a\0"), error("EBUSY"));
        assert_eq!(ask(&mut daemon, READ, 0, "a\0"), (READ, "1".to_string()));
    }

    #[test]
    fn no_error_leaves_a_transaction_open_at_its_end() {
        let mut daemon = Xenstored::new(SharedMemory::new(4096), 7);
        for end in ["T\0", "F\0"] {
            let (_, id) = ask(&mut daemon, TRANSACTION_START, 0, "\0");
            daemon.errors.push_back("EIO");
            let answer = ask(&mut daemon, TRANSACTION_END, id.trim_end_matches('\0').parse().unwrap(), end);
            assert_eq!((answer, daemon.open_transactions()), ((ERROR, "EIO\0".to_string()), 0));
        }
        ask(&mut daemon, TRANSACTION_START, 0, "\0");
        ask(&mut daemon, WATCH, 0, "a\x001\0");
        daemon.errors.push_back("EIO");
        assert_eq!(ask(&mut daemon, RESET_WATCHES, 0, "\0"), (RESET_WATCHES, "OK\0".to_string()));
        assert_eq!((daemon.open_transactions(), daemon.watch_count(), daemon.errors.len()), (0, 0, 1));
    }

    #[test]
    fn the_daemon_reconnects_if_it_offers_to() {
        let mut daemon = Xenstored::new(SharedMemory::new(4096), 7);
        assert_eq!(ask(&mut daemon, WATCH, 0, "a\x001\0").0, WATCH);
        daemon.ring.store(CONNECTION, RECONNECT);
        daemon.run();
        assert_eq!(daemon.watch_count(), 1);
        daemon.offer_reconnection(true);
        daemon.run();
        assert_eq!((daemon.watch_count(), daemon.ring.load(CONNECTION), daemon.ring.load(REQ_PROD)), (0, CONNECTED, 0));
        assert_eq!(ask(&mut daemon, READ, 0, "domid\0"), (READ, "7".to_string()));
    }
}
