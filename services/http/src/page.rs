//! The built-in page, which tells somebody who has just started the image what it is.

use core::fmt::Write;
use core::time::Duration;

use arrayvec::ArrayString;

/// The largest length of the page in bytes.
pub const MAX_LENGTH: usize = 3072;

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>Cloister</title>
<style>
:root { color-scheme: light dark; --line: #d8d8d2; --dim: #66665f; --back: #fbfbf8; --text: #1d1d1a }
@media (prefers-color-scheme: dark) { :root { --line: #3a3a36; --dim: #a0a097; --back: #171715; --text: #ecece6 } }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 42rem; margin: 12vh auto; padding: 0 1.5rem }
h1 { font-size: 1.9rem; margin: 0 0 .4rem; letter-spacing: -.01em }
p { margin: 0 0 1.6rem; color: var(--dim) }
dl { margin: 0; border-top: 1px solid var(--line) }
div { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; padding: .7rem 0; border-bottom: 1px solid var(--line) }
dt { flex: 0 0 7rem; color: var(--dim) }
dd { flex: 1 1 20rem; margin: 0; font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere }
</style>
</head>
<body>
<main>
<h1>Cloister is running</h1>
<p>This page comes from a Xen guest in which every part runs in its own address space, with the rights that one policy gives it. Give the guest a cpio or tar archive as its ramdisk to serve your own files.</p>
<dl>
";
const TAIL: &str = "</dl>
</main>
</body>
</html>
";

/// Returns the page of an image with this policy and uptime.
#[must_use]
pub fn render(policy: &[u8; 32], uptime: Duration) -> ArrayString<MAX_LENGTH> {
    let mut page = ArrayString::new();
    // The page fits: a test renders the longest.
    let _ = write_page(&mut page, policy, uptime);
    page
}

/// Returns the length of the page that [`render`] returns.
#[must_use]
pub fn length(policy: &[u8; 32], uptime: Duration) -> u64 {
    struct Counter(u64);
    impl Write for Counter {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            self.0 += text.len() as u64;
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let _ = write_page(&mut counter, policy, uptime);
    counter.0
}

fn write_page(page: &mut impl Write, policy: &[u8; 32], uptime: Duration) -> core::fmt::Result {
    page.write_str(HEAD)?;
    write!(page, "<div><dt>Version</dt><dd>{}</dd></div>\n<div><dt>Policy</dt><dd>", env!("CARGO_PKG_VERSION"))?;
    for byte in policy {
        write!(page, "{byte:02x}")?;
    }
    let seconds = uptime.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    page.write_str("</dd></div>\n<div><dt>Uptime</dt><dd>")?;
    match (days, hours, minutes) {
        (0, 0, 0) => write!(page, "{seconds} s")?,
        (0, 0, _) => write!(page, "{minutes} min {} s", seconds % 60)?,
        (0, _, _) => write!(page, "{hours} h {minutes} min")?,
        _ => write!(page, "{days} d {hours} h {minutes} min")?,
    }
    page.write_str("</dd></div>\n")?;
    page.write_str(TAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_version_policy_and_uptime() {
        let page = render(&[0xab; 32], Duration::from_secs(3661));
        assert!(page.contains(env!("CARGO_PKG_VERSION")));
        assert!(page.contains(&"ab".repeat(32)));
        assert!(page.contains("1 h 1 min"));
        assert!(render(&[0; 32], Duration::from_secs(59)).contains("<dd>59 s<"));
        assert!(render(&[0; 32], Duration::from_secs(90_060)).contains("1 d 1 h 1 min"));
    }

    #[test]
    fn the_longest_page_is_complete() {
        assert!(render(&[0xff; 32], Duration::from_secs(u64::MAX)).ends_with(TAIL));
    }
}
