//! Checks the records of authority: capabilities, queues, grant rules, port rules and domain sets.

use cloister_caps::Kind;
use cloister_caps::tables::raw::{DomainSet, PortRule, Queue};
use cloister_caps::tables::{FIRST_GRANT_REF, MAX_GRANT_REFS, MAX_NOTIFICATION_BIT, MAX_SLOTS, RegionKind, TableError};

use crate::{Case, Draft, check_changes};

/// Asserts that each change keeps a good draft valid, or is refused for this capability.
fn check_capability(index: usize, cases: &[Case]) {
    check_changes("capability", index as u32, cases);
}

#[test]
fn capabilities() {
    /// The indices of a good draft's capabilities, by kind.
    const SENDER: usize = 0;
    const RECEIVER: usize = 1;
    const PORT: usize = 2;
    const GRANT: usize = 3;
    const REGION: usize = 4;
    const CONSOLE: usize = 5;
    const DOMAIN: usize = 6;
    check_capability(
        SENDER,
        &[
            (false, |draft| draft.capabilities[SENDER].object = 1),
            (false, |draft| draft.capabilities[SENDER].service = 1),
            (false, |draft| draft.capabilities[SENDER].kind = Kind::Receiver),
        ],
    );
    // If two capabilities are in one slot, the error names the second.
    check_capability(PORT, &[(false, |draft| draft.capabilities[SENDER].slot = 1)]);
    check_capability(
        RECEIVER,
        &[
            (false, |draft| draft.capabilities[RECEIVER].object = 1),
            (false, |draft| (draft.capabilities[RECEIVER].service, draft.capabilities[RECEIVER].slot) = (0, 9)),
        ],
    );
    check_capability(
        PORT,
        &[
            (false, |draft| draft.capabilities[PORT].object = 1),
            (false, |draft| (draft.capabilities[PORT].service, draft.capabilities[PORT].slot) = (1, 9)),
        ],
    );
    check_capability(
        GRANT,
        &[(true, |draft| draft.capabilities[GRANT].object = 1), (false, |draft| draft.capabilities[GRANT].object = 2)],
    );
    check_capability(
        REGION,
        &[
            (false, |draft| draft.capabilities[REGION].object = 2),
            (false, |draft| draft.capabilities[REGION].object = 0),
        ],
    );
    check_capability(
        CONSOLE,
        &[
            // A second capability to the mapping of the first.
            (false, |draft| (draft.capabilities[CONSOLE].kind, draft.capabilities[CONSOLE].object) = (Kind::Region, 1)),
            (false, |draft| draft.capabilities[CONSOLE].object = 1),
            (false, |draft| draft.capabilities[CONSOLE].slot = MAX_SLOTS as u16),
            (false, |draft| draft.capabilities[CONSOLE].service = 2),
            (false, |draft| draft.capabilities[CONSOLE].name.length = 10),
            (true, |draft| draft.capabilities[CONSOLE].slot = 3),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Clock),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Entropy),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Power),
            (true, |draft| draft.capabilities[CONSOLE].kind = Kind::Info),
        ],
    );
    check_capability(
        DOMAIN,
        &[
            (true, |draft| (draft.capabilities[DOMAIN].service, draft.capabilities[DOMAIN].slot) = (0, 9)),
            // A set that is not pinned, and one that is not there.
            (false, |draft| draft.capabilities[DOMAIN].object = 0),
            (false, |draft| draft.capabilities[DOMAIN].object = 2),
            (false, |draft| draft.capabilities[DOMAIN].object = 33),
            // A second capability to the set of the first, of the same service or of another.
            (false, |draft| (draft.capabilities[CONSOLE].kind, draft.capabilities[CONSOLE].object) = (Kind::Domain, 1)),
            (false, |draft| {
                let other = &mut draft.capabilities[CONSOLE];
                (other.kind, other.object, other.service) = (Kind::Domain, 1, 0);
            }),
        ],
    );
}

