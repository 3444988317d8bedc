//! The text that waits for room in the console ring.

use core::fmt::{self, Write};

use cloister_caps::ServiceId;
use cloister_caps::tables::MAX_SERVICES;

/// Bytes that can wait, with a header for each line.
pub const CAPACITY: usize = 16 * 1024;
/// Bytes that only the kernel's own lines may use.
pub const KERNEL_ROOM: usize = 4 * 1024;
/// Bytes that only one account of one service may use. The longest line of a service fits, and so
/// does the longest refusal that is printed late.
pub const OWN_ROOM: usize = 320;
const _: () = assert!(2 * MAX_SERVICES * OWN_ROOM + KERNEL_ROOM <= CAPACITY);

/// Bytes before each line: the account, and the length of the line in little-endian order.
const HEADER: usize = 3;

/// The account of which a line uses room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account(usize);

impl Account {
    /// The account of the kernel's own lines. They may use all room that is left.
    pub const KERNEL: Account = Account(0);
    const COUNT: usize = 1 + 2 * MAX_SERVICES;

    /// Returns the account of the text of a service.
    #[must_use]
    pub const fn text(service: ServiceId) -> Account {
        Account(1 + 2 * service.index())
    }

    /// Returns the account of the refusals of a service.
    #[must_use]
    pub const fn refusals(service: ServiceId) -> Account {
        Account(2 + 2 * service.index())
    }
}

/// Holds lines, and returns their bytes in the order in which they came.
///
/// Each account of a service has [`OWN_ROOM`]. What an account uses beyond it comes from a room
/// that the services have in common. The rest, at least [`KERNEL_ROOM`], is the kernel's. So no
/// service can displace the lines of the kernel or of another service.
///
/// Without lines, all of it is zero: as a static, it takes no room in the image and no time at
/// boot.
#[derive(Debug)]
pub struct Backlog {
    bytes: [u8; CAPACITY],
    /// Index of the first byte that waits.
    head: usize,
    /// Bytes that wait, with headers.
    length: usize,
    /// Bytes that each account uses of `length`.
    used: [usize; Account::COUNT],
    /// The account of the line that is being taken.
    taken: usize,
    /// Bytes of that line that wait.
    left: usize,
    /// Bytes that the services have in common.
    common: usize,
}

impl Backlog {
    /// Creates a backlog without lines, in which the services have no room in common.
    #[must_use]
    pub const fn new() -> Backlog {
        Backlog { bytes: [0; CAPACITY], head: 0, length: 0, used: [0; Account::COUNT], taken: 0, left: 0, common: 0 }
    }

    /// Gives the services, of which there are `services`, a common room: all that is neither the
    /// kernel's nor an account's own.
    pub fn share_among(&mut self, services: usize) {
        self.common = (CAPACITY - KERNEL_ROOM).saturating_sub(2 * services * OWN_ROOM);
    }

    /// Returns `true` if no byte waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a line, whose end it adds. Returns `false`, and adds nothing, if the account has no
    /// room for the whole line.
    #[must_use]
    pub fn push(&mut self, Account(account): Account, line: fmt::Arguments<'_>) -> bool {
        let room = self.room(account);
        let (start, end) = (self.length, self.length + room);
        let mut writer = Writer { backlog: self, at: start + HEADER, end };
        if writer.write_fmt(line).is_err() || writer.write_str("\r\n").is_err() {
            return false;
        }
        let length = writer.at - start;
        let [low, high, ..] = (length - HEADER).to_le_bytes();
        for (offset, byte) in [account as u8, low, high].into_iter().enumerate() {
            *self.byte(start + offset) = byte;
        }
        self.length += length;
        self.used[account] += length;
        true
    }

    /// Returns the number of bytes that the account may add.
    fn room(&self, account: usize) -> usize {
        let free = CAPACITY - self.length;
        if account == Account::KERNEL.0 {
            return free;
        }
        let in_common: usize = self.used.iter().skip(1).map(|used| used.saturating_sub(OWN_ROOM)).sum();
        let own = OWN_ROOM.saturating_sub(self.used[account]);
        free.min(own + self.common.saturating_sub(in_common))
    }

