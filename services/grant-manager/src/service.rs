//! Carries out the clients' requests by invoking the kernel, and retries what a peer still maps.

use core::fmt;
use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::{DomId, GrantRef, InvokeError, Status};
use cloister_interfaces::capability::{Clock, Console, Grant};
use cloister_interfaces::grants::{Grants, Reply, Request};
use cloister_interfaces::log::{Peer, PeerLog};
use cloister_interfaces::rules::{ClientGrantRule, ClientIndex, RuleIndex, decode_rules};
use cloister_interfaces::{Instant, Memory, Notifications, PageRun, Server, Service, System};

use crate::capabilities::{Caps, MAX_CLIENTS, MAX_RULES};
use crate::log::{Denial, Late, LineKind};
use crate::pages::{MAX_PAGES, PageSet};

/// The largest number of pages whose grants are ended in one pass. The next pass begins at once and
/// goes on with the rest.
const PAGES_PER_CALL: u32 = 64;
/// The first pause between two attempts to end the grants of pages that a peer still maps. It
/// doubles with each attempt.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// The state of the pages of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RuleState {
    Idle,
    /// The grants of the `ending` pages from `next` on are being ended.
    Ending {
        next: u16,
        reason: Reason,
    },
    /// The peer still mapped pages at the last attempt. The next is at `retry_at`.
    StillMapped {
        retry_at: Instant,
        pause: Duration,
        reason: Reason,
    },
}

/// The reason why grants are ended. It decides what the client is told when they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reason {
    /// The client requested it: it gets an answer, and another reply when pages that were still
    /// mapped are free.
    Requested,
    /// An earlier run of the service granted them. The client's request for them was refused, and
    /// it is told nothing later.
    Undo,
    /// Another attempt at pages that were still mapped. Unless `silent`, the client is told when
    /// none is left.
    Retry { pause: Duration, silent: bool },
}

/// A rule: its capability, and the pages that are granted under it.
struct Rule<S> {
    capability: Grant<S>,
    granted: PageSet,
    /// The pages of `granted` whose grants are to end.
    ending: PageSet,
    state: RuleState,
    /// The client that used the rule last, and its number for the rule. `None` before the first
    /// request.
    owner: Option<(ClientIndex, u8)>,
    /// The last grant ended after a retry, and the client must be told.
    released: bool,
}

struct ClientState<S, M> {
    server: Server<Grants, S, M>,
    /// An answer that found the reply queue full. No request is taken until it is gone.
    answer: Option<Reply>,
    /// The rule that the client's request is ending. No request is taken until it is done.
    active_rule: Option<RuleIndex>,
    log: PeerLog,
}

/// The service.
pub struct GrantManager<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    rules: ArrayVec<Rule<S>, MAX_RULES>,
    clients: ArrayVec<ClientState<S, M>, MAX_CLIENTS>,
    client_rules: &'static [u8],
    /// A request was answered since requests were last taken, so its client may have another.
    any_answered: bool,
    /// The pass ended at a limit: the next begins at once.
    work_left: bool,
}

/// Shows what it knows of the grants and of requests, without the capabilities.
impl<S, M> fmt::Debug for GrantManager<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Rule { granted, ending, state, owner, released, .. } in &self.rules {
            write!(f, "rule granted: {granted:?} ending: {ending:?} {state:?} {owner:?} {released} ")?;
        }
        for ClientState { answer, active_rule, .. } in &self.clients {
            write!(f, "client {answer:?} {active_rule:?} ")?;
        }
        write!(f, "answered {} left {}", self.any_answered, self.work_left)
    }
}

impl<S: System, M: Memory> GrantManager<S, M> {
    /// Creates the service, with nothing granted.
    pub fn new(caps: Caps<S, M>) -> Self {
        let rule = |capability| Rule {
            capability,
            granted: PageSet::new(),
            ending: PageSet::new(),
            state: RuleState::Idle,
            owner: None,
            released: false,
        };
        GrantManager {
            console: caps.console,
            clock: caps.clock,
            rules: caps.grant_rules.into_iter().map(rule).collect(),
            clients: (0..)
                .zip(caps.grants_clients)
                .map(|(index, server)| ClientState {
                    server,
                    answer: None,
                    active_rule: None,
                    log: PeerLog::new(Peer::Client(ClientIndex(index))),
                })
                .collect(),
            client_rules: caps.rules,
            any_answered: false,
            work_left: false,
        }
    }

    /// Returns the rule that a client calls `number`, if the policy gives it that rule.
    fn find_rule(&self, client: ClientIndex, number: u8) -> Option<ClientGrantRule> {
        let mut own = decode_rules::<ClientGrantRule>(self.client_rules).filter(|rule| rule.client == client);
        own.nth(usize::from(number)).filter(|rule| rule.rule.index() < self.rules.len())
    }

