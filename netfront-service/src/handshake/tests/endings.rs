//! How a connection ends, and what late answers do.

use super::*;

/// Ends the connection at tcpip's request, and returns the commands of that.
fn closed(walk: &mut Walk) -> Vec<Command> {
    walk.done.clear();
    walk.handshake.close(walk.now);
    walk.nodes.push(("vif/7/0/state", Ok("5")));
    walk.run();
    assert_eq!(walk.handshake.phase, Phase::Stopped);
    std::mem::take(&mut walk.done)
}

#[test]
fn a_transaction_is_aborted_if_it_may_be_open() {
    let aborts = |mut walk: Walk| closed(&mut walk).contains(&Command::Store(Action::Abort));
    let begin = Command::Store(Action::Begin);
    let mut walk = Walk::new();
    walk.until(|command| *command == begin);
    assert!(aborts(walk), "the daemon may have begun it");
    let mut walk = Walk::new();
    walk.until(|command| *command == begin);
    walk.handshake.command_unsent();
    assert!(!aborts(walk), "nobody was told to begin it");
    let mut walk = Walk::new();
    let command = walk.until(|command| *command == begin);
    walk.dispatch(command);
    assert!(aborts(walk), "no key is written yet");
    assert!(!aborts(Walk::up()));
}

/// The states are written that the back end waits for, if it may have seen that we connect.
#[test]
fn a_back_end_that_may_know_of_the_connection_is_told_that_it_ends() {
    let states = |mut walk: Walk| {
        let states = closed(&mut walk);
        states.iter().filter_map(written).map(|(_, text)| text).collect::<Vec<_>>()
    };
    let is_connect =
        |command: &Command| written(command).is_some_and(|(path, text)| path.ends_with("/state") && text == "4");
    let mut walk = Walk::new();
    walk.until(is_connect);
    assert_eq!(states(walk), ["5", "6"], "the write may arrive");
    let mut walk = Walk::new();
    walk.until(is_connect);
    walk.handshake.command_unsent();
    assert_eq!(states(walk), [""; 0], "it was not sent");
    assert_eq!(states(Walk::up()), ["5", "6"]);
}

#[test]
fn a_change_of_the_device_shortens_the_pause_and_does_not_undo_a_stop() {
    let mut walk = Walk::up();
    walk.handshake.violated(Violation::Id, walk.now);
    walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
    walk.run();
    walk.pass(Duration::ZERO);
    walk.run();
    assert!(walk.handshake.is_up(), "without a pause");
    walk.handshake.close(walk.now);
    walk.handshake.watch_fired(DEVICE_TOKEN, walk.now);
    walk.run();
    assert_eq!(walk.handshake.phase, Phase::Stopped);
}

#[test]
fn only_a_back_end_that_does_not_close_is_blamed_for_it() {
    let blamed = |walk: &mut Walk| walk.logged().contains(&"the back end does not close");
    let mut walk = Walk::up();
    walk.handshake.violated(Violation::Id, walk.now);
    walk.until(|command| matches!(command, Command::Grants(_)));
    walk.pass(ANSWER_TIME);
    assert!(!blamed(&mut walk), "it was the grant manager that did not answer");
    let mut walk = Walk::up();
    walk.nodes.push(("vif/7/0/state", Ok("4")));
    walk.handshake.violated(Violation::Id, walk.now);
    walk.run();
    let deadline = walk.handshake.deadline().expect("a limit");
    walk.pass(deadline.since(walk.now));
    assert!(blamed(&mut walk));
}

#[test]
fn pauses_grow_until_there_is_another_back_end() {
    let mut walk = Walk::new();
    let mut pause = |backend| {
        walk.backend = backend;
        walk.run();
        assert!(walk.handshake.is_up());
        walk.handshake.violated(Violation::Id, walk.now);
        walk.run();
        let pause = walk.handshake.deadline().expect("a pause").since(walk.now);
        walk.pass(pause);
        pause.as_secs()
    };
    assert_eq!([BACKEND_PATH; 4].map(&mut pause), [1, 2, 4, 8]);
    assert_eq!(["/local/domain/0/backend/vif/8/0"; 2].map(pause), [1, 2]);
}

/// The grant manager says that pages became free whenever that happens, and answers requests that
/// were given up.
#[test]
fn a_report_of_the_grant_manager_is_no_answer() {
    let whole = |inject: Option<(usize, u8)>| {
        let mut walk = Walk::new();
        for turn in 0..400 {
            if inject.is_some_and(|(at, _)| at == turn) {
                let rule = inject.expect("a rule").1;
                walk.handshake.grants_answered(grants::Reply::Ended { rule, still_mapped: 0 }, walk.now);
            }
            let Some(command) = walk.command() else { break };
            walk.dispatch(command);
        }
        assert!(walk.handshake.is_up());
        walk.handshake.violated(Violation::Id, walk.now);
        walk.run();
        walk.done
    };
    let usual = whole(None);
    for at in 0..usual.len() {
        for rule in 0..3 {
            assert_eq!(whole(Some((at, rule))), usual, "rule {rule} before {:?}", usual[at]);
        }
    }
}
