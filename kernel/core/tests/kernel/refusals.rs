//! Tests the log lines of refusals: service, operation, object, and the missing rule by its line in
//! the policy.

use cloister_caps::{Operation, Status};

use crate::machine::{Bench, narrow, shipped};

/// Returns the number of the first line that begins with `start`, at or after the line that begins
/// with `section`.
fn line(text: &str, section: &str, start: &str) -> usize {
    let from = text.lines().position(|line| line.starts_with(section)).unwrap();
    from + 1 + text.lines().skip(from).position(|line| line.starts_with(start)).unwrap()
}

/// Makes an invocation that is refused. Returns its status and its line in the log.
fn refusal(bench: &mut Bench, service: &str, name: &str, operation: Operation, first: [u64; 2]) -> (Status, String) {
    let before = bench.machine.log.len();
    let status = bench.status(service, name, operation, [first[0], first[1], 0, 0]);
    assert_eq!(bench.machine.log.len(), before + 1);
    (status, bench.machine.log[before].clone())
}

#[test]
fn a_use_of_an_empty_slot_is_logged() {
    let mut bench = Bench::new(&shipped());
    let http = bench.service("http");
    bench.call(http, 1, [60, 5, 0, 0, 0, 0]);
    bench.call(http, 1, [u64::MAX, 99, 0, 0, 0, 0]);
    assert_eq!(
        bench.machine.log,
        [
            "refused: service=http operation=off object=slot:60 missing=\"no rule gives http a capability in this slot\"",
            "refused: service=http operation=99 object=slot:18446744073709551615 \
             missing=\"no rule gives http a capability in this slot\"",
        ]
    );
}

#[test]
fn an_operation_that_the_object_does_not_have_is_logged() {
    let (status, logged) = refusal(&mut Bench::new(&shipped()), "http", "console", Operation::GrantIssue, [0, 0]);
    assert_eq!(status, Status::WrongOperation);
    assert_eq!(
        logged,
        "refused: service=http operation=issue object=console:console missing=\"a console has no such operation\""
    );
}

#[test]
fn a_right_that_was_not_given_is_logged() {
    let (status, logged) = refusal(&mut Bench::new(&shipped()), "tcpip", "clock", Operation::ClockWall, [0, 0]);
    assert_eq!(status, Status::MissingRight);
    let line = line(&shipped(), "[services.tcpip]", "clock");
    assert_eq!(
        logged,
        format!(
            "refused: service=tcpip operation=wall object=clock:clock \
             missing=\"'wall' is not among the rights of line {line}\""
        )
    );
}

#[test]
fn an_argument_out_of_range_is_logged() {
    let (status, logged) = refusal(&mut Bench::new(&shipped()), "http", "info", Operation::InfoRead, [10, 0]);
    assert_eq!(status, Status::BadArgument);
    let line = line(&shipped(), "[services.http]", "info");
    assert_eq!(
        logged,
        format!(
            "refused: service=http operation=read object=info:info missing=\"argument 0xa is out of range for line {line}\""
        )
    );
}

#[test]
fn a_page_or_peer_that_the_rule_does_not_allow_is_logged() {
    let mut bench = Bench::new(&narrow());
    let line = line(&narrow(), "[grants.rx-pages]", "[grants");
    for (operation, arguments, missing) in [
        (Operation::GrantIssue, [128, 3], format!("line {line} does not allow page 128 for peer 3")),
        (Operation::GrantIssue, [0, 2], format!("line {line} does not allow page 0 for peer 2")),
        (Operation::GrantEnd, [500, 77], format!("line {line} does not allow page 500")),
    ] {
        let (status, logged) = refusal(&mut bench, "grant-manager", "rx-pages", operation, arguments);
        assert_eq!(status, Status::NotPermitted);
        let operation = operation.name();
        assert_eq!(
            logged,
            format!("refused: service=grant-manager operation={operation} object=grant:rx-pages missing=\"{missing}\"")
        );
    }
}

