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
    /// The account of the kernel's own lines. They may use all room but that of other accounts.
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
/// Each account of a service has [`OWN_ROOM`], which no other may use. What an account uses beyond
/// it comes from a room that the services have in common. The rest, at least [`KERNEL_ROOM`], is
/// the kernel's, and what is free of the common room may be. So neither a service, nor the lines
/// that the kernel writes about one, can displace the first lines of another, and no service those
/// of the kernel.
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
    /// The number of accounts that have room of their own, from the first after the kernel's.
    owners: usize,
    /// Bytes of the services' own rooms that are free.
    kept: usize,
    /// Bytes that wait beyond the services' own rooms.
    in_common: usize,
}

impl Backlog {
    /// Creates a backlog without lines. Until [`Backlog::share_among`] it keeps no room for any
    /// account.
    #[must_use]
    pub const fn new() -> Backlog {
        Backlog {
            bytes: [0; CAPACITY],
            head: 0,
            length: 0,
            used: [0; Account::COUNT],
            taken: 0,
            left: 0,
            common: 0,
            owners: 0,
            kept: 0,
            in_common: 0,
        }
    }

    /// Keeps room for the accounts of the services, of which there are `services`, and gives them a
    /// common room: all that is neither the kernel's nor an account's own.
    pub fn share_among(&mut self, services: usize) {
        self.owners = (2 * services).min(Account::COUNT - 1);
        self.common = (CAPACITY - KERNEL_ROOM).saturating_sub(2 * services * OWN_ROOM);
        self.kept = (1..=self.owners).map(|account| self.own_room(account)).sum();
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
        self.set_used(account, self.used[account] + length);
        true
    }

    /// Returns the number of free bytes of an account's own room.
    fn own_room(&self, account: usize) -> usize {
        let owns = (1..=self.owners).contains(&account);
        if owns { OWN_ROOM.saturating_sub(self.used[account]) } else { 0 }
    }

    /// Records that `used` bytes of an account wait.
    fn set_used(&mut self, account: usize, used: usize) {
        self.kept -= self.own_room(account);
        let old = core::mem::replace(&mut self.used[account], used);
        self.kept += self.own_room(account);
        if account != Account::KERNEL.0 {
            self.in_common = self.in_common + used.saturating_sub(OWN_ROOM) - old.saturating_sub(OWN_ROOM);
        }
    }

    /// Returns the number of bytes that the account may add.
    fn room(&self, account: usize) -> usize {
        let kept_for_others = self.kept - self.own_room(account);
        let free = (CAPACITY - self.length).saturating_sub(kept_for_others);
        if account == Account::KERNEL.0 {
            return free;
        }
        let own = OWN_ROOM.saturating_sub(self.used[account]);
        free.min(own + self.common.saturating_sub(self.in_common))
    }

    /// Returns `true` if the lines of the account that wait use no more than its own room.
    #[must_use]
    pub fn is_within_own_room(&self, Account(account): Account) -> bool {
        self.used[account] <= OWN_ROOM
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
        self.set_used(self.taken, self.used[self.taken] - count);
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

    /// Two lines of the kernel for each of many faults, while nothing is taken.
    #[test]
    fn the_kernel_cannot_use_the_room_of_services() {
        let mut backlog = Backlog::new();
        backlog.share_among(5);
        let kernel = fill(&mut backlog, Account::KERNEL, 95);
        assert_eq!(kernel, (CAPACITY - 10 * OWN_ROOM) / 100, "all but the services' own room");
        // A service that had the common room now could use that of the others.
        let rest = (CAPACITY - 10 * OWN_ROOM) % 100;
        assert_eq!(fill(&mut backlog, Account::text(id(0)), 95), (OWN_ROOM + rest) / 100);
        for service in 1..5 {
            for account in [Account::text(id(service)), Account::refusals(id(service))] {
                assert_eq!(fill(&mut backlog, account, 95), OWN_ROOM / 100);
            }
        }
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
        // More comes than is taken, and a third of it is the kernel's: the backlog is full in turns.
        let account = || prop_oneof![1 => Just(Account::KERNEL.0), 2 => 0..Account::COUNT];
        prop_oneof![
            4 => (account(), 0_usize..600).prop_map(|(account, length)| Step::Push(account, length)),
            1 => (0_usize..1000).prop_map(Step::Take),
        ]
    }

    /// The lines that wait: account, bytes, and bytes taken.
    type Lines = Vec<(usize, Vec<u8>, usize)>;

    /// Returns the bytes that each account uses, with headers.
    fn uses(lines: &Lines) -> [usize; Account::COUNT] {
        let mut uses = [0; Account::COUNT];
        for (account, text, taken) in lines {
            uses[*account] += text.len() - taken + if *taken == 0 { HEADER } else { 0 };
        }
        uses
    }

    /// Returns `true` if these lines may wait, after one of `account`: with every account of a
    /// service as full as its own room at least, everything fits; and the services leave the kernel
    /// its room, unless the line is within its account's own.
    fn may_wait(uses: &[usize; Account::COUNT], account: usize, services: usize) -> bool {
        let of_services: usize = uses[1..=2 * services].iter().map(|used| (*used).max(OWN_ROOM)).sum();
        let kernel_keeps = of_services + KERNEL_ROOM <= CAPACITY;
        uses[0] + of_services <= CAPACITY && (account == 0 || uses[account] <= OWN_ROOM || kernel_keeps)
    }

    proptest! {
        /// A plain queue of lines says what comes out. What may wait is said of the lines that then
        /// wait, not of the room before.
        #[test]
        fn the_lines_are_those_of_a_plain_queue(
            services in 1..=MAX_SERVICES,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let mut backlog = Backlog::new();
            backlog.share_among(services);
            let mut lines = Lines::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(account, length) => {
                        let account = account.min(2 * services);
                        let text = format!("{number:<length$}");
                        lines.push((account, format!("{text}\r\n").into_bytes(), 0));
                        let allowed = may_wait(&uses(&lines), account, services);
                        if !allowed {
                            lines.pop();
                        }
                        prop_assert_eq!(backlog.push(Account(account), format_args!("{text}")), allowed);
                        let within = uses(&lines)[account] <= OWN_ROOM;
                        prop_assert_eq!(backlog.is_within_own_room(Account(account)), within);
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
            // Whatever was done, a service whose lines are gone can write the longest one.
            for account in (1..=2 * services).filter(|account| uses(&lines)[*account] == 0) {
                let longest = OWN_ROOM - HEADER - 2;
                prop_assert!(backlog.push(Account(account), format_args!("{:x>longest$}", "")), "{}", account);
            }
        }
    }
}
