//! The path of a request, decoded and normalised.

use arrayvec::ArrayVec;

/// The largest length of a decoded path in bytes.
pub const MAX_LENGTH: usize = 1024;

/// A path without a leading slash.
///
/// # Holding one proves
/// No component is empty, `.` or `..`, and none contains a NUL or a slash. So it cannot name
/// anything outside the site.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path {
    bytes: ArrayVec<u8, MAX_LENGTH>,
    /// It ended with a slash, or is the root: it names a directory.
    pub directory: bool,
}

/// The path cannot name anything in the site: it has a bad escape, a NUL or `..`, or is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPath;

impl Path {
    /// Parses the path of a request target.
    ///
    /// # Errors
    /// It cannot name anything in the site.
    pub fn parse(raw: &str) -> Result<Path, BadPath> {
        let mut path = Path::default();
        for component in raw.split('/') {
            path.push(component.as_bytes())?;
        }
        path.directory = raw.ends_with('/') || raw.is_empty() || raw.ends_with("/.") || path.bytes.is_empty();
        Ok(path)
    }

    fn push(&mut self, component: &[u8]) -> Result<(), BadPath> {
        let length = self.bytes.len();
        if length > 0 {
            self.bytes.try_push(b'/').map_err(|_| BadPath)?;
        }
        let start = self.bytes.len();
        decode(component, &mut self.bytes)?;
        match self.bytes.get(start..).unwrap_or_default() {
            b"" | b"." => self.bytes.truncate(length),
            b".." => return Err(BadPath),
            decoded if decoded.iter().any(|byte| matches!(byte, 0 | b'/')) => return Err(BadPath),
            _ => {}
        }
        Ok(())
    }

    /// Returns the path of a file with this name in an archive. Returns `None` if no request can
    /// name it.
    #[must_use]
    pub fn of_name(name: impl Iterator<Item = u8>) -> Option<Path> {
        let mut bytes = ArrayVec::<u8, MAX_LENGTH>::new();
        for byte in name {
            bytes.try_push(byte).ok()?;
        }
        Path::default().walk(&bytes)
    }

    /// Returns the path that this one is if its first `end` bytes are a symbolic link to `target`.
    ///
    /// Returns `None` if the target lies outside the site, as every absolute one does, or the path
    /// is too long.
    #[must_use]
    pub fn through_link(&self, end: usize, target: &[u8]) -> Option<Path> {
        let (link, rest) = self.bytes.split_at_checked(end)?;
        let folder = link.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        if target.starts_with(b"/") {
            return None;
        }
        Path::default().walk(link.get(..folder)?)?.walk(target)?.walk(rest)
    }

    /// Goes the components of a file's path, which is not escaped.
    fn walk(mut self, raw: &[u8]) -> Option<Path> {
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    let folder = self.bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    (!self.bytes.is_empty()).then(|| self.bytes.truncate(folder))?;
                }
                _ if component.contains(&0) => return None,
                _ => {
                    let separator: &[u8] = if self.bytes.is_empty() { b"" } else { b"/" };
                    self.bytes.try_extend_from_slice(separator).ok()?;
                    self.bytes.try_extend_from_slice(component).ok()?;
                }
            }
        }
        Some(self)
    }

    /// Returns the bytes of the path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the path with `suffix` appended.
    ///
    /// # Errors
    /// It would be too long.
    pub fn with(&self, suffix: &[u8]) -> Result<Path, BadPath> {
        let mut path = self.clone();
        path.bytes.try_extend_from_slice(suffix).map_err(|_| BadPath)?;
        Ok(path)
    }
}

fn decode(raw: &[u8], into: &mut ArrayVec<u8, MAX_LENGTH>) -> Result<(), BadPath> {
    let mut bytes = raw.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(BadPath);
            u8::try_from(digit()? * 16 + digit()?).map_err(|_| BadPath)?
        } else {
            byte
        };
        into.try_push(byte).map_err(|_| BadPath)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(target: &str) -> Option<(String, bool)> {
        let path = Path::parse(target).ok()?;
        Some((String::from_utf8_lossy(path.as_bytes()).into_owned(), path.directory))
    }

    #[test]
    fn paths_are_decoded_and_normalised() {
        for (target, expected, directory) in [
            ("/", "", true),
            ("/index.html", "index.html", false),
            ("/a/b/", "a/b", true),
            ("//a//b", "a/b", false),
            ("/./a/./", "a", true),
            ("/a%20b%2Ec", "a b.c", false),
            ("/%e2%82%ac", "€", false),
        ] {
            assert_eq!(read(target), Some((expected.to_string(), directory)), "{target}");
        }
    }

    #[test]
    fn paths_that_could_escape_are_refused() {
        for target in ["/..", "/a/../b", "/%2e%2e/x", "/.%2E/", "/a%2fb", "/a%00b", "/%", "/%4", "/%zz", "/%+1"] {
            assert_eq!(read(target), None, "{target}");
        }
        assert_eq!(read(&format!("/{}", "a".repeat(MAX_LENGTH + 1))), None);
    }

    proptest! {
        #[test]
        fn no_path_escapes(target in "/([a./%0-9]|%2e|%2f|\\PC){0,60}") {
            if let Ok(path) = Path::parse(&target) {
                prop_assert!(!path.as_bytes().starts_with(b"/"));
                for component in path.as_bytes().split(|byte| *byte == b'/').filter(|_| !path.as_bytes().is_empty()) {
                    prop_assert!(!matches!(component, b"" | b"." | b".."));
                    prop_assert!(!component.contains(&0));
                }
            }
        }

        #[test]
        fn every_name_can_be_requested(name in prop::collection::vec(1u8..=255, 1..40)) {
            prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
            let target: String = "/".to_string() + &name.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let path = Path::parse(&target).unwrap();
            prop_assert_eq!(path.as_bytes(), name);
        }
    }
}
