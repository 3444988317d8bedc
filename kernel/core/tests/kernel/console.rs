//! Tests what reaches the console, whatever the services write and the console daemon does.

use std::collections::{BTreeMap, BTreeSet};

use cloister_caps::tables::{MAX_NAME, Tables};
use cloister_caps::{Operation, ServiceId, Status};
use cloister_kernel_core::console::backlog::{KERNEL_ROOM, OWN_ROOM};
use cloister_kernel_core::console::line::{CONTINUED, Credit, LineBuffer};
use cloister_kernel_core::console::{ConsoleLog, room};
use cloister_kernel_core::refusal::Refusal;
use proptest::prelude::*;

use crate::machine::{shipped, tables};

/// A slot that every service has empty.
const EMPTY: u64 = 63;

/// A log, and what was taken of it.
struct Console {
    tables: Tables<'static>,
    log: Box<ConsoleLog>,
    taken: Vec<u8>,
}

impl Console {
    fn new() -> Console {
        thread_local! {
            static TABLES: Tables<'static> = tables(&shipped());
        }
        let tables = TABLES.with(|tables| *tables);
        let mut log = Box::new(ConsoleLog::new());
        log.share_among(&tables);
        Console { tables, log, taken: Vec::new() }
    }

    fn service(&self, name: &str) -> ServiceId {
        self.tables.services().ids().find(|service| self.tables.service_name(*service) == name).unwrap()
    }

    fn write(&mut self, service: &str, text: &str, now: u64) -> bool {
        self.log.add_text(&self.tables, self.service(service), text.as_bytes(), now)
    }

    fn refuse(&mut self, service: &str, slot: u64, operation: u64, now: u64) {
        let (service, tables) = (self.service(service), self.tables);
        self.refuse_call(service, [1, slot, operation], now, tables);
    }

    fn refuse_call(&mut self, service: ServiceId, [call, slot, operation]: [u64; 3], now: u64, tables: Tables<'_>) {
        let status = if call == 1 { Status::NoCapability } else { Status::BadSystemCall };
        let refusal = Refusal {
            tables,
            service,
            call,
            slot,
            operation,
            arguments: [0; 4],
            capability: None,
            status: Some(status),
        };
        self.log.add_refusal(&refusal, now);
    }

    /// Takes at most `room` bytes.
    fn take(&mut self, now: u64, room: usize) -> usize {
        self.log.take(&self.tables, now, room, |bytes| self.taken.extend_from_slice(bytes))
    }

    /// Takes all that waits. Returns the lines that were taken since the last call.
    fn lines(&mut self, now: u64) -> Vec<String> {
        while self.take(now, 99) > 0 {}
        let text = String::from_utf8(std::mem::take(&mut self.taken)).unwrap();
        assert!(text.is_empty() || text.ends_with("\r\n"));
        text.split_terminator("\r\n").map(String::from).collect()
    }
}

#[test]
fn each_service_has_a_limit_for_text_and_one_for_refusals() {
    let mut console = Console::new();
    for (service, text) in [("http", "a\nb"), ("tcpip", "c\n"), ("http", "d\n")] {
        console.write(service, text, 0);
    }
    assert_eq!(console.lines(0), ["http: a", "tcpip: c", "http: bd"]);
    for (service, before) in [("http", 2), ("tcpip", 1)] {
        (0..Credit::BURST).for_each(|_| _ = console.write(service, "\n", 0));
        assert_eq!(console.lines(0).len(), Credit::BURST as usize - before);
        console.write(service, "x\n", Credit::REFILL);
        let expected = [format!("{service}: [{before} lines dropped]"), format!("{service}: x")];
        assert_eq!(console.lines(Credit::REFILL), expected, "one line was earned");
    }
    for service in ["http", "tcpip"] {
        console.refuse(service, EMPTY, 5, 0);
        assert_eq!(console.lines(0).len(), 1, "{service} has credit of its own for refusals");
        for _ in 0..Credit::BURST + 10 {
            console.refuse(service, EMPTY, 5, 0);
            console.lines(0);
        }
        console.refuse(service, EMPTY, 5, 0);
        assert!(console.lines(0).is_empty());
        console.refuse(service, EMPTY, 5, Credit::REFILL);
        assert_eq!(console.lines(0)[0], format!("{service}: [12 refusals not shown]"));
    }
}