#[test]
fn a_refused_range_is_logged_by_its_first_and_last_page() {
    let mut bench = Bench::new(&narrow());
    let line = line(&narrow(), "[grants.rx-pages]", "[grants");
    for (operation, arguments, missing) in [
        (Operation::GrantIssue, [126, 3, 0, 3], "pages 126 to 129 for peer 3"),
        (Operation::GrantIssue, [0, 2, 0, 1], "pages 0 to 1 for peer 2"),
        (Operation::GrantIssue, [5, 3, 0, u64::MAX], "pages 5 to 18446744073709551615 for peer 3"),
        (Operation::GrantEnd, [500, 77, 0, 3], "page 500"),
    ] {
        assert_eq!(bench.status("grant-manager", "rx-pages", operation, arguments), Status::NotPermitted);
        let logged = bench.machine.log.last().unwrap();
        assert!(logged.ends_with(&format!("missing=\"line {line} does not allow {missing}\"")), "{logged}");
    }
}

#[test]
fn a_peer_that_the_port_rule_does_not_allow_is_logged() {
    let (status, logged) = refusal(&mut Bench::new(&narrow()), "netfront", "tx-events", Operation::PortOpen, [10, 0]);
    assert_eq!(status, Status::NotPermitted);
    let line = line(&narrow(), "[ports.tx-events]", "[ports");
    assert_eq!(
        logged,
        format!(
            "refused: service=netfront operation=open object=port:tx-events missing=\"line {line} does not allow peer 10\""
        )
    );
}

#[test]
fn an_operation_in_the_wrong_state_is_logged() {
    let (status, logged) = refusal(&mut Bench::new(&shipped()), "netfront", "rx-events", Operation::PortClose, [0, 0]);
    assert_eq!(status, Status::WrongState);
    assert_eq!(
        logged,
        "refused: service=netfront operation=close object=port:rx-events \
         missing=\"none: not possible in the object's present state\""
    );
}

#[test]
fn an_operation_that_the_machine_does_not_offer_is_logged() {
    let mut bench = Bench::new(&shipped());
    (bench.machine.random, bench.machine.wall, bench.machine.refuses_ports) = (None, None, true);
    let (status, logged) = refusal(&mut bench, "tcpip", "entropy", Operation::EntropyDraw, [0, 0]);
    assert_eq!(status, Status::Unavailable);
    assert_eq!(
        logged,
        "refused: service=tcpip operation=draw object=entropy:entropy missing=\"none: the machine does not offer it\""
    );
    assert_eq!(refusal(&mut bench, "http", "clock", Operation::ClockWall, [0, 0]).0, Status::Unavailable);
    assert_eq!(refusal(&mut bench, "netfront", "tx-events", Operation::PortOpen, [0, 0]).0, Status::Unavailable);
}

#[test]
fn an_unknown_system_call_is_logged() {
    let mut bench = Bench::new(&shipped());
    let http = bench.service("http");
    bench.call(http, 7, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        bench.machine.log,
        [
            "refused: service=http operation=call:7 object=none missing=\"there are two system calls, wait (0) and invoke (1)\""
        ]
    );
}

#[test]
fn a_queue_and_a_region_are_logged_by_their_names() {
    let mut bench = Bench::new(&shipped());
    let (_, logged) = refusal(&mut bench, "http", "socket.requests", Operation::PowerOff, [0, 0]);
    assert!(
        logged.contains("object=queue sender:socket.requests missing=\"a queue sender has no such operation\""),
        "{logged}"
    );
    let (_, logged) = refusal(&mut bench, "http", "stream-in", Operation::GrantIssue, [0, 0]);
    assert!(logged.contains("object=region:stream-in "), "{logged}");
}

/// If the peer still uses a page, the caller has not tried anything that is forbidden.
#[test]
fn a_page_in_use_is_not_logged() {
    let mut bench = Bench::new(&shipped());
    let issued = bench.invoke("grant-manager", "rx-pages", Operation::GrantIssue, [0, 0, 0, 0]);
    bench.machine.in_use.insert(issued.words[0] as u32);
    assert_eq!(bench.status("grant-manager", "rx-pages", Operation::GrantEnd, [0; 4]), Status::InUse);
    assert_eq!((bench.machine.log.len(), bench.kernel.refusals()), (0, 0));
}
