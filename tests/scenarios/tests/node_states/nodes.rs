//! The nodes of the handshake, and the values that they are given.

/// A node of the device, which the toolstack writes, or of its back end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Node {
    Front(&'static str),
    Back(&'static str),
}

/// The nodes that the front end reads.
pub const READ: [Node; 11] = [
    Node::Front("backend-id"),
    Node::Front("backend"),
    Node::Front("mac"),
    Node::Front("mtu"),
    Node::Front("state"),
    Node::Back("online"),
    Node::Back("state"),
    Node::Back("feature-rx-copy"),
    Node::Back("feature-split-event-channels"),
    Node::Back("feature-sg"),
    Node::Back("feature-gso-tcpv4"),
];

/// Some of the nodes that it does not read.
pub const UNREAD: [Node; 8] = [
    Node::Front("handle"),
    Node::Front("backend-uuid"),
    Node::Back("feature-rx-flip"),
    Node::Back("feature-ipv6-csum-offload"),
    Node::Back("multi-queue-max-queues"),
    Node::Back("frontend"),
    Node::Back("hotplug-status"),
    Node::Back("mtu"),
];

/// The value that a node is given; `None` removes it.
pub type Value = Option<Vec<u8>>;

/// The values that are tried where each case takes long.
pub fn few_values() -> Vec<Value> {
    let texts = ["", "0", "5", "9", "/local/domain/9/backend/vif/7/0", "00:16:3e:44:55:66"];
    let texts = texts.iter().map(|text| Some(text.as_bytes().to_vec()));
    [None, Some(vec![b'4'; 2000])].into_iter().chain(texts).collect()
}

/// All values. The last two are longer than any value of the `store` interface.
pub fn values() -> Vec<Value> {
    let texts = [
        "",
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        "8",
        "9",
        "-1",
        "+1",
        " 1",
        "1 ",
        "01",
        "0x1",
        "1\0",
        "\0",
        "yes",
        "67",
        "68",
        "1501",
        "32751",
        "32752",
        "65535",
        "65536",
        "2147483648",
        "4294967295",
        "4294967296",
        "99999999999999999999",
        "/",
        "/local/domain/0/backend/vif/7/0/",
        "/local/domain/0/backend/vif/7/1",
        "/local/domain/0/backend/vbd/7/0",
        "/local/domain/9/backend/vif/7/0",
        "00:16:3e:44:55:66",
        "00:16:3E:11:22:33",
        "01:16:3e:11:22:33",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "00:16:3e:11:22",
    ];
    let bytes = [vec![0xFF, 0xFE, 0x80], vec![0xC3, 0x28], vec![b'4'; 120], vec![b'4'; 121], vec![b'4'; 2000]];
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    std::iter::once(None).chain(texts.chain(bytes).map(Some)).collect()
}

impl Node {
    pub fn name(self) -> &'static str {
        match self {
            Node::Front(name) | Node::Back(name) => name,
        }
    }

    /// Returns `true` if netfront connects with this value from the start on.
    pub fn connects(self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else {
            return !matches!(
                self,
                Node::Front("backend-id" | "backend" | "mac") | Node::Back("state" | "feature-rx-copy")
            );
        };
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        let spelt = number().filter(|number| number.to_string().as_bytes() == value);
        match self {
            Node::Front("backend-id") => value == b"0",
            // Another device of the same domain would be allowed, but it does not exist.
            Node::Front("backend") => false,
            Node::Front("mac") => value.to_ascii_lowercase().starts_with(b"00:16:3e:") && value.len() == 17,
            Node::Front("mtu") => spelt.is_some_and(|mtu| (68..=65535).contains(&mtu)),
            // A value longer than a message cannot be read. Any other is closed, or is taken as
            // closed.
            Node::Front("state") => value.len() <= 120,
            Node::Back("online") => value != b"0" && value.len() <= 120,
            Node::Back("state") => false,
            Node::Back("feature-rx-copy") => value == b"1",
            _ => true,
        }
    }

    /// Returns `true` if the log names the node when it has this value from the start on.
    pub fn is_logged(self, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return false };
        let flag = value == b"0" || value == b"1";
        match self {
            Node::Front("backend-id") => {
                // A possible domain is that of another back end, so that the path does not match.
                let id = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u16>().ok());
                !id.is_some_and(|id| id < 32752 && id.to_string().as_bytes() == value)
            }
            Node::Front("backend") => value != b"/local/domain/0/backend/vif/7/1",
            Node::Front("mac" | "mtu") => !self.connects(Some(value)),
            Node::Front("state") => !(value.len() == 1 && (b'0'..=b'8').contains(&value[0])),
            Node::Back("online" | "feature-split-event-channels" | "feature-sg" | "feature-gso-tcpv4") => !flag,
            Node::Back("state") => !(value.len() == 1 && (b'0'..=b'8').contains(&value[0])),
            _ => false,
        }
    }
}
