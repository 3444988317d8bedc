//! What a netfront does to have its deeds, or those of others, not seen in the log.

use super::*;

/// The lines that the kernel lets through of a service at once, and the time that earns one more, in
/// ns (`console::line::Credit`, which the services do not know).
const KERNEL_BURST: u64 = 200;
const KERNEL_REFILL: u64 = 2_000_000;

impl Bench {
    /// Lets the link go down and up in each of 60 passes, without the account of pages that
    /// [`Bench::run`] keeps for an honest netfront.
    fn flap(&mut self) {
        for _ in 0..60 {
            for _ in 0..8 {
                self.link(&UP);
                self.link(&LinkReply::Down);
            }
            self.pass();
        }
    }

    fn pass(&mut self) {
        self.nanoseconds += 1_000_000;
        self.system.set_now(self.nanoseconds);
        self.service.notified(Notifications::ALL);
        while self.link.requests.pop().is_some() {}
    }
}

/// A netfront lets the link go up and down, and then does what tcpip reports once in its life.
#[test]
fn a_flapping_link_hides_no_violation() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    let began = bench.nanoseconds;
    bench.flap();
    bench.link(&UP);
    bench.link(&received(PAGES, 0, 60));
    bench.application.requests.send(&Request::Listen { port: 0 }).unwrap();
    bench.pass();
    let most = KERNEL_BURST + (bench.nanoseconds - began) / KERNEL_REFILL;
    let log = bench.system.console();
    let at = |text: &str| log.lines().position(|line| line.contains(text)).expect("it is reported") as u64;
    assert!(at("a page that it does not hold (logged once)") < most);
    assert!(at("a port that is 0 or taken") < most, "what another peer did");
    // What was left out is counted. Each pass has 16 changes.
    bench.system.set_now(bench.nanoseconds + 1_000_000_000);
    assert!(bench.service.deadline().is_some_and(|at| at.0 <= bench.nanoseconds + 1_000_000_000));
    bench.service.notified(Notifications::ALL);
    let log = bench.system.console();
    let left_out = log.lines().filter_map(|line| line.strip_suffix(" more lines about netfront and the link"));
    let left_out: usize = left_out.map(|count| count.parse::<usize>().unwrap()).sum();
    let shown = log.lines().filter(|line| line.starts_with("link ")).count();
    assert!(shown < 40, "{shown}");
    assert_eq!(shown + left_out, 60 * 16 + 1);
}

/// A violation whose line the console drops is said when it takes lines again, and once.
#[test]
fn a_violation_that_the_console_drops_is_said_later() {
    let mut bench = Bench::new("ip=10.0.0.2/24");
    bench.link(&UP);
    bench.run();
    let before = bench.system.console();
    bench.system.drop_lines(true);
    bench.link(&received(PAGES, 0, 60));
    bench.link_bytes(&[99, 0, 0, 0, 0, 0, 0, 0]);
    bench.application.requests.send(&Request::Listen { port: 0 }).unwrap();
    for _ in 0..300 {
        bench.pass();
    }
    assert_eq!(bench.system.console(), before);
    bench.system.drop_lines(false);
    for _ in 0..300 {
        bench.pass();
    }
    assert_eq!(
        bench.logged(),
        [
            "refused an application: a port that is 0 or taken (client 0, logged once)",
            "violation by netfront: a malformed message (logged once)",
            "violation by netfront: a page that it does not hold (logged once)",
        ]
    );
}
