//! What is sent to the daemon: the service's own requests, and those of clients that the policy
//! allows.

use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::store::{Action, Path, Request, StoreError, Value};
use cloister_interfaces::{Instant, Memory, System};

use super::{ANSWER_TIME, Completion, Connection, Job, Outstanding, Transaction, XenStore};
use crate::policy::Right;
use crate::wire::{self, MessageType};

impl<S: System, M: Memory> XenStore<S, M> {
    /// Makes the next request to the daemon, or goes on sending the outstanding one. Returns `true`
    /// if there was work.
    pub(super) fn ask_daemon(&mut self, now: Instant) -> bool {
        if self.outstanding.is_some() {
            let sent = self.try_send(now);
            // While the daemon is silent, clients' requests fail at once.
            return sent | (self.silent && self.take_request(now));
        }
        match self.connection {
            Connection::Greeting => {
                self.request(Job::Greet, MessageType::Read, 0, &[b"domid\0"], now);
                if let Some(outstanding) = self.outstanding {
                    self.inbound.skip_to_answer(outstanding.request);
                }
            }
            Connection::Resetting => self.request(Job::Reset, MessageType::ResetWatches, 0, &[b"\0"], now),
            Connection::Up => {
                if let Some((index, path)) = self.watches.unregistered() {
                    let path = *path;
                    self.request_watch(Job::Rewatch(index), MessageType::Watch, index, &path, now);
                } else if self.own_domid.is_empty() && now >= self.next_poll {
                    self.request(Job::Identify, MessageType::Read, 0, &[b"domid\0"], now);
                } else if let Some(number) = self.take_overdue_transaction(now) {
                    self.request(Job::AbortOverdue, MessageType::TransactionEnd, number, &[b"F\0"], now);
                } else {
                    return self.take_request(now);
                }
            }
            Connection::Connecting if !self.silent => return false,
            Connection::Connecting | Connection::Dead => return self.take_request(now),
        }
        true
    }

    /// Takes from its client a transaction that was open for too long. Returns its number.
    fn take_overdue_transaction(&mut self, now: Instant) -> Option<u32> {
        self.clients.iter_mut().find_map(|state| match state.transaction {
            Transaction::Open { number, until } if now >= until => {
                state.transaction = Transaction::Lost;
                Some(number)
            }
            _ => None,
        })
    }

    /// Takes the next request of a client, in turn. Returns `true` if there was one.
    pub(super) fn take_request(&mut self, now: Instant) -> bool {
        for _ in 0..self.clients.len() {
            let client = self.next_client;
            self.next_client =
                if client.index() + 1 < self.clients.len() { ClientIndex(client.0 + 1) } else { ClientIndex(0) };
            let Some(state) = self.clients.get_mut(client.index()) else { continue };
            if state.answer.is_some() {
                continue;
            }
            match state.server.requests.pop() {
                None => continue,
                Some(Err(malformed)) => self.log_malformed(client, malformed, now),
                Some(Ok(Request { id, action })) => {
                    if let Err(error) = self.begin_action(client, id, action, now) {
                        self.answer_client(client, id, Err(error));
                    }
                }
            }
            return true;
        }
        false
    }

    fn check_permission(
        &mut self,
        client: ClientIndex,
        right: Right,
        path: &Path,
        now: Instant,
    ) -> Result<(), StoreError> {
        if self.rules.allows(client, right, path, &self.own_domid) {
            return Ok(());
        }
        self.log_refusal(client, right, path, "", now);
        Err(StoreError::Policy)
    }

    /// Returns the number of the transaction that a client's action is in, or 0 for none. Returns
    /// `None` if the action was answered already.
    fn transaction_for(&mut self, client: ClientIndex, id: u16, action: &Action) -> Result<Option<u32>, StoreError> {
        match (self.clients.get(client.index()).map_or(Transaction::None, |state| state.transaction), action) {
            (Transaction::None, _) => return Ok(Some(0)),
            (Transaction::Open { number, .. }, _) => return Ok(Some(number)),
            (Transaction::Lost, Action::Watch(..) | Action::Unwatch(..)) => return Ok(Some(0)),
            (Transaction::Lost, Action::Begin | Action::Commit | Action::Abort) => {}
            (Transaction::Lost, _) => return Err(StoreError::Again),
        }
        self.set_transaction(client, Transaction::None);
        match action {
            Action::Begin => Ok(Some(0)),
            Action::Abort => {
                self.answer_client(client, id, Ok(Value::new()));
                Ok(None)
            }
            _ => Err(StoreError::Again),
        }
    }

