//! Limits what reaches the console: by the space in the ring (`io/console.h`), and by a rate for
//! each source of lines. The console daemon writes one index of the ring, and may write anything to
//! it.

/// Bytes of the output half of the ring.
pub const OUT_SIZE: u32 = 2048;
/// Bytes of the input half of the ring.
pub const IN_SIZE: u32 = 1024;

/// Returns the number of bytes that fit into the ring.
///
/// `produced` is our index, `consumed` the daemon's. While the daemon claims to have consumed more
/// than was produced, nothing fits.
#[must_use]
pub fn room(produced: u32, consumed: u32) -> u32 {
    OUT_SIZE.saturating_sub(produced.wrapping_sub(consumed))
}

/// Collects text into lines, and limits how many reach the console.
#[derive(Clone, Copy, Debug)]
pub struct LineBuffer {
    bytes: [u8; LineBuffer::LENGTH],
    /// Bytes of the line so far.
    used: usize,
    /// Lines that may come at once.
    credit: u32,
    /// The time at which credit was last earned, in ns.
    refilled: u64,
    /// Lines dropped since the last one that was let through.
    dropped: u32,
}

impl LineBuffer {
    /// The longest line in bytes. Longer ones are broken.
    pub const LENGTH: usize = 160;
    /// The most lines that may come at once.
    const BURST: u32 = 200;
    /// Time in ns that earns one more line.
    const REFILL: u64 = 2_000_000;

    /// Creates an empty line with full credit.
    #[must_use]
    pub const fn new() -> LineBuffer {
        LineBuffer { bytes: [0; LineBuffer::LENGTH], used: 0, credit: LineBuffer::BURST, refilled: 0, dropped: 0 }
    }

    /// Adds a byte at time `now` in ns. If it ends a line, returns the line and the number of lines
    /// that were dropped before it.
    ///
    /// Control characters and bytes that are not ASCII become `?`, so that no service can send a
    /// command to the operator's terminal.
    pub fn push(&mut self, byte: u8, now: u64) -> Option<(&str, u32)> {
        let ends = byte == b'\n';
        if !ends && let Some(next) = self.bytes.get_mut(self.used) {
            *next = if matches!(byte, b' '..=b'~') { byte } else { b'?' };
            self.used += 1;
        }
        if !ends && self.used < LineBuffer::LENGTH {
            return None;
        }
        let length = core::mem::take(&mut self.used);
        if !self.take_credit(now) {
            self.dropped = self.dropped.saturating_add(1);
            return None;
        }
        let text = core::str::from_utf8(&self.bytes[..length]).unwrap_or("?");
        Some((text, core::mem::take(&mut self.dropped)))
    }

    /// Takes the credit for one line. Returns `true` if there was some at `now`.
    fn take_credit(&mut self, now: u64) -> bool {
        let earned = now.saturating_sub(self.refilled) / LineBuffer::REFILL;
        if earned > 0 {
            self.refilled = now;
            self.credit = self.credit.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(LineBuffer::BURST);
        }
        let allowed = self.credit > 0;
        self.credit = self.credit.saturating_sub(1);
        allowed
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        LineBuffer::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_lies_gets_nothing() {
        assert_eq!(room(0, 0), OUT_SIZE);
        assert_eq!(room(2048, 0), 0);
        assert_eq!(room(5, 6), 0);
        assert_eq!(room(3, u32::MAX), OUT_SIZE - 4);
    }

    #[test]
    fn lines_are_printable_and_bounded() {
        let mut line = LineBuffer::new();
        let mut lines = Vec::new();
        for byte in "a\x1b[2Jé\n".bytes().chain([b'x'; 161]) {
            if let Some((text, _)) = line.push(byte, 0) {
                lines.push(text.to_string());
            }
        }
        assert_eq!(lines, ["a?[2J??".to_string(), "x".repeat(160)]);
    }

    #[test]
    fn a_full_line_comes_with_its_last_byte() {
        let mut line = LineBuffer::new();
        for _ in 1..LineBuffer::LENGTH {
            assert_eq!(line.push(b'x', 0), None);
        }
        assert_eq!(line.push(b'y', 0).map(|(text, _)| text.len()), Some(LineBuffer::LENGTH));
        assert_eq!(line.push(b'\n', 0), Some(("", 0)));
    }

    #[test]
    fn lines_are_earned_one_at_a_time_and_no_fraction_is_lost() {
        let mut line = LineBuffer::new();
        let printed = |line: &mut LineBuffer, now| (0..1000).filter(|_| line.push(b'\n', now).is_some()).count();
        assert_eq!(printed(&mut line, 0), LineBuffer::BURST as usize);
        assert_eq!(printed(&mut line, LineBuffer::REFILL - 1), 0);
        assert_eq!(printed(&mut line, LineBuffer::REFILL), 1, "looking too early does not restart the time");
        assert_eq!(printed(&mut line, LineBuffer::REFILL * 4), 3);
        assert_eq!(
            printed(&mut line, LineBuffer::REFILL * 10_000),
            LineBuffer::BURST as usize,
            "no more than the burst is saved"
        );
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut line = LineBuffer::new();
        let printed = (0..1000).filter(|_| line.push(b'\n', 0).is_some()).count();
        assert_eq!(printed, LineBuffer::BURST as usize);
        assert_eq!(line.push(b'\n', LineBuffer::REFILL).map(|(_, dropped)| dropped), Some(800));
    }
}
