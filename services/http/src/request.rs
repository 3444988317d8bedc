//! Parsing a request: `httparse` parses the request line and the header fields, and this module
//! interprets them.

use core::mem::MaybeUninit;

use httparse::{Error, Status as Parsed};

/// The largest number of header fields of a request.
const MAX_HEADERS: usize = 48;

/// The method of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET: the file.
    Get,
    /// HEAD: only the header fields of the file.
    Head,
    /// POST: something to be received.
    Post,
    /// A method of HTTP that this server does not support.
    NotAllowed,
    /// Not a method of HTTP.
    Unknown,
}

/// The framing of a request's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// It has this many bytes, usually none.
    Length(u64),
    /// In chunks, which this server does not read. The connection ends with the response.
    Chunked,
}

/// The version of HTTP that a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1. Also assumed of a peer whose request cannot be read.
    Http11,
}

/// The head of a request.
///
/// # Holding one proves
/// If [`parse`] returned it: the head is complete and well-formed, its lengths do not contradict
/// each other, and it has the one `Host` that HTTP/1.1 requires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// The peer wants the connection to be kept.
    pub keep_alive: bool,
    /// The body.
    pub body: Body,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The value of `Range`.
    pub range: Option<&'a [u8]>,
    /// The value of `If-Range`.
    pub if_range: Option<&'a [u8]>,
    /// The value of `If-None-Match`.
    pub if_none_match: Option<&'a [u8]>,
}

/// Parses the request at the start of `bytes`. Returns it and its length, or `None` if it is not
/// complete.
///
/// # Errors
/// The status code to refuse it with. Nothing that follows on the connection can be understood.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, u16> {
    // Not initialised, because filling the array would cost half as much as parsing.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Parsed::Complete(length)) => length,
        Ok(Parsed::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(431),
        Err(Error::Version) => return Err(if is_other_version(bytes) { 505 } else { 400 }),
        Err(_) => return Err(400),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(400);
    };
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let mut request = Request {
        method: method_of(method),
        target,
        version,
        keep_alive: version == Version::Http11,
        body: Body::Length(0),
        expects_continue: false,
        range: None,
        if_range: None,
        if_none_match: None,
    };
    read_headers(parsed.headers, &mut request)?;
    Ok(Some((request, length)))
}

fn method_of(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => Method::NotAllowed,
        _ => Method::Unknown,
    }
}

fn read_headers<'a>(headers: &[httparse::Header<'a>], request: &mut Request<'a>) -> Result<(), u16> {
    let (mut hosts, mut length, mut chunked) = (0, None, false);
    for header in headers {
        let (name, value) = (header.name, header.value.trim_ascii());
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            hosts += 1;
        } else if is("Content-Length") {
            let stated = decimal(value).ok_or(400u16)?;
            if length.is_some_and(|length| length != stated) {
                return Err(400);
            }
            length = Some(stated);
        } else if is("Transfer-Encoding") {
            // Only "chunked" is understood. The end of anything else cannot be found.
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(501);
            }
            chunked = true;
        } else if is("Connection") {
            for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if option.eq_ignore_ascii_case(b"close") {
                    request.keep_alive = false;
                } else if option.eq_ignore_ascii_case(b"keep-alive") && request.version == Version::Http10 {
                    request.keep_alive = true;
                }
            }
        } else if is("Expect") {
            request.expects_continue = true;
        } else if is("Range") {
            request.range = Some(value);
        } else if is("If-Range") {
            request.if_range = Some(value);
        } else if is("If-None-Match") {
            request.if_none_match = Some(value);
        }
    }
    // A request with both could mean something else to a proxy before us (RFC 9112, 6.1).
    if hosts > 1 || (request.version == Version::Http11 && hosts == 0) || (chunked && length.is_some()) {
        return Err(400);
    }
    request.body = if chunked { Body::Chunked } else { Body::Length(length.unwrap_or(0)) };
    Ok(())
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Returns `true` if the request line ends with an HTTP version that is not supported.
fn is_other_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, rest @ ..]
        if major.is_ascii_digit() && matches!(rest, [] | [b'.', _]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<(Request<'_>, usize)>, u16> {
        parse(text.as_bytes())
    }

    fn whole(text: &str) -> Request<'_> {
        let (request, length) = read(text).unwrap().unwrap();
        assert_eq!(length, text.len());
        request
    }

    #[test]
    fn an_ordinary_request() {
        let request = whole("GET /x?y HTTP/1.1\r\nhost: a\r\nRange: bytes=1-2\r\nIf-None-Match: \"q\"\r\n\r\n");
        assert_eq!((request.method, request.target, request.keep_alive), (Method::Get, "/x?y", true));
        assert_eq!((request.range, request.if_none_match), (Some(&b"bytes=1-2"[..]), Some(&b"\"q\""[..])));
    }

    #[test]
    fn which_requests_keep_the_connection() {
        assert!(!whole("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(whole("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive);
        assert!(!whole("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    }

    #[test]
    fn every_prefix_of_a_request_is_partial() {
        let text = "HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(read(&text[..cut]), Ok(None), "{cut}");
        }
        let two = [text, text].concat();
        assert_eq!(read(&two).unwrap().unwrap().1, text.len());
    }

    #[test]
    fn refusals_have_their_status() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("nonsense\r\n\r\n", 400),
            ("GET / FTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/1.1\r\nHost: a\r\nX y: z\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            ("\0\0\0\0", 400),
            (&many, 431),
        ] {
            assert_eq!(read(text), Err(status), "{text:?}");
        }
    }

    #[test]
    fn bodies_and_methods() {
        let request = whole("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((request.method, request.body, request.expects_continue), (Method::Post, Body::Length(7), true));
        let request = whole("BREW / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!((request.method, request.body), (Method::Unknown, Body::Chunked));
        assert_eq!(whole("get / HTTP/1.1\r\nHost: a\r\n\r\n").method, Method::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn almost_valid_requests_never_panic(text in "(GET|HEAD|PUT) /[ -~]{0,20} HTTP/[0-9.]{1,3}\r\n([A-Za-z-]{1,20}: ?[ -~]{0,20}\r?\n){0,6}\r\n") {
            if let Ok(Some((_, length))) = parse(text.as_bytes()) {
                prop_assert!(length <= text.len());
            }
        }
    }
}
