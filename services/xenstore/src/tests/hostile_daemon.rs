//! A daemon that writes anything at all into the ring.

use super::*;

proptest! {
    #[test]
    fn nothing_a_hostile_daemon_writes_stops_the_service(
        steps in prop::collection::vec((any::<u8>(), any::<[u32; 4]>(), prop::collection::vec(any::<u8>(), 0..300)), 1..40)
    ) {
        let mut world = World::new(0, 4);
        world.settle();
        world.ask(1, Action::Watch(path("device/vif/0"), 1)).expect("a watch");
        for (choice, words, bytes) in steps {
            if world.clients[0].requests.room() > 0 {
                world.send(0, read("control/shutdown"));
            }
            match choice % 6 {
                0 => inject(&world.ring, words[0] % 30, words[1], words[2] % 300, &bytes),
                1 => inject(&world.ring, 15, 0, bytes.len() as u32, &bytes),
                2 => inject(&world.ring, words[0] % 30, world.ring.load(2052) ^ words[1], words[2], &bytes),
                3 => world.ring.write(1024 + (words[0] % 900) as usize, &bytes[..bytes.len().min(100)]),
                4 if choice > 200 => world.ring.store(2048 + (choice as usize % 8) * 4, words[3]),
                _ => world.pass(u64::from(words[0] % 7)),
            }
            world.service.notified(Notifications::ALL);
            world.settle_clients();
        }
    }
}
