//! The date on the page.

/// The number of seconds of a day.
const DAY: u64 = 86_400;

/// Returns the date, in UTC, of a number of seconds since 1970, as `2024-02-29`. Days after the
/// year 9999 are shown as its last.
#[must_use]
pub fn date_of(seconds: u64) -> String {
    let mut days = seconds / DAY;
    for year in 1970..=9999 {
        let leap = is_leap(year);
        let length = if leap { 366 } else { 365 };
        if days >= length {
            days -= length;
            continue;
        }
        let months = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (month, length) in (1..).zip(months) {
            if days < length {
                return format!("{year}-{month:02}-{:02}", days + 1);
            }
            days -= length;
        }
    }
    "9999-12-31".into()
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        // As `date -u -d @SECONDS +%F` prints them.
        for (seconds, date) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_164_800, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
            (u64::MAX, "9999-12-31"),
        ] {
            assert_eq!(date_of(seconds), date, "{seconds}");
        }
    }
}
