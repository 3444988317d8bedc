//! The scripts: the acts of the back end, and the log lines that the front end's image must write.

use cloister_caps::xen::netif::{EXTRA_FLAG_MORE, EXTRA_TYPE_GSO, GSO_TYPE_TCPV4, TX_SLOTS, rx_flag, status};
use cloister_caps::xen::xenbus::XenbusState;

/// One script.
#[derive(Debug)]
pub struct Script {
    /// The name by which the test chooses it.
    pub name: &'static str,
    /// A description of the act.
    pub about: &'static str,
    /// The console of the front end's image must have one of these lines. If the list is empty, it
    /// needs no line.
    pub says: &'static [&'static str],
    /// Nodes that replace those of an honest back end, before the connection is offered.
    pub nodes: &'static [(&'static str, &'static str)],
    /// The attack once the connection is up.
    pub attack: Attack,
}

impl Script {
    /// Returns `true` if the test itself does a part of it.
    #[must_use]
    pub fn by_test(&self) -> bool {
        matches!(self.attack, Attack::Wait(_)) && self.nodes.is_empty()
    }
}

/// A ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ring {
    /// Frames from the front end.
    Tx,
    /// Frames to it.
    Rx,
}

/// The id of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseId {
    /// The id of the request.
    Correct,
    /// The id of the request that was answered just before.
    Previous,
    /// The id of the request plus this number.
    Plus(u16),
    /// This one.
    Exact(u16),
}

/// The change of a producer index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerShift {
    /// To this number of slots past the last request.
    Beyond(u32),
    /// Back by this number of slots.
    Back(u32),
}

/// The part of a ring that is rewritten again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingPart {
    /// The producer index.
    Producer,
    /// The indices at which each side wants an event.
    Events,
    /// The slots.
    Slots,
    /// The responses, alternately with two that are legal while a mixture of them is not.
    Responses,
    /// The whole page.
    Page,
}

/// The act once the connection is up. Durations are in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// Nothing.
    Nothing,
    /// Two responses to requests to send.
    Tx(ResponseId, i16),
    /// Responses to receive buffers, `times` or as long as there are buffers.
    Rx {
        /// The id.
        id: ResponseId,
        /// The offset of the frame in its page, as claimed.
        offset: u16,
        /// The flags.
        flags: u16,
        /// The frame's length, or an error.
        status: i16,
        /// The number of responses.
        times: u32,
    },
    /// A response that announces extra information, and slots of it: type, flags, the other bytes,
    /// and the number of slots.
    Extra(u8, u8, [u8; 6], u32),
    /// A wrong producer index.
    Producer(Ring, ProducerShift),
    /// The front end's frames are left on the ring for this time.
    Silent(u64),
    /// Every other frame is never answered, for this time.
    Half(u64),
    /// A part of a ring is rewritten for this time.
    Rewrite(Ring, RingPart, u64),
    /// The pages of frames are rewritten while they are in use.
    Payload(u64),
    /// Random frames as fast as there are buffers.
    Flood(u64),
    /// Events on both channels as fast as possible.
    Storm(u64),
    /// Nodes of the back end's directory are written, or removed if they have no value, one after
    /// the other.
    Nodes(&'static [(&'static str, Option<&'static str>)]),
    /// The event channels are closed.
    HangUp,
    /// Everything stays mapped for this time after the front end is gone.
    Keep(u64),
    /// Every page that can be mapped is searched for data that is no frame.
    Dump,
    /// Echo requests of 1,400 bytes for this time, beside a storm of events; the answers are
    /// counted.
    Measure(Storm, u64),
    /// The test does something. The back end is honest for this time.
    Wait(u64),
}

/// The receiver of a storm of events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storm {
    /// No storm.
    None,
    /// A channel without another end, which costs the sender the same.
    Nobody,
    /// The front end.
    Peer,
}

/// As many responses as there are buffers.
const ALL: u32 = u32::MAX;

const fn script(name: &'static str, about: &'static str, says: &'static [&'static str], attack: Attack) -> Script {
    Script { name, about, says, nodes: &[], attack }
}

const fn offer(
    name: &'static str,
    about: &'static str,
    says: &'static [&'static str],
    nodes: &'static [(&'static str, &'static str)],
) -> Script {
    Script { name, about, says, nodes, attack: Attack::Wait(700) }
}

/// Returns the node of this state, to be written.
const fn state(state: XenbusState) -> (&'static str, Option<&'static str>) {
    ("state", Some(state.digit()))
}

