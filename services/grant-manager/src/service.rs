//! The state machine between the clients and the kernel.

use core::time::Duration;

use arrayvec::ArrayVec;
use cloister_caps::{DomId, GrantRef, InvokeError, Status};
use cloister_interfaces::capability::{Clock, Console, GrantRule};
use cloister_interfaces::grants::{Grants, Reply, Request};
use cloister_interfaces::rules::{ClientGrantRule, decode_rules};
use cloister_interfaces::{Instant, Memory, Notifications, Server, Service, System};

use crate::pages::{PAGES, Pages};
use crate::{CLIENTS, Caps, RULES};

/// Pages ended in one call; with the rest the service is called again at once.
const PAGES_PER_CALL: u32 = 64;
/// The first and the longest pause between two attempts to end what a peer holds.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// What is being done with the pages of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    Idle,
    /// Ending what is to end, from page `next` on.
    Ending {
        next: u16,
        why: Why,
    },
    /// The peer held pages at the last attempt.
    Held {
        again: Instant,
        pause: Duration,
        why: Why,
    },
}

/// Why grants are ended, and so what is to be said when they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// The client asked: answer, and say so again when a page that was held is free.
    Asked,
    /// The service's former self granted them: the client was refused them, and is told nothing later.
    Undo,
    /// A new attempt at pages that were held; it says so only when none is left.
    Retry { pause: Duration, silent: bool },
}

/// A rule: its capability, and what is granted under it.
struct Rule<S> {
    capability: GrantRule<S>,
    granted: Pages,
    /// Those of `granted` whose grant is to end.
    ending: Pages,
    work: Work,
    /// The client whose rule it is, and the client's number for it; known from its first request on.
    owner: Option<(usize, u8)>,
    /// The grants ended after all, and the client is to be told.
    released: bool,
}

struct Peer<S, M> {
    server: Server<Grants, S, M>,
    /// An answer that found the reply queue full. No request is taken until it is gone.
    answer: Option<Reply>,
    /// The rule that the client's request works on.
    busy: Option<usize>,
}

/// The service.
pub struct GrantManager<S, M> {
    console: Console<S>,
    clock: Clock<S>,
    rules: ArrayVec<Rule<S>, RULES>,
    peers: ArrayVec<Peer<S, M>, CLIENTS>,
    blob: &'static [u8],
    /// A request was answered since requests were last taken, so that its client's next can be.
    answered: bool,
    left_over: bool,
}

impl<S: System, M: Memory> GrantManager<S, M> {
    /// The service with nothing granted.
    pub fn new(caps: Caps<S, M>) -> Self {
        let rule = |capability| Rule {
            capability,
            granted: Pages::new(),
            ending: Pages::new(),
            work: Work::Idle,
            owner: None,
            released: false,
        };
        GrantManager {
            console: caps.console,
            clock: caps.clock,
            rules: caps.grant_rules.into_iter().map(rule).collect(),
            peers: caps.grants_clients.into_iter().map(|server| Peer { server, answer: None, busy: None }).collect(),
            blob: caps.rules,
            answered: false,
            left_over: false,
        }
    }

    /// The rule that a client means by `number`.
    fn find(&self, client: usize, number: u8) -> Option<ClientGrantRule> {
        let mut own = decode_rules::<ClientGrantRule>(self.blob).filter(|rule| usize::from(rule.client) == client);
        own.nth(usize::from(number)).filter(|rule| usize::from(rule.rule) < self.rules.len())
    }

    fn answer(&mut self, client: usize, reply: Reply) {
        self.answered = true;
        if let Some(peer) = self.peers.get_mut(client) {
            peer.busy = None;
            peer.answer = Some(reply);
            peer.deliver();
        }
    }

    fn refuse(&mut self, client: usize, rule: u8, why: &str) {
        self.console.line(format_args!("refused client {client}, rule {rule}: {why}"));
        self.answer(client, Reply::Refused { rule });
    }

