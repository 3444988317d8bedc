use proptest::prelude::*;

use super::*;
use crate::request::parse;

const MODIFIED: u64 = 784_111_777;
const VALIDATORS: Validators =
    Validators { etag: Some(Etag { hash: 0xABC, length: 10 }), modified: Some(HttpDate(MODIFIED)) };
const TAG: &str = "\"abc-a\"";

fn verdict(validators: Validators, fields: &str) -> Verdict {
    let text = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let (request, _) = parse(text.as_bytes()).expect("a request").expect("a whole one");
    evaluate(&request, validators)
}

#[test]
fn each_condition_alone() {
    use Verdict::{Failed, NotModified, Send, SendWhole};
    let (before, at, after) = (HttpDate(MODIFIED - 1), HttpDate(MODIFIED), HttpDate(MODIFIED + 1));
    for (fields, expected) in [
        (String::new(), Send),
        (format!("If-None-Match: {TAG}"), NotModified),
        (format!("If-None-Match: W/{TAG}"), NotModified),
        (format!("If-None-Match: \"x\",{TAG} , \"y\""), NotModified),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: {TAG}"), NotModified),
        ("If-None-Match: *".into(), NotModified),
        ("If-None-Match: \"x\"".into(), Send),
        ("If-None-Match:".into(), Send),
        ("If-None-Match: abc-a".into(), Send),
        (format!("If-Match: {TAG}"), Send),
        (format!("If-Match: \"x\"\r\nIf-Match: \"y\", {TAG}"), Send),
        ("If-Match: *".into(), Send),
        ("If-Match: \"nope\"".into(), Failed),
        (format!("If-Match: W/{TAG}"), Failed),
        ("If-Match:".into(), Failed),
        (format!("If-Modified-Since: {before}"), Send),
        (format!("If-Modified-Since: {at}"), NotModified),
        (format!("If-Modified-Since: {after}"), NotModified),
        ("If-Modified-Since: yesterday".into(), Send),
        (format!("If-Modified-Since: {at}\r\nIf-Modified-Since: {at}"), Send),
        (format!("If-Unmodified-Since: {before}"), Failed),
        (format!("If-Unmodified-Since: {at}"), Send),
        ("If-Unmodified-Since: yesterday".into(), Send),
        (format!("If-Range: {TAG}"), Send),
        (format!("If-Range: W/{TAG}"), SendWhole),
        ("If-Range: \"x\"".into(), SendWhole),
        ("If-Range: *".into(), SendWhole),
        (format!("If-Range: {at}"), SendWhole),
    ] {
        let fields = if fields.is_empty() { fields } else { fields + "\r\n" };
        assert_eq!(verdict(VALIDATORS, &fields), expected, "{fields}");
    }
}

#[test]
fn what_is_not_known_of_a_file_holds_no_condition() {
    let none = Validators { etag: None, modified: None };
    let date = HttpDate(MODIFIED);
    for (fields, expected) in [
        (format!("If-None-Match: {TAG}"), Verdict::Send),
        ("If-None-Match: *".into(), Verdict::NotModified),
        (format!("If-Match: {TAG}"), Verdict::Failed),
        ("If-Match: *".into(), Verdict::Send),
        (format!("If-Modified-Since: {date}"), Verdict::Send),
        (format!("If-Unmodified-Since: {date}"), Verdict::Send),
        (format!("If-Range: {TAG}"), Verdict::SendWhole),
    ] {
        assert_eq!(verdict(none, &format!("{fields}\r\n")), expected, "{fields}");
    }
}

/// What a field says of the file: nothing because it is not there, true, or false.
fn said() -> impl Strategy<Value = Option<bool>> {
    prop_oneof![Just(None), Just(Some(true)), Just(Some(false))]
}

proptest! {
    /// The five steps of RFC 9110, 13.2.2, over what each field says: each is skipped if a step
    /// before has decided.
    #[test]
    fn the_order_is_that_of_the_rfc(
        same in said(), unmodified in said(), other in said(), modified in said(), range in said(), get: bool,
    ) {
        let date = |after: bool| HttpDate(if after { MODIFIED - 1 } else { MODIFIED });
        let tag = |matches: bool| if matches { TAG } else { "\"x\"" };
        let mut fields = String::new();
        let mut add = |name: &str, value: Option<String>| {
            fields.extend(value.map(|value| format!("{name}: {value}\r\n")));
        };
        add("If-Match", same.map(|holds| tag(holds).into()));
        add("If-Unmodified-Since", unmodified.map(|holds| date(!holds).to_string()));
        add("If-None-Match", other.map(|holds| tag(!holds).into()));
        add("If-Modified-Since", modified.map(|holds| date(holds).to_string()));
        add("If-Range", range.map(|holds| tag(holds).into()));
        let text = format!("{} /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n", if get { "GET" } else { "HEAD" });
        let (request, _) = parse(text.as_bytes()).unwrap().unwrap();
        let expected = match (same, unmodified, other, modified) {
            (Some(false), ..) | (None, Some(false), ..) => Verdict::Failed,
            (_, _, Some(false), _) | (_, _, None, Some(false)) => Verdict::NotModified,
            _ if get && range == Some(false) => Verdict::SendWhole,
            _ => Verdict::Send,
        };
        prop_assert_eq!(evaluate(&request, VALIDATORS), expected, "{}", fields);
    }

    #[test]
    fn any_value_is_read(value in "[ -~]{0,40}") {
        for name in ["If-Match", "If-None-Match", "If-Range", "If-Modified-Since", "If-Unmodified-Since"] {
            verdict(VALIDATORS, &format!("{name}: {value}\r\n"));
        }
    }
}
