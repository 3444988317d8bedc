//! Conditional requests (RFC 9110, 13): whether the client has what it asks for already.

use core::fmt::{self, Write};

use arrayvec::ArrayString;

use crate::date::HttpDate;
use crate::request::{Method, Request};
use crate::site::File;

/// An entity tag: the hash and the length of a file's content.
///
/// It is strong: it changes with the content. Two contents of equal length have the same one with a
/// probability of 2^-64, unless somebody who writes the site's files looks for such a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Etag {
    hash: u64,
    length: usize,
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:x}-{:x}\"", self.hash, self.length)
    }
}

impl Etag {
    /// Returns the numbers of which the tag consists, between which a dash stands.
    pub(crate) fn parts(self) -> [u64; 2] {
        [self.hash, self.length as u64]
    }

    /// Returns `true` if the tag is in the list `value`.
    fn is_in(self, value: &[u8], comparison: Comparison) -> bool {
        let mut text = ArrayString::<40>::new();
        // Two numbers of 16 digits and three marks fit.
        let _ = write!(text, "{self}");
        value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
            let weak = tag.strip_prefix(b"W/").filter(|_| comparison == Comparison::Weak);
            weak.unwrap_or(tag) == text.as_bytes()
        })
    }
}

/// The comparisons of entity tags (RFC 9110, 8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    /// Both are strong, and equal.
    Strong,
    /// They are equal, weak or not.
    Weak,
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Validators {
    /// The entity tag, unless there was no memory for an index of the site.
    pub(crate) etag: Option<Etag>,
    /// The time of the last change, if the archive says it.
    pub(crate) modified: Option<HttpDate>,
}

impl Validators {
    /// Returns those of a file.
    pub(crate) fn of(file: &File) -> Validators {
        Validators {
            etag: file.hash.map(|hash| Etag { hash, length: file.data.len() }),
            modified: (file.modified != 0).then_some(HttpDate(file.modified)),
        }
    }
}

/// What the conditions of a request for a file demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The file, or the range that was asked for.
    Send,
    /// The whole file: what the client has parts of has changed.
    SendWhole,
    /// 304: the client has the file.
    NotModified,
    /// 412: the file is not the one that the client expects.
    Failed,
}

/// Evaluates the conditions of a request for a file that exists, in the order of RFC 9110, 13.2.2.
///
/// A date in `If-Range` never holds: two archives may give one time to different contents, and then
/// the client would put parts of both together.
pub(crate) fn evaluate(request: &Request<'_>, validators: Validators) -> Verdict {
    let Validators { etag, modified } = validators;
    let matches = |lines: &[Option<&[u8]>], comparison| {
        let any = |value: &[u8]| value == b"*" || etag.is_some_and(|etag| etag.is_in(value, comparison));
        lines.iter().flatten().any(|value| any(value))
    };
    let changed_since = |date: &[u8]| Some(modified?.0 > HttpDate::parse(date)?.0);
    let is_stated = |lines: &[Option<&[u8]>]| lines.iter().any(Option::is_some);

    let fails = if is_stated(&request.if_match) {
        !matches(&request.if_match, Comparison::Strong)
    } else {
        request.if_unmodified_since.and_then(changed_since) == Some(true)
    };
    if fails {
        return Verdict::Failed;
    }
    let has_it = if is_stated(&request.if_none_match) {
        matches(&request.if_none_match, Comparison::Weak)
    } else {
        request.if_modified_since.and_then(changed_since) == Some(false)
    };
    if has_it {
        return Verdict::NotModified;
    }
    match (request.method, request.if_range) {
        (Method::Get, Some(tag)) if !etag.is_some_and(|etag| etag.is_in(tag, Comparison::Strong)) => Verdict::SendWhole,
        _ => Verdict::Send,
    }
}

#[cfg(test)]
mod tests;
