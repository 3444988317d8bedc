//! A hostile back end on real Xen: another guest, made of our own kernel, replaces netback and runs
//! its scripts (`tests/guests/back-end`). After each script the image still runs, has logged the
//! violations, and serves HTTP over an honest back end.
#![forbid(unsafe_code)]

mod support;

use std::cell::Cell;
use std::time::{Duration, Instant};

use cloister_back_end::script::{Attack, SCRIPTS, Script};
use cloister_bed::{Bed, BedError, Config, Guest};
use cloister_cpio::Archive;
use support::guest;

/// The time for one step of a script, the 30 s of the storm included.
const STEP: Duration = Duration::from_secs(180);
/// The device, as `xl` names it.
const VIF: &str = "mac=00:16:3e:11:22:33";
/// The names of the front end's guest and of the back end's.
const FRONT: &str = "cloister";
const BACK: &str = "back-end";
/// The image of the policy that ships, built with `--backend 0-2`: its back end may be in domains 0
/// to 2, not in 0 alone.
const FRONT_IMAGE: &str = "default-backend-0-2";
/// The number of the hostile back end's domain: Xen counts them, and it is the second guest.
const BACK_DOMAIN: &str = "2";
/// The page that the image serves over the honest back end. The hostile one searches memory for it.
const CANARY: &str = "CANARY: what one back end carried, no other may see";

/// The environment variable with the names of the scripts to run.
const CHOSEN: &str = "CLOISTER_SCRIPTS";

struct Arena {
    bed: Bed,
    front: Guest,
    back: Guest,
    /// The length of the front end's console when the current script began.
    began: Cell<usize>,
}

/// The result of a script.
struct Row {
    name: &'static str,
    took: Duration,
    /// The differences from the expected result.
    wrong: Vec<String>,
}

impl Arena {
    fn new() -> Arena {
        let mut archive = Archive::new(Vec::new());
        archive.file("index.html", 0o644, CANARY.repeat(20).as_bytes()).expect("in memory");
        let site = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(site.path(), archive.finish().expect("in memory")).expect("write");
        // Each has its own processor, so that one writes while the other reads.
        let extra = "cpus = \"0\"\n".to_owned();
        let front = Guest { mac: None, extra, ramdisk: Some(site.path().to_owned()), ..guest(FRONT_IMAGE) };
        let extra = "cpus = \"1\"\ndriver_domain = 1\nmax_maptrack_frames = 4\n".to_owned();
        let back = Guest { name: BACK.to_owned(), mac: None, extra, cmdline: String::new(), ..guest("back-end") };
        let mut progress = |text: &str| println!("hostile: {text}");
        let config = Config { guests_mib: 256, ..Config::new("hostile") };
        let bed = Bed::start(&config, &mut progress).unwrap_or_else(|error| panic!("{error}"));
        for guest in [&front, &back] {
            bed.create(guest, &mut progress).unwrap_or_else(|error| panic!("{error}"));
        }
        let arena = Arena { bed, front, back, began: Cell::new(0) };
        arena.dom0(&format!("test \"$(xl domid {BACK})\" = {BACK_DOMAIN}"));
        arena.dom0("xl vcpu-pin Domain-0 all 0");
        arena
    }

    fn console(&self, guest: &Guest) -> String {
        std::fs::read_to_string(self.bed.guest_log(&guest.name)).unwrap_or_default()
    }

    /// Runs commands in dom0, which must succeed.
    fn dom0(&self, commands: &str) {
        let output = self.must(self.bed.dom0(commands, STEP));
        assert!(output.success(), "{commands}\n{}\n{}", output.stdout, self.state());
    }

    /// Detaches the device, if there is one, and attaches another, with the options `more`.
    fn attach(&self, before: &str, more: &str) {
        self.dom0(&format!(
            "xl network-detach {FRONT} 0 2> /dev/null\n{before}\nxl network-attach {FRONT} {VIF} {more}"
        ));
    }

    /// Returns the back end's report of a script, from its console after the first `since` bytes.
    /// Its domain may have ended by then.
    fn outcome(&self, script: &Script, since: usize) -> String {
        let mark = format!("done {}: ", script.name);
        let report = || {
            let console = self.console(&self.back);
            let whole = console.get(since..).unwrap_or_default().rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().rev().find_map(|line| Some(line.split_once(&mark)?.1.trim_end().to_owned()))
        };
        let reported = || report().is_some();
        self.must(self.bed.wait_for_guest(&self.back, script.name, STEP, &reported));
        report().unwrap_or_default()
    }