    /// Takes the client's next request if it has no other under way; whether there was one.
    fn take(&mut self, client: usize) -> bool {
        let Some(peer) = self.peers.get_mut(client) else { return false };
        if peer.busy.is_some() || peer.answer.is_some() {
            return false;
        }
        match peer.server.requests.pop() {
            None => return false,
            Some(Err(_)) => self.console.line(format_args!("client {client} sent a malformed request")),
            Some(Ok(request)) => self.begin(client, request),
        }
        true
    }

    fn begin(&mut self, client: usize, request: Request) {
        let (Request::Issue { rule: number, .. } | Request::End { rule: number }) = request;
        let Some(entry) = self.find(client, number) else {
            return self.refuse(client, number, "the policy gives it no such rule");
        };
        let index = usize::from(entry.rule);
        let Some(rule) = self.rules.get_mut(index) else { return };
        if rule.work != Work::Idle && rule.owner.is_some_and(|(owner, _)| owner != client) {
            return self.refuse(client, number, "another client uses the rule");
        }
        if let Request::Issue { first, count, peer, .. } = request
            && let Err(why) = check(&entry, rule, first, count, peer)
        {
            return self.refuse(client, number, why);
        }
        rule.released = false;
        rule.owner = Some((client, number));
        match request {
            Request::Issue { first, count, peer, .. } => match rule.issue(first, count, peer) {
                Ok(reference) => self.answer(client, Reply::Issued { rule: number, reference, count }),
                Err(_) => self.refuse(client, number, "the kernel refused"),
            },
            Request::End { .. } => {
                rule.ending = rule.granted.clone();
                rule.work = Work::Ending { next: 0, why: Why::Asked };
                if let Some(peer) = self.peers.get_mut(client) {
                    peer.busy = Some(index);
                }
            }
        }
    }

    /// Goes on with the work of a rule, for at most `budget` pages.
    fn advance(&mut self, index: usize, now: Instant, budget: &mut u32) {
        let Some(rule) = self.rules.get_mut(index) else { return };
        if let Work::Held { again, pause, why } = rule.work {
            if now < again {
                return;
            }
            let silent = matches!(why, Why::Undo | Why::Retry { silent: true, .. });
            rule.work = Work::Ending { next: 0, why: Why::Retry { pause: (pause * 2).min(RETRY_LAST), silent } };
        }
        if let Work::Ending { next, why } = rule.work {
            self.end(index, next, why, now, budget);
        }
    }

    fn end(&mut self, index: usize, mut next: u16, why: Why, now: Instant, budget: &mut u32) {
        let Some(rule) = self.rules.get_mut(index) else { return };
        while let Some(page) = rule.ending.next(next) {
            if *budget == 0 {
                rule.work = Work::Ending { next: page, why };
                return;
            }
            *budget -= 1;
            next = page + 1;
            match rule.capability.end(u32::from(page)).map_err(|error| error.status()) {
                Ok(()) | Err(Status::WrongState) => {
                    rule.granted.set(page, false);
                    rule.ending.set(page, false);
                }
                // In use; or refused for a reason that the kernel logs, and then it is still granted.
                Err(_) => {}
            }
        }
        let held = rule.ending.count();
        let pause = match why {
            Why::Retry { pause, .. } => pause,
            Why::Asked | Why::Undo => RETRY_FIRST,
        };
        rule.work = if held == 0 { Work::Idle } else { Work::Held { again: now + pause, pause, why } };
        let Some((client, number)) = rule.owner else { return };
        match why {
            Why::Asked => {
                if held > 0 {
                    let line = format_args!("the peer holds {held} pages of rule {index}");
                    self.console.line(line);
                }
                self.answer(client, Reply::Ended { rule: number, still_mapped: held });
            }
            Why::Retry { silent, .. } if held == 0 => {
                rule.released = !silent;
                self.console.line(format_args!("the peer let go of rule {index}"));
            }
            Why::Undo | Why::Retry { .. } => {}
        }
    }

