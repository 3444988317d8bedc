//! The state machine alone: the order of its commands, and the effect of every answer.

mod endings;
mod peer;

use cloister_caps::EvtchnPort;
use cloister_interfaces::store::{Path, StoreError};

use super::phase::{ANSWER_TIME, CONNECT_TIME, DEVICE, STILL_MAPPED_POLL};
use super::*;

const BACKEND_PATH: &str = "/local/domain/0/backend/vif/7/0";

/// A state machine whose commands succeed, except where a test says otherwise.
struct Walk {
    handshake: Handshake,
    now: Instant,
    backend: &'static str,
    /// Returns the failure of a command that must fail.
    refuse: fn(&Command) -> Option<StoreError>,
    /// The values of nodes that differ from the usual ones, by the ends of their paths.
    nodes: Vec<(&'static str, Result<&'static str, StoreError>)>,
    /// The number of pages of each rule that an earlier back end still maps.
    held: [u16; 3],
    /// Every command that was carried out.
    done: Vec<Command>,
}

impl Walk {
    fn new() -> Walk {
        Walk::allowing(0, 3)
    }

    /// Creates one with a policy that allows these domains as back end.
    fn allowing(peer_first: u16, peer_last: u16) -> Walk {
        let rules = [0, 1, 2].map(|rule| GrantPermission { rule, pages: 4, peer_first, peer_last });
        Walk {
            handshake: Handshake::new(rules, true),
            now: Instant(1_000_000_000),
            backend: BACKEND_PATH,
            refuse: |_| None,
            nodes: Vec::new(),
            held: [0; 3],
            done: Vec::new(),
        }
    }

    fn up() -> Walk {
        let mut walk = Walk::new();
        walk.run();
        assert!(walk.handshake.is_up(), "{:?}", walk.done);
        walk.done.clear();
        walk
    }

    fn command(&mut self) -> Option<Command> {
        self.handshake.command(self.now)
    }

    /// Carries out commands until the wanted one, and returns that.
    fn until(&mut self, wanted: impl Fn(&Command) -> bool) -> Command {
        for _ in 0..400 {
            let command = self.command().expect("a command");
            if wanted(&command) {
                return command;
            }
            self.dispatch(command);
        }
        panic!("no such command: {:?}", self.done);
    }

    /// Carries out commands until there are none.
    fn run(&mut self) {
        for _ in 0..400 {
            let Some(command) = self.command() else { return };
            self.dispatch(command);
        }
        panic!("there is no end of commands");
    }

    fn dispatch(&mut self, command: Command) {
        let Walk { handshake, now, .. } = self;
        match &command {
            Command::Store(action) => {
                let result = (self.refuse)(&command).map_or_else(|| self.store_result(action), Err);
                self.handshake.store_answered(result, self.now);
            }
            Command::Grants(grants::Request::Issue { rule, pages, .. }) => {
                let reference = GrantRef(1000 * (1 + u32::from(*rule)));
                handshake.grants_answered(grants::Reply::Issued { rule: *rule, reference, count: pages.count() }, *now);
            }
            Command::Grants(grants::Request::End { rule }) => {
                handshake.grants_answered(
                    grants::Reply::Ended { rule: *rule, still_mapped: self.held[usize::from(*rule)] },
                    *now,
                );
            }
            Command::OpenPorts { .. } => handshake.ports_opened(Some((EvtchnPort(10), EvtchnPort(11))), *now),
            Command::ResetRings | Command::Start { .. } | Command::Stop => {}
        }
        self.done.push(command);
    }

