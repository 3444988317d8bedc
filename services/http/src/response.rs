//! The response to a request.

use core::fmt::Write;
use core::time::Duration;

use crate::conditional::{Validators, Verdict, evaluate};
use crate::head::{Content, Decimal, Head, HeadOptions, Plan, write_or_refuse};
use crate::mime;
use crate::page;
use crate::path::Path;
use crate::range::{self, Range};
use crate::request::{Body, Method, Request, Version};
use crate::site::{File, Found, Site};
use crate::target::Target;

/// The largest request body that is received and discarded. The connection ends before a larger
/// one.
const MAX_DISCARDED_BODY: u64 = 64 * 1024;

/// The context of a response, besides the request.
pub struct Context<'a> {
    /// The site.
    pub site: &'a Site,
    /// Anything may be sent to `/sink`.
    pub sink: bool,
    /// The policy's hash, for the built-in page.
    pub policy: [u8; 32],
    /// The time since boot, for the built-in page.
    pub uptime: Duration,
    /// The date, if it is known.
    pub date: Option<&'a str>,
}

/// What happens to the connection after a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AfterResponse {
    /// It serves further requests.
    #[default]
    KeepOpen,
    /// It is closed.
    Close,
    /// It is closed. The peer may still be sending, and its bytes are discarded for a while before,
    /// because a reset would reach it before the response.
    DiscardAndClose,
}

impl AfterResponse {
    /// Returns the end of a connection with `close`, whose peer may still be sending if `sending`.
    fn new(close: bool, sending: bool) -> Self {
        match (close, sending) {
            (false, _) => AfterResponse::KeepOpen,
            (true, false) => AfterResponse::Close,
            (true, true) => AfterResponse::DiscardAndClose,
        }
    }

    /// Returns `true` if the connection ends.
    pub fn ends(self) -> bool {
        self != AfterResponse::KeepOpen
    }
}

/// A response whose head was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// The body that follows the head.
    pub content: Content,
    /// The end of the connection, if it ends with the response.
    pub then: AfterResponse,
    /// The number of bytes of the request's body to be discarded.
    pub discard: u64,
}

/// The kinds of answers to a request.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// At once.
    Now(Response),
    /// Once its body was received, by [`respond_to_sink`].
    Sink(Sink),
}

/// A request whose body is received, counted and discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sink {
    /// The number of bytes of the body.
    pub length: u64,
    /// The connection ends with the response.
    pub close: bool,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The version that the peer speaks.
    version: Version,
}

/// The path to which anything may be sent, if that is allowed.
const SINK: &[u8] = b"sink";
/// The interim response that lets the peer send its body (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Decides the response to a request, and writes its head to `head`.
#[must_use]
pub fn respond(request: &Request<'_>, context: &Context<'_>, head: &mut Head) -> Answer {
    let Request { keep_alive, expects_continue, version, .. } = *request;
    if context.sink && request.method == Method::Post && request.target.is_some_and(is_sink) {
        return match request.body {
            Body::Length(length) => Answer::Sink(Sink { length, close: !keep_alive, expects_continue, version }),
            Body::Chunked => Answer::Now(refuse(411, context.date, head)),
        };
    }
    let (discard, readable) = match request.body {
        Body::Length(length) if length <= MAX_DISCARDED_BODY => (length, true),
        Body::Length(_) | Body::Chunked => (0, false),
    };
    let too_large = matches!(request.body, Body::Length(length) if length > MAX_DISCARDED_BODY);
    // A peer that waits for `100 Continue` gets its response instead. It is unknown whether it then
    // sends the body.
    let close = !keep_alive || !readable || expects_continue;
    let plan = match (request.method, request.target) {
        (Method::Unknown, _) => Plan::status(501),
        (Method::Get | Method::Head, _) if too_large => Plan::status(413),
        (_, Some(target)) => plan(request, target, context),
        (Method::Options, None) => Plan { allow: Some(methods_of_all(context)), ..Plan::status(204) },
        (_, None) => Plan { allow: Some(methods_of_all(context)), ..Plan::status(405) },
    };
    let no_body = request.method == Method::Head;
    write_or_refuse(head, &plan, HeadOptions { no_body, close, version, date: context.date });
    Answer::Now(Response {
        content: if no_body { Content::Nothing } else { plan.content },
        then: AfterResponse::new(close, request.body != Body::Length(0)),
        discard: if close { 0 } else { discard },
    })
}

