//! Parsing a request: `httparse` parses the request line and the header fields, and this module
//! interprets them.

use core::mem::MaybeUninit;

use httparse::{Error, Status as Parsed};

use crate::target::{Target, is_host};

/// The largest number of header fields of a request.
const MAX_HEADERS: usize = 48;
/// The largest number of lines of one field that is a list.
const MAX_LINES: usize = 4;

/// The method of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// GET: the file.
    Get,
    /// HEAD: only the header fields of the file.
    Head,
    /// POST: something to be received.
    Post,
    /// OPTIONS: the methods that the target has.
    Options,
    /// A method of HTTP that no resource of this server has.
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

/// The values of all lines of a field that is a list.
pub type Lines<'a> = [Option<&'a [u8]>; MAX_LINES];

/// A request that is not parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// It is refused with this status code. Nothing that follows on the connection can be
    /// understood.
    Refused(u16),
    /// It is of a later version than 1.1, with this place of the minor version's digit. As 1.1 it
    /// has the same meaning (RFC 9110, 2.5).
    LaterVersion(usize),
}

impl From<u16> for Unparsed {
    fn from(status: u16) -> Self {
        Unparsed::Refused(status)
    }
}

/// The head of a request.
///
/// # Holding one proves
/// If [`parse`] returned it: the head is complete and well-formed, its lengths do not contradict
/// each other, and it has the one valid `Host` that HTTP/1.1 requires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: Method,
    /// The resource that it is for. There is none in `OPTIONS *` and in CONNECT.
    pub target: Option<Target<'a>>,
    /// The version.
    pub version: Version,
    /// The peer wants the connection to be kept.
    pub keep_alive: bool,
    /// The body.
    pub body: Body,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The value of `Range`. Of fields that are no lists, two lines are a value that means nothing.
    pub range: Option<&'a [u8]>,
    /// The value of `If-Range`.
    pub if_range: Option<&'a [u8]>,
    /// The value of `If-Modified-Since`.
    pub if_modified_since: Option<&'a [u8]>,
    /// The value of `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'a [u8]>,
    /// The values of `If-Match`.
    pub if_match: Lines<'a>,
    /// The values of `If-None-Match`.
    pub if_none_match: Lines<'a>,
}

/// Parses the request at the start of `bytes`. Returns it and its length, or `None` if it is not
/// complete.
///
/// # Errors
/// It cannot be served as it is.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Unparsed> {
    // Not initialised, because filling the array would cost half as much as parsing.
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Parsed::Complete(length)) => length,
        Ok(Parsed::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Unparsed::Refused(431)),
        Err(Error::Version) => return Err(other_version(bytes)),
        Err(_) => return Err(Unparsed::Refused(400)),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Unparsed::Refused(400));
    };
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let no_resource = method == "CONNECT" || (method == "OPTIONS" && target == "*");
    let target = if no_resource { None } else { Some(Target::parse(target).ok_or(400)?) };
    let mut request = Request {
        method: method_of(method),
        target,
        version,
        keep_alive: version == Version::Http11,
        body: Body::Length(0),
        expects_continue: false,
        range: None,
        if_range: None,
        if_modified_since: None,
        if_unmodified_since: None,
        if_match: Lines::default(),
        if_none_match: Lines::default(),
    };
    read_headers(parsed.headers, &mut request)?;
    Ok(Some((request, length)))
}

fn method_of(method: &str) -> Method {
    match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "OPTIONS" => Method::Options,
        "PUT" | "DELETE" | "CONNECT" | "TRACE" | "PATCH" => Method::NotAllowed,
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
            if !is_host(value) {
                return Err(400);
            }
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
            // A client of 1.0 does not know it (RFC 9110, 10.1.1).
            if request.version == Version::Http11 {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(417);
                }
                request.expects_continue = true;
            }
        } else if is("Range") {
            set_once(&mut request.range, value);
        } else if is("If-Range") {
            set_once(&mut request.if_range, value);
        } else if is("If-Modified-Since") {
            set_once(&mut request.if_modified_since, value);
        } else if is("If-Unmodified-Since") {
            set_once(&mut request.if_unmodified_since, value);
        } else if is("If-Match") {
            add_line(&mut request.if_match, value)?;
        } else if is("If-None-Match") {
            add_line(&mut request.if_none_match, value)?;
        }
    }
    // A request with both could mean something else to a proxy before us (RFC 9112, 6.1).
    if hosts > 1 || (request.version == Version::Http11 && hosts == 0) || (chunked && length.is_some()) {
        return Err(400);
    }
    request.body = if chunked { Body::Chunked } else { Body::Length(length.unwrap_or(0)) };
    Ok(())
}

