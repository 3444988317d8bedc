//! The grant manager between hostile drivers and domains that keep granted pages mapped.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use arbitrary::Arbitrary;
use cloister_caps::{DomId, InvokeError, Operation, Slot, Status};
use cloister_grant_manager::{Caps, service};
use cloister_interfaces::capability::{Clock, Console, Grant};
use cloister_interfaces::grants::{Grants, Reply, Request};
use cloister_interfaces::rules::{self, ClientGrantRule, ClientIndex, RuleIndex};
use cloister_interfaces::{PageRun, Service};
use cloister_sim::ChannelMemory;

use crate::host::{Host, Pause, Work};
use crate::peer::{Act, Any, Peer};
use crate::script::{Trace, World};

/// The slot of the first rule.
const RULES: u16 = 10;
/// The hostile client, and the honest one.
const HOSTILE: u8 = 0;
const HONEST: u8 = 1;
/// The rules of the policy: client, index, the most pages at once, peers.
const POLICY: [ClientGrantRule; 4] = [
    ClientGrantRule { client: ClientIndex(HOSTILE), rule: RuleIndex(0), count: 2, peer_first: 0, peer_last: 3 },
    ClientGrantRule { client: ClientIndex(HONEST), rule: RuleIndex(1), count: 8, peer_first: 2, peer_last: 2 },
    ClientGrantRule { client: ClientIndex(HOSTILE), rule: RuleIndex(2), count: 100, peer_first: 1, peer_last: 32_751 },
    ClientGrantRule { client: ClientIndex(HOSTILE), rule: RuleIndex(3), count: 16, peer_first: 0, peer_last: 0 },
];
const PEER: DomId = DomId(2);
/// The limits of one call: invocations for the pages of one call, a few console lines of several
/// invocations each, and a notification.
const MOST: Work = Work { invocations: 220, reads: 260 };

/// The simulated kernel. The test sets its fields.
#[derive(Default)]
struct Kernel {
    granted: BTreeMap<(u16, u64), u64>,
    in_use: BTreeSet<(u16, u64)>,
    refused: Option<u64>,
}

impl Kernel {
    fn answer(&mut self, slot: Slot, operation: Operation, arguments: [u64; 4]) -> Result<[u64; 2], InvokeError> {
        let fault = |status: Status| status.into_result().map(|()| [0; 2]);
        let [page, peer, theirs, further] = arguments;
        let key = (slot.0, page);
        match operation {
            Operation::GrantIssue => {
                let rule = POLICY.iter().find(|rule| u16::from(rule.rule.0) + RULES == slot.0).expect("a rule's slot");
                let granted = self.granted.range((slot.0, 0)..=(slot.0, u64::MAX)).count();
                assert!((u64::from(rule.peer_first)..=rule.peer_last.into()).contains(&peer), "granted to {peer}");
                assert_eq!(theirs, 0, "a page of the peer's");
                let last = page.checked_add(further).filter(|last| *last < rule.count.into());
                let pages = page..=last.expect("pages of the rule");
                if self.refused.is_some_and(|refused| pages.contains(&refused)) {
                    return fault(Status::NotPermitted);
                }
                if pages.clone().any(|page| self.granted.contains_key(&(slot.0, page))) {
                    return fault(Status::WrongState);
                }
                assert!(
                    granted + pages.clone().count() <= rule.count.into(),
                    "more pages granted than the rule allows"
                );
                self.granted.extend(pages.map(|page| ((slot.0, page), peer)));
                Ok([1000 * u64::from(slot.0) + page, 0])
            }
            Operation::GrantEnd if self.in_use.contains(&key) => fault(Status::InUse),
            Operation::GrantEnd if self.granted.remove(&key).is_none() => fault(Status::WrongState),
            _ => Ok([0; 2]),
        }
    }
}

/// Queue depth.
#[derive(Arbitrary, Debug)]
pub struct Setup {
    depth: u8,
}

/// A step of the drivers, their peers or the kernel.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// The hostile driver sends this.
    Hostile(Act<Any<Request>>),
    /// The honest driver grants all its pages, or ends the grants.
    Honest(bool),
    /// A peer uses a granted page.
    Use(u8),
    /// The peers unmap all pages.
    Release,
    /// The kernel refuses to grant this page, or none.
    Refuse(Option<u8>),
    /// Time passes.
    Pass(Pause),
}

/// The grant manager and its clients.
pub struct Clients {
    host: Host,
    kernel: Rc<RefCell<Kernel>>,
    service: Box<dyn Service>,
    hostile: Peer<Request, Reply>,
    honest: Peer<Request, Reply>,
    /// The requests of the honest client without a reply.
    open: u32,
}

/// Returns the first `count` pages of a rule.
fn pages(count: u16) -> PageRun {
    PageRun::new(0, count).expect("a run of pages")
}

fn rules() -> &'static [u8] {
    thread_local! {
        static RULES: &'static [u8] = {
            rules::encode_rules(&POLICY).expect("few rules").leak()
        };
    }
    RULES.with(|rules| *rules)
}

