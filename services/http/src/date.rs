//! Dates as HTTP writes them (RFC 9110, 5.6.7).

use core::fmt::{self, Write};

use arrayvec::ArrayString;

/// A time in seconds since 1970, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpDate(pub u64);

impl HttpDate {
    /// Parses a date in one of the three forms that a server must accept: that of IMF
    /// (`Sun, 06 Nov 1994 08:49:37 GMT`), of RFC 850 (`Sunday, 06-Nov-94 08:49:37 GMT`) and of C's
    /// `asctime` (`Sun Nov  6 08:49:37 1994`). The day of the week may be a wrong one.
    ///
    /// Two digits of a year are those of 1970 to 2069, as POSIX has it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<HttpDate> {
        let text = str::from_utf8(text).ok()?;
        let (weekday, rest) = text.split_at_checked(3)?;
        WEEKDAYS.contains(&weekday).then_some(())?;
        let (name, rest) = rest.split_once(' ')?;
        let mut words = rest.split([' ', '-']).filter(|word| !word.is_empty());
        let mut next = || words.next();
        let (day, month, year, time) = if name.ends_with(',') {
            let (day, month, year, time) = (next()?, next()?, next()?, next()?);
            (next()? == "GMT").then_some(())?;
            (day, month, year, time)
        } else {
            let (month, day, time, year) = (next()?, next()?, next()?, next()?);
            (day, month, year, time)
        };
        if next().is_some() {
            return None;
        }
        let mut clock = time.split(':');
        let mut below = |bound: u64| number(clock.next()?, 2).filter(|value| *value < bound);
        // A minute may have a leap second. It counts as the first of the next minute.
        let seconds = below(24)? * 3600 + below(60)? * 60 + below(61)?;
        if clock.next().is_some() {
            return None;
        }
        let year = match year.len() {
            2 => number(year, 2).map(|year| if year < 70 { year + 2000 } else { year + 1900 })?,
            _ => number(year, 4).filter(|year| *year >= 1970)?,
        };
        let month = MONTHS.iter().position(|known| *known == month)? as u64;
        let day = number(day, day.len())?;
        let date = HttpDate(days_before(year, month, day)? * 86_400 + seconds);
        Some(date)
    }
}

/// Parses a decimal number of exactly `length` digits, at most four.
fn number(digits: &str, length: usize) -> Option<u64> {
    let valid = digits.len() == length && length <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok())?
}

/// Returns the days from 1970 to a day of a month, which counts from 0. Returns `None` if the month
/// has no such day.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        1 => 28 + u64::from(leap),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    (1..=length).contains(&day).then_some(())?;
    // Years start in March here: H. Hinnant, "chrono-compatible low-level date algorithms",
    // days_from_civil.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

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
    use proptest::prelude::*;

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
    fn the_three_forms_are_read() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(HttpDate::parse(text.as_bytes()), Some(HttpDate(784_111_777)), "{text}");
        }
        assert_eq!(HttpDate::parse(b"Thu, 01-Jan-69 00:00:00 GMT"), Some(HttpDate(3_124_224_000)), "2069");
        assert_eq!(HttpDate::parse(b"Thu, 01 Jan 1970 00:00:60 GMT"), Some(HttpDate(60)));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "Sun",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37:1 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 194 08:49:37 GMT",
            "Sun, 06 Nov 19944 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Wed, 29 Feb 2100 00:00:00 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Xyz, 06 Nov 1994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "784111777",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(HttpDate::parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0_u64..253_402_300_800) {
            prop_assert_eq!(HttpDate::parse(HttpDate(seconds).to_string().as_bytes()), Some(HttpDate(seconds)));
        }

        #[test]
        fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = HttpDate::parse(&text);
        }

        #[test]
        fn almost_dates_are_read(text in "[A-Z][a-z]{2,8},? [0-9]{0,3}[ -][A-Z][a-z]{2}[ -][0-9]{1,5} [0-9:]{3,9}( GMT)?") {
            let _ = HttpDate::parse(text.as_bytes());
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