    /// Tells clients of pages that came free after all.
    fn tell_released(&mut self) {
        for rule in self.rules.iter_mut().filter(|rule| rule.released) {
            let Some((client, number)) = rule.owner else { continue };
            let Some(peer) = self.peers.get_mut(client).filter(|peer| peer.answer.is_none()) else { continue };
            rule.released = peer.server.replies.push(&Reply::Ended { rule: number, still_mapped: 0 }).is_err();
        }
    }
}

impl<S: System> Rule<S> {
    /// Grants the pages, all or none of them; answers the first one's reference.
    fn issue(&mut self, first: u16, count: u16, peer: DomId) -> Result<GrantRef, InvokeError> {
        let issued = self.capability.issue(u32::from(first), u32::from(count), peer);
        // Granted, but not by this run of the service: its former self did. All of the range may be, so all of it is
        // ended, and the client's next attempt finds it free.
        let undo = issued.is_err_and(|error| error.status() == Status::WrongState);
        if issued.is_ok() || undo {
            self.granted.set_all(first..first + count, true);
            self.ending.set_all(first..first + count, undo);
        }
        if undo {
            self.work = Work::Ending { next: first, why: Why::Undo };
        }
        issued
    }
}

/// Whether the policy's rule allows the grant now.
fn check<S>(entry: &ClientGrantRule, rule: &Rule<S>, first: u16, count: u16, peer: DomId) -> Result<(), &'static str> {
    let end =
        first.checked_add(count).filter(|end| *end <= PAGES.min(entry.count)).ok_or("the pages are out of range")?;
    if count == 0 {
        return Err("it asks for no page");
    }
    if !peer.is_real() || peer.0 < entry.peer_first || peer.0 > entry.peer_last {
        return Err("the rule does not allow this peer");
    }
    if u32::from(rule.granted.count()) + u32::from(count) > u32::from(entry.count) {
        return Err("it would be more pages than the rule allows at once");
    }
    if rule.granted.has_any(first..end) {
        return Err("a page of these is granted already");
    }
    if rule.work != Work::Idle {
        return Err("grants of the rule are still ending");
    }
    Ok(())
}

impl<S: System, M: Memory> Peer<S, M> {
    fn deliver(&mut self) {
        if self.answer.as_ref().is_some_and(|answer| self.server.replies.push(answer).is_ok()) {
            self.answer = None;
        }
    }
}

impl<S: System, M: Memory> Service for GrantManager<S, M> {
    fn notified(&mut self, _: Notifications) {
        let now = self.clock.now();
        let mut budget = PAGES_PER_CALL;
        self.peers.iter_mut().for_each(Peer::deliver);
        let mut unread = false;
        for client in 0..self.peers.len() {
            // As many requests as there are rules: what a client sends beyond them is for the next call.
            for _ in 0..RULES {
                self.left_over = self.take(client);
                if !self.left_over {
                    break;
                }
                if let Some(index) = self.peers.get(client).and_then(|peer| peer.busy) {
                    self.advance(index, now, &mut budget);
                }
            }
            unread |= self.left_over;
        }
        self.answered = false;
        for index in 0..self.rules.len() {
            self.advance(index, now, &mut budget);
        }
        self.tell_released();
        self.peers.iter_mut().for_each(|peer| peer.server.replies.flush());
        self.left_over = unread | self.answered;
    }

    fn deadline(&self) -> Option<Instant> {
        if self.left_over || self.rules.iter().any(|rule| matches!(rule.work, Work::Ending { .. })) {
            return Some(Instant::START);
        }
        let held = |rule: &Rule<S>| match rule.work {
            Work::Held { again, .. } => Some(again),
            _ => None,
        };
        self.rules.iter().filter_map(held).min()
    }
}