/// The attack that this log is made against: fill what there is, then do the deed, then fault.
#[test]
fn a_flood_hides_neither_a_deed_nor_a_fault() {
    let mut console = Console::new();
    (0..400).for_each(|number| _ = console.write("netfront", &format!("flood {number}\n"), 0));
    (0..400).for_each(|_| console.refuse("netfront", EMPTY, 5, 0));
    // And all kinds of refusals that there are, but one.
    for operation in 1..=Operation::ALL.len() as u64 {
        (0..EMPTY).for_each(|slot| console.refuse("netfront", slot, operation, 0));
    }
    console.refuse("netfront", EMPTY, Operation::GrantIssue as u64, 0);
    console.log.add_line(format_args!("fault: netfront"));
    console.write("tcpip", "violation by netfront\n", 0);
    console.refuse("tcpip", EMPTY, 6, 0);
    let lines = console.lines(0);
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(has("refused: service=netfront operation=issue object=slot:63 "), "the deed");
    assert!(has("fault: netfront"));
    assert!(has("tcpip: violation by netfront"), "what another says of it");
    assert!(has("refused: service=tcpip operation=reboot object=slot:63 "));
    let kinds = lines.iter().filter(|line| line.starts_with("refused: service=netfront ")).count();
    assert!(kinds >= Operation::ALL.len() * EMPTY as usize, "every kind of refusal is printed: {kinds}");
}

/// A service that may restart faults again and again while the daemon takes nothing: two lines of
/// the kernel each time. Then others write their first lines ever.
#[test]
fn faults_of_one_service_leave_others_their_room() {
    let mut console = Console::new();
    for number in 0..400 {
        console
            .log
            .add_line(format_args!("fault: http page fault writing 0x0 rip=0x200000 rsp=0x7fffffff0000 error=0x6"));
        console.log.add_line(format_args!("restart: http number {number}"));
    }
    assert!(console.write("tcpip", "violation by http\n", 0));
    console.refuse("xenstore", EMPTY, 5, 0);
    let lines = console.lines(0);
    assert!(lines.iter().any(|line| line == "tcpip: violation by http"), "{:?}", &lines[lines.len() - 3..]);
    assert!(lines.iter().any(|line| line.starts_with("refused: service=xenstore operation=off ")));
}

/// What the text of a line too long makes of the part that the kernel breaks off, it is no line of
/// the service, and none of the kernel.
#[test]
fn no_service_forges_a_line_by_the_length_of_another() {
    let mut console = Console::new();
    for forged in ["refused client 0: no path rule lets it write control/shutdown", "use: http console console write"] {
        for before in 0..=2 * LineBuffer::LENGTH {
            console.write("xenstore", &format!("{:x>before$}{forged}\n", ""), 0);
            let lines = console.lines(0);
            let shown = lines.iter().filter(|line| *line == forged || line.ends_with(&format!(": {forged}"))).count();
            assert_eq!(shown, usize::from(before == 0), "{lines:?}");
            console = Console::new();
        }
    }
}

/// A service learns that it exceeds what is its own, and not what others write.
#[test]
fn the_answer_to_text_depends_on_the_service_alone() {
    let (mut alone, mut crowded) = (Console::new(), Console::new());
    for number in 0..400 {
        crowded.write("netfront", &format!("{number:x>100}\n"), 0);
        crowded.log.add_line(format_args!("{number:>100}"));
    }
    let answers = |console: &mut Console| -> Vec<bool> {
        (0..250).map(|number| console.write("http", &format!("{number:x>40}\n"), 0)).collect()
    };
    let of_one_alone = answers(&mut alone);
    assert_eq!(of_one_alone, answers(&mut crowded));
    let surely = of_one_alone.iter().take_while(|printed| **printed).count();
    assert!(surely > 3 && of_one_alone[surely..].iter().all(|printed| !printed), "{of_one_alone:?}");
    let lines = crowded.lines(0);
    let shown = |number: &usize| lines.iter().any(|line| *line == format!("http: {number:x>40}"));
    assert!((0..surely).all(|number| shown(&number)), "these are printed: {lines:?}");
    // Without lines that wait, the rate alone decides.
    let mut paced = Console::new();
    for number in 0..2 * Credit::BURST {
        assert_eq!(paced.write("http", "x\n", 0), number < Credit::BURST);
        paced.lines(0);
    }
    assert!(paced.write("http", "no end", Credit::REFILL));
}

/// With room, the first refusal of its kind is printed whole, although the credit is used up.
#[test]
fn a_first_refusal_needs_no_credit() {
    let mut console = Console::new();
    for _ in 0..2 * Credit::BURST {
        console.refuse("http", EMPTY, 5, 0);
        console.lines(0);
    }
    for (slot, operation) in [(EMPTY, 6), (EMPTY - 1, 5)] {
        console.refuse("http", slot, operation, 0);
        let lines = console.lines(0);
        assert!(lines.last().is_some_and(|line| line.contains("missing=\"no rule gives http ")), "{lines:?}");
        console.refuse("http", slot, operation, 0);
        assert!(console.lines(0).is_empty(), "the second needs credit");
    }
}