    fn answer_client(&mut self, client: ClientIndex, reply: Reply) {
        self.any_answered = true;
        if let Some(state) = self.clients.get_mut(client.index()) {
            state.active_rule = None;
            state.answer = Some(reply);
            state.send_answer();
        }
    }

    fn refuse(&mut self, client: ClientIndex, rule: u8, why: Denial) {
        let line = format_args!("refused {client}, rule {rule}: {why}");
        self.log_about(client, LineKind::Refused(rule, why), line);
        self.answer_client(client, Reply::Refused { rule });
    }

    /// Logs a line about a client.
    #[cold]
    fn log_about(&mut self, client: ClientIndex, kind: LineKind, line: fmt::Arguments<'_>) {
        if let Some(state) = self.clients.get_mut(client.index()) {
            state.log.add(&self.console, self.clock.now(), kind.number(), line);
        }
    }

    /// Takes the client's next request if none is under way. Returns `true` if there was one.
    fn take_request(&mut self, client: ClientIndex) -> bool {
        let Some(state) = self.clients.get_mut(client.index()) else { return false };
        if state.active_rule.is_some() || state.answer.is_some() {
            return false;
        }
        match state.server.requests.pop() {
            None => return false,
            Some(Err(malformed)) => {
                self.log_about(client, LineKind::Malformed, format_args!("violation by {client}: {malformed}"));
            }
            Some(Ok(request)) => self.begin_request(client, request),
        }
        true
    }

    fn begin_request(&mut self, client: ClientIndex, request: Request) {
        let (Request::Issue { rule: number, .. } | Request::End { rule: number }) = request;
        let Some(entry) = self.find_rule(client, number) else {
            return self.refuse(client, number, Denial::NoRule);
        };
        let Some(rule) = self.rules.get_mut(entry.rule.index()) else { return };
        if rule.state != RuleState::Idle && rule.owner.is_some_and(|(owner, _)| owner != client) {
            return self.refuse(client, number, Denial::Used);
        }
        if let Request::Issue { pages, peer, .. } = request
            && let Err(why) = check_issue(&entry, rule, pages, peer)
        {
            return self.refuse(client, number, why);
        }
        rule.released = false;
        rule.owner = Some((client, number));
        match request {
            Request::Issue { pages, peer, .. } => match rule.issue(pages, peer) {
                Ok(reference) => {
                    self.answer_client(client, Reply::Issued { rule: number, reference, count: pages.count() });
                }
                Err(_) => self.refuse(client, number, Denial::Kernel),
            },
            Request::End { .. } => {
                rule.ending = rule.granted.clone();
                rule.state = RuleState::Ending { next: 0, reason: Reason::Requested };
                if let Some(state) = self.clients.get_mut(client.index()) {
                    state.active_rule = Some(entry.rule);
                }
            }
        }
    }

    /// Goes on ending the grants of a rule, for at most `budget` pages.
    fn advance(&mut self, index: usize, now: Instant, budget: &mut u32) {
        let Some(rule) = self.rules.get_mut(index) else { return };
        if let RuleState::StillMapped { retry_at, pause, reason } = rule.state {
            if now < retry_at {
                return;
            }
            let silent = matches!(reason, Reason::Undo | Reason::Retry { silent: true, .. });
            rule.state =
                RuleState::Ending { next: 0, reason: Reason::Retry { pause: (pause * 2).min(RETRY_LAST), silent } };
        }
        if let RuleState::Ending { next, reason } = rule.state {
            self.end_pages(index, next, reason, now, budget);
        }
    }

    fn end_pages(&mut self, index: usize, mut next: u16, reason: Reason, now: Instant, budget: &mut u32) {
        let Some(rule) = self.rules.get_mut(index) else { return };
        while let Some(page) = rule.ending.first_from(next) {
            if *budget == 0 {
                rule.state = RuleState::Ending { next: page, reason };
                return;
            }
            *budget -= 1;
            next = page + 1;
            match rule.capability.end(u32::from(page)).map_err(|error| error.status()) {
                Ok(()) | Err(Status::WrongState) => {
                    rule.granted.set(page, false);
                    rule.ending.set(page, false);
                }
                // Still mapped, or refused for a reason that the kernel logs: still granted.
                Err(_) => {}
            }
        }
        let still_mapped = rule.ending.count();
        let pause = match reason {
            Reason::Retry { pause, .. } => pause,
            Reason::Requested | Reason::Undo => RETRY_FIRST,
        };
        rule.state = if still_mapped == 0 {
            RuleState::Idle
        } else {
            RuleState::StillMapped { retry_at: now + pause, pause, reason }
        };
        let Some((client, number)) = rule.owner else { return };
        match reason {
            Reason::Requested => {
                if still_mapped > 0 {
                    let line = format_args!("the peer still maps {still_mapped} pages of rule {index}");
                    self.log_about(client, LineKind::StillMapped(number), line);
                }
                self.answer_client(client, Reply::Ended { rule: number, still_mapped });
            }
            Reason::Retry { silent, .. } if still_mapped == 0 => {
                rule.released = !silent;
                let line = format_args!("the peer has unmapped all pages of rule {index}");
                self.log_about(client, LineKind::Unmapped(number), line);
            }
            Reason::Undo | Reason::Retry { .. } => {}
        }
    }

