//! Tests the restart rules of services that fault.

use cloister_caps::{Operation, Status};
use cloister_kernel_core::FaultAction;
use cloister_kernel_core::schedule::State;

use crate::machine::{Bench, shipped, tables, with};

#[test]
fn the_shipped_policy_stops_the_image_at_the_first_fault() {
    let mut services = 0;
    for service in tables(&shipped()).services().ids() {
        let mut bench = Bench::new(&shipped());
        assert_eq!(bench.kernel.fault(&mut bench.machine, service), FaultAction::StopImage);
        services += 1;
    }
    assert_eq!(services, 6);
}

#[test]
fn restarts_are_counted_for_each_service_and_then_the_rule_holds() {
    let text =
        with("restart = { limit = 0, then = \"stop-image\" }", "restart = { limit = 2, then = \"stop-service\" }");
    let mut bench = Bench::new(&text);
    let (http, tcpip) = (bench.service("http"), bench.service("tcpip"));
    bench.wait("http", u64::MAX);
    assert_eq!(bench.kernel.fault(&mut bench.machine, http), FaultAction::Restart(1));
    assert_eq!(bench.kernel.state(http), State::Ready);
    assert_eq!(bench.bits("http"), u64::MAX, "it looks at everything once");
    assert_eq!(bench.kernel.fault(&mut bench.machine, http), FaultAction::Restart(2));
    let history = bench.invoke("http", "info", Operation::InfoRead, [3, 0, 0, 0]);
    assert_eq!((history.status, history.words), (Status::Done, [2, 0]));
    assert_eq!(bench.kernel.fault(&mut bench.machine, tcpip), FaultAction::Restart(1), "its own count");
    assert_eq!(bench.kernel.fault(&mut bench.machine, http), FaultAction::StopService);
    // Nothing makes it run again.
    assert_eq!(bench.status("tcpip", "socket.replies", Operation::QueueNotify, [0; 4]), Status::Done);
    bench.wait("http", 0);
    assert_eq!(bench.kernel.state(http), State::Stopped);
    for service in ["control", "grant-manager", "netfront", "tcpip", "xenstore"] {
        bench.bits(service);
        bench.wait(service, u64::MAX);
    }
    assert_eq!(bench.kernel.next(u64::MAX - 1).service, None);
}

#[test]
fn refusals_are_counted_in_the_history() {
    let mut bench = Bench::new(&shipped());
    for _ in 0..3 {
        assert_eq!(bench.status("http", "info", Operation::PowerOff, [0; 4]), Status::WrongOperation);
    }
    assert_eq!(bench.invoke("http", "info", Operation::InfoRead, [3, 0, 0, 0]).words, [0, 3]);
}
