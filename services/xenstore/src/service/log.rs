//! What the service says of its clients and of the daemon, each in a log of its own.

use core::fmt::{self, Display};

use cloister_interfaces::log::Excerpt;
use cloister_interfaces::rules::{ClientIndex, MAX_PATH_RULES};
use cloister_interfaces::store::Path;
use cloister_interfaces::{Instant, Malformed, Memory, System};

use super::XenStore;
use super::daemon_note::{DaemonNote, NOTES};
use crate::MAX_PINS;
use crate::policy::{Right, Rules};

/// The place of a path, for the kind of a refusal: the first rule of any client at or above it, then [`NO_RULE`], then the node of a pin.
type Place = usize;
/// No rule is at or above the path.
const NO_RULE: Place = MAX_PATH_RULES;
const FIRST_PIN: Place = NO_RULE + 1;
const PLACES: usize = FIRST_PIN + MAX_PINS;
/// The kind of a message that does not decode. Those of refusals come before it.
const MALFORMED: usize = 3 * PLACES;
const _: () = assert!(MALFORMED < cloister_interfaces::log::PeerLog::KINDS);

/// A line about a client that the console may have dropped, without what was not kept.
struct Late<'a> {
    client: ClientIndex,
    kind: usize,
    rules: &'a Rules,
}

impl Display for Late<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Late { client, kind, rules } = self;
        let right = match kind / PLACES {
            0 => Right::Read,
            1 => Right::Write,
            2 => Right::Watch,
            _ => return write!(f, "violation by {client}: a malformed message"),
        };
        write!(f, "refused {client}: no path rule lets it {right} ")?;
        match (kind % PLACES, rules.path(kind % PLACES)) {
            (_, Some(rule)) => write!(f, "something at {rule}"),
            (NO_RULE, None) => f.write_str("what no rule names"),
            _ => f.write_str("the node of a pin"),
        }
    }
}

impl<S: System, M: Memory> XenStore<S, M> {
    /// Logs a request that the rules do not allow.
    #[cold]
    pub(super) fn log_refusal(&mut self, client: ClientIndex, right: Right, path: &Path, more: &str, now: Instant) {
        let place = match self.pins.find(path, &self.own_domid) {
            Some(pin) => FIRST_PIN + pin.index(),
            None => self.rules.covering(path, &self.own_domid).unwrap_or(NO_RULE),
        };
        let shown = Excerpt(path.as_bytes());
        let line = format_args!("refused {client}: no path rule lets it {right} {shown}{more}");
        self.log_client(client, right as usize * PLACES + place, now, line);
    }

    /// Logs a message that does not decode.
    #[cold]
    pub(super) fn log_malformed(&mut self, client: ClientIndex, malformed: Malformed, now: Instant) {
        self.log_client(client, MALFORMED, now, format_args!("violation by {client}: {malformed}"));
    }

    fn log_client(&mut self, client: ClientIndex, kind: usize, now: Instant, line: fmt::Arguments<'_>) {
        if let Some(state) = self.clients.get_mut(client.index()) {
            state.log.add(&self.console, now, kind, line);
        }
    }

    /// Logs what the daemon did, with details.
    #[cold]
    pub(super) fn log_daemon(&mut self, note: DaemonNote, details: fmt::Arguments<'_>) {
        let line = format_args!("{}{details}", NOTES[note as usize]);
        self.daemon_log.add(&self.console, self.clock.now(), note as usize, line);
    }

    /// Says what the logs have left out, once that is due.
    pub(super) fn catch_up(&mut self, now: Instant) {
        for (client, state) in ClientIndex::first(self.clients.len()).zip(&mut self.clients) {
            state.log.catch_up(&self.console, now, &|kind, f| Late { client, kind, rules: &self.rules }.fmt(f));
        }
        self.daemon_log
            .catch_up(&self.console, now, &|kind, f| f.write_str(NOTES.get(kind).copied().unwrap_or_default()));
    }

    /// Returns the time of the next [`XenStore::catch_up`] that has something to say.
    pub(super) fn log_deadline(&self) -> Option<Instant> {
        let of_clients = self.clients.iter().filter_map(|state| state.log.deadline()).min();
        Instant::earlier(self.daemon_log.deadline(), of_clients)
    }
}