/// A service that writes without a pause cannot take the room for which its refusal waits.
#[test]
fn text_does_not_keep_a_refusal_waiting() {
    let mut console = Console::new();
    for slot in 0..EMPTY {
        (1..=8).for_each(|operation| console.refuse("http", slot, operation, 0));
    }
    console.refuse("http", EMPTY, 5, 0);
    let mut now = 0;
    for _ in 0..20_000 {
        now += Credit::REFILL;
        console.write("http", "x\n", now);
        console.take(now, 20);
    }
    let text = String::from_utf8_lossy(&console.taken).into_owned();
    assert!(text.contains("refused: service=http operation=off object=slot:63 missing=\"not kept: "));
    assert!(text.ends_with("http: x\r\n") || text.contains("http: x\r\nhttp: x\r\n"), "then its text comes again");
}

#[test]
fn dropped_lines_are_counted_for_each_service() {
    let mut console = Console::new();
    console.write("http", &format!("{:x>80}\n", "").repeat(250), 0);
    (0..250).for_each(|_| console.refuse("tcpip", EMPTY, 5, 0));
    (0..300).for_each(|number| console.log.add_line(format_args!("{number:>60}")));
    let lines = console.lines(0);
    let printed = |mark: &str| lines.iter().filter(|line| line.contains(mark)).count();
    let (text, refusals, kernel) = (printed("http: x"), printed("refused: "), printed("  "));
    assert!(text < 200 && refusals < 200 && kernel < 300);
    let expected = [format!("cloister: [{} lines dropped]", 300 - kernel)];
    assert_eq!(lines[lines.len() - 1..], expected, "without credit there is no count of a service yet");
    console.log.add_line(format_args!("report"));
    console.log.add_counts(&console.tables);
    let tcpip = format!("tcpip: [{} refusals not shown]", 250 - refusals);
    assert_eq!(console.lines(0), ["report".into(), format!("http: [{} lines dropped]", 250 - text), tcpip]);
    console.log.add_counts(&console.tables);
    assert!(console.lines(0).is_empty(), "each is counted once");
}

#[test]
fn the_count_of_the_kernels_lines_comes_by_itself_once_there_is_room() {
    let mut console = Console::new();
    (0..300).for_each(|number| console.log.add_line(format_args!("{number:>60}")));
    console.take(0, 10);
    console.take(0, 10);
    let lines = console.lines(0);
    let (last, printed) = lines.split_last().unwrap();
    assert_eq!(last, &format!("cloister: [{} lines dropped]", 300 - printed.len()));
}

#[test]
fn a_count_comes_by_itself_once_there_is_room_and_credit() {
    let mut console = Console::new();
    console.write("http", &"x\n".repeat(250), 0);
    let printed = console.lines(0).len();
    assert_eq!(console.lines(Credit::REFILL - 1), Vec::<String>::new());
    assert_eq!(console.lines(Credit::REFILL), [format!("http: [{} lines dropped]", 250 - printed)]);
}

#[test]
fn the_text_of_an_earlier_run_is_counted_and_not_shown() {
    let mut console = Console::new();
    console.write("http", "secr", 0);
    console.log.discard_text(console.service("http"));
    console.write("http", "new\n", 0);
    assert_eq!(console.lines(0), ["http: [1 lines dropped]", "http: new"]);
    console.log.discard_text(console.service("http"));
    assert!(console.lines(0).is_empty());
}

/// The longest lines that a service causes fit into the room that it always has.
#[test]
fn the_longest_lines_fit_into_the_room_of_a_service() {
    let name = "n".repeat(MAX_NAME as usize);
    let text = format!("{name}{CONTINUED}{:x>1$}\r\n", "", LineBuffer::LENGTH);
    let operation = Operation::ALL.iter().map(|operation| operation.name()).chain(["call:unknown"]);
    let operation = operation.max_by_key(|name| name.len()).unwrap();
    let kind = cloister_caps::Kind::ALL.iter().map(|kind| kind.name()).max_by_key(|name| name.len()).unwrap();
    let late = format!(
        "refused: service={name} operation={operation} object={kind}:{name} \
         missing=\"not kept: the console had no room\"\r\n"
    );
    let count = format!("{name}: [{} refusals not shown]\r\n", u32::MAX);
    for line in [text, late, count] {
        assert!(line.len() + 3 <= OWN_ROOM, "{} {line}", line.len());
    }
}

