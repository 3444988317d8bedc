//! The front end's side of a Xen ring (`cloister_netfront::ring`) and a back end written after the
//! macros of `io/ring.h`, in every ordering: each request is answered once and in order, and no
//! side sleeps forever.
#![forbid(unsafe_code)]

use cloister_caps::xen::ring::{FIRST_SLOT, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD};
use cloister_interfaces::Memory;
use cloister_loom::{Notification, Region, Weakness, every_ordering};
use cloister_netfront::ring::FrontRing;

const SLOT: usize = 4;
/// The difference between a response and its request.
const ANSWERED: u32 = 100;

/// The back end's side.
struct Back {
    memory: Region,
    req_cons: u32,
    rsp_prod: u32,
    published: u32,
}

impl Back {
    fn slot(index: u32) -> usize {
        FIRST_SLOT + index as usize * SLOT
    }

    /// `RING_HAS_UNCONSUMED_REQUESTS`, `RING_FINAL_CHECK_FOR_REQUESTS`, `RING_COPY_REQUEST`.
    fn take(&mut self) -> Option<u32> {
        if self.memory.load(REQ_PROD) == self.req_cons {
            self.memory.store(REQ_EVENT, self.req_cons + 1);
            self.memory.barrier();
            if self.memory.load(REQ_PROD) == self.req_cons {
                return None;
            }
        }
        let request = self.memory.load(Self::slot(self.req_cons));
        self.req_cons += 1;
        Some(request)
    }

    fn respond(&mut self, response: u32) {
        self.memory.store(Self::slot(self.rsp_prod), response);
        self.rsp_prod += 1;
    }

    /// `RING_PUSH_RESPONSES_AND_CHECK_NOTIFY`.
    fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.published, self.rsp_prod);
        self.memory.store(RSP_PROD, self.rsp_prod);
        self.memory.barrier();
        let event = self.memory.load(RSP_EVENT);
        self.rsp_prod.wrapping_sub(event) < self.rsp_prod.wrapping_sub(old)
    }
}

#[derive(Clone, Copy)]
struct Case {
    /// The number of requests that are published together.
    batches: &'static [u32],
    /// The number of responses after which the front end asks for an event.
    ahead: u32,
    /// The largest number of responses that the back end publishes together.
    together: u32,
    /// The weakness of the front end's view of the ring.
    weakness: Weakness,
    preemptions: Option<usize>,
}

const CASE: Case = Case { batches: &[1, 1], ahead: 1, together: 1, weakness: Weakness::None, preemptions: Some(3) };

impl Case {
    fn run(self) -> u64 {
        let total: u32 = self.batches.iter().sum();
        every_ordering(self.preemptions, move || {
            // As `FrontRing::reset` leaves it.
            let memory = Region::new([0, 1, 0, 1], total as usize * SLOT, self.weakness);
            let (requests, responses) = (Notification::new(), Notification::new());
            let back = Back { memory: memory.sound(), req_cons: 0, rsp_prod: 0, published: 0 };
            let thread = {
                let (requests, responses) = (requests.clone(), responses.clone());
                loom::thread::spawn(move || serve(back, total, self.together, &requests, &responses))
            };
            ask(FrontRing::new(memory, 0), self, &requests, &responses);
            thread.join().expect("the back end's thread ends");
        })
    }
}

fn serve(mut back: Back, total: u32, together: u32, requests: &Notification, responses: &Notification) {
    let mut expected = 0;
    while expected < total {
        let mut waiting = 0;
        while waiting < together
            && let Some(request) = back.take()
        {
            expected += 1;
            assert_eq!(request, expected, "request lost, repeated or out of order");
            back.respond(request + ANSWERED);
            waiting += 1;
        }
        if waiting == 0 {
            requests.wait();
        } else if back.publish() {
            responses.notify();
        }
    }
}

fn ask(mut front: FrontRing<Region, SLOT>, case: Case, requests: &Notification, responses: &Notification) {
    let (mut asked, mut answered) = (0, 0);
    for batch in case.batches {
        for _ in 0..*batch {
            asked += 1;
            front.push([asked]);
        }
        if front.publish() {
            requests.notify();
        }
        while front.outstanding() > 0 {
            let ahead = case.ahead.min(front.outstanding());
            match front.pop().expect("an honest back end") {
                Some(response) => {
                    answered += 1;
                    assert_eq!(response, answered + ANSWERED, "response lost, repeated or out of order");
                }
                None if front.final_check(ahead).expect("an honest back end") < ahead => responses.wait(),
                None => {}
            }
        }
    }
    assert_eq!((asked, answered), (case.batches.iter().sum(), asked), "answered once each");
}

#[test]
fn one_request_without_bound() {
    let orderings = Case { batches: &[1], preemptions: None, ..CASE }.run();
    assert!(orderings > 1000, "{orderings}");
}

#[test]
fn one_at_a_time() {
    let orderings = CASE.run();
    assert!(orderings > 20_000, "{orderings}");
}

#[test]
fn a_batch_answered_one_by_one() {
    let orderings = Case { batches: &[2, 1], preemptions: Some(2), ..CASE }.run();
    assert!(orderings > 10_000, "{orderings}");
}

#[test]
fn a_batch_answered_as_one_with_one_event() {
    let orderings = Case { batches: &[2, 2], ahead: 2, together: 2, preemptions: Some(2), ..CASE }.run();
    assert!(orderings > 3000, "{orderings}");
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_barrier_a_side_sleeps_forever() {
    Case { weakness: Weakness::Barrier, ..CASE }.run();
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_final_check_the_front_end_sleeps_forever() {
    Case { weakness: Weakness::SecondLoad(RSP_PROD), ..CASE }.run();
}

#[test]
#[should_panic(expected = "lost, repeated or out of order")]
fn without_acquire_and_release_a_slot_is_read_before_it_is_written() {
    Case { weakness: Weakness::Ordering, ..CASE }.run();
}