    fn store_result(&self, action: &Action) -> Result<Value, StoreError> {
        let Action::Read(path) = action else { return Ok(Value::new()) };
        if let Some((_, found)) = self.nodes.iter().find(|(name, _)| path.ends_with(name)) {
            return found.map(value);
        }
        let text = match path.rsplit_once('/').expect("a path").1 {
            "backend-id" => "0",
            "backend" => self.backend,
            "mac" => "00:16:3e:11:22:33",
            "mtu" => "1500",
            "state" if path.starts_with(DEVICE) => "1",
            "state" => match self.handshake.phase {
                Phase::Negotiating(_) => "2",
                Phase::Closing(_) => "6",
                _ => "4",
            },
            _ => "1",
        };
        Ok(value(text))
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.handshake.tick(self.now);
    }

    fn logged(&mut self) -> Vec<&'static str> {
        let text = |note: &Note| match note {
            Note::About(_, text) => *text,
            Note::NotAllowed(_) => "not a back end that the policy allows",
        };
        self.handshake.take_notes().iter().map(text).collect()
    }
}

fn is_read(command: &Command, name: &str) -> bool {
    matches!(command, Command::Store(Action::Read(path)) if path.ends_with(name))
}

fn is_state_of_backend(command: &Command) -> bool {
    is_read(command, "/state") && !is_read(command, &format!("{DEVICE}/state"))
}

/// Returns the path and the text of a command that writes.
fn written(command: &Command) -> Option<(&str, String)> {
    let Command::Store(Action::Write(path, value)) = command else { return None };
    Some((path, String::from_utf8(value.to_vec()).expect("text")))
}

fn has_answer(command: &Command) -> bool {
    matches!(command, Command::Store(_) | Command::Grants(_))
}

#[test]
fn an_unsent_command_is_returned_again() {
    let mut walk = Walk::new();
    let mut turns = 0..100;
    while !walk.handshake.is_up() {
        assert!(turns.next().is_some(), "{:?}", walk.done);
        let command = walk.command().expect("a command");
        if has_answer(&command) {
            walk.handshake.command_unsent();
            assert_eq!(walk.command().as_ref(), Some(&command));
        }
        walk.dispatch(command);
    }
    // It reads the device, and then the back end.
    walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
    for name in ["device/vif/0/backend", "vif/7/0/state"] {
        let command = walk.command().expect("a command");
        assert!(is_read(&command, name), "{command:?}");
        walk.handshake.command_unsent();
        assert_eq!(walk.command().as_ref(), Some(&command));
        walk.dispatch(command);
    }
    assert_eq!(walk.command(), None);
}

#[test]
fn the_keys_are_published_in_one_transaction_and_nothing_else() {
    let mut walk = Walk::new();
    walk.until(|command| *command == Command::Store(Action::Begin));
    walk.handshake.command_unsent();
    walk.done.clear();
    walk.until(|command| *command == Command::Store(Action::Commit));
    let keys: Vec<_> = walk.done.iter().filter_map(written).collect();
    let expected = [
        ("tx-ring-ref", "1000"),
        ("rx-ring-ref", "1001"),
        ("event-channel-tx", "10"),
        ("event-channel-rx", "11"),
        ("request-rx-copy", "1"),
        ("feature-rx-notify", "1"),
        ("feature-no-csum-offload", "0"),
        ("feature-sg", "1"),
        ("feature-gso-tcpv4", "1"),
    ];
    let expected = expected.map(|(name, text)| (format!("{DEVICE}/{name}"), text.to_string()));
    assert_eq!(keys.iter().map(|(path, text)| (path.to_string(), text.clone())).collect::<Vec<_>>(), expected);
}

#[test]
fn the_log_says_which_state_never_came() {
    for (state, why) in [("1", "the back end offers no connection"), ("2", "the back end does not connect")] {
        let mut walk = Walk::new();
        walk.nodes.push(("vif/7/0/state", Ok(state)));
        walk.run();
        // Reading the device does not extend the deadline.
        walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
        walk.run();
        walk.pass(CONNECT_TIME - Duration::from_nanos(1));
        assert_eq!(walk.logged(), [""; 0]);
        walk.pass(Duration::from_nanos(1));
        assert_eq!((walk.logged(), walk.command()), (vec![why], Some(Command::Stop)));
    }
}

