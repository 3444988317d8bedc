use proptest::prelude::*;

use super::*;
use crate::request::{Unparsed, parse};
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
            Answer::Sink(sink) => respond_to_sink(sink, context.date, &mut head),
        },
        Ok(None) => panic!("partial"),
        Err(Unparsed::Refused(status)) => refuse(status, context.date, &mut head),
        Err(Unparsed::LaterVersion(_)) => panic!("a later version"),
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
        (status(&response), response.content, response.then.ends()),
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
        (status(&post), field(&post, "Allow"), post.discard, post.then.ends()),
        ("405", Some("GET, HEAD, OPTIONS"), 5, false)
    );
    assert_eq!(status(&answer(&site, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n")), "501");
    assert!(get(&site, "/a/../x", "").head.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    let large = get(&site, "/", "Content-Length: 65537\r\n");
    assert_eq!((status(&large), large.then.ends()), ("413", true));
    assert!(get(&site, "/", "Transfer-Encoding: chunked\r\n").then.ends());
    assert!(get(&site, "/", "Content-Length: 4\r\nExpect: 100-continue\r\n").then.ends());
    let refusal = refuse(431, None, &mut Head::new());
    assert!(refusal.then == AfterResponse::DiscardAndClose);
    assert!(answer(&site, "GET / HTTP/1.0\r\n\r\n").then == AfterResponse::Close);
}

#[test]
fn bytes_sent_to_the_sink_are_counted() {
    let site = files();
    let post = |more: &str| answer_with(&site, true, &format!("POST /sink HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
    let response = post("Content-Length: 123456789012\r\n");
    assert_eq!((status(&response), response.then.ends()), ("200", false));
    assert!(response.head.contains("Content-Length: 13\r\n") && response.head.ends_with("\r\n\r\n123456789012\n"));
    assert!(post("Content-Length: 1\r\nConnection: close\r\n").then.ends());
    assert_eq!(status(&post("Transfer-Encoding: chunked\r\n")), "411");
    assert_eq!(status(&get(&site, "/sink", "")), "404");
}

#[test]
fn the_shipped_service_has_no_sink() {
    for (length, discard, close) in [(5, 5, false), (65_536, 65_536, false), (65_537, 0, true)] {
        let text = format!("POST /sink HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let response = answer(&files(), &text);
        assert_eq!((status(&response), field(&response, "Allow")), ("404", None));
        assert_eq!((response.discard, response.then.ends()), (discard, close), "{length}");
    }
}

#[test]
fn numbers_are_formatted_as_by_the_standard_library() {
    for number in [0, 9, 10, 200, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(Decimal::of(number).as_str(), number.to_string());
        assert_eq!(Decimal::in_base(number, 16).as_str(), format!("{number:x}"));
    }
}

#[test]
fn every_resource_names_its_methods() {
    let ask = |sink: bool, method: &str, target: &str| {
        let response = answer_with(&files(), sink, &format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        (status(&response).to_string(), field(&response, "Allow").map(str::to_string), response.head.to_string())
    };
    let all = Some("GET, HEAD, OPTIONS".to_string());
    for target in ["/", "/a/b.txt", "/a", "*"] {
        let (status, allow, head) = ask(false, "OPTIONS", target);
        assert_eq!((status.as_str(), allow), ("204", all.clone()), "{target}");
        assert!(!head.contains("Content-") && head.ends_with("\r\n\r\n"), "{head}");
    }
    for method in ["PUT", "DELETE", "PATCH", "TRACE", "POST"] {
        let (status, allow, _) = ask(false, method, "/a/b.txt");
        assert_eq!((status.as_str(), allow), ("405", all.clone()), "{method}");
        assert_eq!(ask(false, method, "/none").0, "404");
    }
    assert_eq!(ask(false, "CONNECT", "a:80").0, "405");
    for (method, expected) in [("OPTIONS", "204"), ("PUT", "405")] {
        let (status, allow, _) = ask(true, method, "/sink");
        assert_eq!((status.as_str(), allow.as_deref()), (expected, Some("OPTIONS, POST")));
    }
    assert_eq!(ask(true, "OPTIONS", "*").1.as_deref(), Some("GET, HEAD, OPTIONS, POST"));
    assert_eq!(ask(true, "GET", "/sink").0, "405");
}

#[test]
fn the_entity_tag_changes_with_the_content_alone() {
    let tag = |content: &[u8]| {
        let response = get(&site(&[("x", content)]), "/x", "");
        assert_eq!(field(&response, "Cache-Control"), Some("no-cache"));
        (field(&response, "ETag").unwrap().to_string(), field(&response, "Last-Modified").unwrap().to_string())
    };
    // Same length, same time.
    let (one, other) = (tag(b"0123456789"), tag(b"0123456788"));
    assert!(one.0 != other.0 && one.1 == other.1);
    assert_eq!(tag(b"0123456789"), one);
    let stale = get(&site(&[("x", b"0123456788")]), "/x", &format!("If-None-Match: {}\r\n", one.0));
    assert_eq!(status(&stale), "200");
}

#[test]
fn the_validators_come_with_304_and_no_failure() {
    let site = files();
    let date = field(&get(&site, "/a/b.txt", ""), "Last-Modified").unwrap().to_string();
    let unchanged = get(&site, "/a/b.txt", &format!("If-Modified-Since: {date}\r\n"));
    assert_eq!((status(&unchanged), field(&unchanged, "Content-Length")), ("304", None));
    assert!(field(&unchanged, "ETag").is_some());
    let failed = get(&site, "/a/b.txt", "If-Match: \"nope\"\r\n");
    assert_eq!((status(&failed), field(&failed, "ETag")), ("412", None));
    assert!(failed.head.ends_with("\r\n\r\n412 Precondition Failed\n"));
    assert_eq!(status(&get(&site, "/none", "If-Match: *\r\n")), "404");
}

#[test]
fn a_redirect_adds_the_slash_and_never_leaves_this_server() {
    let site = site(&[("a/b/c", b"x"), ("evil.example/x", b"y")]);
    for (target, location) in [
        ("/a?x=y", "/a/?x=y"),
        ("/a?", "/a/?"),
        ("/a?x=http://h/b\"<>", "/a/?x=http://h/b%22%3C%3E"),
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
    let http_1_0 = answer(&files(), "GET / HTTP/1.0\r\n\r\n");
    assert_eq!((http_1_0.then.ends(), field(&http_1_0, "Connection")), (true, Some("close")));
    let kept = answer(&files(), "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((kept.then.ends(), field(&kept, "Connection")), (false, Some("keep-alive")));
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
    fn every_range_is_taken_from_the_file(first in 0usize..12, last in 0usize..12) {
        let response = get(&files(), "/a/b.txt", &format!("Range: bytes={first}-{last}\r\n"));
        match response.content {
            Content::Bytes(bytes) if first <= last => prop_assert_eq!(bytes, &b"0123456789"[first..=last.min(9)]),
            Content::Bytes(bytes) => prop_assert_eq!(bytes.len(), 10),
            other => { prop_assert_eq!(other, Content::Nothing); prop_assert!(first >= 10); }
        }
    }
}
