//! Content types, by the extension of a file's name.

/// Returns the content type of a file with this name.
#[must_use]
pub fn of(name: &[u8]) -> &'static str {
    let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(dot) = file.iter().rposition(|byte| *byte == b'.') else { return UNKNOWN };
    let extension = file.get(dot + 1..).unwrap_or_default();
    TYPES.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known.as_bytes())).map_or(UNKNOWN, |(_, mime)| mime)
}

const UNKNOWN: &str = "application/octet-stream";

const TYPES: &[(&str, &str)] = &[
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
    ("md", "text/markdown; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("xml", "application/xml"),
    ("atom", "application/atom+xml"),
    ("rss", "application/rss+xml"),
    ("webmanifest", "application/manifest+json"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("ico", "image/x-icon"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("mp3", "audio/mpeg"),
    ("ogg", "audio/ogg"),
    ("wav", "audio/wav"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("pdf", "application/pdf"),
    ("wasm", "application/wasm"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("tar", "application/x-tar"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_counts_whatever_its_case() {
        assert_eq!(of(b"a/b.min.CSS"), "text/css; charset=utf-8");
        assert_eq!(of(b"index.html"), "text/html; charset=utf-8");
        assert_eq!(of(b"dir.html/file"), UNKNOWN);
        assert_eq!(of(b"x."), UNKNOWN);
        assert_eq!(of(b""), UNKNOWN);
        assert_eq!(of(b"x.bin"), UNKNOWN);
    }
}
