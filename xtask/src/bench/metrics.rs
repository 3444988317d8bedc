//! The metrics: units, and the targets as ratios to another system or as limits.

use serde::Serialize;

use super::machine::{FUSED, LINUX};

/// A quantity that is measured.
#[derive(Debug, Serialize, PartialEq)]
pub struct Metric {
    /// The name in the raw numbers.
    pub id: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// The unit.
    pub unit: &'static str,
    /// `true` if a larger value is better.
    pub more_is_better: bool,
    /// The name of the system that it is compared with.
    pub against: &'static str,
    /// The target ratio: at least, if more is better, otherwise at most.
    pub target: Option<f64>,
    /// The load to which the target applies, if not to all.
    pub at: Option<f64>,
    /// The target as an absolute value, at most.
    pub limit: Option<f64>,
}

const fn less(id: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric { id, title, unit, more_is_better: false, against: LINUX.name, target: None, at: None, limit: None }
}

const fn more(id: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric { more_is_better: true, ..less(id, title, unit) }
}

impl Metric {
    const fn to(self, target: f64) -> Self {
        Self { target: Some(target), ..self }
    }

    const fn at(self, load: f64) -> Self {
        Self { at: Some(load), ..self }
    }

    const fn limit(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    const fn tax(self) -> Self {
        Self { against: FUSED.name, ..self }
    }

    /// Returns `true` if the ratio reaches the target, `None` if there is no target.
    pub fn reached(&self, load: Option<f64>, ratio: f64) -> Option<bool> {
        let target = self.target?;
        if self.at.is_some() && self.at != load {
            return None;
        }
        Some(if self.more_is_better { ratio >= target } else { ratio <= target })
    }

    /// Returns `true` if a value is within the absolute limit, `None` if there is no limit.
    pub fn within(&self, load: Option<f64>, value: f64) -> Option<bool> {
        if self.at.is_some() && self.at != load {
            return None;
        }
        self.limit.map(|limit| value <= limit)
    }
}

pub const RTT_MEDIAN: Metric = less("rtt-median", "ping RTT, median (load: bytes)", "µs").to(0.6).at(56.0);
pub const RTT_99: Metric = less("rtt-p99", "ping RTT, 99th percentile (load: bytes)", "µs");
pub const RTT_MAX: Metric = less("rtt-max", "ping RTT, maximum (load: bytes)", "µs");
pub const FLOOD_GUEST: Metric = less("flood-guest", "guest CPU per flood ping", "µs").to(0.3);
pub const FLOOD_DOM0: Metric = less("flood-dom0", "dom0 CPU per flood ping", "µs");
pub const REQUESTS: Metric =
    more("requests", "small requests, keep-alive, wrk (load: connections)", "1/s").to(1.9).at(30.0);
pub const REQUEST_GUEST: Metric =
    less("request-guest", "guest CPU per small request (load: connections)", "µs").to(0.2).at(30.0);
pub const REQUEST_GUEST_1: Metric = Metric { target: Some(0.3), at: Some(1.0), ..REQUEST_GUEST };
pub const REQUEST_DOM0: Metric =
    less("request-dom0", "dom0 CPU per small request (load: connections)", "µs").to(0.85).at(30.0);
pub const REQUEST_LATENCY: Metric = less("request-latency", "median time of a small request (load: connections)", "µs");
pub const CLOSING: Metric = more("closing", "small requests, a connection each, ab (load: connections)", "1/s");
pub const CLOSING_GUEST: Metric =
    less("closing-guest", "guest CPU per request with a connection each (load: connections)", "µs");
pub const HTTPERF: Metric = more("httperf", "small requests, httperf, 10 a connection (load: connections)", "1/s");
pub const SIEGE: Metric = more("siege", "small requests, siege (load: users)", "1/s");
pub const DOWNLOAD: Metric = more("download", "download, one user (load: bytes)", "MB/s").to(1.15).at(1e8);
pub const DOWNLOAD_GUEST: Metric =
    less("download-guest", "guest CPU per MB downloaded (load: bytes)", "µs").to(0.5).at(1e8);
pub const DOWNLOAD_DOM0: Metric =
    less("download-dom0", "dom0 CPU per MB downloaded (load: bytes)", "µs").to(1.0).at(1e8);
pub const USERS: Metric = more("users", "1 MB downloads at once (load: users)", "MB/s");
pub const USERS_SLOWEST: Metric = less("users-slowest", "the slowest of 1 MB downloads at once (load: users)", "ms");
pub const UPLOAD: Metric = more("upload", "upload, one user (load: bytes)", "MB/s");
pub const UPLOAD_GUEST: Metric = less("upload-guest", "guest CPU per MB uploaded (load: bytes)", "µs").to(0.7);
pub const UPLOAD_DOM0: Metric = less("upload-dom0", "dom0 CPU per MB uploaded (load: bytes)", "µs").to(1.0);
pub const IDLE_GUEST: Metric = less("idle-guest", "guest CPU per 5 s idle", "µs").limit(200.0);
pub const BOOT_CREATE: Metric = less("boot-create", "`xl create` until it returns (load: MiB)", "ms");
pub const BOOT_PING: Metric = less("boot-ping", "`xl create` to the first ping (load: MiB)", "ms");
pub const BOOT_HTTP: Metric =
    less("boot-http", "`xl create` to the first HTTP byte (load: MiB)", "ms").limit(150.0).at(16.0);
pub const BOOT_GUEST: Metric = less("boot-guest", "guest CPU until the first HTTP byte (load: MiB)", "ms");
pub const BOOT_FRAME: Metric = less("boot-frame", "guest CPU until its first frame (load: MiB)", "ms");
/// By the instruction clock, a millisecond is a million instructions.
pub const BOOT_OWN: Metric =
    less("boot-own", "outside Xen, from the first instruction until a page was served (load: MiB)", "ms");
/// The count is read after the frame arrived, so it includes some work after the frame.
pub const BOOT_OWN_FRAME: Metric =
    less("boot-own-frame", "outside Xen, from the first instruction to the first frame (load: MiB)", "ms")
        .limit(1.0)
        .at(16.0);
pub const HELD: Metric =
    more("idle-requests", "small requests, 100 active, beside idle connections (load: idle)", "1/s");
pub const HELD_GUEST: Metric =
    less("idle-request-guest", "guest CPU per request beside idle connections (load: idle)", "µs");
pub const LOSS_DATA: Metric = more("loss", "10 MB download, packets of the guest lost (load: %)", "MB/s").to(0.9);
pub const LOSS_ACKS: Metric = more("loss-acks", "10 MB download, packets to the guest lost (load: %)", "MB/s").to(0.9);
pub const MEMORY_LEAST: Metric = less("memory", "least memory that serves HTTP", "MiB").limit(3.0);
pub const IMAGE_SIZE: Metric = less("image", "image, with the RAM disk where there is one", "KiB").limit(512.0);
pub const BURST: Metric = less("burst", "lost of a burst of 300 pings", "%").limit(0.0);
pub const PING_4000: Metric = less("ping-4000", "lost of 100 pings of 4,000 bytes", "%").limit(0.0);
pub const CLOSED: Metric = less("closed", "requests lost after 5,000 closed connections", "%").limit(0.0);
pub const REATTACH: Metric = less("reattach", "network detached and attached: until HTTP answers", "ms");
pub const HYPERCALLS: Metric = less("hypercalls", "hypercalls per 64 KB downloaded", "").limit(1.0);
pub const NOTIFICATIONS: Metric = less("notifications", "notifications sent per 64 KB downloaded", "").limit(1.0);
pub const GRANTS: Metric = less("grants", "grants made or ended per 64 KB downloaded", "").limit(0.0);
pub const BULK_SWITCHES: Metric = less("switches", "service switches per 64 KB downloaded", "");
pub const REQUEST_HYPERCALLS: Metric =
    less("request-hypercalls", "hypercalls per small request (load: connections)", "");
pub const REQUEST_NOTIFICATIONS: Metric =
    less("request-notifications", "notifications sent per small request (load: connections)", "");
pub const REQUEST_SWITCHES: Metric =
    less("request-switches", "service switches per small request (load: connections)", "");
pub const REQUEST_CALLS: Metric = less("request-calls", "system calls per small request (load: connections)", "");

pub const TAX_REQUESTS: Metric =
    more("tax-requests", "small requests, keep-alive, wrk (load: connections)", "1/s").tax().to(0.9);
pub const TAX_REQUEST_GUEST: Metric =
    less("tax-request-guest", "guest CPU per small request (load: connections)", "µs").tax().to(1.1);
pub const TAX_REQUEST_LATENCY: Metric =
    less("tax-request-latency", "median time of a small request (load: connections)", "µs").tax();
pub const TAX_DOWNLOAD: Metric = more("tax-download", "download, one user (load: bytes)", "MB/s").tax().to(0.97);
pub const TAX_DOWNLOAD_GUEST: Metric =
    less("tax-download-guest", "guest CPU per MB downloaded (load: bytes)", "µs").tax().to(1.03);
pub const TAX_REQUEST_CALLS: Metric =
    less("tax-request-calls", "system calls per small request (load: connections)", "").tax();
pub const TAX_REQUEST_SWITCHES: Metric =
    less("tax-request-switches", "service switches per small request (load: connections)", "").tax();
pub const TAX_REQUEST_HYPERCALLS: Metric =
    less("tax-request-hypercalls", "hypercalls per small request (load: connections)", "").tax();
pub const TAX_BULK_CALLS: Metric = less("tax-calls", "system calls per 64 KB downloaded", "").tax();
pub const TAX_BULK_SWITCHES: Metric = less("tax-switches", "service switches per 64 KB downloaded", "").tax();
pub const TAX_BULK_HYPERCALLS: Metric = less("tax-hypercalls", "hypercalls per 64 KB downloaded", "").tax();

/// Instructions of pure code, by the names that `cloister-costs` gives its pieces.
pub const PIECES: &[Metric] = &[
    less("check", "one capability check in the kernel", "instructions"),
    less("hop-awake", "queue hop of a 16-byte descriptor, receiver awake: no call, no check", "instructions"),
    less("hop", "queue hop of a 16-byte descriptor, receiver asleep, with check", "instructions").limit(40.0),
    less("hop-32", "the same in a batch of 32, each", "instructions").limit(15.0),
    less("hop-switch", "the hop of one with the kernel's part of the switch to the receiver", "instructions"),
    less("ring", "a transmit request into the ring, published", "instructions"),
    less("ring-32", "the same in a batch of 32, each", "instructions"),
    less("parse-35", "parsing an HTTP request of 35 bytes", "instructions"),
    less("parse-177", "parsing an HTTP request of 177 bytes", "instructions"),
    less("checksum-64", "verifying a TCP segment in a frame of 78 bytes", "instructions"),
    less("checksum-1500", "verifying a TCP segment in a frame of 1,514 bytes", "instructions"),
    less("lookup", "finding one of 10,000 connections", "instructions"),
    less("follow", "following a segment sent and its acknowledgement", "instructions"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_holds_in_its_direction_and_at_its_load() {
        assert_eq!(REQUESTS.reached(Some(30.0), 2.0), Some(true));
        assert_eq!(REQUESTS.reached(Some(30.0), 1.8), Some(false));
        assert_eq!(REQUESTS.reached(Some(1.0), 1.8), None);
        assert_eq!(FLOOD_GUEST.reached(None, 0.31), Some(false));
        assert_eq!(RTT_99.reached(Some(56.0), 0.1), None);
        assert_eq!(IDLE_GUEST.within(None, 200.1), Some(false));
    }
}