fn is_sink(target: Target<'_>) -> bool {
    Path::parse(target.path).is_ok_and(|path| path.as_bytes() == SINK)
}

/// The methods of a file, of a directory, and of the built-in page.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Returns the methods that any resource has.
fn methods_of_all(context: &Context<'_>) -> &'static str {
    if context.sink { "GET, HEAD, OPTIONS, POST" } else { METHODS }
}

/// Writes the response to a request whose body was received to `head`: the number of its bytes.
#[must_use]
pub fn respond_to_sink(sink: Sink, date: Option<&str>, head: &mut Head) -> Response {
    let count = Decimal::of(sink.length);
    let plan = Plan { length: Some(count.as_str().len() as u64 + 1), ..Plan::status(200) };
    write_or_refuse(head, &plan, HeadOptions { no_body: false, close: sink.close, version: sink.version, date });
    // The number fits after such a head.
    let _ = head.write_str(count.as_str()).and_then(|()| head.write_str("\n"));
    Response { content: Content::Nothing, then: AfterResponse::new(sink.close, false), discard: 0 }
}

/// Writes the head of the response to something that is no valid request to `head`.
#[must_use]
pub fn refuse(status: u16, date: Option<&str>, head: &mut Head) -> Response {
    write_or_refuse(
        head,
        &Plan::status(status),
        HeadOptions { no_body: false, close: true, version: Version::Http11, date },
    );
    Response { content: Content::Nothing, then: AfterResponse::DiscardAndClose, discard: 0 }
}

fn plan<'a>(request: &Request<'a>, target: Target<'a>, context: &Context<'_>) -> Plan<'a> {
    let Ok(path) = Path::parse(target.path) else { return Plan::status(400) };
    let found = context.site.find(&path);
    let methods = match found {
        Found::Nothing if context.sink && is_sink(target) => "OPTIONS, POST",
        Found::Nothing => return Plan::status(404),
        _ => METHODS,
    };
    match (request.method, found) {
        (Method::Options, _) => Plan { allow: Some(methods), ..Plan::status(204) },
        (Method::Get | Method::Head, Found::Directory) => Plan { location: Some(target), ..Plan::status(301) },
        (Method::Get | Method::Head, Found::Page) => Plan {
            kind: mime::of(b"index.html"),
            length: Some(page::length(&context.policy, context.uptime)),
            content: Content::Page(context.uptime),
            ..Plan::status(200)
        },
        (Method::Get | Method::Head, Found::File(file)) => {
            let name = if path.directory { &b"index.html"[..] } else { path.as_bytes() };
            plan_file(request, &file, mime::of(name))
        }
        _ => Plan { allow: Some(methods), ..Plan::status(405) },
    }
}

fn plan_file<'a>(request: &Request<'a>, file: &File, kind: &'static str) -> Plan<'a> {
    let validators = Validators::of(file);
    let length = file.data.len() as u64;
    let whole = Plan {
        kind,
        length: Some(length),
        content: Content::Bytes(file.data),
        validators: Some(validators),
        ..Plan::status(200)
    };
    let range = match evaluate(request, validators) {
        Verdict::Failed => return Plan::status(412),
        Verdict::NotModified => return Plan { status: 304, length: None, content: Content::Nothing, ..whole },
        Verdict::SendWhole => None,
        Verdict::Send => request.range.filter(|_| request.method == Method::Get),
    };
    match range.map_or(Range::Whole, |value| range::parse(value, length)) {
        Range::Whole => whole,
        Range::Unsatisfiable => Plan { range: Some((None, length)), ..Plan::status(416) },
        Range::Part { first, last } => {
            // The range was checked against the length of the file.
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

#[cfg(test)]
mod tests;
