//! Conversion between the image's time and smoltcp's.

use cloister_interfaces::Instant;
use smoltcp::time::Instant as StackInstant;

pub fn to_smoltcp(now: Instant) -> StackInstant {
    StackInstant::from_micros(i64::try_from(now.0 / 1000).unwrap_or(i64::MAX))
}

pub fn from_smoltcp(at: StackInstant) -> Instant {
    Instant(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000))
}
