//! Limits what reaches the console: by the space in the ring (`io/console.h`), and by a rate for
//! each source of lines. The console daemon writes one index of the ring, and may write anything to
//! it.

use core::fmt;

use cloister_caps::ServiceId;
use cloister_caps::tables::PerService;
use cloister_caps::xen::console::OUT_SIZE;

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
    /// The largest number of lines that may come at once.
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

/// Decides which lines of services and which refusals reach the console. Each service has a limit
/// of its own, and so have the refusals together.
#[derive(Debug)]
pub struct ConsoleLog {
    services: PerService<LineBuffer>,
    refusals: LineBuffer,
}

impl ConsoleLog {
    /// Creates a log without lines.
    #[must_use]
    pub fn new() -> ConsoleLog {
        ConsoleLog { services: PerService::new([LineBuffer::new(); _]), refusals: LineBuffer::new() }
    }

    /// Adds text of a service at time `now` in ns, and prints the lines that it ends.
    pub fn add_text(
        &mut self,
        (name, service): (&str, ServiceId),
        text: &[u8],
        now: u64,
        print: impl Fn(fmt::Arguments<'_>),
    ) {
        let line = &mut self.services[service];
        for byte in text {
            if let Some((text, dropped)) = line.push(*byte, now) {
                if dropped > 0 {
                    print(format_args!("{name}: [{dropped} lines dropped]"));
                }
                print(format_args!("{name}: {text}"));
            }
        }
    }

    /// Prints the line of a refusal at time `now` in ns, unless there were too many.
    pub fn add_refusal(&mut self, line: fmt::Arguments<'_>, now: u64, print: impl Fn(fmt::Arguments<'_>)) {
        if let Some((_, dropped)) = self.refusals.push(b'\n', now) {
            if dropped > 0 {
                print(format_args!("[{dropped} refusals not shown]"));
            }
            print(line);
        }
    }
}

impl Default for ConsoleLog {
    fn default() -> Self {
        ConsoleLog::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::id;
    use std::cell::RefCell;

    #[test]
    fn each_service_and_the_refusals_have_limits_of_their_own() {
        let (mut log, printed) = (ConsoleLog::new(), RefCell::new(Vec::new()));
        let print = |line: fmt::Arguments<'_>| printed.borrow_mut().push(line.to_string());
        let taken = || printed.take();
        log.add_text(("one", id(0)), b"a\nb", 0, print);
        log.add_text(("two", id(1)), b"c\n", 0, print);
        log.add_text(("one", id(0)), b"d\n", 0, print);
        assert_eq!(taken(), ["one: a", "two: c", "one: bd"]);
        (0..LineBuffer::BURST).for_each(|_| log.add_text(("one", id(0)), b"\n", 0, print));
        assert_eq!(taken().len(), LineBuffer::BURST as usize - 2, "two lines came before");
        log.add_text(("two", id(1)), b"e\n", 0, print);
        log.add_text(("one", id(0)), b"f\n", LineBuffer::REFILL, print);
        assert_eq!(taken(), ["two: e", "one: [2 lines dropped]", "one: f"]);
        (0..=LineBuffer::BURST).for_each(|number| log.add_refusal(format_args!("refused {number}"), 0, print));
        let refusals = taken();
        assert_eq!((refusals.len(), &refusals[1][..]), (LineBuffer::BURST as usize, "refused 1"));
        log.add_refusal(format_args!("last"), LineBuffer::REFILL, print);
        assert_eq!(taken(), ["[1 refusals not shown]", "last"]);
    }

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
