//! The service against a simulated XenStore service, a recorded kernel, and tcpip, whose part the
//! test plays.

use cloister_caps::{Operation, Slot};
use cloister_interfaces::control::Reply as ControlReply;
use cloister_interfaces::{Notifications, Server};
use cloister_sim::fakes::StoreService;
use cloister_sim::{ChannelMemory, Recorder, SharedMemory, Xenstored, channel};
use proptest::prelude::*;

use super::*;

const NODE: &str = "/local/domain/7/control/shutdown";

struct World {
    system: Recorder,
    daemon: Xenstored,
    store: StoreService<Recorder>,
    /// The memory of the queues to the XenStore service.
    memory: ChannelMemory,
    tcpip: Server<Control, Recorder, SharedMemory>,
    service: Controller<Recorder, SharedMemory>,
    now: u64,
}

impl World {
    fn new() -> World {
        let system = Recorder::new();
        let memory = ChannelMemory::new::<Store>(4);
        let (store, store_server) = memory.ends((&system, 0), (&system, 1));
        let (control, tcpip) = channel::<Control, _>(&system, 2, &system, 3, 2);
        let service = Controller::new(Caps {
            console: Console::new(system.clone(), Slot(0)),
            clock: Clock::new(system.clone(), Slot(1)),
            power: Power::new(system.clone(), Slot(9)),
            store,
            control,
        });
        let daemon = Xenstored::new(SharedMemory::new(4096), 7);
        let store = StoreService::new(store_server);
        World { system, daemon, store, memory, tcpip, service, now: 1_000_000_000 }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.service.notified(Notifications::ALL);
            if !self.store.run(&mut self.daemon) && self.service.deadline() != Some(Instant::START) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000_000;
        self.system.set_now(self.now);
        self.settle();
    }

    fn command(&mut self, text: &str) {
        self.settle();
        self.daemon.set(NODE, text);
        self.settle();
    }

    fn quiesced(&mut self) -> bool {
        matches!(self.tcpip.requests.pop(), Some(Ok(ControlRequest::Quiesce)))
    }

    fn powered(&self) -> Vec<Operation> {
        let calls = self.system.take_calls().into_iter().map(|call| call.1);
        calls.filter(|operation| matches!(operation, Operation::PowerOff | Operation::PowerReboot)).collect()
    }
}

#[test]
fn features_are_published_and_an_empty_node_is_no_command() {
    let mut world = World::new();
    world.settle();
    for (name, value) in [("poweroff", "1"), ("reboot", "1"), ("suspend", "0")] {
        assert_eq!(world.daemon.text(&format!("/local/domain/7/control/feature-{name}")).as_deref(), Some(value));
    }
    assert!(!world.quiesced());
    assert!(!world.store.in_transaction());
    assert_eq!((world.powered(), world.service.deadline()), (vec![], None));
}

#[test]
fn a_malformed_message_of_the_xenstore_service_is_logged() {
    let mut world = World::new();
    world.settle();
    world.store.notify(1);
    world.memory.replies.rewrite_last(&[0xFF; 8]);
    world.service.notified(Notifications::ALL);
    assert_eq!(world.system.console(), "violation by xenstore: a message with an unknown tag at byte 0\n");
    world.command("poweroff");
    assert!(world.quiesced(), "the next ones are handled");
}

#[test]
fn features_that_cannot_be_written_are_no_harm() {
    let mut world = World::new();
    world.store.refuse = Some(|action| {
        matches!(action, Action::Write(path, _) if path.contains("feature")).then_some(StoreError::Access)
    });
    world.command("poweroff");
    assert!(world.quiesced());
}

#[test]
fn commands_are_acknowledged_and_carried_out_when_tcpip_is_quiet() {
    for (text, operation) in
        [("poweroff", Operation::PowerOff), ("halt", Operation::PowerOff), ("reboot", Operation::PowerReboot)]
    {
        let mut world = World::new();
        world.command(text);
        assert_eq!(world.daemon.text(NODE).as_deref(), Some(""));
        assert!(world.quiesced());
        assert_eq!(world.powered(), []);
        world.tcpip.replies.send(&ControlReply::Quiet).expect("room");
        world.settle();
        assert_eq!(world.powered(), [operation]);
        world.settle();
        assert_eq!(world.powered(), [], "once");
    }
}

