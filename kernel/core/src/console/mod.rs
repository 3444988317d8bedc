//! Decides what reaches the console, and in which order.
//!
//! Lines wait in a [`Backlog`] for room in the ring (`io/console.h`). Each service may print lines
//! at a rate, and has room of its own in the backlog, so that it cannot displace the lines of
//! others or of the kernel. What is dropped is counted, and the count is printed when there is
//! room. The console daemon writes one index of the ring, and may write anything to it.

pub mod backlog;
pub mod first;
pub mod line;

use core::fmt;

use cloister_caps::ServiceId;
use cloister_caps::tables::{PerService, Tables};
use cloister_caps::xen::console::OUT_SIZE;

use crate::refusal::Refusal;
use backlog::{Account, Backlog};
use first::{FirstRefusals, Refused};
use line::{Credit, LineBuffer};

/// Returns the number of bytes that fit into the ring.
///
/// `produced` is our index, `consumed` the daemon's. While the daemon claims to have consumed more
/// than was produced, nothing fits.
#[must_use]
pub fn room(produced: u32, consumed: u32) -> u32 {
    OUT_SIZE.saturating_sub(produced.wrapping_sub(consumed))
}

/// The credit and the count for the text of a service, or for its refusals.
#[derive(Clone, Copy, Debug)]
struct Source {
    credit: Credit,
    /// Lines that were dropped and are in no printed count yet.
    dropped: u32,
}

impl Source {
    const NEW: Source = Source { credit: Credit::new(), dropped: 0 };

    /// Adds a line to the backlog, and the count of those that were dropped before it. Returns
    /// `false` if both do not fit.
    #[inline(never)] // It is long, and used for both kinds of lines.
    fn push(&mut self, backlog: &mut Backlog, of: &Origin<'_>, line: fmt::Arguments<'_>) -> bool {
        let printed = match self.dropped {
            0 => backlog.push(of.account(), line),
            dropped => backlog.push(of.account(), format_args!("{}\r\n{line}", Count { of, dropped })),
        };
        if printed {
            self.dropped = 0;
        }
        printed
    }

    /// Adds the count of the lines that were dropped, if it fits, and if there is credit for a line
    /// at `now`. Without a time it takes no credit.
    #[cold]
    fn push_count(&mut self, backlog: &mut Backlog, of: &Origin<'_>, now: Option<u64>) {
        let dropped = self.dropped;
        if now.is_none_or(|now| self.credit.take(now))
            && backlog.push(of.account(), format_args!("{}", Count { of, dropped }))
        {
            self.dropped = 0;
        }
    }

    /// Counts a line that was dropped.
    fn drop_line(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }
}

/// What lines are about: the text or the refusals of a service.
#[derive(Clone, Copy)]
struct Origin<'a> {
    tables: &'a Tables<'a>,
    service: ServiceId,
    refusals: bool,
}

impl Origin<'_> {
    fn account(&self) -> Account {
        if self.refusals { Account::refusals(self.service) } else { Account::text(self.service) }
    }
}

/// The number of lines that were dropped. Its `Display` form is the line for the console.
struct Count<'a> {
    of: &'a Origin<'a>,
    dropped: u32,
}

impl fmt::Display for Count<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.of.refusals { "refusals not shown" } else { "lines dropped" };
        write!(f, "{}: [{} {what}]", self.of.tables.service_name(self.of.service), self.dropped)
    }
}

/// What is kept for a service.
#[derive(Clone, Copy, Debug)]
struct ServiceLog {
    line: LineBuffer,
    text: Source,
    refusals: Source,
    first: FirstRefusals,
}

/// Decides which lines reach the console, and holds those that wait.
///
/// Without lines, all of it is zero: as a static, it takes no room in the image and no time at
/// boot.
#[derive(Debug)]
pub struct ConsoleLog {
    backlog: Backlog,
    services: PerService<ServiceLog>,
    /// Lines of the kernel that were dropped and are in no printed count yet.
    dropped: u32,
    /// `true` if counts or refusals may wait to be printed.
    behind: bool,
}

impl ConsoleLog {
    /// Creates a log without lines.
    #[must_use]
    pub const fn new() -> ConsoleLog {
        let service = ServiceLog {
            line: LineBuffer::new(),
            text: Source::NEW,
            refusals: Source::NEW,
            first: FirstRefusals::new(),
        };
        ConsoleLog { backlog: Backlog::new(), services: PerService::new([service; _]), dropped: 0, behind: false }
    }

    /// Gives the services of these tables a room in common.
    pub fn share_among(&mut self, tables: &Tables<'_>) {
        self.backlog.share_among(tables.services().len());
    }

