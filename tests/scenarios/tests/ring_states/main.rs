//! Tests the shared rings in every state, against a back end that writes each field with the values
//! at the limits of the checks.
//!
//! Each case has a new netfront, which an honest back end brings to the state. Then a hostile one
//! writes one or two wrong fields. The result must be that of the protocol, of which `model` is an
//! independent statement: the front end accepts the write, or ends the connection and logs the
//! reason, or ignores it. In every case there is no panic, no page is lost or owned twice, no grant
//! is beyond the rules, the numbers of reads and of wakes are bounded, and no byte is read twice.
//! Then the back end behaves, and frames go both ways.
#![forbid(unsafe_code)]

mod fields;
mod model;
mod stage;
#[path = "../../../../netfront-service/src/service/tests/world.rs"]
mod world;

use fields::{Attack, attacks};
use model::{BOUNDS, Effect, FEATURES, ID, PRODUCER, SLOTS};
use stage::{STATES, Stage, State};

/// The limits of the front end after a write: runs, and words read from the rings.
const WAKES: u32 = 12;
const READS: u64 = 24;
/// The largest number of lines in the log. One of them is about the closing back end, or the new
/// connection.
const LINES: usize = 3;

/// The number of cases in each state with one wrong field, and with two.
const COUNTS: [usize; 2] = [298, 2241];
/// The states in which two fields are wrong.
const PAIRS: [State; 3] = [State::Half, State::Chain, State::Extra];

/// The numbers of ignored, taken and refused writes.
type Counts = [usize; 3];

/// Returns the violations that the log names.
fn violations(log: &str) -> Vec<&'static str> {
    [PRODUCER, ID, BOUNDS, FEATURES, SLOTS].into_iter().filter(|text| log.contains(text)).collect()
}

/// Tries a case. Returns its result.
fn attempt(state: State, attack: Attack) -> Effect {
    let mut stage = state.reach();
    let case = format!("{state:?}: {attack:x?}");
    let before = (stage.world.system.console().len(), stage.world.wakes, stage.world.script.reads());
    let granted: Vec<u32> = stage.world.grants.granted.keys().copied().collect();
    let was = (stage.model.frames, stage.model.done);
    let (tx, rx, _) = stage.view();
    let (mut effect, wrong) = stage.attack(attack);
    if !state.reads_rings() {
        effect = Effect::Ignored;
    }
    stage.look();
    let log = stage.world.system.console()[before.0..].to_string();
    let (wakes, reads) = (stage.world.wakes - before.1, stage.world.script.reads() - before.2);
    assert!(wakes <= WAKES && reads <= READS, "{case}: {wakes} wakes, {reads} reads");
    assert!(log.lines().count() <= LINES, "{case}: {log}");
    let logged = violations(&log);
    if effect == Effect::Violation {
        assert!(logged.iter().any(|text| wrong.contains(text)) && logged.len() == 1, "{case}: {wrong:?}, {log}");
        check_violation(&mut stage, logged[0], &case);
    } else {
        assert_eq!(logged, Vec::<&str>::new(), "{case}: {log}");
        let (frames, done) = (stage.model.frames - was.0, stage.model.done - was.1);
        let expected = if state.reads_rings() { (frames + stage.pending, done) } else { (0, 0) };
        assert_eq!(stage.take(), expected, "{case}: {log}");
        stage.restore(attack, tx, rx);
        if state.reads_rings() && !matches!(state, State::Closing | State::Draining) {
            let now: Vec<u32> = stage.world.grants.granted.keys().copied().collect();
            assert_eq!(now, granted, "{case}");
            stage.answer_all();
        }
    }
    if state == State::Draining {
        stage.world.pass(500);
        stage.run();
        stage.ended();
    } else {
        stage.behave();
    }
    effect
}

/// Checks that the connection has ended, and that the back end finds the reason.
fn check_violation(stage: &mut Stage, text: &str, case: &str) {
    assert_eq!(stage.downs, 1, "{case}");
    let node = stage.world.daemon.text("/local/domain/7/error/device/vif/0/error");
    assert!(node.is_some_and(|node| node.contains(text)), "{case}");
}

/// Tries every case of a state. Returns the results of those with one wrong field, and of those
/// with two.
fn enumerate(state: State) -> [Counts; 2] {
    let (tx, rx, ids) = state.reach().view();
    let cases = attacks(tx, rx, ids);
    assert_eq!(cases.each_ref().map(Vec::len), COUNTS);
    let mut counts = [[0; 3]; 2];
    for (cases, counts) in cases.into_iter().zip(&mut counts) {
        for attack in cases {
            counts[attempt(state, attack) as usize] += 1;
        }
        if !PAIRS.contains(&state) {
            break;
        }
    }
    println!("{state:?}: ignored, accepted, violations {counts:?} with one and with two wrong fields");
    counts
}

macro_rules! states {
    ($($test:ident: $state:ident, $one:expr, $two:expr;)*) => {
        $(
            #[test]
            fn $test() {
                assert_eq!(enumerate(State::$state), [$one, $two]);
            }
        )*

        #[test]
        fn every_state_is_tried() {
            assert_eq!(STATES, [$(State::$state),*]);
        }
    };
}

/// For each state, the numbers of ignored and accepted cases and of violations, with one wrong
/// field and with two.
const NONE: Counts = [0; 3];
states! {
    idle: Idle, [101, 60, 137], NONE;
    one: One, [101, 72, 125], NONE;
    half: Half, [99, 73, 126], [0, 351, 1890];
    full: Full, [100, 91, 107], NONE;
    waiting: Waiting, [100, 88, 110], NONE;
    round: Round, [98, 84, 116], NONE;
    chain: Chain, [100, 55, 143], [0, 239, 2002];
    extra: Extra, [100, 15, 183], [0, 82, 2159];
    last_extra: LastExtra, [100, 15, 183], NONE;
    plain: Plain, [99, 73, 126], NONE;
    one_channel: OneChannel, [99, 73, 126], NONE;
    queue_full: QueueFull, [100, 71, 127], NONE;
    connecting: Connecting, [101, 60, 137], NONE;
    closing: Closing, [99, 73, 126], NONE;
    draining: Draining, [99, 73, 126], NONE;
    await_closing: AwaitClosing, [298, 0, 0], NONE;
    rings_mapped: RingsMapped, [298, 0, 0], NONE;
    down: Down, [298, 0, 0], NONE;
}
