//! A cache of recent responses.
//!
//! Most requests are, byte for byte, what this client or a similar one has sent before. Then the
//! response is the same, too: besides the request, it depends only on the site, which is constant,
//! and the date.

use alloc::vec::Vec;

use arrayvec::{ArrayString, ArrayVec};

use crate::head::Content;
use crate::response::{AfterResponse, Response};

/// The number of responses that are kept: a power of two.
const ENTRIES: usize = 32;
/// The longest request, and the longest head of a response, that is kept, in bytes.
const MAX_LENGTH: usize = 448;

/// A response, and its request.
struct Entry {
    request: ArrayVec<u8, MAX_LENGTH>,
    head: ArrayString<MAX_LENGTH>,
    response: Response,
    /// The second in which it was sent, since 1970, if that is known.
    second: Option<u64>,
}

/// The cache.
#[derive(Default)]
pub struct ResponseCache(Vec<Option<Entry>>);

impl ResponseCache {
    /// Creates an empty cache. If the heap has no room for it, it keeps nothing.
    pub fn new() -> Self {
        let mut entries = Vec::new();
        if entries.try_reserve_exact(ENTRIES).is_ok() {
            entries.resize_with(ENTRIES, || None);
        }
        ResponseCache(entries)
    }

    /// Returns the index of the entry for `request`.
    fn entry_of(request: &[u8]) -> usize {
        let (words, rest) = request.as_chunks();
        let rest = rest.iter().fold(1, |sum, byte| sum << 8 | u64::from(*byte));
        // The factor is 2^64 divided by the golden ratio (Knuth, volume 3, 6.4).
        let mix = |sum: u64, word: u64| (sum.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let sum = words.iter().fold(mix(0, rest), |sum, word| mix(sum, u64::from_le_bytes(*word)));
        (sum >> 32) as usize % ENTRIES
    }

    /// Returns the head and the rest of the response to exactly these bytes, if it was made in this
    /// second.
    pub fn find(&self, request: &[u8], second: Option<u64>) -> Option<(&[u8], Response)> {
        let entry = self.0.get(Self::entry_of(request))?.as_ref()?;
        (entry.second == second && are_equal(&entry.request, request)).then(|| (entry.head.as_bytes(), entry.response))
    }

    /// Keeps the response to a request without a body, if the next one would be the same.
    pub fn keep(&mut self, request: &[u8], second: Option<u64>, head: &str, response: Response) {
        let same = response.discard == 0
            && response.then != AfterResponse::DiscardAndClose
            && !matches!(response.content, Content::Page(_));
        if !same || self.0.is_empty() {
            return;
        }
        if let (Ok(request), Ok(head), Some(entry)) =
            (ArrayVec::try_from(request), ArrayString::from(head), self.0.get_mut(Self::entry_of(request)))
        {
            *entry = Some(Entry { request, head, response, second });
        }
    }
}

/// Returns `true` if both are the same bytes.
///
/// Without a C library, `==` calls a function that needs twice the instructions for requests
/// of usual length.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    let differ = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*a) != u64::from_le_bytes(*b);
    one.len() == other.len()
        && !words.iter().zip(other_words).any(differ)
        && rest.iter().zip(other_rest).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::head::Head;
    use crate::response::{Answer, Context, respond};
    use crate::{request, site::tests::site};

    const RESPONSE: Response = Response { content: Content::Bytes(b"x"), then: AfterResponse::KeepOpen, discard: 0 };

    #[test]
    fn a_response_is_found_by_exactly_its_request_in_its_second() {
        let mut cache = ResponseCache::new();
        cache.keep(b"GET /a", Some(7), "head", RESPONSE);
        let found = cache.find(b"GET /a", Some(7));
        assert!(matches!(found, Some((b"head", Response { content: Content::Bytes(b"x"), .. }))));
        assert!(cache.find(b"GET /a", Some(8)).is_none() && cache.find(b"GET /a", None).is_none());
        assert!(cache.find(b"GET /", Some(7)).is_none() && cache.find(b"GET /ab", Some(7)).is_none());
    }

    #[test]
    fn responses_that_may_differ_are_not_kept() {
        let mut cache = ResponseCache::new();
        for response in [
            Response { discard: 1, ..RESPONSE },
            Response { then: AfterResponse::DiscardAndClose, ..RESPONSE },
            Response { content: Content::Page(Duration::ZERO), ..RESPONSE },
        ] {
            cache.keep(b"GET /a", None, "head", response);
            assert!(cache.find(b"GET /a", None).is_none());
        }
        let long = [b'a'; MAX_LENGTH + 1];
        cache.keep(&long, None, "head", RESPONSE);
        cache.keep(b"a", None, str::from_utf8(&long).unwrap(), RESPONSE);
        assert!(cache.find(&long, None).is_none() && cache.find(b"a", None).is_none());
        let mut none = ResponseCache::default();
        none.keep(b"a", None, "head", RESPONSE);
        assert!(none.find(b"a", None).is_none());
    }

    proptest! {
        /// A response from the cache is the one that would be made, whatever was requested before.
        #[test]
        fn a_cached_response_equals_a_new_one(
            asked in prop::collection::vec((0_usize..12, 0_u64..3), 1..200),
            targets in prop::collection::vec("(/|/a/b\\.txt|/a|/none|/[ab]{1,9})", 12),
            more in prop::collection::vec("(|Connection: close\r\n|Range: bytes=1-3\r\n|Content-Length: 3\r\n)", 12),
        ) {
            let site = site(&[("index.html", b"<p>root"), ("a/b.txt", b"0123456789")]);
            let mut cache = ResponseCache::new();
            for (which, second) in asked {
                let text = format!("GET {} HTTP/1.1\r\nHost: a\r\n{}\r\n", targets[which], more[which]);
                let date = format!("second {second}");
                let context =
                    Context { site: &site, sink: false, policy: [1; 32], uptime: Duration::ZERO, date: Some(&date) };
                let Ok(Some((request, _))) = request::parse(text.as_bytes()) else { unreachable!() };
                let mut head = Head::new();
                let Answer::Now(response) = respond(&request, &context, &mut head) else { unreachable!() };
                if let Some((found, kept)) = cache.find(text.as_bytes(), Some(second)) {
                    prop_assert_eq!((found, kept), (head.as_bytes(), response));
                } else {
                    cache.keep(text.as_bytes(), Some(second), &head, response);
                }
            }
        }
    }
}