/// The XenStore service may be restarted during a connection.
#[test]
fn a_connection_survives_an_unanswered_request() {
    let mut walk = Walk::up();
    walk.handshake.watch_fired(BACKEND_TOKEN, walk.now);
    let question = walk.command().expect("a question");
    assert!(is_state_of_backend(&question));
    walk.pass(ANSWER_TIME);
    assert_eq!((walk.handshake.is_up(), walk.command(), walk.logged()), (true, None, vec![]));
    assert_eq!(walk.handshake.deadline(), Some(walk.now + POLL));
    walk.pass(POLL);
    assert_eq!(walk.command(), Some(question));
}

#[test]
fn a_connection_is_torn_down_without_answers() {
    let mut walk = Walk::up();
    walk.handshake.violated(Violation::Id, walk.now);
    let mut asked = Vec::new();
    let mut turns = 0..40;
    while walk.handshake.phase != Phase::Paused {
        assert!(turns.next().is_some(), "{asked:?}");
        if let Some(command) = walk.command() {
            asked.push(command);
        }
        let before = walk.handshake.deadline().expect("a limit");
        walk.pass(before.since(walk.now));
    }
    let texts: Vec<_> = asked.iter().filter_map(written).map(|(_, text)| text).collect();
    assert_eq!(texts, [Violation::Id.text(), "5", "6"]);
    let ends: Vec<_> = asked.iter().filter(|command| matches!(command, Command::Grants(_))).collect();
    assert_eq!(ends.len(), 3, "{asked:?}");
}

/// The rings are in use until the command to stop was given.
#[test]
fn no_deadline_overrides_the_command_to_stop() {
    let mut walk = Walk::up();
    walk.handshake.violated(Violation::Id, walk.now);
    for _ in 0..3 {
        walk.pass(ANSWER_TIME);
    }
    assert_eq!(walk.command(), Some(Command::Stop));
}

#[test]
fn only_held_pages_are_requested_again() {
    let mut walk = Walk::new();
    walk.held = [0, 2, 0];
    walk.run();
    assert_eq!(walk.logged(), ["an earlier back end still maps pages; waiting until it unmaps them"]);
    walk.done.clear();
    walk.pass(STILL_MAPPED_POLL);
    walk.run();
    assert_eq!(walk.done, [Command::Grants(grants::Request::End { rule: 1 })]);
    (walk.held, walk.done) = ([0; 3], Vec::new());
    walk.pass(STILL_MAPPED_POLL);
    walk.run();
    assert!(walk.handshake.is_up());
    // The device may have changed meanwhile, so it is read again.
    let places = ["/backend-id", "/mac"].map(|name| walk.done.iter().position(|command| is_read(command, name)));
    let reset = walk.done.iter().position(|command| *command == Command::ResetRings);
    assert!(places.iter().all(|place| place.is_some() && *place < reset), "{:?}", walk.done);
}

#[test]
fn each_grant_is_ended_once() {
    let ends = |walk: &mut Walk| {
        let done = std::mem::take(&mut walk.done).into_iter();
        done.filter_map(|command| match command {
            Command::Grants(grants::Request::End { rule }) => Some(rule),
            _ => None,
        })
        .collect::<Vec<_>>()
    };
    let mut walk = Walk::new();
    walk.run();
    assert_eq!(ends(&mut walk), [0, 1, 2], "a new service does not know what its earlier run was granted");
    for _ in 0..3 {
        walk.handshake.violated(Violation::Id, walk.now);
        walk.run();
        assert_eq!(ends(&mut walk), [0, 1, 2]);
        walk.pass(Duration::from_secs(60));
        walk.run();
        assert_eq!((walk.handshake.is_up(), ends(&mut walk)), (true, vec![]));
    }
}

