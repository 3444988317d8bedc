use proptest::prelude::*;
use smoltcp::wire::Ipv4Cidr;

use super::*;

const RESERVE: usize = 192;
const ALWAYS_ALLOWED: usize = 64;
const GATEWAY: [u8; 4] = [10, 0, 0, 1];

/// Returns the configuration of a property that is checked with this many cases.
fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases: if cfg!(miri) { 2 } else { cases }, failure_persistence: None, ..ProptestConfig::default() }
}

fn arp_host(high: u8, low: u8, mac: u8) -> ArpHost {
    ArpHost { mac: [2, mac, mac, mac, high, low], address: [10, 0, high, low] }
}

/// Returns a table that knows the gateway.
fn neighbours() -> Neighbours {
    let mut neighbours = Neighbours::new(MAX_NEIGHBOURS, 12_345);
    let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 16);
    neighbours.set_lease(Some(Lease { address, gateway: Some(GATEWAY.into()) }));
    neighbours.set_time(Instant(1 << 40));
    neighbours.learn(arp_host(0, 1, 0), true);
    neighbours
}

fn mac(neighbours: &mut Neighbours, to: [u8; 4]) -> Option<[u8; 6]> {
    neighbours.cached(to).or_else(|| neighbours.route(to)?.mac)
}

#[derive(Clone, Debug)]
enum Act {
    /// A stranger sends us a request.
    Ask(u8, u8),
    /// A packet is sent to a host that does not answer.
    Silent(u8, u8),
    /// A host sends a reply that was never used, nor requested.
    Answer(u8, u8),
    /// A packet is sent to a friend, which is used now and then.
    Send(u8),
    /// A friend changes its link address.
    Move(u8, u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (100u8..=120, any::<u8>()).prop_map(|(high, low)| Act::Ask(high, low)),
        3 => (140u8..=150, any::<u8>()).prop_map(|(high, low)| Act::Silent(high, low)),
        1 => (160u8..=170, any::<u8>()).prop_map(|(high, low)| Act::Answer(high, low)),
        2 => any::<u8>().prop_map(Act::Send),
        1 => (any::<u8>(), 1u8..).prop_map(|(friend, mac)| Act::Move(friend, mac)),
    ]
}

proptest! {
    #![proptest_config(config(100))]

    /// Hosts in use are known at every moment, whatever other hosts do.
    #[test]
    fn neighbours_in_use_are_never_evicted(friends in 1u8..100, acts in prop::collection::vec(act(), 0..1000)) {
        let mut neighbours = neighbours();
        let mut macs = std::collections::BTreeMap::new();
        for friend in 0..friends {
            let host = arp_host(1, friend, 0);
            prop_assert_eq!(mac(&mut neighbours, host.address), None);
            neighbours.learn(host, false);
            macs.insert(friend, host);
        }
        for act in acts {
            match act {
                Act::Ask(high, low) => neighbours.learn(arp_host(high, low, 9), true),
                Act::Silent(high, low) => prop_assert_eq!(mac(&mut neighbours, [10, 0, high, low]), None),
                Act::Answer(high, low) => neighbours.learn(arp_host(high, low, 9), false),
                Act::Send(friend) => {
                    let host = macs[&(friend % friends)];
                    prop_assert_eq!(mac(&mut neighbours, host.address), Some(host.mac));
                }
                Act::Move(friend, mac) => {
                    let host = arp_host(1, friend % friends, mac);
                    neighbours.learn(host, false);
                    macs.insert(friend % friends, host);
                }
            }
            prop_assert_eq!(mac(&mut neighbours, [192, 0, 2, 1]), Some([2, 0, 0, 0, 0, 1]));
        }
        for host in macs.values() {
            prop_assert_eq!(mac(&mut neighbours, host.address), Some(host.mac));
        }
    }
}

/// The requests that were sent, with their times.
#[derive(Default)]
struct Asked(Vec<(Instant, [u8; 4])>);

impl Asked {
    /// Sends a packet to a host, as far as the table is concerned. Returns the link address that it
    /// goes to.
    fn send(&mut self, neighbours: &mut Neighbours, to: [u8; 4]) -> Option<[u8; 6]> {
        let mac = neighbours.cached(to);
        if mac.is_some() {
            return mac;
        }
        let route = neighbours.route(to)?;
        if route.request_to.is_some() {
            self.0.push((neighbours.now(), route.hop));
        }
        route.mac
    }

    /// Checks that in every second each host was requested at most once, and all hosts at most as
    /// often as there are entries.
    fn check(&self) {
        let mut last = std::collections::BTreeMap::new();
        for (number, (at, host)) in self.0.iter().enumerate() {
            let before = last.insert(host, *at);
            assert!(before.is_none_or(|before| *at >= before + REQUEST_INTERVAL), "{host:?} was asked for twice");
            let first = number.checked_sub(MAX_NEIGHBOURS).map(|first| self.0[first].0);
            assert!(first.is_none_or(|first| *at >= first + REQUEST_INTERVAL), "{} were asked for", MAX_NEIGHBOURS + 1);
        }
    }
}

