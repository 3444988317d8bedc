//! The response to a request: decided here, and its head written.

use core::fmt::{self, Write};
use core::time::Duration;

use arrayvec::ArrayString;

use crate::archive::File;
use crate::mime;
use crate::page;
use crate::path::{Path, strip_authority};
use crate::range::{self, Range};
use crate::request::{Body, Method, Request};
use crate::site::{Found, Site};

/// Bytes that a head takes at most, a short text body included: a `Location` may be as long as a request.
pub const LARGEST_HEAD: usize = 3072;
/// A request body up to this size is read and thrown away; before a larger one the connection ends.
const LARGEST_BODY: u64 = 64 * 1024;

/// What is sent after the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// Bytes of the archive.
    Bytes(&'static [u8]),
    /// The built-in page, as it was at this uptime.
    Page(Duration),
}

/// What the response depends on, beside the request.
pub struct Context<'a> {
    /// The site.
    pub site: &'a Site,
    /// Anything may be sent to `/sink`.
    pub sink: bool,
    /// For the built-in page.
    pub policy: [u8; 32],
    /// For the built-in page.
    pub uptime: Duration,
    /// The date, if it is known.
    pub date: Option<&'a str>,
}

/// The head of a response, and the body if it is a short text.
pub type Head = ArrayString<LARGEST_HEAD>;

/// A response whose head was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// What follows the head.
    pub content: Content,
    /// The connection ends with it.
    pub close: bool,
    /// The peer may still be sending: it is heard out for a while, for a reset would reach it before the response.
    pub linger: bool,
    /// Bytes of the request's body, to be thrown away.
    pub discard: u64,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// At once.
    Now(Response),
    /// When its body has come, by [`sunk`].
    Sink(Sink),
}

/// A request whose body is taken in, counted and thrown away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sink {
    /// Bytes of the body.
    pub length: u64,
    /// The connection ends with the response.
    pub close: bool,
    /// The peer waits for leave to send the body.
    pub expects: bool,
    /// The peer speaks HTTP/1.0.
    old: bool,
}

/// The path to which anything may be sent, if there is one.
const SINK: &[u8] = b"sink";
/// Leave to send a body (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The fields of a head that depend on what was found.
struct Plan<'a> {
    status: u16,
    kind: &'static str,
    /// The length of the content; of a text body if there is none.
    length: Option<u64>,
    content: Content,
    etag: Option<Etag>,
    /// The part that is sent, of how many bytes. No part is "unsatisfied".
    range: Option<(Option<(u64, u64)>, u64)>,
    location: Option<&'a str>,
}

/// A validator from what an archive knows of a file. None if it does not know when the file was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Etag {
    modified: u64,
    length: usize,
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{:x}-{:x}\"", self.modified, self.length)
    }
}

impl Etag {
    fn of(file: &File<'_>) -> Option<Etag> {
        (file.modified != 0).then_some(Etag { modified: file.modified, length: file.data.len() })
    }

    /// Whether it is among the tags of a field's value. `weakly`: a weak tag counts too.
    fn is_in(self, value: &[u8], weakly: bool) -> bool {
        let mut text = ArrayString::<40>::new();
        // Two numbers of 16 digits and three marks fit.
        let _ = write!(text, "{self}");
        value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
            let tag = if weakly { tag.strip_prefix(b"W/").unwrap_or(tag) } else { tag };
            tag == text.as_bytes() || weakly && tag == b"*"
        })
    }
}