#[test]
fn one_back_end_is_watched_at_a_time_and_once() {
    let watch = |path: &str| Command::Store(Action::Watch(Path::from(path).expect("a path"), BACKEND_TOKEN));
    let unwatch = |path: &str| Command::Store(Action::Unwatch(Path::from(path).expect("a path"), BACKEND_TOKEN));
    let is_watch = |command: &&Command| matches!(command, Command::Store(Action::Watch(..) | Action::Unwatch(..)));
    let (first, second) = ("/local/domain/0/backend/vif/7/0/state", "/local/domain/0/backend/vif/8/0/state");
    let again = |walk: &mut Walk| {
        walk.done.clear();
        walk.handshake.violated(Violation::Id, walk.now);
        walk.run();
        walk.pass(Duration::from_secs(60));
        walk.run();
        assert!(walk.handshake.is_up());
        walk.done.iter().filter(is_watch).cloned().collect::<Vec<_>>()
    };
    let mut walk = Walk::new();
    walk.run();
    assert_eq!(walk.done.iter().filter(is_watch).nth(1), Some(&watch(first)));
    assert_eq!(again(&mut walk), []);
    walk.backend = "/local/domain/0/backend/vif/8/0";
    assert_eq!(again(&mut walk), [unwatch(first), watch(second)]);
    assert_eq!(again(&mut walk), []);
}

#[test]
fn a_committed_transaction_is_not_aborted() {
    let mut walk = Walk::up();
    walk.handshake.violated(Violation::Id, walk.now);
    walk.run();
    assert!(!walk.done.contains(&Command::Store(Action::Abort)), "{:?}", walk.done);
}

#[test]
fn conflicts_are_tried_again_sixteen_times_and_other_failures_never() {
    let conflict: fn(&Command) -> Option<StoreError> =
        |command| (*command == Command::Store(Action::Commit)).then_some(StoreError::Again);
    let quota: fn(&Command) -> Option<StoreError> =
        |command| (*command == Command::Store(Action::Commit)).then_some(StoreError::Quota);
    for (refuse, begun) in [(conflict, 17), (quota, 1)] {
        let mut walk = Walk::new();
        walk.refuse = refuse;
        walk.run();
        let begins = walk.done.iter().filter(|command| **command == Command::Store(Action::Begin)).count();
        assert_eq!((begins, walk.logged()), (begun, vec!["a step of the connection failed in XenStore"]));
    }
}

/// There is no connection if XenStore refuses any of the changes.
#[test]
fn a_refused_step_is_not_skipped() {
    type Refuse = fn(&Command) -> Option<StoreError>;
    let refused = "a step of the connection failed in XenStore";
    let cases: [(Refuse, &str); 6] = [
        (|command| written(command).filter(|written| written.1 == "1").map(|_| StoreError::Access), refused),
        (|command| (*command == Command::Store(Action::Begin)).then_some(StoreError::Other), refused),
        (
            |command| written(command).filter(|written| written.0.ends_with("feature-sg")).map(|_| StoreError::Quota),
            refused,
        ),
        (|command| written(command).filter(|written| written.1 == "4").map(|_| StoreError::Access), refused),
        (
            |command| matches!(command, Command::Store(Action::Watch(_, BACKEND_TOKEN))).then_some(StoreError::Quota),
            "the back end cannot be watched",
        ),
        (
            |command| matches!(command, Command::Store(Action::Watch(_, DEVICE_TOKEN))).then_some(StoreError::Quota),
            "the network device cannot be watched",
        ),
    ];
    for (case, (refuse, why)) in cases.into_iter().enumerate() {
        let mut walk = Walk::new();
        walk.refuse = refuse;
        walk.run();
        assert_eq!((walk.logged(), walk.handshake.phase), (vec![why], Phase::Paused), "case {case}");
        walk.refuse = |_| None;
        walk.pass(Duration::from_secs(1));
        walk.run();
        assert!(walk.handshake.is_up(), "case {case}");
    }
}

