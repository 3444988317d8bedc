//! The `Range` header field (RFC 9110, 14.2), for one range.

/// The part of a file that is requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// The whole file: there is no range, or it is malformed, or there are several, which a server
    /// may ignore.
    Whole,
    /// A part of the file.
    ///
    /// # Holding one proves
    /// If [`parse`] returned it: `first` is not above `last`, and `last` is inside the file.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte, included.
        last: u64,
    },
    /// Nothing that the file has.
    Unsatisfiable,
}

/// Parses the field's value for a file of `length` bytes.
#[must_use]
pub fn parse(value: &[u8], length: u64) -> Range {
    let unit = value.get(..6).filter(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    let Some(spec) = unit.and_then(|_| value.get(6..)).map(<[u8]>::trim_ascii) else { return Range::Whole };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Range::Whole };
    let (first, last) = (spec.get(..dash).unwrap_or_default(), spec.get(dash + 1..).unwrap_or_default());
    match (position(first), position(last)) {
        (Some(Some(first)), Some(last)) => {
            if last.is_some_and(|last| last < first) {
                Range::Whole
            } else if first >= length {
                Range::Unsatisfiable
            } else {
                Range::Part { first, last: last.unwrap_or(u64::MAX).min(length - 1) }
            }
        }
        (Some(None), Some(Some(suffix))) => {
            if suffix == 0 {
                Range::Unsatisfiable
            } else if length == 0 {
                // It is satisfied by the whole of nothing, for which `Content-Range` has no form.
                Range::Whole
            } else {
                Range::Part { first: length.saturating_sub(suffix), last: length - 1 }
            }
        }
        _ => Range::Whole,
    }
}

/// Parses a position: `Some(None)` if it is empty, `None` if it is no number. A number that is too
/// large becomes the largest one, which no file reaches.
fn position(digits: &[u8]) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    digits.iter().all(u8::is_ascii_digit).then(|| {
        let add = |value: u64, digit: &u8| value.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        Some(digits.iter().fold(0, add))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Range::{Part, Unsatisfiable, Whole};
    use super::*;

    #[test]
    fn the_table_of_rfc_9110() {
        for (value, length, expected) in [
            ("bytes=0-499", 10_000, Part { first: 0, last: 499 }),
            ("bytes=500-999", 10_000, Part { first: 500, last: 999 }),
            ("bytes=-500", 10_000, Part { first: 9500, last: 9999 }),
            ("bytes=9500-", 10_000, Part { first: 9500, last: 9999 }),
            ("bytes=0-0", 1, Part { first: 0, last: 0 }),
            ("BYTES=0-", 3, Part { first: 0, last: 2 }),
            ("bytes=-20000", 10_000, Part { first: 0, last: 9999 }),
            ("bytes=5-99999999999999999999999", 10, Part { first: 5, last: 9 }),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Whole),
            ("bytes=-0", 0, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-1,3-4", 10, Whole),
            ("bytes=5-4", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=1 - 2", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("lines=0-1", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(parse(value.as_bytes(), length), expected, "{value} of {length}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_the_file(value in "(bytes=)?[0-9]{0,22}-?[0-9]{0,22},?", length: u64) {
            if let Part { first, last } = parse(value.as_bytes(), length) {
                prop_assert!(first <= last && last < length);
            }
        }

        #[test]
        fn any_bytes_are_read(value in prop::collection::vec(any::<u8>(), 0..40), length: u64) {
            let _ = parse(&value, length);
        }
    }
}