    /// Returns `true` if nothing waits to be taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Adds a line of the kernel's own. It is dropped and counted only if the kernel's room is full
    /// of its own lines.
    pub fn add_line(&mut self, line: fmt::Arguments<'_>) {
        if !self.backlog.push(Account::KERNEL, line) {
            self.dropped = self.dropped.saturating_add(1);
            self.behind = true;
        }
    }

    /// Adds text of a service at time `now` in ns, with the lines that it ends. A part that
    /// continues a line too long is marked.
    ///
    /// Returns `true` if the lines that wait are within the rate and the room that are the service's
    /// own, so that each is printed. Otherwise lines may have been dropped. The answer does not say
    /// whether a line found common room, because that depends on what others have written.
    pub fn add_text(&mut self, tables: &Tables<'_>, service: ServiceId, text: &[u8], now: u64) -> bool {
        let (of, name) = (Origin { tables, service, refusals: false }, tables.service_name(service));
        let log = &mut self.services[service];
        let mut printed = true;
        for byte in text {
            let Some(part) = log.line.push(*byte) else { continue };
            let line = format_args!("{name}{}{}", part.mark(), part.text);
            let added = log.text.credit.take(now) && log.text.push(&mut self.backlog, &of, line);
            if !added {
                log.text.drop_line();
                self.behind = true;
            }
            printed &= added && self.backlog.is_within_own_room(of.account());
        }
        printed
    }

    /// Discards the text of a service since its last whole line, which counts as a dropped line.
    pub fn discard_text(&mut self, service: ServiceId) {
        let log = &mut self.services[service];
        if log.line.discard() {
            log.text.drop_line();
            self.behind = true;
        }
    }

    /// Adds the line of a refusal at time `now` in ns.
    ///
    /// The first refusal of each operation on each slot needs no credit. If it has no room, it is
    /// printed later, without its arguments. Further refusals wait for it, since they could take
    /// its room for ever.
    #[cold]
    pub fn add_refusal(&mut self, refusal: &Refusal<'_>, now: u64) {
        let Refusal { ref tables, service, call, slot, operation, .. } = *refusal;
        let refused = Refused::of(call, slot, operation);
        let log = &mut self.services[service];
        let first = log.first.note(refused);
        let allowed = log.refusals.credit.take(now) || first;
        let added = allowed
            && !log.first.is_waiting()
            && log.refusals.push(
                &mut self.backlog,
                &Origin { tables, service, refusals: true },
                format_args!("{refusal}"),
            );
        if added {
            return;
        }
        self.behind = true;
        if first {
            log.first.defer(refused);
        } else {
            log.refusals.drop_line();
        }
    }

    /// Takes bytes that wait, at most `room`, and passes them to `write` in order. Adds what had no
    /// room before. Returns the number of bytes. `now` is the time in ns, or 0 if it does not
    /// matter.
    pub fn take(&mut self, tables: &Tables<'_>, now: u64, room: usize, mut write: impl FnMut(&[u8])) -> usize {
        let mut taken = 0;
        loop {
            if self.behind {
                self.catch_up(tables, Some(now));
            }
            let bytes = self.backlog.take(room - taken);
            if bytes.is_empty() {
                return taken;
            }
            write(bytes);
            taken += bytes.len();
        }
    }

    /// Adds the refusals that wait and the counts of dropped lines, as far as there is room, for
    /// the end of the image or a report.
    pub fn add_counts(&mut self, tables: &Tables<'_>) {
        self.catch_up(tables, None);
    }

    /// Adds the refusals that wait, as far as there is room. Once no line waits, adds the counts of
    /// dropped lines too, each for the credit of a line at `now`. Without a time, adds all.
    #[cold]
    fn catch_up(&mut self, tables: &Tables<'_>, now: Option<u64>) {
        let Self { backlog, services, dropped, behind } = self;
        let counts = now.is_none() || backlog.is_empty();
        *behind = false;
        for service in tables.services().ids() {
            let ServiceLog { text, refusals, first, .. } = &mut services[service];
            first.print_waiting(|refused| {
                backlog.push(Account::refusals(service), format_args!("{}", Refusal::late(*tables, service, refused)))
            });
            *behind |= first.is_waiting();
            for (source, refusals) in [(text, false), (refusals, true)] {
                if counts && source.dropped > 0 {
                    source.push_count(backlog, &Origin { tables, service, refusals }, now);
                }
                *behind |= source.dropped > 0;
            }
        }
        if *dropped > 0 && backlog.push(Account::KERNEL, format_args!("cloister: [{dropped} lines dropped]")) {
            *dropped = 0;
        }
        *behind |= *dropped > 0;
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

    #[test]
    fn a_daemon_that_lies_gets_nothing() {
        assert_eq!(room(0, 0), OUT_SIZE);
        assert_eq!(room(2048, 0), 0);
        assert_eq!(room(5, 6), 0);
        assert_eq!(room(3, u32::MAX), OUT_SIZE - 4);
    }
}