#[test]
fn each_value_of_a_device_node_has_its_meaning() {
    let up: (bool, Vec<&str>) = (true, vec![]);
    let paused = |text| (false, vec![text]);
    for (name, found, (is_up, logged)) in [
        ("/mtu", Err(StoreError::NotFound), up.clone()),
        ("/mtu", Ok("garbage"), paused("malformed")),
        ("/online", Err(StoreError::NotFound), up.clone()),
        ("/online", Ok("0"), paused("no network device; waiting for one")),
        ("/online", Ok("garbage"), (true, vec!["malformed; taken as 1"])),
        ("device/vif/0/state", Err(StoreError::NotFound), up.clone()),
        ("device/vif/0/state", Ok("6"), up),
        ("device/vif/0/state", Ok("4"), paused("closing a connection left open")),
        ("device/vif/0/state", Ok("garbage"), (true, vec!["malformed; taken as closed"])),
        ("/mac", Err(StoreError::NotFound), paused("no network device; waiting for one")),
        ("/backend-id", Err(StoreError::Policy), paused("the policy refuses it")),
    ] {
        let mut walk = Walk::new();
        walk.nodes.push((name, found));
        walk.run();
        assert_eq!((walk.handshake.is_up(), walk.logged()), (is_up, logged), "{name} {found:?}");
        assert!(is_up || walk.handshake.phase == Phase::Paused, "{name} {found:?}");
    }
}

#[test]
fn an_mtu_is_bounded_by_what_is_sent() {
    for (found, mtu) in [(Err(StoreError::NotFound), 1500), (Ok("68"), 68), (Ok("1400"), 1400), (Ok("9000"), 1500)] {
        let mut walk = Walk::new();
        walk.nodes.push(("/mtu", found));
        walk.run();
        let connection = walk.handshake.connection().expect("a connection");
        assert_eq!((connection.mac(), connection.mtu()), ([0, 0x16, 0x3e, 0x11, 0x22, 0x33], mtu));
    }
}

/// The values that were read may be of two devices.
#[test]
fn a_device_that_changes_while_it_is_read_is_read_again() {
    for (name, times) in [("/backend-id", 1), ("/backend", 2), ("/mac", 2), ("/device/vif/0/state", 2)] {
        let mut walk = Walk::new();
        walk.until(|command| is_read(command, name.trim_start_matches("/device/")));
        walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
        walk.handshake.command_unsent();
        walk.run();
        assert!(walk.handshake.is_up());
        let reads = walk.done.iter().filter(|command| is_read(command, "/backend-id")).count();
        assert_eq!(reads, times, "{name}");
    }
}

#[test]
fn each_state_of_the_back_end_has_its_meaning() {
    let gone = (Err(StoreError::NotFound), "the back end is gone");
    let closes = [(Ok("5"), "the back end closes"), (Ok("6"), "the back end closes")];
    let over = ["0", "1", "2", "3"].map(|state| (Ok(state), "the back end has started over"));
    let running = closes.into_iter().chain(over).chain([gone]);
    let cases = running.map(|case| ("4", case)).chain(closes.map(|case| ("2", case))).chain([("2", gone), ("1", gone)]);
    for (before, (found, why)) in cases {
        let mut walk = Walk::new();
        walk.nodes.push(("vif/7/0/state", Ok(if before == "1" { "1" } else { "2" })));
        walk.run();
        walk.nodes[0].1 = Ok(before);
        walk.handshake.watch_fired(BACKEND_TOKEN, walk.now);
        walk.run();
        walk.nodes[0].1 = found;
        walk.handshake.watch_fired(BACKEND_TOKEN, walk.now);
        assert_eq!(walk.until(|command| !is_state_of_backend(command)), Command::Stop, "{before} {found:?}");
        assert_eq!(walk.logged(), [why], "{before}");
        walk.done.clear();
        walk.run();
        let accused = walk.done.iter().filter_map(written).any(|(path, _)| path.starts_with("error"));
        assert!(!accused, "{before} {found:?}: no violation");
        let left = walk.done.iter().any(|command| written(command).is_some());
        assert_eq!(
            left,
            before != "1" && found != gone.0,
            "{before} {found:?}: nothing is written for a device that is gone"
        );
    }
}

