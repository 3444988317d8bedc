//! What the XenStore service and the grant manager say, late or otherwise than expected.

use super::*;

/// Everybody runs until nobody moves, but the XenStore service does not answer.
fn settle_without_store(world: &mut World) {
    assert!((0..1000).any(|_| !(world.wake() | world.grants.run())), "it does not come to rest");
}

/// The question is given up after a time, and another one is asked meanwhile.
#[test]
fn an_answer_that_comes_too_late_is_none_to_a_later_question() {
    for moment in 1..20 {
        let mut world = World::bare(64);
        world.back.create(&mut world.daemon);
        (0..moment).for_each(|_| drop((world.wake(), world.grants.run(), world.store.run(&mut world.daemon))));
        settle_without_store(&mut world);
        for _ in 0..20 {
            world.now += 1_000_000_000;
            world.system.set_now(world.now);
            settle_without_store(&mut world);
        }
        for _ in 0..10 {
            world.pass(1_000);
        }
        assert_eq!(world.replies(), [UP], "moment {moment}: {}", world.system.console());
        for line in world.system.console().lines() {
            assert!(
                line.contains("no answer from a service") || line.contains("connected,"),
                "moment {moment}: {line}"
            );
        }
    }
}