    /// Returns the byte at this distance from the first that waits.
    fn byte(&mut self, at: usize) -> &mut u8 {
        &mut self.bytes[(self.head + at) % CAPACITY]
    }

    /// Takes bytes of the first line that waits, at most `most` of them. Returns none if no line
    /// waits.
    pub fn take(&mut self, most: usize) -> &[u8] {
        if most == 0 {
            return &[];
        }
        if self.left == 0 && self.length > 0 {
            let [account, low, high] = [0, 1, 2].map(|at| *self.byte(at));
            self.taken = usize::from(account).min(Account::COUNT - 1);
            self.left = usize::from(u16::from_le_bytes([low, high]));
            self.advance(HEADER);
        }
        let start = self.head;
        let count = most.min(self.left).min(CAPACITY - start);
        self.left -= count;
        self.advance(count);
        &self.bytes[start..start + count]
    }

    /// Frees the first `count` bytes.
    fn advance(&mut self, count: usize) {
        self.head = (self.head + count) % CAPACITY;
        self.length -= count;
        self.used[self.taken] -= count;
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Backlog::new()
    }
}

/// Writes a line into free room, as long as there is some.
struct Writer<'a> {
    backlog: &'a mut Backlog,
    /// The distance of the next byte from the first that waits.
    at: usize,
    /// The distance of the first byte that must not be written.
    end: usize,
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut text = text.as_bytes();
        if self.at + text.len() > self.end {
            return Err(fmt::Error);
        }
        while !text.is_empty() {
            let start = (self.backlog.head + self.at) % CAPACITY;
            let count = text.len().min(CAPACITY - start);
            let (now, later) = text.split_at(count);
            self.backlog.bytes[start..start + count].copy_from_slice(now);
            self.at += count;
            text = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tables::id;
    use proptest::prelude::*;

    /// Takes all that waits, in pieces of at most `most` bytes.
    fn all(backlog: &mut Backlog, most: usize) -> String {
        let mut text = Vec::new();
        loop {
            let bytes = backlog.take(most);
            if bytes.is_empty() {
                return String::from_utf8(text).unwrap();
            }
            text.extend_from_slice(bytes);
        }
    }

    /// Adds lines of `length` bytes until there is no room. Returns their number.
    fn fill(backlog: &mut Backlog, account: Account, length: usize) -> usize {
        (0..).take_while(|_| backlog.push(account, format_args!("{:x>length$}", ""))).count()
    }

    #[test]
    fn lines_come_out_in_order_and_whole() {
        let mut backlog = Backlog::new();
        for most in [1, 7, 4096] {
            assert!(backlog.push(Account::text(id(3)), format_args!("one {}", 1)));
            assert!(backlog.push(Account::KERNEL, format_args!("two")));
            assert!(backlog.push(Account::refusals(id(3)), format_args!("")));
            assert_eq!(all(&mut backlog, most), "one 1\r\ntwo\r\n\r\n");
            assert!(backlog.is_empty());
        }
    }

    #[test]
    fn lines_go_past_the_end_of_the_memory() {
        let mut backlog = Backlog::new();
        for number in 0..2 * CAPACITY / 100 {
            assert!(backlog.push(Account::KERNEL, format_args!("{number:>101}")));
            assert_eq!(all(&mut backlog, usize::MAX), format!("{number:>101}\r\n"));
        }
    }

    #[test]
    fn services_cannot_use_the_room_of_others_or_of_the_kernel() {
        let mut backlog = Backlog::new();
        backlog.share_among(MAX_SERVICES);
        let hog = fill(&mut backlog, Account::text(id(0)), 95);
        assert_eq!(hog, (OWN_ROOM + CAPACITY - KERNEL_ROOM - 2 * MAX_SERVICES * OWN_ROOM) / 100);
        assert_eq!(fill(&mut backlog, Account::refusals(id(0)), 95), OWN_ROOM / 100, "its refusals have their own");
        for service in 1..MAX_SERVICES as u8 {
            for account in [Account::text(id(service)), Account::refusals(id(service))] {
                assert_eq!(fill(&mut backlog, account, 95), OWN_ROOM / 100);
            }
        }
        assert!(fill(&mut backlog, Account::KERNEL, 95) >= KERNEL_ROOM / 100);
        assert!(!backlog.push(Account::KERNEL, format_args!("{:x>95}", "")));
    }

    #[test]
    fn with_fewer_services_there_is_more_in_common() {
        let mut backlog = Backlog::new();
        backlog.share_among(1);
        assert_eq!(fill(&mut backlog, Account::text(id(0)), 95), (CAPACITY - KERNEL_ROOM - OWN_ROOM) / 100);
        assert_eq!(fill(&mut backlog, Account::refusals(id(0)), 95), OWN_ROOM / 100);
    }

    #[test]
    fn the_rooms_have_the_sizes_that_the_decision_gives_them() {
        assert_eq!((CAPACITY, KERNEL_ROOM, OWN_ROOM), (16_384, 4_096, 320));
    }

    #[test]
    fn a_line_without_room_changes_nothing() {
        let mut backlog = Backlog::new();
        assert!(backlog.push(Account::text(id(0)), format_args!("{:x>300}", "")));
        assert!(!backlog.push(Account::text(id(0)), format_args!("{:y>30}", "")));
        assert!(backlog.push(Account::text(id(0)), format_args!("{:z>5}", "")));
        assert_eq!(all(&mut backlog, 99), format!("{:x>300}\r\n{:z>5}\r\n", "", ""));
    }

    /// Adds a line, or takes bytes.
    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, usize),
        Take(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..Account::COUNT, 0_usize..600).prop_map(|(account, length)| Step::Push(account, length)),
            2 => (0_usize..2500).prop_map(Step::Take),
        ]
    }

    proptest! {
        /// A plain queue of lines says what comes out, and plain sums say what there is room for.
        #[test]
        fn the_lines_are_those_of_a_plain_queue(
            services in 1..=MAX_SERVICES,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let mut backlog = Backlog::new();
            backlog.share_among(services);
            let common = CAPACITY - KERNEL_ROOM - 2 * services * OWN_ROOM;
            // The lines that wait: account, bytes, and bytes taken.
            let mut lines: Vec<(usize, Vec<u8>, usize)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(account, length) => {
                        let account = account.min(2 * services);
                        let text = format!("{number:<length$}");
                        let waits = |wanted: &dyn Fn(usize) -> bool| -> usize {
                            let of = lines.iter().filter(|line| wanted(line.0));
                            of.map(|(_, text, taken)| text.len() - taken + if *taken == 0 { HEADER } else { 0 }).sum()
                        };
                        let excess = |account: usize| waits(&|other| other == account).saturating_sub(OWN_ROOM);
                        let needs = text.len() + 2 + HEADER;
                        let others: usize = (1..Account::COUNT).filter(|other| *other != account).map(excess).sum();
                        let own = (waits(&|other| other == account) + needs).saturating_sub(OWN_ROOM);
                        let fits = waits(&|_| true) + needs <= CAPACITY;
                        let allowed = account == 0 || own == 0 || others + own <= common;
                        prop_assert_eq!(backlog.push(Account(account), format_args!("{text}")), fits && allowed);
                        if fits && allowed {
                            lines.push((account, format!("{text}\r\n").into_bytes(), 0));
                        }
                    }
                    Step::Take(most) => {
                        let bytes = backlog.take(most).to_vec();
                        prop_assert!(bytes.len() <= most);
                        let Some((_, text, taken)) = lines.first_mut() else {
                            prop_assert!(bytes.is_empty());
                            continue;
                        };
                        prop_assert!(!bytes.is_empty() || most == 0);
                        prop_assert_eq!(&bytes[..], &text[*taken..*taken + bytes.len()]);
                        *taken += bytes.len();
                        if *taken == text.len() {
                            lines.remove(0);
                        }
                    }
                }
            }
        }
    }
}