const fn rx(id: ResponseId, offset: u16, flags: u16, status: i16, times: u32) -> Attack {
    Attack::Rx { id, offset, flags, status, times }
}

/// netfront's names of the violations of the rings' protocol.
const ID: &[&str] = &["response to a request that is not outstanding"];
const PRODUCER: &[&str] = &["ring index: more responses than requests"];
const BOUNDS: &[&str] = &["response outside its page"];
const FEATURE: &[&str] = &["response with something that was not negotiated"];
/// A chain without an end is too long, or was not negotiated.
const CHAIN: &[&str] = &["response with something that was not negotiated", "frame of too many slots"];
const NO_COPY: &[&str] = &["the back end does not copy received frames"];
const NONE: &[&str] = &[];
const STORM: &[&str] = &["the back end sends events for nothing"];

/// The scripts, in the order in which they are run.
pub static SCRIPTS: &[Script] = &[
    script("honest", "answers and is answered", NONE, Attack::Nothing),
    script("dump", "maps every page that it can and searches it for what is no frame", NONE, Attack::Dump),
    // Frames from the front end.
    script("tx-id-twice", "two responses to one request", ID, Attack::Tx(ResponseId::Previous, status::OKAY)),
    script(
        "tx-id-never",
        "a response to a request that was never made",
        ID,
        Attack::Tx(ResponseId::Plus(40), status::OKAY),
    ),
    script("tx-id-past-pool", "an id past the pool", ID, Attack::Tx(ResponseId::Exact(300), status::OKAY)),
    script("tx-id-huge", "the largest id", ID, Attack::Tx(ResponseId::Exact(u16::MAX), status::OKAY)),
    script("tx-status-error", "each frame fails", NONE, Attack::Tx(ResponseId::Correct, status::ERROR)),
    script("tx-status-absurd", "a status that does not exist", NONE, Attack::Tx(ResponseId::Correct, i16::MIN)),
    script("tx-status-null", "answers as to an extra-info slot", ID, Attack::Tx(ResponseId::Correct, status::NULL)),
    script("tx-producer-one", "one response too many", PRODUCER, Attack::Producer(Ring::Tx, ProducerShift::Beyond(1))),
    script(
        "tx-producer-jump",
        "the producer is a ring ahead",
        PRODUCER,
        Attack::Producer(Ring::Tx, ProducerShift::Beyond(TX_SLOTS)),
    ),
    script(
        "tx-producer-far",
        "the producer is half the numbers ahead",
        PRODUCER,
        Attack::Producer(Ring::Tx, ProducerShift::Beyond(1 << 31)),
    ),
    script(
        "tx-producer-back",
        "the producer goes back by 64",
        PRODUCER,
        Attack::Producer(Ring::Tx, ProducerShift::Back(64)),
    ),
    script("tx-silent", "leaves frames on the ring for 3 s", NONE, Attack::Silent(3_000)),
    script("tx-half", "never answers every other frame", NONE, Attack::Half(1_500)),
    // Frames to the front end.
    script("rx-id-plus", "the id of the next buffer", ID, rx(ResponseId::Plus(1), 0, 0, 60, 1)),
    script("rx-id-again", "the id of the buffer before", ID, rx(ResponseId::Previous, 0, 0, 60, 1)),
    script("rx-id-huge", "the largest id", ID, rx(ResponseId::Exact(u16::MAX), 0, 0, 60, 1)),
    script("rx-length", "a length past the page", BOUNDS, rx(ResponseId::Correct, 0, 0, 4097, 1)),
    script("rx-length-huge", "the largest length", BOUNDS, rx(ResponseId::Correct, 0, 0, i16::MAX, 1)),
    script("rx-offset", "a frame that starts at the end of its page", BOUNDS, rx(ResponseId::Correct, 4096, 0, 60, 1)),
    script(
        "rx-offset-wrap",
        "offset and length that wrap in 16 bits",
        BOUNDS,
        rx(ResponseId::Correct, 0xFFF0, 0, 60, 1),
    ),
    script("rx-status-zero", "empty frames in every buffer", NONE, rx(ResponseId::Correct, 0, 0, 0, ALL)),
    script("rx-status-error", "an error in every buffer", NONE, rx(ResponseId::Correct, 0, 0, status::ERROR, ALL)),
    script(
        "rx-status-absurd",
        "a status that does not exist, in every buffer",
        NONE,
        rx(ResponseId::Correct, 0, 0, i16::MIN, ALL),
    ),
    script("rx-runt", "frames shorter than a header, in every buffer", NONE, rx(ResponseId::Correct, 0, 0, 13, ALL)),
    script("rx-more-data", "one frame in two slots", NONE, rx(ResponseId::Correct, 0, rx_flag::MORE_DATA, 60, 2)),
    script(
        "rx-more-data-endless",
        "a chain of slots without end",
        CHAIN,
        rx(ResponseId::Correct, 0, rx_flag::MORE_DATA, 60, ALL),
    ),
    script(
        "rx-more-data-errors",
        "a chain of errors without end",
        CHAIN,
        rx(ResponseId::Correct, 0, rx_flag::MORE_DATA, status::ERROR, ALL),
    ),
    script(
        "rx-flag-gso-prefix",
        "a flag of a feature that is gone",
        FEATURE,
        rx(ResponseId::Correct, 0, rx_flag::GSO_PREFIX, 60, 1),
    ),
    script("rx-flags-all", "every flag", FEATURE, rx(ResponseId::Correct, 0, u16::MAX, 60, 1)),
    script(
        "rx-extra-gso-zero",
        "segments of no bytes",
        FEATURE,
        Attack::Extra(EXTRA_TYPE_GSO, 0, [0, 0, GSO_TYPE_TCPV4, 0, 0, 0], 1),
    ),
    script(
        "rx-extra-gso-type",
        "segments of an unknown protocol",
        FEATURE,
        Attack::Extra(EXTRA_TYPE_GSO, 0, [0xb4, 5, 9, 0, 0, 0], 1),
    ),
    script("rx-extra-unknown", "extra information of an unknown type", FEATURE, Attack::Extra(0xEE, 0, [0xff; 6], 1)),
    script(
        "rx-extra-endless",
        "extra information without end",
        CHAIN,
        Attack::Extra(EXTRA_TYPE_GSO, EXTRA_FLAG_MORE, [0xb4, 5, GSO_TYPE_TCPV4, 0, 0, 0], ALL),
    ),
    script(
        "rx-extra-missing",
        "extra information announced and not given",
        FEATURE,
        rx(ResponseId::Correct, 0, rx_flag::EXTRA_INFO, 60, 1),
    ),
    script("rx-producer-one", "one response too many", PRODUCER, Attack::Producer(Ring::Rx, ProducerShift::Beyond(1))),
    script(
        "rx-producer-far",
        "the producer is half the numbers ahead",
        PRODUCER,
        Attack::Producer(Ring::Rx, ProducerShift::Beyond(1 << 31)),
    ),
    script(
        "rx-producer-back",
        "the producer goes back by 64",
        PRODUCER,
        Attack::Producer(Ring::Rx, ProducerShift::Back(64)),
    ),
    script("rx-flood", "frames of no sense as fast as there are buffers", NONE, Attack::Flood(1_500)),
    script(
        "rx-wrong-ring",
        "the answer to a frame from the front end, on the other ring",
        ID,
        rx(ResponseId::Exact(0x0100), 0, 0, 0, 1),
    ),
    // Memory that changes under the reader.
    script(
        "flip-tx-producer",
        "rewrites the producer of the ring to send",
        NONE,
        Attack::Rewrite(Ring::Tx, RingPart::Producer, 1_500),
    ),
    script(
        "flip-rx-producer",
        "rewrites the producer of the ring to receive",
        NONE,
        Attack::Rewrite(Ring::Rx, RingPart::Producer, 1_500),
    ),
    script(
        "flip-tx-events",
        "rewrites the event words of the ring to send",
        NONE,
        Attack::Rewrite(Ring::Tx, RingPart::Events, 1_500),
    ),
    script(
        "flip-rx-events",
        "rewrites the event words of the ring to receive",
        NONE,
        Attack::Rewrite(Ring::Rx, RingPart::Events, 1_500),
    ),
    script(
        "flip-tx-slots",
        "rewrites the slots of the ring to send",
        NONE,
        Attack::Rewrite(Ring::Tx, RingPart::Slots, 1_500),
    ),
    script(
        "flip-rx-slots",
        "rewrites the slots of the ring to receive",
        NONE,
        Attack::Rewrite(Ring::Rx, RingPart::Slots, 1_500),
    ),
    script(
        "flip-rx-responses",
        "rewrites responses between two legal ones (double fetch)",
        NONE,
        Attack::Rewrite(Ring::Rx, RingPart::Responses, 2_000),
    ),
    script("flip-pages", "rewrites both ring pages whole", NONE, Attack::Rewrite(Ring::Tx, RingPart::Page, 1_500)),
    script("flip-payload", "rewrites frames while they are in use", NONE, Attack::Payload(2_000)),
    // Event channels.
    script("storm", "events on both channels as fast as possible for 30 s", STORM, Attack::Storm(30_000)),
    script("hang-up", "closes the event channels", NONE, Attack::HangUp),
    // XenStore.
    script("state-garbage", "its state is no number", NONE, Attack::Nodes(&[("state", Some("garbage"))])),
    script("state-negative", "its state is below all states", NONE, Attack::Nodes(&[("state", Some("-1"))])),
    script("state-large", "its state is past all states", NONE, Attack::Nodes(&[("state", Some("9"))])),
    script("state-empty", "its state is empty", NONE, Attack::Nodes(&[("state", Some(""))])),
    script("state-vanishes", "its state is removed", NONE, Attack::Nodes(&[("state", None)])),
    script("state-back", "goes back to offering", NONE, Attack::Nodes(&[state(XenbusState::InitWait)])),
    script("state-closed", "is closed without closing", NONE, Attack::Nodes(&[state(XenbusState::Closed)])),
    script(
        "state-flips",
        "goes through all states, back and forth",
        NONE,
        Attack::Nodes(&[
            state(XenbusState::Initialised),
            state(XenbusState::Reconfigured),
            state(XenbusState::Connected),
            state(XenbusState::Reconfiguring),
            state(XenbusState::Initialising),
            state(XenbusState::Closing),
            state(XenbusState::InitWait),
            state(XenbusState::Closed),
            state(XenbusState::Connected),
            state(XenbusState::Unknown),
        ]),
    ),
    offer("copy-absent", "does not say that it copies", NO_COPY, &[("feature-rx-copy", "")]),
    offer("copy-two", "a feature that is 2", NO_COPY, &[("feature-rx-copy", "2")]),
    offer(
        "copy-text",
        "a feature that is a text",
        NO_COPY,
        &[("feature-rx-copy", "yes please, with a value of some length, 1")],
    ),
    offer("copy-negative", "a feature that is negative", NO_COPY, &[("feature-rx-copy", "-1")]),
    offer("copy-spaced", "a feature with a blank", NO_COPY, &[("feature-rx-copy", " 1")]),
    Script {
        name: "features-garbage",
        about: "every other feature is of no type at all",
        says: NONE,
        nodes: &[
            ("feature-split-event-channels", "maybe"),
            ("feature-sg", "99999999999999999999"),
            ("feature-gso-tcpv4", "-0"),
            ("feature-gso-tcpv6", "0x1"),
            ("feature-ipv6-csum-offload", "\u{7f}"),
            ("multi-queue-max-queues", "4294967296"),
            ("feature-ctrl-ring", "true"),
        ],
        attack: Attack::Nothing,
    },
    // The end.
    script("keep-mapped", "keeps all pages mapped for 3 s after the end", NONE, Attack::Keep(3_000)),
    // Measured by the test, or done by the test itself (`tests/bed/tests/hostile.rs`).
    script("measure-calm", "echo requests of 1,400 bytes", NONE, Attack::Measure(Storm::None, 5_000)),
    script("measure-nobody", "the same, with a storm of events to nobody", NONE, Attack::Measure(Storm::Nobody, 5_000)),
    script("measure-storm", "the same, with the storm to the front end", NONE, Attack::Measure(Storm::Peer, 5_000)),
    script("nodes-huge", "its state is of 2,000 bytes (written by the test)", NONE, Attack::Wait(2_000)),
    script("toolstack-nonsense", "mac, mtu and back-end id change (written by the test)", NONE, Attack::Wait(2_000)),
    script(
        "destroyed",
        "the back end's domain is destroyed while it has all mapped (by the test)",
        NONE,
        Attack::Wait(600_000),
    ),
];

/// Returns the script of this name.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Script> {
    SCRIPTS.iter().find(|script| script.name.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_forty_attacks_each_with_a_name_of_its_own() {
        assert!(SCRIPTS.len() >= 40);
        for (index, script) in SCRIPTS.iter().enumerate() {
            assert!(SCRIPTS[..index].iter().all(|other| other.name != script.name), "{}", script.name);
            assert!(std::ptr::eq(find(script.name.as_bytes()).expect("found"), script));
        }
        assert!(find(b"").is_none());
    }
}
