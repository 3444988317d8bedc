//! What the daemon sends: answers to requests, and watch events.

use cloister_interfaces::log::Excerpt;
use cloister_interfaces::rules::ClientIndex;
use cloister_interfaces::store::{Reply, StoreError, Value};
use cloister_interfaces::{Memory, System};

use super::daemon_note::DaemonNote;
use super::{CONNECT_POLL, Completion, Connection, Job, TRANSACTION_TIME, Transaction, XenStore};
use crate::wire::{self, Header, MessageType};

impl<S: System, M: Memory> XenStore<S, M> {
    pub(super) fn handle_message(&mut self, header: Header) {
        if header.is(MessageType::WatchEvent) {
            return self.handle_watch_event(header);
        }
        let Some(outstanding) = self.outstanding.filter(|outstanding| outstanding.request == header.request) else {
            let id = header.request;
            let line = format_args!(" ({id})");
            return self.log_daemon(DaemonNote::UnknownAnswer, line);
        };
        if !self.unsent.is_empty() {
            let line = format_args!("");
            return self.log_daemon(DaemonNote::EarlyAnswer, line);
        }
        self.outstanding = None;
        let result = if header.is(outstanding.kind) {
            Ok(header)
        } else if header.is(MessageType::Error) {
            Err(self.inbound.payload(&header).map_or(StoreError::Other, wire::store_error))
        } else {
            let line = format_args!(", {}", header.kind);
            self.log_daemon(DaemonNote::WrongType, line);
            Err(StoreError::Other)
        };
        match outstanding.job {
            Job::Greet => self.greeting_answered(result),
            Job::Reset => {
                if result.is_err() {
                    let line = format_args!("");
                    self.log_daemon(DaemonNote::NoReset, line);
                }
                self.connection = Connection::Up;
            }
            Job::Identify => drop(self.domid_answered(result)),
            Job::AbortOverdue => {}
            Job::Rewatch(index) => self.rewatch_answered(index, result.err()),
            Job::Client { client, id, completion } => self.finish_request(client, id, completion, result),
        }
    }

    /// Handles the answer to the request for the own domid. Returns `true` if the daemon told it.
    fn domid_answered(&mut self, result: Result<Header, StoreError>) -> bool {
        let id = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
        let id = id.and_then(|id| u16::try_from(id).ok());
        self.own_domid.clear();
        match id {
            Some(id) => wire::digits(id).iter().for_each(|digit| self.own_domid.push(char::from(*digit))),
            None => self.next_poll = self.clock.now() + CONNECT_POLL,
        }
        id.is_some()
    }

    fn greeting_answered(&mut self, result: Result<Header, StoreError>) {
        if !self.domid_answered(result) {
            let line = format_args!("");
            self.log_daemon(DaemonNote::NoDomid, line);
        }
        if core::mem::take(&mut self.silent) {
            self.log_daemon(DaemonNote::AnswersAgain, format_args!(""));
        }
        self.connection = Connection::Resetting;
    }

    fn rewatch_answered(&mut self, index: usize, error: Option<StoreError>) {
        let Some(watch) = self.watches.get_mut(index) else { return };
        watch.registered = true;
        // Without the daemon's first event, the client would not look at what it missed.
        watch.pending = true;
        if error.is_some() {
            let (client, path) = (watch.client, watch.path);
            let shown = Excerpt(path.as_bytes());
            self.log_daemon(DaemonNote::LostWatch, format_args!(" of {client} on {shown}"));
        }
    }

    fn handle_watch_event(&mut self, header: Header) {
        let Some(payload) = self.inbound.payload(&header) else {
            // The token comes after the path, which is too long to be kept. The event may be for
            // any watch of what is below a node: no watched path is that long.
            return self.watches.iter_mut().for_each(|watch| watch.pending |= watch.below);
        };
        let event = wire::event(payload).and_then(|(changed, token)| Some((changed, wire::number(token)?)));
        let Some((changed, index)) = event else {
            let line = format_args!("");
            return self.log_daemon(DaemonNote::NoToken, line);
        };
        // An event may still be on its way when its watch ends.
        if let Some(watch) = self.watches.get_mut(index as usize) {
            watch.pending |= watch.may_tell(changed);
        }
    }

    /// Answers a client's request, by the daemon's answer or by an error.
    pub(super) fn finish_request(
        &mut self,
        client: ClientIndex,
        id: u16,
        completion: Completion,
        result: Result<Header, StoreError>,
    ) {
        let error = result.err();
        let mut answer = result.map(|_| Value::new());
        match completion {
            Completion::Value | Completion::Peer(_) => {
                answer = result.and_then(|header| {
                    let payload = self.inbound.payload(&header).ok_or(StoreError::TooLong)?;
                    Value::try_from(payload).map_err(|_| StoreError::TooLong)
                });
                if let (Completion::Peer(pin), Ok(value)) = (completion, &answer)
                    && !self.pins.set(pin, value)
                {
                    answer = Err(StoreError::InUse);
                }
            }
            Completion::Done => {}
            Completion::Watch(index) => match error {
                None => self.watches.get_mut(index).into_iter().for_each(|watch| watch.registered = true),
                Some(_) => self.watches.remove(index),
            },
            Completion::Unwatch(index) => {
                if matches!(error, None | Some(StoreError::NotFound)) {
                    self.watches.remove(index);
                }
            }
            Completion::Begin => {
                let number = result.ok().and_then(|header| self.inbound.payload(&header)).and_then(wire::number);
                match number.filter(|number| *number != 0) {
                    Some(number) => {
                        let until = self.clock.now() + TRANSACTION_TIME;
                        self.set_transaction(client, Transaction::Open { number, until });
                    }
                    None => answer = Err(error.unwrap_or(StoreError::Other)),
                }
            }
            Completion::End => self.set_transaction(client, Transaction::None),
        }
        self.answer_client(client, id, answer);
    }

    pub(super) fn set_transaction(&mut self, client: ClientIndex, transaction: Transaction) {
        if let Some(state) = self.clients.get_mut(client.index()) {
            state.transaction = transaction;
        }
    }

    pub(super) fn answer_client(&mut self, client: ClientIndex, id: u16, result: Result<Value, StoreError>) {
        if let Some(state) = self.clients.get_mut(client.index()) {
            state.answer = Some(Reply::Answer { id, result });
            state.send_answer();
        }
    }
}