impl Clients {
    fn run(&mut self) {
        self.host.call(self.service.as_mut());
        for reply in self.honest.receive() {
            let (Reply::Issued { rule, .. } | Reply::Refused { rule } | Reply::Ended { rule, .. }) = reply;
            assert_eq!(rule, 0, "{reply:?} of a rule that it did not name");
            self.open = self.open.checked_sub(1).or(matches!(reply, Reply::Ended { .. }).then_some(0)).expect("asked");
        }
    }

    /// Makes a client's request, and checks the reply that it must get if nothing prevents it.
    fn ask(&mut self, hostile: bool, request: Request) -> Reply {
        for _ in 0..40 {
            let client = if hostile { &mut self.hostile } else { &mut self.honest };
            client.receive();
            if client.send(&request) {
                break;
            }
            self.host.call(self.service.as_mut());
        }
        let mut messages = Vec::new();
        let client = if hostile { &mut self.hostile } else { &mut self.honest };
        self.host.settle(self.service.as_mut(), 200, || {
            let before = messages.len();
            messages.extend(client.receive());
            messages.len() > before
        });
        assert!(messages.len() == 1, "{request:?} was answered by {messages:?}");
        messages.remove(0)
    }
}

impl World for Clients {
    type Setup = Setup;
    type Step = Step;

    fn new(setup: Setup, trace: &Trace) -> Self {
        let host = Host::new(trace, MOST);
        let kernel = Rc::new(RefCell::new(Kernel::default()));
        let shared = kernel.clone();
        host.recorder.answer(move |slot, operation, arguments| shared.borrow_mut().answer(slot, operation, arguments));
        let depth = 2 << (setup.depth % 5);
        let channels = [ChannelMemory::new::<Grants>(depth), ChannelMemory::new::<Grants>(depth)];
        let service = service(Caps {
            console: Console::new(host.system.clone(), Slot(0)),
            clock: Clock::new(host.system.clone(), Slot(1)),
            grant_rules: (0..POLICY.len() as u16)
                .map(|rule| Grant::new(host.system.clone(), Slot(RULES + rule)))
                .collect(),
            grants_clients: [host.server(&channels[0], 2), host.honest_server(&channels[1], 3)].into_iter().collect(),
            rules: rules(),
        });
        Clients {
            host,
            kernel,
            service: Box::new(service),
            hostile: Peer::client(&channels[usize::from(HOSTILE)]),
            honest: Peer::client(&channels[usize::from(HONEST)]),
            open: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Hostile(act) => drop(self.hostile.act(act, &self.host)),
            Step::Honest(issue) => {
                let request = match issue {
                    true => Request::Issue { rule: 0, pages: pages(8), peer: PEER },
                    false => Request::End { rule: 0 },
                };
                self.open += u32::from(self.honest.send(&request));
            }
            Step::Use(at) => {
                let mut kernel = self.kernel.borrow_mut();
                let page = kernel.granted.keys().nth(usize::from(at)).copied();
                kernel.in_use.extend(page);
            }
            Step::Release => self.kernel.borrow_mut().in_use.clear(),
            Step::Refuse(page) => self.kernel.borrow_mut().refused = page.map(u64::from),
            Step::Pass(pause) => self.host.pass(pause.nanoseconds()),
        }
        self.run();
    }

    fn honest(mut self) {
        let granted = std::mem::take(&mut self.kernel.borrow_mut().granted);
        *self.kernel.borrow_mut() = Kernel { granted, ..Kernel::default() };
        self.hostile.behave(&self.host);
        // Twice the longest pause between two attempts, since the first may be made now.
        for _ in 0..2 {
            self.host.pass(60_000_000_000);
            let (hostile, honest) = (&mut self.hostile, &mut self.honest);
            self.host
                .settle(self.service.as_mut(), 400, || !hostile.receive().is_empty() | !honest.receive().is_empty());
        }
        let own = |client: u8| POLICY.into_iter().filter(move |rule| rule.client == ClientIndex(client)).zip(0u8..);
        for (client, hostile) in [(HOSTILE, true), (HONEST, false)] {
            for (entry, rule) in own(client) {
                let slot = RULES + u16::from(entry.rule.0);
                let end = Request::End { rule };
                assert_eq!(self.ask(hostile, end), Reply::Ended { rule, still_mapped: 0 });
                let (count, peer) = (entry.count, DomId(entry.peer_last));
                let reply = self.ask(hostile, Request::Issue { rule, pages: pages(count), peer });
                assert!(matches!(reply, Reply::Issued { rule: of, .. } if of == rule), "{reply:?} of rule {rule}");
                let granted = self.kernel.borrow().granted.keys().filter(|(of, _)| *of == slot).count();
                assert_eq!(granted, usize::from(count));
                assert_eq!(self.ask(hostile, end), Reply::Ended { rule, still_mapped: 0 });
            }
        }
        assert!(self.kernel.borrow().granted.is_empty(), "grants remain that no client requested");
    }
}