/// Sets the value of a field that is no list. With a second line it is one that means nothing.
fn set_once<'a>(field: &mut Option<&'a [u8]>, value: &'a [u8]) {
    *field = Some(if field.is_none() { value } else { b"" });
}

/// Adds a line of a field that is a list.
fn add_line<'a>(lines: &mut Lines<'a>, value: &'a [u8]) -> Result<(), u16> {
    *lines.iter_mut().find(|line| line.is_none()).ok_or(431u16)? = Some(value);
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

/// Returns what a request is whose version is neither 1.0 nor 1.1.
fn other_version(bytes: &[u8]) -> Unparsed {
    let start = bytes.len() - bytes.trim_ascii_start().len();
    let rest = bytes.get(start..).unwrap_or_default();
    let line = rest.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    match line.rsplit(|byte| *byte == b' ').next().unwrap_or_default() {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Unparsed::LaterVersion(start + line.len() - 1),
        [b'H', b'T', b'T', b'P', b'/', major, rest @ ..]
            if major.is_ascii_digit() && matches!(rest, [] | [b'.', _]) =>
        {
            Unparsed::Refused(505)
        }
        _ => Unparsed::Refused(400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<(Request<'_>, usize)>, Unparsed> {
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
        let target = Some(Target { path: "/x", query: Some("y") });
        assert_eq!((request.method, request.target, request.keep_alive), (Method::Get, target, true));
        assert_eq!((request.range, request.if_none_match[0]), (Some(&b"bytes=1-2"[..]), Some(&b"\"q\""[..])));
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
        let lists = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "If-Match: b\r\n".repeat(MAX_LINES + 1));
        for (text, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("nonsense\r\n\r\n", 400),
            ("GET / FTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/0.9\r\n\r\n", 505),
            ("GET / HTTP/1.a\r\n\r\n", 505),
            ("GET / HTTP/1.10\r\n\r\n", 400),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nHost: a/b@c\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
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
            (&lists, 431),
        ] {
            assert_eq!(read(text), Err(Unparsed::Refused(status)), "{text:?}");
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

    #[test]
    fn a_later_minor_version_is_found_and_parsed_as_1_1() {
        for minor in '2'..='9' {
            let mut text = format!("\r\nGET /x HTTP/1.{minor}\r\nHost: a\r\n\r\n").into_bytes();
            let Err(Unparsed::LaterVersion(digit)) = parse(&text) else { panic!("{minor}") };
            assert_eq!(text[digit], minor as u8);
            text[digit] = b'1';
            assert!(matches!(parse(&text), Ok(Some((Request { version: Version::Http11, .. }, _)))));
        }
    }

    #[test]
    fn an_expectation_from_http_1_0_is_not_seen() {
        for expectation in ["100-continue", "200-ok"] {
            assert!(!whole(&format!("GET / HTTP/1.0\r\nExpect: {expectation}\r\n\r\n")).expects_continue);
        }
    }

    #[test]
    fn two_lines_are_a_list_or_nothing() {
        let text = "GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\"\r\nRange: bytes=0-1\r\nIf-None-Match: \"b\"\r\n\
                    Range: bytes=2-3\r\n\r\n";
        let request = whole(text);
        assert_eq!(request.if_none_match, [Some(&b"\"a\""[..]), Some(b"\"b\""), None, None]);
        assert_eq!(request.range, Some(&b""[..]));
    }

    #[test]
    fn only_options_and_connect_are_for_no_resource() {
        assert_eq!(whole("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").target, None);
        assert_eq!(whole("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n").target, None);
        assert!(whole("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n").target.is_some());
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