    /// Checks the right to remove a node: XenStore removes with it every node below.
    fn check_removal(&mut self, client: ClientIndex, path: &Path, now: Instant) -> Result<(), StoreError> {
        self.check_permission(client, Right::Write, path, now)?;
        if self.rules.allows_all_below(client, Right::Write, path, &self.own_domid) {
            return Ok(());
        }
        self.log_refusal(client, Right::Write, path, " and all below", now);
        Err(StoreError::Policy)
    }

    fn begin_action(&mut self, client: ClientIndex, id: u16, action: Action, now: Instant) -> Result<(), StoreError> {
        match &action {
            Action::Read(path) | Action::List(path) => self.check_permission(client, Right::Read, path, now)?,
            Action::Write(path, _) => self.check_permission(client, Right::Write, path, now)?,
            Action::Remove(path) => self.check_removal(client, path, now)?,
            Action::Watch(path, _) | Action::Unwatch(path, _) => {
                self.check_permission(client, Right::Watch, path, now)?
            }
            Action::Begin | Action::Commit | Action::Abort => {}
        }
        if self.connection != Connection::Up {
            return Err(StoreError::Timeout);
        }
        let Some(transaction) = self.transaction_for(client, id, &action)? else { return Ok(()) };
        let job = |completion| Job::Client { client, id, completion };
        match action {
            Action::Read(path) => {
                // In a transaction, a node may have an earlier value.
                let peer = if transaction == 0 { self.pins.find(&path, &self.own_domid) } else { None };
                let completion = peer.map_or(Completion::Value, Completion::Peer);
                self.request(job(completion), MessageType::Read, transaction, &[path.as_bytes(), b"\0"], now)
            }
            Action::List(path) => {
                self.request(
                    job(Completion::Value),
                    MessageType::Directory,
                    transaction,
                    &[path.as_bytes(), b"\0"],
                    now,
                );
            }
            Action::Write(path, value) => {
                self.request(
                    job(Completion::Done),
                    MessageType::Write,
                    transaction,
                    &[path.as_bytes(), b"\0", &value],
                    now,
                );
            }
            Action::Remove(path) => {
                self.request(job(Completion::Done), MessageType::Rm, transaction, &[path.as_bytes(), b"\0"], now);
            }
            Action::Watch(path, token) => {
                if self.watches.find(client, &path, token).is_some() {
                    return Err(StoreError::Other);
                }
                let below = self.rules.allows_all_below(client, Right::Watch, &path, &self.own_domid);
                let index = self.watches.add(client, path, token, below).ok_or(StoreError::Quota)?;
                self.request_watch(job(Completion::Watch(index)), MessageType::Watch, index, &path, now);
            }
            Action::Unwatch(path, token) => {
                let index = self.watches.find(client, &path, token).ok_or(StoreError::NotFound)?;
                self.request_watch(job(Completion::Unwatch(index)), MessageType::Unwatch, index, &path, now);
            }
            Action::Begin if transaction != 0 => return Err(StoreError::Other),
            Action::Begin => self.request(job(Completion::Begin), MessageType::TransactionStart, 0, &[b"\0"], now),
            Action::Commit | Action::Abort if transaction == 0 => return Err(StoreError::Other),
            Action::Commit => {
                self.request(job(Completion::End), MessageType::TransactionEnd, transaction, &[b"T\0"], now)
            }
            Action::Abort => {
                self.request(job(Completion::End), MessageType::TransactionEnd, transaction, &[b"F\0"], now)
            }
        }
        Ok(())
    }

    fn request_watch(&mut self, job: Job, kind: MessageType, index: usize, path: &Path, now: Instant) {
        let token = wire::digits(u16::try_from(index).unwrap_or(u16::MAX));
        self.request(job, kind, 0, &[path.as_bytes(), b"\0", &token, b"\0"], now);
    }

    /// Makes a request the outstanding one.
    fn request(&mut self, job: Job, kind: MessageType, transaction: u32, parts: &[&[u8]], now: Instant) {
        // 0 is the number of watch events.
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let request = self.next_request;
        // Paths and values are short enough that every request fits (`the_longest_request_fits`).
        self.unsent = wire::request(kind, request, transaction, parts).unwrap_or_default();
        self.outstanding = Some(Outstanding { job, kind, request, deadline: now + ANSWER_TIME });
        self.try_send(now);
    }

    /// Writes the outstanding request to the ring, unless it is there already. Returns `true` if
    /// there was work: it was written, or the daemon broke the protocol.
    pub(super) fn try_send(&mut self, now: Instant) -> bool {
        if self.unsent.is_empty() {
            return false;
        }
        match self.ring.send(&self.unsent) {
            Ok(sent) => {
                if sent {
                    self.unsent.clear();
                }
                sent
            }
            Err(_) => {
                self.handle_violation("its ring index is impossible", now);
                true
            }
        }
    }
}