/// Bursts of what anybody can cause, from hosts that are invented or exist, and time between them.
#[derive(Clone, Debug)]
enum Burst {
    /// Hosts send us requests.
    Ask { first: u8, count: u8 },
    /// Packets are sent to hosts, some of which have sent us requests.
    Send { first: u8, count: u8 },
    /// Before a packet is sent to each of them, another host sends us a request.
    Both { first: u8, stranger: u8, count: u8 },
    /// Hosts send replies, whether they were requested or not.
    Answer { first: u8, count: u8 },
    /// Packets are sent to the gateway and to hosts in use, which answer.
    Use,
    /// This number of milliseconds passes.
    Pass(u16),
}

fn burst() -> impl Strategy<Value = Burst> {
    let count = || 1u8..=200;
    prop_oneof![
        2 => (any::<u8>(), count()).prop_map(|(first, count)| Burst::Ask { first, count }),
        2 => (any::<u8>(), count()).prop_map(|(first, count)| Burst::Send { first, count }),
        2 => (any::<u8>(), any::<u8>(), count())
            .prop_map(|(first, stranger, count)| Burst::Both { first, stranger, count }),
        1 => (any::<u8>(), 1u8..=20).prop_map(|(first, count)| Burst::Answer { first, count }),
        1 => Just(Burst::Use),
        2 => (0u16..1500).prop_map(Burst::Pass),
    ]
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn requests_are_limited_for_each_host_and_in_total(
        bursts in prop::collection::vec(burst(), 0..60),
    ) {
        let (mut neighbours, mut asked) = (neighbours(), Asked::default());
        for burst in bursts {
            match burst {
                Burst::Ask { first, count } => {
                    (0..count).for_each(|at| neighbours.learn(arp_host(9, first.wrapping_add(at), 9), true));
                }
                Burst::Send { first, count } => (0..count).for_each(|at| {
                    // A few of them are strangers.
                    let high = if at % 8 == 0 { 9 } else { 7 };
                    asked.send(&mut neighbours, [10, 0, high, first.wrapping_add(at)]);
                }),
                Burst::Both { first, stranger, count } => (0..count).for_each(|at| {
                    neighbours.learn(arp_host(9, stranger.wrapping_add(at), 9), true);
                    asked.send(&mut neighbours, [10, 0, 7, first.wrapping_add(at)]);
                }),
                Burst::Answer { first, count } => {
                    (0..count).for_each(|at| neighbours.learn(arp_host(7, first.wrapping_add(at), 9), false));
                }
                Burst::Use => {
                    asked.send(&mut neighbours, GATEWAY);
                }
                Burst::Pass(milliseconds) => {
                    neighbours.set_time(neighbours.now() + Duration::from_millis(milliseconds.into()));
                }
            }
        }
        asked.check();
    }

    /// Whoever invents hosts: those in use are known and are requested again in time, and so is the
    /// gateway.
    #[test]
    fn invented_hosts_evict_no_neighbour_in_use(
        friends in 0u8..80,
        bursts in prop::collection::vec(burst(), 0..60),
    ) {
        let (mut neighbours, mut asked) = (neighbours(), Asked::default());
        let friends: Vec<ArpHost> = (0..friends).map(|low| arp_host(1, low, 0)).collect();
        for friend in &friends {
            asked.send(&mut neighbours, friend.address);
            neighbours.learn(*friend, false);
        }
        let gateway = arp_host(0, 1, 0);
        for burst in bursts {
            match burst {
                Burst::Ask { first, count } => {
                    (0..count).for_each(|at| neighbours.learn(arp_host(9, first.wrapping_add(at), 9), true));
                }
                Burst::Send { first, count } => (0..count).for_each(|at| {
                    asked.send(&mut neighbours, [10, 0, 7, first.wrapping_add(at)]);
                }),
                Burst::Both { first, stranger, count } => (0..count).for_each(|at| {
                    neighbours.learn(arp_host(9, stranger.wrapping_add(at), 9), true);
                    asked.send(&mut neighbours, [10, 0, 7, first.wrapping_add(at)]);
                }),
                // Replies that were not requested.
                Burst::Answer { first, count } => {
                    (0..count).for_each(|at| neighbours.learn(arp_host(5, first.wrapping_add(at), 9), false));
                }
                Burst::Use => {}
                Burst::Pass(milliseconds) => {
                    // Sometimes a minute passes, after which they are requested again.
                    let milliseconds = if milliseconds < 100 { 61_000 } else { milliseconds.into() };
                    neighbours.set_time(neighbours.now() + Duration::from_millis(milliseconds));
                }
            }
            for friend in friends.iter().chain([&gateway]) {
                let requests = asked.0.len();
                prop_assert_eq!(asked.send(&mut neighbours, friend.address), Some(friend.mac));
                if asked.0.len() > requests {
                    neighbours.learn(*friend, false);
                }
            }
        }
        asked.check();
    }
}