#[test]
fn late_refusals_name_what_they_can() {
    let mut console = Console::new();
    let tables = console.tables;
    let http = console.service("http");
    let held = tables.capabilities().iter().find(|held| held.service == http).unwrap();
    for slot in 40..62 {
        (1..=8).for_each(|operation| console.refuse("http", slot, operation, 0));
    }
    for call in [[1, u64::from(held.slot), 99], [1, 70, 5], [1, u64::MAX, 99], [9, 0, 0]] {
        console.refuse_call(http, call, 0, tables);
    }
    let lines = console.lines(0);
    let object = format!("{}:{}", held.kind().name(), tables.name(held.name));
    let missing = "missing=\"not kept: the console had no room\"";
    for (operation, object) in
        [("unknown", &object[..]), ("off", "slot:unknown"), ("unknown", "slot:unknown"), ("call:unknown", "none")]
    {
        let line = format!("refused: service=http operation={operation} object={object} {missing}");
        assert!(lines.contains(&line), "{line}\n{}", lines.join("\n"));
    }
}

/// What a service, the kernel or the daemon does.
#[derive(Clone, Debug)]
enum Step {
    /// A service writes lines of a length.
    Text(usize, u8, u8),
    /// A service makes refused calls.
    Refused(usize, u64, u64, u8),
    /// A service is restarted in a line.
    Restart(usize),
    /// The kernel writes a line.
    Kernel(u8),
    /// The daemon writes its index, and the kernel looks.
    Daemon(u32),
    /// The daemon reads all.
    Reads,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let slot = prop_oneof![3 => 40_u64..70, 1 => any::<u64>()];
    prop_oneof![
        4 => (0_usize..6, 0_u8..200, 1_u8..80).prop_map(|(who, length, lines)| Step::Text(who, length, lines)),
        4 => (0_usize..6, slot, 0_u64..17, 1_u8..80).prop_map(|(who, slot, what, times)| Step::Refused(who, slot, what, times)),
        1 => (0_usize..6).prop_map(Step::Restart),
        3 => (0_u8..150).prop_map(Step::Kernel),
        4 => any::<u32>().prop_map(Step::Daemon),
        2 => (0_u32..5000).prop_map(Step::Daemon),
        1 => Just(Step::Reads),
        2 => (0_u64..50_000_000).prop_map(Step::Pass),
    ]
}

/// The ring and its daemon, which moves its index as it likes.
#[derive(Default)]
struct Daemon {
    produced: u32,
    consumed: u32,
}

/// What came out, and what went in.
#[derive(Default)]
struct Books {
    /// Lines that each service, or the kernel, was to print.
    pushed: BTreeMap<(String, bool), usize>,
    /// Kinds of refusals, by service: slot and operation, as in the log.
    kinds: BTreeSet<(String, String, String)>,
    kernel: usize,
    /// Kernel lines since all was read, in bytes.
    kernel_bytes: usize,
    may_drop: bool,
}

fn flush(console: &mut Console, daemon: &mut Daemon, now: u64) {
    let room = room(daemon.produced, daemon.consumed) as usize;
    let before = console.taken.len();
    let count = console.take(now, room);
    assert_eq!(count, console.taken.len() - before);
    assert!(count <= room);
    daemon.produced = daemon.produced.wrapping_add(count as u32);
}

fn act(console: &mut Console, daemon: &mut Daemon, books: &mut Books, now: &mut u64, step: &Step) {
    let tables = console.tables;
    let named = |who: usize| tables.services().id(who).map(|id| (id, tables.service_name(id).to_string())).unwrap();
    match *step {
        Step::Text(who, length, lines) => {
            let (id, name) = named(who);
            for _ in 0..lines {
                let number = books.pushed.entry((name.clone(), false)).or_default();
                let width = usize::from(length).min(LineBuffer::LENGTH - 6);
                console.log.add_text(&tables, id, format!("text {number:0>width$}\n").as_bytes(), *now);
                *number += 1;
                flush(console, daemon, *now);
            }
        }
        Step::Refused(who, slot, operation, times) => {
            let (id, name) = named(who);
            for _ in 0..times {
                console.refuse_call(id, [1, slot, operation], *now, tables);
                *books.pushed.entry((name.clone(), true)).or_default() += 1;
                flush(console, daemon, *now);
            }
            let slot = if slot < 64 { format!("slot:{slot}") } else { "slot:beyond".into() };
            let what = Operation::from_number(operation).map_or("unknown", Operation::name);
            books.kinds.insert((name, what.into(), slot));
        }
        Step::Restart(who) => {
            let (id, name) = named(who);
            console.log.add_text(&tables, id, b"unfinished", *now);
            console.log.discard_text(id);
            *books.pushed.entry((name, false)).or_default() += 1;
        }
        Step::Kernel(length) => {
            let line = format!("kernel {} {:.<2$}", books.kernel, "", usize::from(length));
            books.kernel_bytes += line.len() + 5;
            books.may_drop |= books.kernel_bytes > KERNEL_ROOM;
            console.log.add_line(format_args!("{line}"));
            books.kernel += 1;
        }
        Step::Daemon(index) => daemon.consumed = index,
        Step::Reads => {
            while !console.log.is_empty() {
                daemon.consumed = daemon.produced;
                flush(console, daemon, *now);
            }
            books.kernel_bytes = 0;
        }
        Step::Pass(time) => *now += time,
    }
    flush(console, daemon, *now);
}