    /// Returns the front end's console output after the first `since` bytes.
    fn console_since(&self, since: usize) -> Vec<String> {
        let console = self.console(&self.front);
        console.get(since..).unwrap_or_default().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Does the test's own part of a script, while the script runs.
    fn meanwhile(&self, script: &Script) {
        let node = |path: &str| format!("/local/domain/$(xl domid {BACK})/backend/vif/$(xl domid {FRONT})/0/{path}");
        let device = format!("/local/domain/$(xl domid {FRONT})/device/vif/0");
        match script.name {
            "nodes-huge" => {
                let long = "4".repeat(2_000);
                self.dom0(&format!("xenstore-write {} {long} {} {long}", node("state"), node("feature-rx-copy")));
            }
            "toolstack-nonsense" => self.dom0(&format!(
                "xenstore-write {device}/mac ff:ff:ff:ff:ff:ff {device}/mtu 99999999999 {device}/backend-id 32752 {device}/backend /"
            )),
            "measure-calm" | "measure-nobody" | "measure-storm" => self.shares(),
            "destroyed" => self.must(self.bed.destroy_guest(BACK)),
            _ => {}
        }
    }

    /// Returns the value of a step. Panics on an error, with all that is known of the device, of
    /// the services and of both guests.
    fn must<T>(&self, result: Result<T, BedError>) -> T {
        result.unwrap_or_else(|error| panic!("{error}\n{}", self.state()))
    }

    fn state(&self) -> String {
        let device = format!("/local/domain/$(xl domid {FRONT})/device/vif");
        let commands = format!(
            "xl list\nxenstore-ls -p {device}\nxenstore-ls -p /local/domain/0/backend/vif\nxl trigger {FRONT} nmi\nsleep 2"
        );
        let dom0 = self.bed.dom0(&commands, STEP).map_or_else(|error| error.to_string(), |output| output.stdout);
        let back = self.console(&self.back);
        let back = back.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("{dom0}\n{FRONT}:\n{}\n{BACK}:\n{back}", self.console_since(self.began.get()).join("\n"))
    }

    fn run(&self, script: &'static Script) -> Row {
        let (began, length, since) = (Instant::now(), self.console(&self.front).len(), self.console(&self.back).len());
        self.began.set(length);
        println!("{:9}{}", "", script.name);
        let choose = format!("xenstore-write /local/domain/$(xl domid {BACK})/data/script {}", script.name);
        self.attach(&choose, &format!("backend={BACK}"));
        let measures = matches!(script.attack, Attack::Measure(..));
        let back = if script.by_test() || measures { self.wait_connected(length) } else { String::new() };
        self.meanwhile(script);
        let back = if script.name == "destroyed" { back } else { self.outcome(script, since) };
        self.attach("", "bridge=xenbr0");
        self.must(self.bed.wait_for_http(&self.front, STEP, &mut |_| ()));
        let (took, front) = (began.elapsed(), self.console_since(length));
        println!("{:5.1} s  {:22} {back}", took.as_secs_f32(), script.name);
        let says = |wanted: &&str| front.iter().any(|line| line.contains(wanted));
        let mut wrong = Vec::new();
        if !script.says.is_empty() && !script.says.iter().any(says) {
            wrong.push(format!("the image does not say {:?}", script.says));
        }
        if ["fault:", "fatal:", "panicked", "restart:"].iter().any(says) {
            wrong.push("a service or the kernel failed".to_owned());
        }
        if script.name == "dump" && !back.contains("stale: 0 received, 0 sent, 0 in rings; 0 marks, 0 pointers") {
            wrong.push(format!("granted pages show more than frames: {back}"));
        }
        wrong.iter().for_each(|wrong| println!("{:32}! {wrong}", ""));
        // With all scripts the log would be too long to find the error in it.
        if !wrong.is_empty() || std::env::var_os(CHOSEN).is_some() {
            front.iter().for_each(|line| println!("{:32}| {line}", ""));
        }
        Row { name: script.name, took, wrong }
    }

    /// Prints the processor time that the services of the front end's image use during a
    /// measurement.
    fn shares(&self) {
        let mut reports: Vec<Vec<(String, u64)>> = Vec::new();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_secs(1));
            let before = self.console(&self.front).len();
            self.dom0(&format!("xl trigger {FRONT} nmi"));
            let whole = || self.console_since(before).iter().any(|line| line.starts_with("cloister: idle "));
            self.must(self.bed.wait_for_guest(&self.front, "a report", STEP, &whole));
            reports.push(self.console_since(before).iter().filter_map(|line| figure(line)).collect());
        }
        let [first, second] = &reports[..] else { return };
        let passed = |name: &str| {
            let of = |report: &[(String, u64)]| {
                report.iter().find(|(other, _)| other == name).map_or(0, |(_, value)| *value)
            };
            of(second).saturating_sub(of(first))
        };
        let time = passed("at").max(1) * 1_000;
        let shares = second.iter().filter(|(name, _)| name != "at");
        let shares = shares.map(|(name, _)| format!("{name} {:.1} %", 100.0 * passed(name) as f64 / time as f64));
        println!("{:32}= {}", "", shares.collect::<Vec<_>>().join(", "));
    }

    /// Waits until the front end says that it is connected.
    fn wait_connected(&self, length: usize) -> String {
        let connected = || self.console_since(length).iter().any(|line| line.contains("netfront: connected"));
        self.must(self.bed.wait_for_guest(&self.front, "the connection", STEP, &connected));
        "the connection is up".to_owned()
    }
}

/// A name and a number of the kernel's report: a service and the µs that it has used, or `at` and
/// the time in ms.
fn figure(line: &str) -> Option<(String, u64)> {
    let (name, rest) = line.strip_prefix("cloister: ")?.split_once(' ')?;
    Some((name.to_owned(), rest.split(' ').next()?.parse().ok()?))
}

/// Runs all scripts, or only those that [`CHOSEN`] names, with commas between them.
fn chosen() -> Vec<&'static Script> {
    let Ok(names) = std::env::var(CHOSEN) else { return SCRIPTS.iter().collect() };
    let script = |name: &str| SCRIPTS.iter().find(|script| script.name == name);
    names.split(',').map(|name| script(name).unwrap_or_else(|| panic!("there is no script {name}"))).collect()
}

#[test]
fn the_image_outlives_every_script_and_serves_again() {
    let arena = Arena::new();
    let rows: Vec<Row> = chosen().into_iter().map(|script| arena.run(script)).collect();
    let time: Duration = rows.iter().map(|row| row.took).sum();
    println!("{} scripts in {:.0} s", rows.len(), time.as_secs_f32());
    // Its control service has survived all scripts, too.
    arena.bed.shutdown_guest(FRONT).unwrap_or_else(|error| panic!("{error}"));
    arena.bed.stop();
    let wrong: Vec<_> = rows.iter().flat_map(|row| row.wrong.iter().map(move |wrong| (row.name, wrong))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
