//! Fakes of two services, for tests of one of their clients alone.

use std::collections::BTreeMap;

use cloister_caps::{GrantRef, PAGE_SIZE};
use cloister_interfaces::store::{Action, Reply, Store, StoreError, Value};
use cloister_interfaces::{PageRun, Server, System, grants};

use crate::memory::SharedMemory;
use crate::xenstored::Xenstored;

/// Acts as the XenStore service: carries out requests directly on the nodes of a store.
pub struct StoreService<S> {
    server: Server<Store, S, SharedMemory>,
    watches: Vec<(String, u16, Option<Vec<u8>>)>,
    transaction: Option<Vec<(String, Option<Vec<u8>>)>>,
    /// The number of commits that still fail with [`StoreError::Again`].
    pub conflicts: u32,
    /// Returns the failure of an action that must fail, or `None` for one to carry out.
    pub refuse: Option<fn(&Action) -> Option<StoreError>>,
    /// All actions so far.
    pub actions: Vec<Action>,
}

impl<S: System> StoreService<S> {
    /// Creates the service over the server's end of the interface.
    pub fn new(server: Server<Store, S, SharedMemory>) -> Self {
        StoreService { server, watches: Vec::new(), transaction: None, conflicts: 0, refuse: None, actions: Vec::new() }
    }

    /// Returns `true` if a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Forgets the watches without telling the client.
    pub fn lose_watches(&mut self) {
        self.watches.clear();
    }

    /// Reports a change, as for a watch that was made before this store took over.
    pub fn notify(&mut self, token: u16) {
        // If the queue is full, the client has enough to read.
        let _ = self.server.replies.send(&Reply::Changed { token });
    }

    /// Answers requests, and reports watched values that have changed. Returns `true` if it did
    /// either.
    pub fn run(&mut self, store: &mut Xenstored) -> bool {
        let mut moved = false;
        while self.server.replies.room() > 0 {
            let Some(request) = self.server.requests.pop() else { break };
            let request = request.expect("a well-formed request");
            self.actions.push(request.action.clone());
            let refused = self.refuse.and_then(|refuse| refuse(&request.action));
            let result = refused.map_or_else(|| self.dispatch(store, request.action), Err);
            self.server.replies.push(&Reply::Answer { id: request.id, result }).expect("room");
            moved = true;
        }
        for (path, token, last) in &mut self.watches {
            let value = store.get(path);
            if value != *last && self.server.replies.push(&Reply::Changed { token: *token }).is_ok() {
                *last = value;
                moved = true;
            }
        }
        self.server.replies.flush();
        moved
    }

    fn dispatch(&mut self, store: &mut Xenstored, action: Action) -> Result<Value, StoreError> {
        let absolute = |path: &str| if path.starts_with('/') { path.to_string() } else { store.own(path) };
        match action {
            Action::Read(path) => {
                let value = store.get(&absolute(&path)).ok_or(StoreError::NotFound)?;
                Value::try_from(value.as_slice()).map_err(|_| StoreError::TooLong)
            }
            Action::Write(path, value) => self.change(store, absolute(&path), Some(value.to_vec())),
            Action::Remove(path) => self.change(store, absolute(&path), None),
            Action::Watch(path, token) => {
                // A watch fires once when it is made: the value differs from that of every node.
                self.watches.push((absolute(&path), token, Some(b"\xFFnever".to_vec())));
                Ok(Value::new())
            }
            Action::Unwatch(path, token) => {
                let path = absolute(&path);
                self.watches.retain(|(watched, of, _)| (watched, *of) != (&path, token));
                Ok(Value::new())
            }
            Action::Begin if self.transaction.is_some() => Err(StoreError::Other),
            Action::Begin => {
                self.transaction = Some(Vec::new());
                Ok(Value::new())
            }
            Action::Commit => {
                let writes = self.transaction.take().ok_or(StoreError::Other)?;
                if self.conflicts > 0 {
                    self.conflicts -= 1;
                    return Err(StoreError::Again);
                }
                for (path, value) in writes {
                    self.change(store, path, value)?;
                }
                Ok(Value::new())
            }
            Action::Abort => self.transaction.take().map(|_| Value::new()).ok_or(StoreError::Other),
            Action::List(_) => Err(StoreError::Other),
        }
    }

    fn change(&mut self, store: &mut Xenstored, path: String, value: Option<Vec<u8>>) -> Result<Value, StoreError> {
        match (&mut self.transaction, value) {
            (Some(writes), value) => writes.push((path, value)),
            (None, Some(value)) => store.set(&path, value),
            (None, None) => store.delete(&path),
        }
        Ok(Value::new())
    }
}

/// The granted pages by reference.
pub type Granted = BTreeMap<u32, (SharedMemory, usize)>;

/// Acts as the grant manager: rule `n` grants pages of region `n`, with references from `1000 *
/// (n + 1)` on.
pub struct GrantService<S> {
    server: Server<grants::Grants, S, SharedMemory>,
    regions: Vec<SharedMemory>,
    /// The pages that are granted.
    pub granted: Granted,
    /// The rules whose pages the peer holds when their grants should end.
    pub held: Vec<u8>,
    /// The rules that are refused.
    pub refused: Vec<u8>,
}

impl<S: System> GrantService<S> {
    /// Creates the grant manager over the server's end of the interface, for rules of these
    /// regions.
    pub fn new(server: Server<grants::Grants, S, SharedMemory>, regions: Vec<SharedMemory>) -> Self {
        GrantService { server, regions, granted: Granted::new(), held: Vec::new(), refused: Vec::new() }
    }

    /// Lets the peer unmap the pages of a rule, and notifies the client.
    pub fn release(&mut self, rule: u8) {
        self.held.retain(|held| *held != rule);
        let reply = self.end(rule);
        self.server.replies.send(&reply).expect("room");
    }

    /// Answers requests. Returns `true` if there was one.
    pub fn run(&mut self) -> bool {
        let mut moved = false;
        while let Some(request) = self.server.requests.pop() {
            let reply = match request.expect("a well-formed request") {
                grants::Request::Issue { rule, .. } if self.refused.contains(&rule) => grants::Reply::Refused { rule },
                grants::Request::Issue { rule, pages, .. } => self.issue(rule, pages),
                grants::Request::End { rule } => self.end(rule),
            };
            self.server.replies.send(&reply).expect("room");
            moved = true;
        }
        moved
    }

    fn issue(&mut self, rule: u8, pages: PageRun) -> grants::Reply {
        let region = &self.regions[usize::from(rule)];
        let start = 1000 * (u32::from(rule) + 1);
        for page in pages.iter() {
            let at = usize::from(page) * PAGE_SIZE;
            let old = self.granted.insert(start + u32::from(page), (region.clone(), at));
            assert!(old.is_none(), "a page was granted twice");
        }
        grants::Reply::Issued { rule, reference: GrantRef(start + u32::from(pages.first())), count: pages.count() }
    }

    fn end(&mut self, rule: u8) -> grants::Reply {
        let start = 1000 * (u32::from(rule) + 1);
        let pages = self.granted.range(start..start + 1000).count() as u16;
        if self.held.contains(&rule) {
            return grants::Reply::Ended { rule, still_mapped: pages };
        }
        self.granted.retain(|reference, _| !(start..start + 1000).contains(reference));
        grants::Reply::Ended { rule, still_mapped: 0 }
    }
}