#[test]
fn tcpip_is_not_waited_for_for_ever() {
    let mut world = World::new();
    world.command("poweroff");
    world.pass(9);
    assert_eq!(world.powered(), []);
    world.pass(1);
    assert_eq!(world.powered(), [Operation::PowerOff]);
    assert!(world.system.console().contains("not closed in time"));
}

#[test]
fn a_quiet_that_nobody_asked_for_does_not_count() {
    let mut world = World::new();
    world.settle();
    world.tcpip.replies.send(&ControlReply::Quiet).expect("room");
    world.command("poweroff");
    assert_eq!(world.powered(), []);
}

#[test]
fn suspend_is_left_in_the_node_and_logged_once() {
    let mut world = World::new();
    world.command("suspend");
    world.daemon.set("/local/domain/7/control/x", "1");
    world.settle();
    assert_eq!(world.daemon.text(NODE).as_deref(), Some("suspend"));
    assert_eq!(world.system.console().matches("suspend is not supported").count(), 1);
    world.command("");
    world.command("suspend");
    assert_eq!(world.system.console().matches("suspend is not supported").count(), 2);
    world.command("reboot");
    assert!(world.quiesced());
}

#[test]
fn an_unknown_command_is_acknowledged_and_logged_without_its_control_characters() {
    let mut world = World::new();
    world.command("crash\n[xenstore] all is well");
    assert_eq!(world.daemon.text(NODE).as_deref(), Some(""));
    assert!(world.system.console().contains("unknown command crash\\n[xenstore]"));
    assert!(!world.quiesced());
}

#[test]
fn conflicts_are_tried_again_at_once_and_then_after_a_pause() {
    let mut world = World::new();
    world.settle();
    world.store.conflicts = 16;
    world.command("poweroff");
    assert!(world.quiesced());
    let mut world = World::new();
    world.settle();
    world.store.conflicts = 30;
    world.command("poweroff");
    assert!(!world.quiesced());
    world.pass(5);
    assert!(world.quiesced());
}

#[test]
fn a_watch_that_fails_is_set_later() {
    let mut world = World::new();
    world.store.refuse = Some(|action| matches!(action, Action::Watch(..)).then_some(StoreError::Timeout));
    world.settle();
    world.store.refuse = None;
    world.daemon.set(NODE, "reboot");
    world.pass(5);
    assert!(world.quiesced());
}

#[test]
fn a_read_that_fails_leaves_no_transaction_open() {
    let mut world = World::new();
    world.settle();
    world.store.refuse = Some(|action| matches!(action, Action::Read(_)).then_some(StoreError::Access));
    world.daemon.set(NODE, "reboot");
    world.settle();
    assert_eq!(
        world.system.console().matches("a step failed in XenStore; trying again\n").count(),
        1,
        "a pause between attempts"
    );
    world.store.refuse = None;
    world.pass(5);
    assert!(world.quiesced());
    assert!(!world.store.in_transaction());
}

#[test]
fn a_silent_xenstore_service_is_asked_again() {
    let mut world = World::new();
    world.service.notified(Notifications::ALL);
    world.now += 15_000_000_000;
    world.system.set_now(world.now);
    world.service.notified(Notifications::ALL);
    world.pass(5);
    world.command("poweroff");
    assert!(world.quiesced());
}

proptest! {
    #[test]
    fn only_the_three_commands_end_the_domain(text in "(poweroff|halt|reboot|suspend|[a-z]{0,9}|\\PC{0,20})(\0| |)") {
        let mut world = World::new();
        world.command(&text);
        world.pass(20);
        let ends = matches!(text.as_str(), "poweroff" | "halt" | "reboot");
        prop_assert_eq!(world.powered().len(), usize::from(ends));
    }
}
