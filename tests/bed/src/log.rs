//! Reads log files: their end, and the lines added to them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The number of lines of a log that an error shows.
pub const TAIL_LINES: usize = 25;

/// Returns the last `lines` lines of a log, without control characters that would disturb a
/// terminal.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(mut file) = File::open(path) else { return "(no such log)".to_owned() };
    let length = file.metadata().map(|m| m.len()).unwrap_or(0);
    // Lines of Xen and Linux are far shorter than 4 KiB.
    let from = length.saturating_sub(4096 * lines as u64);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut bytes)).is_err() {
        return "(unreadable log)".to_owned();
    }
    last_lines(&printable(&bytes), lines)
}

/// Returns the last `count` non-empty lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "(empty)".to_owned();
    }
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Returns a log's bytes as text, without carriage returns and other control characters.
pub fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Follows a log that another program writes; the file need not exist yet.
pub struct Follower {
    path: PathBuf,
    position: u64,
    partial: Vec<u8>,
}

impl Follower {
    /// Follows `path` from its beginning.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), position: 0, partial: Vec::new() }
    }

    /// Returns the complete lines added since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut added = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.position)).is_ok()
            && let Ok(count) = file.read_to_end(&mut added)
        {
            self.position += count as u64;
        }
        self.partial.append(&mut added);
        let Some(end) = self.partial.iter().rposition(|&byte| byte == b'\n') else { return Vec::new() };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        printable(&complete).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_tail_is_the_last_lines_without_control_characters() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), b"one\r\ntwo\r\n\r\n\x1b[2Jthree\n").expect("write");
        assert_eq!(tail(file.path(), 2), "two\n[2Jthree");
        assert_eq!(tail(file.path(), 10), "one\ntwo\n[2Jthree");
    }

    #[test]
    fn the_tail_of_a_long_log_is_read_from_its_end() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let text: String = (0..100_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(file.path(), text).expect("write");
        assert_eq!(tail(file.path(), 1), "line 99999");
    }

    #[test]
    fn an_absent_or_empty_log_is_said_to_be_so() {
        assert_eq!(tail(Path::new("/nonexistent/log"), 3), "(no such log)");
        assert_eq!(last_lines("\n\n", 3), "(empty)");
    }

    #[test]
    fn a_follower_gives_each_complete_line_once() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        let mut follower = Follower::new(file.path());
        assert!(follower.lines().is_empty());
        write!(file, "a\nb").expect("write");
        assert_eq!(follower.lines(), ["a"]);
        writeln!(file, "c").expect("write");
        assert_eq!(follower.lines(), ["bc"]);
        assert!(follower.lines().is_empty());
    }
}