impl Plan<'_> {
    fn status(status: u16) -> Self {
        Plan { status, kind: TEXT, length: None, content: Content::Nothing, etag: None, range: None, location: None }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The response to a whole request; writes its head to `head`.
#[must_use]
pub fn respond(request: &Request<'_>, context: &Context<'_>, head: &mut Head) -> Answer {
    let Request { keep_alive, expects, modern, .. } = *request;
    if context.sink && request.method == Method::Post && is_sink(request.target) {
        return match request.body {
            Body::Length(length) => Answer::Sink(Sink { length, close: !keep_alive, expects, old: !modern }),
            Body::Chunked => Answer::Now(refuse(411, context.date, head)),
        };
    }
    let (discard, readable) = match request.body {
        Body::Length(length) if length <= LARGEST_BODY => (length, true),
        Body::Length(_) | Body::Chunked => (0, false),
    };
    let too_large = matches!(request.body, Body::Length(length) if length > LARGEST_BODY);
    // A peer that waits for leave gets its answer instead; whether it then sends the body cannot be known.
    let close = !keep_alive || !readable || expects;
    let plan = match request.method {
        Method::Unknown => Plan::status(501),
        Method::Post | Method::NotAllowed => Plan::status(405),
        Method::Get | Method::Head if too_large => Plan::status(413),
        Method::Get | Method::Head => plan(request, context),
    };
    let bare = request.method == Method::Head;
    write_or_refuse(head, &plan, Form { bare, close, old: !modern, date: context.date });
    Answer::Now(Response {
        content: if bare { Content::Nothing } else { plan.content },
        close,
        linger: request.body != Body::Length(0),
        discard: if close { 0 } else { discard },
    })
}

fn is_sink(target: &str) -> bool {
    Path::parse(target).is_ok_and(|path| path.as_bytes() == SINK)
}

/// The response to a request whose body has come: how long it was. Writes it to `head`.
#[must_use]
pub fn sunk(sink: Sink, date: Option<&str>, head: &mut Head) -> Response {
    let count = Decimal::of(sink.length);
    let plan = Plan { length: Some(count.as_str().len() as u64 + 1), ..Plan::status(200) };
    write_or_refuse(head, &plan, Form { bare: false, close: sink.close, old: sink.old, date });
    // A count fits behind such a head.
    let _ = head.write_str(count.as_str()).and_then(|()| head.write_str("\n"));
    Response { content: Content::Nothing, close: sink.close, linger: false, discard: 0 }
}

/// The response to what could not be read as a request; writes its head to `head`.
#[must_use]
pub fn refuse(status: u16, date: Option<&str>, head: &mut Head) -> Response {
    write_or_refuse(head, &Plan::status(status), Form { bare: false, close: true, old: false, date });
    Response { content: Content::Nothing, close: true, linger: true, discard: 0 }
}

fn plan<'a>(request: &Request<'a>, context: &Context<'_>) -> Plan<'a> {
    let Ok(path) = Path::parse(request.target) else { return Plan::status(400) };
    match context.site.find(&path) {
        Found::Nothing => Plan::status(404),
        Found::Directory => Plan { location: Some(request.target), ..Plan::status(301) },
        Found::Page => Plan {
            kind: mime::of(b"index.html"),
            length: Some(page::length(&context.policy, context.uptime)),
            content: Content::Page(context.uptime),
            ..Plan::status(200)
        },
        Found::File(file) => {
            let name = if path.directory { &b"index.html"[..] } else { path.as_bytes() };
            plan_file(request, &file, mime::of(name))
        }
    }
}

fn plan_file<'a>(request: &Request<'a>, file: &File<'static>, kind: &'static str) -> Plan<'a> {
    let etag = Etag::of(file);
    let length = file.data.len() as u64;
    let whole = Plan { kind, length: Some(length), content: Content::Bytes(file.data), etag, ..Plan::status(200) };
    if let (Some(tags), Some(etag)) = (request.if_none_match, etag)
        && etag.is_in(tags, true)
    {
        return Plan { status: 304, length: None, content: Content::Nothing, ..whole };
    }
    let fresh = request.if_range.is_none_or(|tag| etag.is_some_and(|etag| etag.is_in(tag, false)));
    let Some(value) = request.range.filter(|_| fresh && request.method == Method::Get) else { return whole };
    match range::parse(value, length) {
        Range::Whole => whole,
        Range::Unsatisfiable => Plan { range: Some((None, length)), ..Plan::status(416) },
        Range::Part { first, last } => {
            // The range was checked against the file's length.
            let part = file.data.get(first as usize..=last as usize).unwrap_or_default();
            Plan {
                status: 206,
                length: Some(part.len() as u64),
                content: Content::Bytes(part),
                range: Some((Some((first, last)), length)),
                ..whole
            }
        }
    }
}

/// How a head is written, whatever it says.
#[derive(Clone, Copy)]
struct Form<'a> {
    /// No body follows.
    bare: bool,
    /// The connection ends.
    close: bool,
    /// The peer speaks HTTP/1.0.
    old: bool,
    date: Option<&'a str>,
}

fn write_or_refuse(head: &mut Head, plan: &Plan<'_>, form: Form<'_>) {
    head.clear();
    if write_head(head, plan, form).is_err() {
        // Only a `Location` can be too long; requests are not.
        head.clear();
        let _ = write_head(head, &Plan::status(404), form);
    }
}