/// Returns a host of a number.
fn numbered(high: u8, number: usize) -> ArpHost {
    arp_host(high + (number / 250) as u8, (number % 250) as u8, 0)
}

#[test]
fn a_requested_host_keeps_its_entry_for_a_second() {
    let (mut neighbours, mut asked) = (neighbours(), Asked::default());
    for round in 0..8 {
        for number in 0..MAX_NEIGHBOURS - 1 {
            asked.send(&mut neighbours, numbered(140, number).address);
            neighbours.learn(numbered(100 + round * 4, number), true);
        }
    }
    asked.check();
    assert_eq!(asked.0.len(), MAX_NEIGHBOURS - 1 - RESERVE);
}

#[test]
fn a_few_hosts_can_be_requested_however_many_are_in_use() {
    for friends in [MAX_NEIGHBOURS - 1 - RESERVE, MAX_NEIGHBOURS - 1 - ALWAYS_ALLOWED] {
        let (mut neighbours, mut asked) = (neighbours(), Asked::default());
        for number in 0..friends {
            asked.send(&mut neighbours, numbered(1, number).address);
            neighbours.learn(numbered(1, number), false);
        }
        for second in 0..3 {
            asked.0.clear();
            for number in 0..500 {
                asked.send(&mut neighbours, numbered(140 + second * 2, number).address);
            }
            assert_eq!(asked.0.len(), ALWAYS_ALLOWED, "beside {friends}");
            neighbours.set_time(neighbours.now() + REQUEST_INTERVAL);
        }
        let known = (0..friends).filter(|number| mac(&mut neighbours, numbered(1, *number).address).is_some()).count();
        assert_eq!(known, friends);
    }
}

#[test]
fn the_least_recently_used_neighbour_is_evicted() {
    let (mut neighbours, count) = (neighbours(), 2 * MAX_NEIGHBOURS);
    for number in 0..count {
        let host = numbered(1, number);
        neighbours.set_time(neighbours.now() + Duration::from_millis(10));
        assert_eq!(mac(&mut neighbours, host.address), None);
        neighbours.learn(host, false);
        assert_eq!(mac(&mut neighbours, host.address), Some(host.mac));
        assert!(mac(&mut neighbours, [192, 0, 2, 1]).is_some());
    }
    let recent = count - MAX_NEIGHBOURS / 2..count;
    assert!(recent.clone().all(|number| mac(&mut neighbours, numbered(1, number).address).is_some()));
    assert!(mac(&mut neighbours, [192, 0, 2, 1]).is_some());
}

/// The table takes no more work at the start than a smaller one.
#[test]
fn entries_are_made_when_they_are_used() {
    let mut neighbours = neighbours();
    assert_eq!(neighbours.entries.made(), 1);
    for number in 0..2 * MAX_NEIGHBOURS {
        neighbours.learn(numbered(1, number), true);
    }
    assert_eq!(neighbours.entries.made(), MAX_NEIGHBOURS);
}

/// Progress counts for the next hop that it was made through, and for a few seconds.
#[test]
fn progress_confirms_the_neighbour_it_was_made_through() {
    let (far, friend) = ([192, 0, 2, 1], arp_host(1, 1, 0));
    let requests = |through: [u8; 4], seconds: u64| {
        let mut neighbours = neighbours();
        neighbours.learn(friend, true);
        neighbours.set_time(neighbours.now() + (VALID - Duration::from_secs(1)));
        neighbours.record_progress(through);
        neighbours.set_time(neighbours.now() + Duration::from_secs(seconds));
        [far, friend.address].map(|to| neighbours.route(to).and_then(|route| route.request_to).is_some())
    };
    assert_eq!(requests(far, 0), [false, false], "they are valid");
    for (through, asked) in
        [(far, [false, true]), (GATEWAY, [false, true]), (friend.address, [true, false]), ([0; 4], [true, true])]
    {
        assert_eq!(requests(through, 4), asked, "{through:?}");
        assert_eq!(requests(through, 5), [true, true], "{through:?}, too late");
    }
}

#[test]
fn another_lease_clears_the_table() {
    let mut neighbours = neighbours();
    let lease = neighbours.lease;
    assert!(mac(&mut neighbours, GATEWAY).is_some());
    neighbours.set_lease(lease);
    assert_eq!(neighbours.cached(GATEWAY), None);
    let route = neighbours.route([192, 0, 2, 1]).expect("a way");
    assert_eq!(route, Route { hop: GATEWAY, mac: None, request_to: Some(BROADCAST) });
    neighbours.set_lease(None);
    assert_eq!(neighbours.route(GATEWAY), None);
}