#[test]
fn a_reconfiguring_back_end_is_waited_for() {
    for state in ["7", "8"] {
        let mut walk = Walk::up();
        walk.nodes.push(("vif/7/0/state", Ok(state)));
        walk.handshake.watch_fired(BACKEND_TOKEN, walk.now);
        walk.run();
        assert_eq!(walk.logged(), ["the back end requests reconfiguration, which is not supported; ignored"]);
        assert!(walk.handshake.is_up());
    }
}

#[test]
fn an_unrelated_reply_of_the_grant_manager_is_no_answer() {
    let mut walk = Walk::new();
    for at in 0..3 {
        let issue = |command: &Command| matches!(command, Command::Grants(grants::Request::Issue { .. }));
        let command = walk.until(issue);
        let area = walk.handshake.phase.area_to_grant();
        assert_eq!(area, Some(Area::ALL[at]));
        for rule in (0..4).filter(|rule| usize::from(*rule) != at) {
            walk.handshake.grants_answered(grants::Reply::Issued { rule, reference: GrantRef(7), count: 4 }, walk.now);
            walk.handshake.grants_answered(grants::Reply::Refused { rule }, walk.now);
            walk.handshake.grants_answered(grants::Reply::Ended { rule, still_mapped: 0 }, walk.now);
        }
        let rule = at as u8;
        walk.handshake.grants_answered(grants::Reply::Ended { rule, still_mapped: 0 }, walk.now);
        assert_eq!((walk.handshake.phase.area_to_grant(), walk.logged()), (area, vec![]));
        // The request was not sent yet.
        walk.handshake.command_unsent();
        walk.handshake.grants_answered(grants::Reply::Issued { rule, reference: GrantRef(7), count: 4 }, walk.now);
        walk.handshake.grants_answered(grants::Reply::Refused { rule }, walk.now);
        assert_eq!((walk.handshake.phase.area_to_grant(), walk.logged()), (area, vec![]));
        assert_eq!(walk.command().as_ref(), Some(&command));
        walk.dispatch(command);
    }
    walk.run();
    assert!(walk.handshake.is_up());
    assert!(walk.done.contains(&Command::Start {
        rx: GrantRef(2000),
        tx: GrantRef(3000),
        offloads: Offloads::CHECKSUM | Offloads::SEGMENTS
    }));
}

#[test]
fn ports_that_were_not_asked_for_change_nothing() {
    let mut walk = Walk::new();
    walk.handshake.ports_opened(None, walk.now);
    walk.until(|command| matches!(command, Command::OpenPorts { .. }));
    walk.handshake.command_unsent();
    walk.handshake.ports_opened(None, walk.now);
    assert_eq!(walk.logged(), [""; 0]);
    walk.run();
    walk.handshake.ports_opened(None, walk.now);
    assert!(walk.handshake.is_up());
}

#[test]
fn a_violation_is_written_to_the_error_node_unless_the_device_is_gone() {
    for gone in [false, true] {
        let mut walk = Walk::up();
        if gone {
            walk.nodes.push(("device/vif/0/backend", Err(StoreError::NotFound)));
            walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
            walk.until(|command| *command == Command::Stop);
            walk.done.clear();
        }
        walk.handshake.violated(Violation::Id, walk.now);
        walk.run();
        let expected = [
            ("error/device/vif/0/error", Violation::Id.text()),
            ("device/vif/0/state", "5"),
            ("device/vif/0/state", "6"),
        ];
        let found: Vec<_> = walk.done.iter().filter_map(written).collect();
        let found: Vec<_> = found.iter().map(|(path, text)| (*path, text.as_str())).collect();
        assert_eq!(found, if gone { vec![] } else { expected.to_vec() });
    }
}