fn write_head<W: Write>(head: &mut W, plan: &Plan<'_>, form: Form<'_>) -> fmt::Result {
    let Form { bare, close, old, date } = form;
    let reason = reason(plan.status);
    let text = reason.len() as u64 + 1;
    // Number by number and piece by piece: `write!` would be most of what a small response costs.
    let put = |head: &mut W, pieces: &[&str]| pieces.iter().try_for_each(|piece| head.write_str(piece));
    // No `Server` (RFC 9110, 10.2.4: it may be left out): a stranger need not know, and each peer would read it again and again.
    put(head, &["HTTP/1.1 ", reason, "\r\n"])?;
    if let Some(date) = date {
        put(head, &["Date: ", date, "\r\n"])?;
    }
    if plan.status != 304 {
        let length = Decimal::of(plan.length.unwrap_or(text));
        put(head, &["Content-Length: ", length.as_str(), "\r\nContent-Type: ", plan.kind])?;
        head.write_str("\r\nX-Content-Type-Options: nosniff\r\n")?;
    }
    match plan.content {
        Content::Bytes(_) => head.write_str("Accept-Ranges: bytes\r\n")?,
        Content::Page(_) => head.write_str("Cache-Control: no-store\r\n")?,
        Content::Nothing => {}
    }
    if let Some(Etag { modified, length }) = plan.etag {
        let (modified, length) = (Decimal::in_base(modified, 16), Decimal::in_base(length as u64, 16));
        put(head, &["ETag: \"", modified.as_str(), "-", length.as_str(), "\"\r\n"])?;
    }
    match plan.range {
        Some((Some((first, last)), length)) => write!(head, "Content-Range: bytes {first}-{last}/{length}\r\n")?,
        Some((None, length)) => write!(head, "Content-Range: bytes */{length}\r\n")?,
        None => {}
    }
    if let Some(target) = plan.location {
        write_location(head, target)?;
    }
    if plan.status == 405 {
        head.write_str("Allow: GET, HEAD\r\n")?;
    }
    if close {
        head.write_str("Connection: close\r\n")?;
    } else if old {
        head.write_str("Connection: keep-alive\r\n")?;
    }
    head.write_str("\r\n")?;
    if plan.length.is_none() && plan.status != 304 && !bare {
        put(head, &[reason, "\n"])?;
    }
    Ok(())
}

/// A number as text.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    fn of(number: u64) -> Self {
        Self::in_base(number, 10)
    }

    /// The digits in a base from 10, in which every number has at most twenty, to 16.
    fn in_base(mut number: u64, base: u64) -> Self {
        let mut text = Decimal { digits: [b'0'; 20], start: 20 };
        for (place, digit) in text.digits.iter_mut().enumerate().rev() {
            *digit = b"0123456789abcdef".get((number % base) as usize).copied().unwrap_or(b'0');
            text.start = place;
            number /= base;
            if number == 0 {
                break;
            }
        }
        text
    }

    fn as_str(&self) -> &str {
        self.digits.get(self.start..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
    }
}

/// The directory that was meant by `target`, on this server: its components, a slash before each and one after.
fn write_location(head: &mut impl Write, target: &str) -> fmt::Result {
    let path = strip_authority(target).unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
    head.write_str("Location: /")?;
    for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
        for byte in component.bytes() {
            // Never anything that ends the line or means another host: a backslash is a slash to some browsers.
            match byte {
                b'%' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    head.write_char(char::from(byte))?;
                }
                other => write!(head, "%{other:02X}")?,
            }
        }
        head.write_char('/')?;
    }
    head.write_str("\r\n")
}