/// Returns the number between `start` and `end` in a line that says how many were dropped.
fn count_in(line: &str, start: &str, end: &str) -> Option<usize> {
    line.strip_prefix(start)?.strip_suffix(end)?.parse().ok()
}

fn check(lines: &[String], books: &Books, tables: &Tables<'_>) {
    // The kernel's lines are whole and in order.
    let kernel: Vec<usize> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("kernel "))
        .map(|line| {
            let (number, dots) = line.split_once(' ').expect("a whole line");
            assert!(dots.bytes().all(|byte| byte == b'.'), "{line}");
            number.parse().unwrap()
        })
        .collect();
    assert!(kernel.is_sorted_by(|one, next| one < next));
    let dropped: usize = lines.iter().filter_map(|line| count_in(line, "cloister: [", " lines dropped]")).sum();
    assert_eq!(kernel.len() + dropped, books.kernel);
    assert!(books.may_drop || dropped == 0, "{dropped} lines of the kernel were dropped");
    for service in tables.services().ids() {
        let name = tables.service_name(service);
        let sum = |end| -> usize { lines.iter().filter_map(|line| count_in(line, &format!("{name}: ["), end)).sum() };
        let text: Vec<usize> =
            lines.iter().filter_map(|line| line.strip_prefix(&format!("{name}: text "))?.parse().ok()).collect();
        assert!(text.is_sorted());
        let refusals = lines.iter().filter(|line| line.starts_with(&format!("refused: service={name} "))).count();
        let pushed = |refusals| books.pushed.get(&(name.to_string(), refusals)).copied().unwrap_or(0);
        assert_eq!(text.len() + sum(" lines dropped]"), pushed(false), "{name}");
        assert_eq!(refusals + sum(" refusals not shown]"), pushed(true), "{name}");
    }
    let seen: BTreeSet<(String, String, String)> = lines.iter().filter_map(|line| kind_of(line)).collect();
    assert_eq!(seen, books.kinds, "each kind of refusal is printed");
}

/// Returns service, operation and slot of the line of a refusal.
fn kind_of(line: &str) -> Option<(String, String, String)> {
    let line = line.strip_prefix("refused: service=")?;
    let (service, line) = line.split_once(" operation=")?;
    let (operation, line) = line.split_once(" object=")?;
    let (slot, _) = line.split_once(" missing=")?;
    let known = Operation::ALL.iter().any(|known| known.name() == operation);
    let within = slot.strip_prefix("slot:")?.parse::<u64>().is_ok_and(|slot| slot < 64);
    let operation = if known { operation } else { "unknown" };
    let slot = if within { slot } else { "slot:beyond" };
    Some((service.into(), operation.into(), slot.into()))
}

proptest! {
    /// No line is lost without being counted, the kernel's come out whole and in order, and each
    /// kind of refusal is printed.
    #[test]
    fn nothing_is_lost_unseen(steps in prop::collection::vec(step(), 0..150)) {
        let mut console = Console::new();
        let (mut daemon, mut books, mut now) = (Daemon::default(), Books::default(), 0);
        for step in &steps {
            act(&mut console, &mut daemon, &mut books, &mut now, step);
        }
        // Then the daemon reads on.
        for _ in 0..3 {
            act(&mut console, &mut daemon, &mut books, &mut now, &Step::Reads);
            console.log.add_counts(&console.tables);
        }
        prop_assert!(console.log.is_empty());
        let lines = console.lines(now);
        check(&lines, &books, &console.tables);
    }
}
