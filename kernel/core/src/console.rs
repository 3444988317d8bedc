//! The console ring (`io/console.h`): where in it output may go. The daemon's index is its own to lie about.

/// Bytes of the output half of the ring.
pub const OUT_SIZE: u32 = 2048;
/// Bytes of the input half of the ring.
pub const IN_SIZE: u32 = 1024;

/// How many bytes of output fit, given our producer index and what the daemon says it consumed. A daemon that claims
/// to have consumed what was never produced gets nothing more until it recants.
#[must_use]
pub fn room(produced: u32, consumed: u32) -> u32 {
    OUT_SIZE.saturating_sub(produced.wrapping_sub(consumed))
}

/// Collects a service's text into lines and limits how much of it reaches the console.
#[derive(Clone, Copy, Debug)]
pub struct LineBuffer {
    bytes: [u8; LineBuffer::LENGTH],
    used: usize,
    credit: u32,
    refilled: u64,
    dropped: u32,
}

impl LineBuffer {
    /// The longest line; what is longer is broken.
    pub const LENGTH: usize = 160;
    /// Lines that may come at once.
    const BURST: u32 = 200;
    /// Time in ns for which one more line is allowed.
    const REFILL: u64 = 2_000_000;

    /// An empty line.
    #[must_use]
    pub const fn new() -> LineBuffer {
        LineBuffer { bytes: [0; LineBuffer::LENGTH], used: 0, credit: LineBuffer::BURST, refilled: 0, dropped: 0 }
    }

    /// Takes a byte; a full line comes back, to be printed with the count of lines that were dropped before it.
    /// Control characters and everything that is not ASCII become `?`, so that no service can send the operator's
    /// terminal a command.
    pub fn push(&mut self, byte: u8, now: u64) -> Option<(&str, u32)> {
        let ends = byte == b'\n';
        if !ends && let Some(place) = self.bytes.get_mut(self.used) {
            *place = if matches!(byte, b' '..=b'~') { byte } else { b'?' };
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

    /// Whether one more line may be printed at `now`.
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
        assert_eq!(printed(&mut line, LineBuffer::REFILL), 1, "looking too early does not start the time anew");
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
