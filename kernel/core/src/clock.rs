//! Computes time from Xen's paravirtual clock: ticks of the time-stamp counter become nanoseconds.

/// Holds a consistent copy of `struct vcpu_time_info` (`xen.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeInfo {
    /// The counter when the record was made. A record older than the counter has a number below
    /// zero, which is near 2^64 here.
    pub tsc_timestamp: u64,
    /// System time at that moment, in ns.
    pub system_time: u64,
    /// Nanoseconds per tick times 2^32, applied after the shift.
    pub multiplier: u32,
    /// Bits by which the tick count is shifted: to the left if positive, to the right if negative.
    pub shift: i8,
}

impl TimeInfo {
    /// Returns the system time in ns at which the counter reads `tsc`.
    ///
    /// A counter behind the record gives the record's own time. Another processor's counter can be
    /// behind by a few ticks.
    #[must_use]
    pub fn nanoseconds(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp).cast_signed().max(0).cast_unsigned();
        // Xen's shifts are far below 64. The mask is that of the processor's shift instructions.
        let scaled = match u32::try_from(self.shift) {
            Ok(left) => ticks.saturating_mul(1 << (left & 63)),
            Err(_) => ticks >> (self.shift.unsigned_abs() & 63),
        };
        // Cannot overflow: the product of 64 and 32 bits is less than 2^96.
        let elapsed = (u128::from(scaled) * u128::from(self.multiplier)) >> 32;
        self.system_time.saturating_add(elapsed as u64)
    }
}

/// Holds UTC at system time zero: `wc_sec`, `wc_sec_hi` and `wc_nsec` of the shared info (`xen.h`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

impl WallClock {
    /// Returns UTC in ns since 1970 at `system_time`, or `None` while Xen has not filled the
    /// record.
    #[must_use]
    pub fn at(&self, system_time: u64) -> Option<u64> {
        if self.seconds == 0 {
            return None;
        }
        self.seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(self.nanoseconds))?.checked_add(system_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigahertz_counter_counts_nanoseconds() {
        let time = TimeInfo { tsc_timestamp: 1_000, system_time: 50, multiplier: 1 << 31, shift: 1 };
        assert_eq!(time.nanoseconds(1_000), 50);
        assert_eq!(time.nanoseconds(2_000), 1_050);
        assert_eq!(time.nanoseconds(10), 50);
    }

    /// Xen makes a record once a second. The counter of a domain begins with the domain.
    #[test]
    fn a_record_from_before_the_counter_began_counts_from_there() {
        let time = TimeInfo { tsc_timestamp: 500_u64.wrapping_neg(), system_time: 50, multiplier: 1 << 31, shift: 1 };
        assert_eq!((time.nanoseconds(0), time.nanoseconds(1_000)), (550, 1_550));
    }

    #[test]
    fn negative_shifts_divide() {
        let time = TimeInfo { tsc_timestamp: 0, system_time: 0, multiplier: 1 << 31, shift: -1 };
        assert_eq!(time.nanoseconds(4_000), 1_000);
    }

    #[test]
    fn no_record_overflows() {
        for shift in [i8::MIN, -1, 0, 1, i8::MAX] {
            let time = TimeInfo { tsc_timestamp: 0, system_time: u64::MAX, multiplier: u32::MAX, shift };
            assert_eq!(time.nanoseconds(u64::MAX), u64::MAX);
        }
    }

    #[test]
    fn an_empty_wall_clock_gives_no_time() {
        assert_eq!(WallClock::default().at(5), None);
        assert_eq!(WallClock { seconds: 2, nanoseconds: 7 }.at(5), Some(2_000_000_012));
    }
}