/// A status as the status line has it.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        206 => "206 Partial Content",
        301 => "301 Moved Permanently",
        304 => "304 Not Modified",
        400 => "400 Bad Request",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        408 => "408 Request Timeout",
        411 => "411 Length Required",
        413 => "413 Content Too Large",
        414 => "414 URI Too Long",
        416 => "416 Range Not Satisfiable",
        431 => "431 Request Header Fields Too Large",
        501 => "501 Not Implemented",
        505 => "505 HTTP Version Not Supported",
        _ => "500 Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request::parse;
    use crate::site::tests::site;

    struct Written {
        head: Head,
        response: Response,
    }

    impl core::ops::Deref for Written {
        type Target = Response;
        fn deref(&self) -> &Response {
            &self.response
        }
    }

    fn answer(site: &Site, text: &str) -> Written {
        answer_with(site, false, text)
    }

    fn answer_with(site: &Site, sink: bool, text: &str) -> Written {
        let context = Context {
            site,
            sink,
            policy: [1; 32],
            uptime: Duration::from_secs(5),
            date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        };
        let mut head = Head::new();
        let response = match parse(text.as_bytes()) {
            Ok(Some((request, _))) => match respond(&request, &context, &mut head) {
                Answer::Now(response) => response,
                Answer::Sink(sink) => sunk(sink, context.date, &mut head),
            },
            Ok(None) => panic!("partial"),
            Err(status) => refuse(status, context.date, &mut head),
        };
        Written { head, response }
    }

    fn get(site: &Site, target: &str, more: &str) -> Written {
        answer(site, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n"))
    }

    fn field<'a>(response: &'a Written, name: &str) -> Option<&'a str> {
        let head = response.head.split("\r\n\r\n").next()?;
        head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn status(response: &Written) -> &str {
        &response.head[9..12]
    }

    fn files() -> Site {
        site(&[("index.html", b"<p>root"), ("a/b.txt", b"0123456789"), ("empty", b"")])
    }

    #[test]
    fn a_file_is_sent_with_its_type_and_length() {
        let response = get(&files(), "/a/b.txt", "");
        assert_eq!(
            (status(&response), response.content, response.close),
            ("200", Content::Bytes(b"0123456789"), false)
        );
        assert_eq!(field(&response, "Content-Length"), Some("10"));
        assert_eq!(field(&response, "Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(field(&response, "Date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(response.head.ends_with("\r\n\r\n"));
        assert_eq!(field(&get(&files(), "/", ""), "Content-Type"), Some("text/html; charset=utf-8"));
        assert_eq!(field(&response, "Server"), None, "what serves is nobody's business");
        assert_eq!(field(&get(&files(), "/empty", ""), "Content-Length"), Some("0"));
    }

    #[test]
    fn head_is_get_without_the_body() {
        for target in ["/", "/a/b.txt", "/none", "/a"] {
            let head = answer(&files(), &format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let get = get(&files(), target, "");
            assert_eq!(head.head.as_str(), &get.head[..get.head.find("\r\n\r\n").unwrap() + 4]);
            assert_eq!(head.content, Content::Nothing);
        }
    }

    #[test]
    fn ranges_and_validators() {
        let site = files();
        let part = get(&site, "/a/b.txt", "Range: bytes=2-4\r\n");
        assert_eq!((status(&part), part.content), ("206", Content::Bytes(b"234")));
        assert_eq!(field(&part, "Content-Range"), Some("bytes 2-4/10"));
        assert_eq!(field(&part, "Content-Length"), Some("3"));
        let none = get(&site, "/a/b.txt", "Range: bytes=10-\r\n");
        assert_eq!((status(&none), field(&none, "Content-Range")), ("416", Some("bytes */10")));
        let etag = field(&part, "ETag").unwrap().to_string();
        let unchanged = get(&site, "/a/b.txt", &format!("If-None-Match: \"x\", W/{etag}\r\n"));
        assert_eq!((status(&unchanged), field(&unchanged, "ETag")), ("304", Some(etag.as_str())));
        assert!(unchanged.head.ends_with("\r\n\r\n"));
        assert_eq!(status(&get(&site, "/a/b.txt", "If-None-Match: \"x\"\r\n")), "200");
        assert_eq!(status(&get(&site, "/a/b.txt", &format!("If-Range: {etag}\r\nRange: bytes=1-\r\n"))), "206");
        assert_eq!(status(&get(&site, "/a/b.txt", "If-Range: \"x\"\r\nRange: bytes=1-\r\n")), "200");
    }

    #[test]
    fn refusals() {
        let site = files();
        assert_eq!(status(&get(&site, "/none", "")), "404");
        assert!(get(&site, "/none", "").head.ends_with("\r\n\r\n404 Not Found\n"));
        assert_eq!(field(&get(&site, "/none", ""), "Content-Length"), Some("14"));
        assert_eq!(status(&get(&site, "/a/../x", "")), "400");
        let post = answer(&site, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(
            (status(&post), field(&post, "Allow"), post.discard, post.close),
            ("405", Some("GET, HEAD"), 5, false)
        );
        assert_eq!(status(&answer(&site, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n")), "501");
        let large = get(&site, "/", "Content-Length: 65537\r\n");
        assert_eq!((status(&large), large.close), ("413", true));
        assert!(get(&site, "/", "Transfer-Encoding: chunked\r\n").close);
        assert!(get(&site, "/", "Content-Length: 4\r\nExpect: 100-continue\r\n").close);
        let refusal = refuse(431, None, &mut Head::new());
        assert!(refusal.close && refusal.linger);
        assert!(!answer(&site, "GET / HTTP/1.0\r\n\r\n").linger);
    }

    #[test]
    fn what_is_sent_to_the_sink_is_counted() {
        let site = files();
        let post = |more: &str| answer_with(&site, true, &format!("POST /sink HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        let response = post("Content-Length: 123456789012\r\n");
        assert_eq!((status(&response), response.close), ("200", false));
        assert!(response.head.contains("Content-Length: 13\r\n") && response.head.ends_with("\r\n\r\n123456789012\n"));
        assert!(post("Content-Length: 1\r\nConnection: close\r\n").close);
        assert_eq!(status(&post("Transfer-Encoding: chunked\r\n")), "411");
        assert_eq!(status(&get(&site, "/sink", "")), "404");
    }

    #[test]
    fn what_ships_has_no_sink() {
        for (length, discard, close) in [(5, 5, false), (65_536, 65_536, false), (65_537, 0, true)] {
            let text = format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            let response = answer(&files(), &text);
            assert_eq!((status(&response), field(&response, "Allow")), ("405", Some("GET, HEAD")));
            assert_eq!((response.discard, response.close), (discard, close), "{length}");
        }
    }

    #[test]
    fn numbers_are_written_as_by_the_library() {
        for number in [0, 9, 10, 200, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(Decimal::of(number).as_str(), number.to_string());
            assert_eq!(Decimal::in_base(number, 16).as_str(), format!("{number:x}"));
        }
    }

    #[test]
    fn a_directory_is_named_with_its_slash_on_this_server_only() {
        let site = site(&[("a/b/c", b"x"), ("evil.example/x", b"y")]);
        for (target, location) in [
            ("/a?x=y", "/a/"),
            ("/a?x=http://h/b", "/a/"),
            ("/a/b", "/a/b/"),
            ("//evil.example", "/evil.example/"),
            ("http://h/a/./b", "/a/b/"),
            ("/a%2fb", ""),
        ] {
            let response = get(&site, target, "");
            match location {
                "" => assert_eq!(status(&response), "400"),
                location => assert_eq!((status(&response), field(&response, "Location")), ("301", Some(location))),
            }
        }
    }

    #[test]
    fn versions_and_connections() {
        let old = answer(&files(), "GET / HTTP/1.0\r\n\r\n");
        assert_eq!((old.close, field(&old, "Connection")), (true, Some("close")));
        let kept = answer(&files(), "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((kept.close, field(&kept, "Connection")), (false, Some("keep-alive")));
        assert_eq!(field(&get(&files(), "/", ""), "Connection"), None);
    }

    #[test]
    fn the_built_in_page_has_the_length_it_says() {
        let site = Site::BuiltIn;
        let response = get(&site, "/", "");
        let Content::Page(uptime) = response.content else { panic!("no page") };
        let length = page::render(&[1; 32], uptime).len().to_string();
        assert_eq!(field(&response, "Content-Length"), Some(length.as_str()));
        assert_eq!(field(&response, "Cache-Control"), Some("no-store"));
    }

    proptest! {
        #[test]
        fn no_target_breaks_the_head(target in "/a[!-~]{0,60}") {
            let site = site(&[("a/b", b"x")]);
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            if let Ok(Some((request, _))) = parse(text.as_bytes()) {
                let context = Context { site: &site, sink: false, policy: [0; 32], uptime: Duration::ZERO, date: None };
                let mut text = Head::new();
                let _ = respond(&request, &context, &mut text);
                let head = text.split("\r\n\r\n").next().unwrap();
                prop_assert!(head.split("\r\n").skip(1).all(|line| line.split_once(": ").is_some()));
                prop_assert!(!head.contains("\n\n") && head.is_ascii());
            }
        }

        #[test]
        fn every_part_is_the_file_s(first in 0usize..12, last in 0usize..12) {
            let response = get(&files(), "/a/b.txt", &format!("Range: bytes={first}-{last}\r\n"));
            match response.content {
                Content::Bytes(bytes) if first <= last => prop_assert_eq!(bytes, &b"0123456789"[first..=last.min(9)]),
                Content::Bytes(bytes) => prop_assert_eq!(bytes.len(), 10),
                other => { prop_assert_eq!(other, Content::Nothing); prop_assert!(first >= 10); }
            }
        }
    }
}
