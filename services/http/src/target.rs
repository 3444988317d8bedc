//! The target of a request and the host that it names (RFC 9112, 3.2; RFC 9110, 7.2).

/// The target of a request for a resource, without scheme and authority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    /// The path, as it was sent. It begins with a slash.
    pub path: &'a str,
    /// What follows the question mark, without a fragment.
    pub query: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// Parses a target in origin form, or in absolute form with the scheme `http` or `https`.
    ///
    /// Returns `None` if it has another form, or no valid host.
    #[must_use]
    pub fn parse(target: &'a str) -> Option<Target<'a>> {
        // No client sends a fragment. What follows it is no part of the resource's name.
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        if path.starts_with('/') {
            return Some(Target { path, query });
        }
        let rest = ["http://", "https://"].iter().find_map(|scheme| {
            let (start, rest) = path.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let valid = !host.is_empty() && !host.starts_with(':') && is_host(host.as_bytes());
        valid.then_some(Target { path: if path.is_empty() { "/" } else { path }, query })
    }
}

/// Returns `true` if `value` is a host with an optional port, or empty: what a `Host` field may
/// hold.
#[must_use]
pub fn is_host(value: &[u8]) -> bool {
    let (host_is_valid, rest) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = literal.iter().position(|byte| *byte == b']') else { return false };
            let (address, rest) = literal.split_at(end);
            (is_address(address), rest.get(1..).unwrap_or_default())
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            let (name, rest) = value.split_at(end);
            (is_name(name), rest)
        }
    };
    let port_is_valid = match rest.split_first() {
        None => true,
        Some((colon, port)) => *colon == b':' && port.iter().all(u8::is_ascii_digit),
    };
    host_is_valid && port_is_valid
}

/// An address of IPv6 in its characters. Which address it is does not matter.
fn is_address(address: &[u8]) -> bool {
    address.contains(&b':') && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
}

/// `reg-name` of RFC 3986, 3.2.2, which includes addresses of IPv4.
fn is_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_have_a_path_and_a_query() {
        for (target, path, query) in [
            ("/", "/", None),
            ("/a/b?c=d?e", "/a/b", Some("c=d?e")),
            ("/a#b?c", "/a", None),
            ("/?", "/", Some("")),
            ("//host/x", "//host/x", None),
            ("http://a?x=/y", "/", Some("x=/y")),
            ("http://a:80/x?y#z", "/x", Some("y")),
            ("HTTPS://[::1]:443/x", "/x", None),
            ("http://host", "/", None),
        ] {
            assert_eq!(Target::parse(target), Some(Target { path, query }), "{target}");
        }
        for target in [
            "",
            "*",
            "a",
            "host:80",
            "ftp://host/x",
            "http:///x",
            "http://:80/x",
            "http://u@h/x",
            "http://a b/",
            "http:/x",
        ] {
            assert_eq!(Target::parse(target), None, "{target}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for host in ["", "a", "a.example:8080", "10.0.0.2", "[::1]", "[fe80::1]:80", "a:", "%C3%A4", "a_b-c~d", "a,b"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in
            ["a b", "a/b@c", "a@b", "a:b", "a:80:81", "[::1", "::1", "[x]", "[1]", "[::1]80", "%4", "a\"b", "ä", "<a>"]
        {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    proptest! {
        #[test]
        fn a_target_is_put_together_again(host in "[a-z]{1,9}", path in "(/[a-z%]{0,5}){1,3}", query in prop::option::of("[ -\"$-~]{0,9}")) {
            let text = format!("{path}{}", query.as_ref().map(|query| format!("?{query}")).unwrap_or_default());
            let expected = Some(Target { path: &path, query: query.as_deref() });
            prop_assert_eq!(Target::parse(&text), expected);
            let absolute = format!("http://{host}{text}");
            prop_assert_eq!(Target::parse(&absolute), expected);
        }

        #[test]
        fn any_text_is_read(target in "\\PC{0,40}") {
            if let Some(Target { path, .. }) = Target::parse(&target) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
