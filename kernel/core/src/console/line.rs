//! The text of a service as lines, and the number of lines that it may print.

/// Collects text into lines.
#[derive(Clone, Copy, Debug)]
pub struct LineBuffer {
    bytes: [u8; LineBuffer::LENGTH],
    /// Bytes of the line so far.
    used: usize,
    /// The line so far continues one that was broken.
    continues: bool,
}

/// A line, or a part of one that is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// The text.
    pub text: &'a str,
    /// It continues the part before. The service chose where it begins, so it must not look like a
    /// line of its own.
    pub continues: bool,
}

impl Part<'_> {
    /// Returns what stands between the name of the service and the text.
    #[must_use]
    pub const fn mark(&self) -> &'static str {
        if self.continues { CONTINUED } else { ": " }
    }
}

/// What stands before a part that continues a line.
pub const CONTINUED: &str = "... ";

impl LineBuffer {
    /// The longest line in bytes. Longer ones are broken into parts.
    pub const LENGTH: usize = 160;

    /// Creates an empty line.
    #[must_use]
    pub const fn new() -> LineBuffer {
        LineBuffer { bytes: [0; LineBuffer::LENGTH], used: 0, continues: false }
    }

    /// Adds a byte. If it ends a line, or is the last for which a line has room, returns that part.
    ///
    /// Control characters and bytes that are not ASCII become `?`, so that no service can send a
    /// command to the operator's terminal.
    pub fn push(&mut self, byte: u8) -> Option<Part<'_>> {
        let ends = byte == b'\n';
        if !ends && let Some(next) = self.bytes.get_mut(self.used) {
            *next = if matches!(byte, b' '..=b'~') { byte } else { b'?' };
            self.used += 1;
        }
        if !ends && self.used < LineBuffer::LENGTH {
            return None;
        }
        let length = core::mem::take(&mut self.used);
        let continues = core::mem::replace(&mut self.continues, !ends);
        // The end of a line that was just long enough is no part.
        (length > 0 || !continues)
            .then(|| Part { text: core::str::from_utf8(&self.bytes[..length]).unwrap_or("?"), continues })
    }

    /// Discards the line so far. Returns `true` if it had text.
    pub fn discard(&mut self) -> bool {
        self.continues = false;
        core::mem::take(&mut self.used) > 0
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        LineBuffer::new()
    }
}

/// Limits how many lines come in a time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// Lines of a burst that are spent.
    spent: u32,
    /// The time at which credit was last earned, in ns.
    refilled: u64,
}

impl Credit {
    /// The largest number of lines that may come at once.
    pub const BURST: u32 = 200;
    /// Time in ns that earns one more line.
    pub const REFILL: u64 = 2_000_000;

    /// Creates a full credit.
    #[must_use]
    pub const fn new() -> Credit {
        Credit { spent: 0, refilled: 0 }
    }

    /// Takes the credit for one line. Returns `true` if there was some at `now`, in ns.
    pub fn take(&mut self, now: u64) -> bool {
        let earned = now.saturating_sub(self.refilled) / Credit::REFILL;
        if earned > 0 {
            self.refilled = now;
            self.spent = self.spent.saturating_sub(u32::try_from(earned).unwrap_or(u32::MAX));
        }
        let allowed = self.spent < Credit::BURST;
        self.spent += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printable_and_bounded() {
        let mut line = LineBuffer::new();
        let mut lines = Vec::new();
        for byte in "a\x1b[2Jé\n".bytes().chain([b'x'; 161]) {
            lines.extend(line.push(byte).map(|part| part.text.to_string()));
        }
        assert_eq!(lines, ["a?[2J??".to_string(), "x".repeat(160)]);
    }

    /// The parts of a line after the first are marked, wherever the service has it broken.
    #[test]
    fn what_continues_a_line_says_so() {
        for length in [0, 1, 159, 160, 161, 319, 320, 321, 500] {
            let mut line = LineBuffer::new();
            let mut parts = Vec::new();
            for byte in "x".repeat(length).bytes().chain("\nnext\n".bytes()) {
                parts.extend(line.push(byte).map(|part| (part.text.len(), part.mark())));
            }
            assert_eq!(parts.pop(), Some((4, ": ")), "{length}");
            assert_eq!(parts.len(), length.div_ceil(LineBuffer::LENGTH).max(1), "{length}");
            assert_eq!(parts.iter().map(|part| part.0).sum::<usize>(), length);
            assert_eq!(parts[0].1, ": ");
            assert!(parts[1..].iter().all(|part| part.1 == CONTINUED), "{length}: {parts:?}");
        }
    }

    #[test]
    fn a_full_line_comes_with_its_last_byte() {
        let mut line = LineBuffer::new();
        for _ in 1..LineBuffer::LENGTH {
            assert_eq!(line.push(b'x'), None);
        }
        assert_eq!(line.push(b'y').map(|part| part.text.len()), Some(LineBuffer::LENGTH));
        assert_eq!(line.push(b'\n'), None);
        assert_eq!(line.push(b'\n'), Some(Part { text: "", continues: false }));
    }

    #[test]
    fn a_discarded_line_leaves_nothing() {
        let mut line = LineBuffer::new();
        assert!(!line.discard());
        assert!(b"secret".iter().all(|byte| line.push(*byte).is_none()));
        assert!(line.discard() && !line.discard());
        assert_eq!(line.push(b'\n'), Some(Part { text: "", continues: false }));
        assert_eq!((0..LineBuffer::LENGTH).filter_map(|_| line.push(b'x').map(|_| ())).count(), 1);
        assert!(!line.discard(), "the part is printed already");
        assert_eq!(line.push(b'\n'), Some(Part { text: "", continues: false }), "the next run begins a line");
    }

    #[test]
    fn lines_are_earned_one_at_a_time_and_no_fraction_is_lost() {
        let mut credit = Credit::new();
        let allowed = |credit: &mut Credit, now| (0..1000).filter(|_| credit.take(now)).count();
        assert_eq!(allowed(&mut credit, 0), Credit::BURST as usize);
        assert_eq!(allowed(&mut credit, Credit::REFILL - 1), 0);
        assert_eq!(allowed(&mut credit, Credit::REFILL), 1, "looking too early does not restart the time");
        assert_eq!(allowed(&mut credit, Credit::REFILL * 4), 3);
        let later = allowed(&mut credit, Credit::REFILL * 10_000);
        assert_eq!(later, Credit::BURST as usize, "no more than the burst is saved");
    }
}