#[test]
fn queues() {
    // The changed queue is one that no capability names.
    let queue = |change: fn(&mut Queue)| {
        let mut draft = Draft::good();
        draft.queues.push(draft.queues[0]);
        change(&mut draft.queues[1]);
        draft.refusal()
    };
    let refused = Some(TableError::Record("queue", 1));
    assert_eq!(queue(|queue| queue.name.length = 5), refused);
    assert_eq!(queue(|queue| queue.sender = 2), refused);
    assert_eq!(queue(|queue| queue.receiver = 2), refused);
    assert_eq!(queue(|queue| queue.sender_bit = MAX_NOTIFICATION_BIT), None);
    assert_eq!(queue(|queue| queue.sender_bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(queue(|queue| queue.receiver_bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(queue(|queue| queue.message_size = 0), refused);
    assert_eq!(queue(|queue| queue.depth = 1), None);
    assert_eq!(queue(|queue| queue.depth = 0), refused);
    assert_eq!(queue(|queue| queue.depth = 3), refused);
    assert_eq!(queue(|queue| queue.producer_region = 1), None);
    assert_eq!(queue(|queue| queue.producer_region = 2), refused);
    assert_eq!(queue(|queue| queue.consumer_region = 2), refused);
}

#[test]
fn grants() {
    check_changes(
        "grant",
        0,
        &[
            (false, |draft| draft.grants[0].name.offset = 9),
            (false, |draft| draft.grants[0].region = 2),
            (false, |draft| draft.grants[0].count = 0),
            // A rule without pages overlaps no rule, not even itself, unless it lies within
            // another's references.
            (false, |draft| {
                (draft.grants[0].count, draft.grants[1].first_ref, draft.grants[1].count) = (0, FIRST_GRANT_REF - 1, 4)
            }),
            (true, |draft| draft.grants[0].count = 1),
            (false, |draft| draft.grants[0].count = 5),
            (false, |draft| draft.grants[0].first_ref = FIRST_GRANT_REF - 1),
            (true, |draft| draft.grants[0].first_ref = MAX_GRANT_REFS - 5),
            (false, |draft| draft.grants[0].first_ref = MAX_GRANT_REFS - 4),
            (false, |draft| draft.grants[0].first_ref = u32::MAX),
            (true, |draft| draft.grants[0].peers = 1),
            (false, |draft| draft.grants[0].peers = 2),
            (false, |draft| (draft.regions[0].kind, draft.regions[0].maximum) = (RegionKind::Share, 9)),
            // The second rule's references follow without a gap, or start one too early.
            (true, |draft| draft.grants[1].first_ref = FIRST_GRANT_REF + 4),
            (false, |draft| draft.grants[1].first_ref = FIRST_GRANT_REF + 3),
        ],
    );
    check_changes("grant", 1, &[(false, |draft| draft.grants[1].first_ref = MAX_GRANT_REFS)]);
}

#[test]
fn ports() {
    let port = |change: fn(&mut PortRule)| {
        let mut draft = Draft::good();
        draft.ports.push(draft.ports[0]);
        change(&mut draft.ports[1]);
        draft.refusal()
    };
    let refused = Some(TableError::Record("port", 1));
    assert_eq!(port(|port| port.service = 2), refused);
    assert_eq!(port(|port| port.bit = 0), None);
    assert_eq!(port(|port| port.bit = MAX_NOTIFICATION_BIT + 1), refused);
    assert_eq!(port(|port| port.peer = 0), None);
    assert_eq!(port(|port| port.peer = 2), None);
    assert_eq!(port(|port| port.peer = 3), refused);
    assert_eq!(port(|port| port.name.length = 5), refused);
}

#[test]
fn domain_sets() {
    let domains = |change: fn(&mut DomainSet)| {
        let mut draft = Draft::good();
        change(&mut draft.domains[0]);
        draft.refusal()
    };
    let refused = Some(TableError::Record("domain", 0));
    assert_eq!(domains(|domains| domains.first = 0), None);
    assert_eq!(domains(|domains| domains.first = 4), refused);
    assert_eq!(domains(|domains| domains.last = 2), refused);
    assert_eq!(domains(|domains| domains.last = u16::MAX), None);
    assert_eq!(domains(|domains| domains.pinned = 1), None);
    assert_eq!(domains(|domains| domains.pinned = 2), refused);
    assert_eq!(domains(|domains| domains.name.length = 5), refused);
}
