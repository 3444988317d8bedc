//! Dates as HTTP writes them (RFC 9110, 5.6.7).

use core::fmt::{self, Write};

use arrayvec::ArrayString;

/// A time in seconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpDate(pub u64);

/// A date as text, made once a second.
#[derive(Clone, Debug)]
pub struct Stamp {
    seconds: u64,
    text: ArrayString<40>,
}

impl Stamp {
    /// Returns the date at `seconds` since 1970, UTC.
    #[must_use]
    pub fn new(seconds: u64) -> Self {
        let mut text = ArrayString::new();
        // Even a year of twenty digits fits.
        let _ = write!(text, "{}", HttpDate(seconds));
        Stamp { seconds, text }
    }

    /// Sets the date at `seconds`.
    pub fn set(&mut self, seconds: u64) {
        if self.seconds != seconds {
            *self = Stamp::new(seconds);
        }
    }

    /// Returns the seconds since 1970, UTC.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0 / 86_400;
        let (hour, minute, second) = (self.0 / 3600 % 24, self.0 / 60 % 60, self.0 % 60);
        // Years start in March here, so that a leap day is the last day of its year: H. Hinnant,
        // "chrono-compatible low-level date algorithms", civil_from_days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = (shifted_month + 2) % 12;
        let year = era * 400 + year_of_era + u64::from(month < 2);
        let weekday = WEEKDAYS.get((days % 7) as usize).unwrap_or(&"");
        let month = MONTHS.get(month as usize).unwrap_or(&"");
        write!(f, "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(HttpDate(seconds).to_string(), text);
        }
    }

    #[test]
    fn a_stamp_has_the_date_of_its_second() {
        let mut stamp = Stamp::new(0);
        for seconds in [784_111_777, 784_111_777, u64::MAX, 1] {
            stamp.set(seconds);
            assert_eq!(stamp.as_str(), HttpDate(seconds).to_string());
        }
    }

    #[test]
    fn days_follow_each_other() {
        let day = |days: u64| HttpDate(days * 86_400).to_string()[5..7].parse::<u64>().unwrap();
        for days in (0..40_000).step_by(if cfg!(miri) { 997 } else { 1 }) {
            assert!(day(days + 1) == day(days) + 1 || (day(days) >= 28 && day(days + 1) == 1));
        }
        assert!(HttpDate(u64::MAX).to_string().ends_with("GMT"));
    }
}
