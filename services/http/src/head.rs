//! The head of a response.

use core::fmt::{self, Write};
use core::time::Duration;

use arrayvec::ArrayString;

use crate::conditional::Validators;
use crate::request::Version;
use crate::target::Target;

/// The largest length of a head, including a short text body. A `Location` may be as long as a
/// request.
pub const MAX_HEAD: usize = 3072;

/// The body that follows the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// Bytes of the archive.
    Bytes(&'static [u8]),
    /// The built-in page, with this uptime.
    Page(Duration),
}

/// The head of a response, and its body if that is a short text.
pub type Head = ArrayString<MAX_HEAD>;

/// The fields of a head that depend on what was found.
pub(crate) struct Plan<'a> {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    /// The length of the content. `None` for a short text body.
    pub(crate) length: Option<u64>,
    pub(crate) content: Content,
    /// The validators of the file that is sent, or that the client has.
    pub(crate) validators: Option<Validators>,
    /// The range that is sent, and the length of the file. The inner `None` means that the
    /// requested range cannot be satisfied.
    pub(crate) range: Option<(Option<(u64, u64)>, u64)>,
    /// The target whose directory the client is sent to.
    pub(crate) location: Option<Target<'a>>,
    /// The methods that the target has.
    pub(crate) allow: Option<&'static str>,
}

impl Plan<'_> {
    pub(crate) fn status(status: u16) -> Self {
        Plan {
            status,
            kind: TEXT,
            length: None,
            content: Content::Nothing,
            validators: None,
            range: None,
            location: None,
            allow: None,
        }
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The fields of a head that depend on the connection.
#[derive(Clone, Copy)]
pub(crate) struct HeadOptions<'a> {
    /// No body follows.
    pub(crate) no_body: bool,
    /// The connection ends.
    pub(crate) close: bool,
    /// The version that the peer speaks.
    pub(crate) version: Version,
    pub(crate) date: Option<&'a str>,
}

pub(crate) fn write_or_refuse(head: &mut Head, plan: &Plan<'_>, form: HeadOptions<'_>) {
    head.clear();
    if write_head(head, plan, form).is_err() {
        // Only a `Location` can be too long, because of what is escaped in it.
        head.clear();
        let _ = write_head(head, &Plan::status(404), form);
    }
}

fn write_head<W: Write>(head: &mut W, plan: &Plan<'_>, form: HeadOptions<'_>) -> fmt::Result {
    let HeadOptions { no_body, close, version, date } = form;
    let reason = reason(plan.status);
    let text = reason.len() as u64 + 1;
    // `write!` would be most of what a small response costs.
    let put = |head: &mut W, pieces: &[&str]| pieces.iter().try_for_each(|piece| head.write_str(piece));
    // There is no `Server` field (optional by RFC 9110, 10.2.4): a stranger need not know, and
    // every peer would receive it again and again.
    put(head, &["HTTP/1.1 ", reason, "\r\n"])?;
    if let Some(date) = date {
        put(head, &["Date: ", date, "\r\n"])?;
    }
    let bodiless = matches!(plan.status, 204 | 304);
    if !bodiless {
        let length = Decimal::of(plan.length.unwrap_or(text));
        put(head, &["Content-Length: ", length.as_str(), "\r\nContent-Type: ", plan.kind])?;
        head.write_str("\r\nX-Content-Type-Options: nosniff\r\n")?;
    }
    match plan.content {
        Content::Bytes(_) => head.write_str("Accept-Ranges: bytes\r\n")?,
        Content::Page(_) => head.write_str("Cache-Control: no-store\r\n")?,
        Content::Nothing => {}
    }
    if let Some(validators) = plan.validators {
        write_validators(head, validators)?;
    }
    match plan.range {
        Some((Some((first, last)), length)) => write!(head, "Content-Range: bytes {first}-{last}/{length}\r\n")?,
        Some((None, length)) => write!(head, "Content-Range: bytes */{length}\r\n")?,
        None => {}
    }
    if let Some(target) = plan.location {
        write_location(head, target)?;
    }
    if let Some(methods) = plan.allow {
        put(head, &["Allow: ", methods, "\r\n"])?;
    }
    if close {
        head.write_str("Connection: close\r\n")?;
    } else if version == Version::Http10 {
        head.write_str("Connection: keep-alive\r\n")?;
    }
    head.write_str("\r\n")?;
    if plan.length.is_none() && !bodiless && !no_body {
        put(head, &[reason, "\n"])?;
    }
    Ok(())
}

/// Writes the fields by which a client finds out whether what it has is still current. It has to
/// ask each time: the site may be another one after the next start.
fn write_validators(head: &mut impl Write, Validators { etag, modified }: Validators) -> fmt::Result {
    head.write_str("Cache-Control: no-cache\r\n")?;
    if let Some(etag) = etag {
        let [hash, length] = etag.parts().map(|part| Decimal::in_base(part, 16));
        for piece in ["ETag: \"", hash.as_str(), "-", length.as_str(), "\"\r\n"] {
            head.write_str(piece)?;
        }
    }
    match modified {
        Some(date) => write!(head, "Last-Modified: {date}\r\n"),
        None => Ok(()),
    }
}

/// A number as text.
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn of(number: u64) -> Self {
        Self::in_base(number, 10)
    }

    /// Formats a number in a base from 10 to 16. In base 10, every number has at most 20 digits.
    pub(crate) fn in_base(mut number: u64, base: u64) -> Self {
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

    pub(crate) fn as_str(&self) -> &str {
        self.digits.get(self.start..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default()
    }
}

/// Writes the directory that `target` names on this server: its components, with a slash before
/// each and one at the end, and its query.
fn write_location(head: &mut impl Write, Target { path, query }: Target<'_>) -> fmt::Result {
    head.write_str("Location: /")?;
    for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
        for byte in component.bytes() {
            // Escapes everything that could end the line or name another host. Some browsers take a
            // backslash for a slash.
            match byte {
                b'%' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    head.write_char(char::from(byte))?;
                }
                other => write!(head, "%{other:02X}")?,
            }
        }
        head.write_char('/')?;
    }
    if let Some(query) = query {
        head.write_char('?')?;
        for byte in query.bytes() {
            // All that RFC 3986, 3.4 allows in a query.
            match byte {
                b'%'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''..=b','
                | b'/'
                | b':'
                | b';'
                | b'='
                | b'?'
                | b'@'
                | b'0'..=b'9'
                | b'a'..=b'z'
                | b'A'..=b'Z' => head.write_char(char::from(byte))?,
                other => write!(head, "%{other:02X}")?,
            }
        }
    }
    head.write_str("\r\n")
}

/// Returns the status code and reason of the status line.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "200 OK",
        204 => "204 No Content",
        206 => "206 Partial Content",
        301 => "301 Moved Permanently",
        304 => "304 Not Modified",
        400 => "400 Bad Request",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        408 => "408 Request Timeout",
        411 => "411 Length Required",
        412 => "412 Precondition Failed",
        413 => "413 Content Too Large",
        414 => "414 URI Too Long",
        416 => "416 Range Not Satisfiable",
        417 => "417 Expectation Failed",
        431 => "431 Request Header Fields Too Large",
        501 => "501 Not Implemented",
        505 => "505 HTTP Version Not Supported",
        _ => "500 Internal Server Error",
    }
}