    /// Tells clients that the last pages of a rule are free after a retry.
    fn notify_released(&mut self) {
        for rule in self.rules.iter_mut().filter(|rule| rule.released) {
            let Some((client, number)) = rule.owner else { continue };
            let Some(state) = self.clients.get_mut(client.index()).filter(|state| state.answer.is_none()) else {
                continue;
            };
            rule.released = state.server.replies.push(&Reply::Ended { rule: number, still_mapped: 0 }).is_err();
        }
    }
}

impl<S: System> Rule<S> {
    /// Grants all of the pages or none. Returns the reference of the first.
    fn issue(&mut self, pages: PageRun, peer: DomId) -> Result<GrantRef, InvokeError> {
        let issued = self.capability.issue(u32::from(pages.first()), u32::from(pages.count()), peer);
        // A page is granted already, by an earlier run of the service. Any page of the range may
        // be, so the grants of all of them are ended, and the client's next attempt finds them
        // free.
        let undo = issued.is_err_and(|error| error.status() == Status::WrongState);
        if issued.is_ok() || undo {
            self.granted.set_all(pages, true);
            self.ending.set_all(pages, undo);
        }
        if undo {
            self.state = RuleState::Ending { next: pages.first(), reason: Reason::Undo };
        }
        issued
    }
}

/// Checks that the policy's rule allows the grant now.
///
/// # Errors
/// The reason why it does not, for the log.
fn check_issue<S>(entry: &ClientGrantRule, rule: &Rule<S>, pages: PageRun, peer: DomId) -> Result<(), Denial> {
    if pages.last() >= MAX_PAGES.min(entry.count) {
        return Err(Denial::Range);
    }
    if !peer.is_real() || peer.0 < entry.peer_first || peer.0 > entry.peer_last {
        return Err(Denial::Peer);
    }
    if u32::from(rule.granted.count()) + u32::from(pages.count()) > u32::from(entry.count) {
        return Err(Denial::Count);
    }
    if rule.granted.contains_any(pages) {
        return Err(Denial::Granted);
    }
    if rule.state != RuleState::Idle {
        return Err(Denial::Ending);
    }
    Ok(())
}

impl<S: System, M: Memory> ClientState<S, M> {
    fn send_answer(&mut self) {
        if self.answer.as_ref().is_some_and(|answer| self.server.replies.push(answer).is_ok()) {
            self.answer = None;
        }
    }
}

impl<S: System, M: Memory> Service for GrantManager<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        let mut budget = PAGES_PER_CALL;
        self.clients.iter_mut().for_each(ClientState::send_answer);
        let mut unread = false;
        for client in ClientIndex::first(self.clients.len()) {
            // As many requests as there are rules. Further ones wait for the next pass.
            for _ in 0..MAX_RULES {
                self.work_left = self.take_request(client);
                if !self.work_left {
                    break;
                }
                if let Some(rule) = self.clients.get(client.index()).and_then(|state| state.active_rule) {
                    self.advance(rule.index(), now, &mut budget);
                }
            }
            unread |= self.work_left;
        }
        self.any_answered = false;
        for index in 0..self.rules.len() {
            self.advance(index, now, &mut budget);
        }
        self.notify_released();
        for (client, state) in ClientIndex::first(self.clients.len()).zip(&mut self.clients) {
            let late = |kind| Late { client, kind: LineKind::from_number(kind) };
            state.log.catch_up(&self.console, now, &|kind, f| write!(f, "{}", late(kind)));
        }
        self.clients.iter_mut().for_each(|state| state.server.replies.flush());
        self.work_left = unread | self.any_answered;
    }

    fn deadline(&self) -> Option<Instant> {
        if self.work_left || self.rules.iter().any(|rule| matches!(rule.state, RuleState::Ending { .. })) {
            return Some(Instant::START);
        }
        let retry_at = |rule: &Rule<S>| match rule.state {
            RuleState::StillMapped { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        let of_logs = self.clients.iter().filter_map(|state| state.log.deadline()).min();
        Instant::earlier(self.rules.iter().filter_map(retry_at).min(), of_logs)
    }
}
